package e2e_test

import (
	"strings"
	"testing"
)

// Pods with user namespaces of their own share a space like others. To the node their users are
// strangers to each other; in a space with its containers' ids, user 1000 of the one is user 1000 of
// the other.
func TestUserNamespaces(t *testing.T) {
	needChart(t)
	t.Parallel()
	for _, ids := range []string{"Host", "Container"} {
		t.Run(ids, func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			newIPCSpace(t, namespace, "orders", "ids: "+ids)
			var pods []pod
			for _, name := range []string{"one", "two"} {
				pods = append(pods, newPod(t, namespace, name, "orders", "hostUsers: false",
					"containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]"))
			}
			one, two := pods[0], pods[1]
			for _, p := range pods {
				p.awaitReady(t)
			}
			if a, b := one.run(t, "glibc", "cat", "/proc/self/uid_map"), two.run(t, "glibc", "cat", "/proc/self/uid_map"); a == b {
				t.Errorf("both pods have the ids %s", a)
			}
			one.run(t, "glibc", "ipc", "put", "7", "hello")
			wants(t, two.run(t, "glibc", "ipc", "get", "7"), "hello")
			one.run(t, "glibc", "ipc", "send", "8", "letter")
			wants(t, two.run(t, "glibc", "ipc", "receive", "8"), "letter")
			// Only its owner removes a segment.
			if ids == "Host" {
				wants(t, two.fails(t, "glibc", "ipcrm", "-M", "7"), "permission denied")
				one.run(t, "glibc", "ipcrm", "-M", "7")
			} else {
				two.run(t, "glibc", "ipcrm", "-M", "7")
				if shown := one.run(t, "glibc", "ipcs", "-q"); !strings.Contains(shown, "user") {
					t.Errorf("the queue is not user 1000's:\n%s", shown)
				}
			}
			wants(t, one.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
		})
	}
}
