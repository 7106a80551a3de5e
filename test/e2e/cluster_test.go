package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	podNetwork = "10.88.0.0/16"
	services   = "10.96.0.0/16"
	apiService = "10.96.0.1" // the first of services
)

// kubernetes is the cluster: the programs in the order of their start.
type kubernetes struct {
	etcd, apiserver, controllers, scheduler, proxy, containerd, kubelet daemon
}

var cluster = kubernetes{
	containerd: daemon{
		name:      "containerd",
		arguments: func() []string { return firstNode().containerdArguments() },
		ready: func() error {
			_, err := runCommand(ctr("version"))
			return err
		},
	},
	etcd: daemon{name: "etcd", arguments: func() []string {
		return []string{"--data-dir", filepath.Join(scratch, "etcd"), "--unsafe-no-fsync", "--log-level", "warn"}
	}},
	apiserver: daemon{
		name: "kube-apiserver",
		arguments: func() []string {
			return []string{
				"--etcd-servers", "http://127.0.0.1:2379", "--bind-address", "0.0.0.0", "--advertise-address", nodeAddress,
				"--service-cluster-ip-range", services, "--allow-privileged",
				"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
				// It reaches the webhook's pod itself: there is no route from a cluster's control plane to its services.
				"--enable-aggregator-routing",
				"--client-ca-file", pki("ca.crt"), "--tls-cert-file", pki("apiserver.crt"), "--tls-private-key-file", pki("apiserver.key"),
				"--service-account-issuer", "https://kubernetes.default.svc",
				"--service-account-key-file", pki("accounts.pub"), "--service-account-signing-key-file", pki("accounts.key"),
				"--kubelet-client-certificate", pki("admin.crt"), "--kubelet-client-key", pki("admin.key"),
				"--kubelet-preferred-address-types", "InternalIP",
				"--audit-policy-file", filepath.Join(scratch, "audit.yaml"), "--audit-log-path", auditLog(),
			}
		},
		ready: func() error {
			_, err := kubectl("get", "--raw", "/readyz")
			return err
		},
	},
	controllers: daemon{name: "kube-controller-manager", arguments: func() []string {
		return []string{
			"--kubeconfig", pki("controllers.kubeconfig"), "--leader-elect=false", "--use-service-account-credentials",
			"--service-account-private-key-file", pki("accounts.key"), "--root-ca-file", pki("ca.crt"), "--bind-address", "127.0.0.1",
		}
	}},
	scheduler: daemon{name: "kube-scheduler", arguments: func() []string {
		return []string{"--kubeconfig", pki("scheduler.kubeconfig"), "--leader-elect=false", "--bind-address", "127.0.0.1"}
	}},
	proxy: daemon{name: "kube-proxy", arguments: func() []string {
		return []string{
			"--kubeconfig", pki("proxy.kubeconfig"), "--hostname-override", nodeName, "--cluster-cidr", podNetwork,
			// Zero leaves the machine's values.
			"--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0",
		}
	}},
	kubelet: daemon{
		name:      "kubelet",
		arguments: func() []string { return firstNode().kubeletArguments() },
		ready:     func() error { return firstNode().ready() },
	},
}

func (k *kubernetes) start() error {
	began := time.Now()
	for _, prepare := range []func() error{writeKeys, writeAuditPolicy, firstNode().writeConfigurations} {
		if err := prepare(); err != nil {
			return err
		}
	}
	for _, d := range []*daemon{&k.etcd, &k.apiserver, &k.containerd} {
		if err := d.start(); err != nil {
			return err
		}
	}
	if err := k.apiserver.await(startTimeout); err != nil {
		return err
	}
	for _, d := range []*daemon{&k.controllers, &k.scheduler, &k.kubelet, &k.proxy} {
		if err := d.start(); err != nil {
			return err
		}
	}
	if err := k.containerd.await(startTimeout); err != nil {
		return err
	}
	if err := k.kubelet.await(startTimeout); err != nil {
		return err
	}
	err := eventually(startTimeout, func() error {
		_, err := kubectl("get", "serviceaccount", "default")
		return err
	})
	fmt.Printf("the cluster is up after %v\n", time.Since(began).Round(100*time.Millisecond))
	return err
}

func writeKeys() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKey("accounts", accounts); err != nil {
		return err
	}
	if err := ca.server(net.ParseIP("127.0.0.1"), net.ParseIP(nodeAddress), net.ParseIP(apiService)); err != nil {
		return err
	}
	for name, user := range map[string][]string{
		"admin":       {"admin", "system:masters"},
		"controllers": {"system:kube-controller-manager"},
		"scheduler":   {"system:kube-scheduler"},
		"proxy":       {"system:kube-proxy"},
		nodeName:      {"system:node:" + nodeName, "system:nodes"},
		neighbourName: {"system:node:" + neighbourName, "system:nodes"},
	} {
		if err := ca.client(name, user[0], user[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func writeAuditPolicy() error {
	return os.WriteFile(filepath.Join(scratch, "audit.yaml"), []byte(auditPolicy), 0o644)
}

// ctr is containerd's own client, in the kubelet's namespace.
func ctr(arguments ...string) *exec.Cmd {
	return exec.Command(filepath.Join(programs, "ctr"), append([]string{"-n", "k8s.io"}, arguments...)...)
}

func kubectlCommand(arguments ...string) *exec.Cmd {
	return exec.Command(filepath.Join(programs, "kubectl"), append([]string{"--kubeconfig", pki("admin.kubeconfig")}, arguments...)...)
}

func kubectl(arguments ...string) (string, error) { return runCommand(kubectlCommand(arguments...)) }

// apply has the cluster have what a manifest says.
func apply(manifest string) error {
	command := kubectlCommand("apply", "-f", "-")
	command.Stdin = strings.NewReader(manifest)
	_, err := runCommand(command)
	return err
}
