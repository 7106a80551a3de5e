package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A node is drained as any other: its pods end, with them their spaces and claims, and nothing is in
// the way. What is retained stays on the node, and is there again for who comes back.
func TestDrain(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	newIPCSpace(t, namespace, "retained", "retain: true")
	must(t, apply(fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: tills, namespace: %s}
spec:
  replicas: 3
  selector: {matchLabels: {app: tills}}
  template:
    metadata: {labels: {app: tills}, annotations: {ipcspace.io/space: orders}}
    spec: {terminationGracePeriodSeconds: 1, containers: [%s]}
`, namespace, container("glibc", imageGlibc, "ipc", "touch", "7", "1"))))
	tills := func() {
		t.Helper()
		_, err := kubectl("-n", namespace, "rollout", "status", "deployment/tills", "--timeout", patience.String())
		if err != nil {
			t.Fatalf("%v\n%s", err, state(namespace))
		}
	}
	tills()
	keeper := sleeper(t, namespace, "keeper", "retained", imageGlibc)
	keeper.run(t, "glibc", "ipc", "put", "7", "kept")
	orders, err := getIPCSpace(namespace, "orders")
	must(t, err)
	retained, err := getIPCSpace(namespace, "retained")
	must(t, err)

	t.Cleanup(func() { // the chart's webhook waits for a node, too
		_, err := kubectl("uncordon", nodeName)
		must(t, err)
		_, err = kubectl("-n", chartSpace, "rollout", "status", "deployment/"+release+"-webhook", "--timeout", patience.String())
		must(t, err)
	})
	began := time.Now()
	// keeper has nobody to make it anew: --force.
	_, err = kubectl("drain", nodeName, "--ignore-daemonsets", "--force", "--timeout", patience.String())
	must(t, err)
	t.Logf("the node was drained after %v", time.Since(began).Round(100*time.Millisecond))
	awaitGone(t, namespace, "orders", orders.Metadata.UID)
	t.Logf("its spaces were gone after %v", time.Since(began).Round(100*time.Millisecond))
	// The DaemonSet's pod is not evicted, and has kept what is retained.
	if nothingOf(retained.Metadata.UID) == nil {
		t.Error("nothing is left of the retained space")
	}
	if o, err := getIPCSpace(namespace, "retained"); err != nil || o.Status.Node != nodeName {
		t.Errorf("the retained space is on node %q: %v", o.Status.Node, err)
	}

	_, err = kubectl("uncordon", nodeName)
	must(t, err)
	_, err = kubectl("-n", chartSpace, "rollout", "status", "deployment/"+release+"-webhook", "--timeout", patience.String())
	must(t, err)
	// The only node had the webhook, too: the ReplicaSet was refused, and would wait long by now.
	_, err = kubectl("-n", namespace, "scale", "deployment/tills", "--replicas", "4")
	must(t, err)
	tills()
	again, err := getIPCSpace(namespace, "orders")
	must(t, err)
	if again.Metadata.UID == orders.Metadata.UID {
		t.Error("the space is the one that was drained")
	}
	keeper = sleeper(t, namespace, "keeper", "retained", imageGlibc)
	wants(t, keeper.run(t, "glibc", "ipc", "get", "7"), "kept")

	// The node is to go for good: the annotation ends what is retained, once its pods have.
	_, err = kubectl("-n", namespace, "annotate", "ipcspace", "retained", "ipcspace.io/drain=true")
	must(t, err)
	late, err := tryPod(namespace, "late", "retained", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]")
	must(t, err)
	wants(t, late.awaitEvent(t, "SpaceDraining"), "remove its annotation")
	late.isNotStarted(t)
	keeper.delete(t)
	must(t, eventually(patience, func() error { return nothingOf(retained.Metadata.UID) }))
	must(t, eventually(patience, func() error {
		o, err := getIPCSpace(namespace, "retained")
		if err == nil && o.Status.Node != "" {
			err = fmt.Errorf("it is still claimed by %s", o.Status.Node)
		}
		return err
	}))
	_, err = kubectl("-n", namespace, "annotate", "ipcspace", "retained", "ipcspace.io/drain-")
	must(t, err)
	late.awaitReady(t)
	if output := late.fails(t, "glibc", "ipc", "get", "7"); !strings.Contains(output, "No such file") {
		t.Error(output)
	}
}

// With the chart's disruption budget the webhook's pods leave a node that is drained one at a time, and
// all the while pods with a space can be made.
func drainWebhook(t *testing.T, nodes ...string) {
	namespace := newNamespace(t)
	manifest := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {generateName: p-, namespace: %s, annotations: {ipcspace.io/space: orders}}\nspec: {containers: [%s]}\n",
		namespace, container("glibc", imageGlibc, "ipc", "sleep"))
	ctx, enough := context.WithCancel(t.Context())
	made := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			command := kubectlCommand("create", "--dry-run=server", "-o", "jsonpath={.spec.volumes[*].csi.driver}", "-f", "-")
			command.Stdin = strings.NewReader(manifest)
			volume, err := runCommand(command)
			if err == nil && volume != "csi.ipcspace.io" {
				err = fmt.Errorf("it has the volumes %q", volume)
			}
			if err != nil {
				t.Errorf("a pod after %d others: %v", n, err)
			}
		}
		made <- n
	}()
	defer func() {
		enough()
		t.Logf("%d pods were made meanwhile", <-made)
	}()

	budget := func(enabled string) {
		t.Helper()
		_, err := runCommand(helm("upgrade", release, chartFolder, "--reuse-values", "--set", "webhook.podDisruptionBudget.enabled="+enabled))
		must(t, err)
	}
	budget("true")
	t.Cleanup(func() { budget("false") })
	for _, node := range nodes {
		must(t, eventually(patience, func() error {
			allowed, err := kubectl("-n", chartSpace, "get", "pdb", release+"-webhook", "-o", "jsonpath={.status.disruptionsAllowed}")
			if err == nil && allowed != "1" {
				err = fmt.Errorf("of the webhook's pods %q may go; want 1", allowed)
			}
			return err
		}))
		began := time.Now()
		_, err := kubectl("drain", node, "--ignore-daemonsets", "--pod-selector", "app.kubernetes.io/component=webhook", "--timeout", startTimeout.String())
		must(t, err)
		t.Logf("%s was drained of them in %v", node, time.Since(began).Round(100*time.Millisecond))
		there, err := kubectl("-n", chartSpace, "get", "pods", "-l", "app.kubernetes.io/component=webhook", "-o", "jsonpath={.items[*].spec.nodeName}")
		must(t, err)
		if strings.Contains(" "+there+" ", " "+node+" ") {
			t.Errorf("they are on %s", there)
		}
		_, err = kubectl("uncordon", node)
		must(t, err)
	}
}
