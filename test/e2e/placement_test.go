package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

const (
	otherNode = "node2"
	otherBoot = "11111111-2222-3333-4444-555555555555"
	// Of this machine, it is said.
	earlierBoot = "66666666-7777-8888-9999-000000000000"
)

// newNode is a second node: an object that says it is ready and has all room there is. Pods that the
// scheduler puts there never run.
func newNode(t *testing.T) {
	t.Helper()
	must(t, apply(fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {kubernetes.io/hostname: %s, kubernetes.io/os: linux}}\n", otherNode, otherNode)))
	t.Cleanup(func() {
		_, err := kubectl("delete", "node", otherNode)
		must(t, err)
	})
	status := fmt.Sprintf(`{"status": {
		"capacity": {"cpu": "64", "memory": "256Gi", "pods": "500"}, "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "500"},
		"conditions": [{"type": "Ready", "status": "True", "reason": "E2E", "lastHeartbeatTime": "2100-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z"}],
		"nodeInfo": {"bootID": %q, "machineID": "e2e", "systemUUID": "e2e", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
		             "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"}}}`, otherBoot)
	_, err := kubectl("patch", "node", otherNode, "--subresource", "status", "--type", "merge", "-p", status)
	must(t, err)
	_, err = kubectl("taint", "node", otherNode, "node.kubernetes.io/not-ready:NoSchedule-")
	if err != nil {
		t.Logf("no taint to take away: %v", err)
	}
}

// claim has a space claimed by a node, as that node's manager does.
func claim(namespace, name, node, boot string) error {
	_, err := kubectl("-n", namespace, "patch", "ipcspace", name, "--subresource", "status", "--type", "merge", "-p",
		fmt.Sprintf(`{"status": {"node": %q, "bootID": %q}}`, node, boot))
	return err
}

// A space is on one node. Pods of it are placed there; one that is put elsewhere by hand does not start.
func TestSecondNode(t *testing.T) {
	needWhole(t)
	needChart(t)
	newNode(t)
	containers := "containers: [" + container("glibc", imageGlibc, "ipc", "sleep") + "]"
	byHand := "nodeName: " + nodeName

	t.Run("placed beside the first", func(t *testing.T) {
		namespace := newNamespace(t)
		first := newPod(t, namespace, "first", "orders", "nodeSelector: {kubernetes.io/hostname: "+nodeName+"}", containers)
		first.awaitReady(t)
		for i := range 3 {
			p := newPod(t, namespace, fmt.Sprintf("later-%d", i), "orders", containers)
			p.awaitReady(t)
			if node, err := p.field(".spec.nodeName"); err != nil || node != nodeName {
				t.Errorf("%s is on %s: %v", p.name, node, err)
			}
		}
	})
	t.Run("two first ones at once", func(t *testing.T) {
		namespace := newNamespace(t)
		var nodes []string
		for _, name := range []string{"one", "two"} {
			newPod(t, namespace, name, "orders", containers)
		}
		for _, name := range []string{"one", "two"} {
			must(t, eventually(patience, func() error {
				node, err := pod{namespace, name}.field(".spec.nodeName")
				if err == nil && node == "" {
					err = fmt.Errorf("%s is on no node", name)
				}
				if err == nil {
					nodes = append(nodes, node)
				}
				return err
			}))
		}
		if nodes[0] != nodes[1] {
			t.Errorf("they were placed on %v", nodes)
		}
		// The second node has no kubelet to end them.
		_, err := kubectl("-n", namespace, "delete", "pods", "--all", "--force", "--grace-period", "0")
		must(t, err)
	})
	t.Run("elsewhere by hand", func(t *testing.T) {
		namespace := newNamespace(t)
		newIPCSpace(t, namespace, "orders")
		must(t, claim(namespace, "orders", otherNode, otherBoot))
		p := newPod(t, namespace, "pod", "orders", byHand, containers)
		p.awaitEvent(t, otherNode)
		p.isNotStarted(t)
		// The other node boots: what it had is gone, and the claim is free.
		status := `{"status": {"nodeInfo": {"bootID": "another"}}}`
		_, err := kubectl("patch", "node", otherNode, "--subresource", "status", "--type", "merge", "-p", status)
		must(t, err)
		p.awaitReady(t)
		if o, err := getIPCSpace(namespace, "orders"); err != nil || o.Status.Node != nodeName {
			t.Errorf("the space is on %q: %v", o.Status.Node, err)
		}
	})
	t.Run("of a node that is no more", func(t *testing.T) {
		namespace := newNamespace(t)
		newIPCSpace(t, namespace, "orders")
		must(t, claim(namespace, "orders", "node3", otherBoot))
		newPod(t, namespace, "pod", "orders", byHand, containers).awaitReady(t)
	})
	t.Run("retained without pods", func(t *testing.T) {
		namespace := newNamespace(t)
		newIPCSpace(t, namespace, "orders", "retain: true")
		first := newPod(t, namespace, "first", "orders", "nodeSelector: {kubernetes.io/hostname: "+nodeName+"}", containers)
		first.awaitReady(t)
		first.run(t, "glibc", "ipc", "put", "7", "kept")
		first.delete(t)
		p := newPod(t, namespace, "second", "orders", containers)
		p.awaitReady(t)
		wants(t, p.run(t, "glibc", "ipc", "get", "7"), "kept")
	})
}

// While the webhook is away, pods with a space are not created, instead of being created without; what
// does not ask for one is. If the webhook is not asked at all, the node decides as ever.
func TestWebhookAway(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	const name = release + "-webhook"
	scale := func(replicas string) {
		t.Helper()
		_, err := kubectl("-n", chartSpace, "scale", "deployment/"+name, "--replicas", replicas)
		must(t, err)
	}
	before, err := kubectl("-n", chartSpace, "get", "deployment/"+name, "-o", "jsonpath={.spec.replicas}")
	must(t, err)
	scale("0")
	t.Cleanup(func() { // when the other node is gone, where nobody starts pods
		scale(before)
		_, err := kubectl("-n", chartSpace, "rollout", "status", "deployment/"+name, "--timeout", patience.String())
		must(t, err)
	})
	_, err = kubectl("-n", chartSpace, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=webhook", "--timeout", patience.String())
	must(t, err)
	containers := "containers: [" + container("glibc", imageGlibc, "ipc", "sleep") + "]"
	if _, err := tryPod(namespace, "annotated", "orders", containers); err == nil {
		t.Error("an annotated pod was created without the webhook")
	} else {
		wants(t, err.Error(), "ipcspace.io")
	}
	newPod(t, namespace, "plain", "", containers).awaitReady(t)

	defer without(t, "mutatingwebhookconfiguration", name)()
	newIPCSpace(t, namespace, "orders")
	must(t, claim(namespace, "orders", nodeName, earlierBoot))
	own := newPod(t, namespace, "own", "", ownVolume("orders", imageGlibc, "ipc", "sleep")...)
	own.awaitReady(t)
	own.run(t, "glibc", "ipc", "put", "7", "hello")
	fields := ownVolume("orders", imageGlibc, "ipc", "sleep")
	writable := newPod(t, namespace, "writable", "", fields[0], strings.ReplaceAll(fields[1], "readOnly: true", "readOnly: false"))
	writable.awaitEvent(t, "readOnly: true")
	writable.isNotStarted(t)
	nameless := newPod(t, namespace, "nameless", "", fields[0], strings.ReplaceAll(fields[1], "orders", "../orders"))
	nameless.awaitEvent(t, "names no space")
	nameless.isNotStarted(t)
	newIPCSpace(t, namespace, "elsewhere")
	newNode(t)
	must(t, claim(namespace, "elsewhere", otherNode, otherBoot))
	elsewhere := newPod(t, namespace, "elsewhere", "", append(ownVolume("elsewhere", imageGlibc, "ipc", "sleep"), "nodeSelector: {kubernetes.io/hostname: "+nodeName+"}")...)
	elsewhere.awaitEvent(t, otherNode)
	elsewhere.isNotStarted(t)
}
