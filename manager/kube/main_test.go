package kube

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// The tests talk to a real API server with RBAC: the programs that `make cluster` builds. The
// manager's user has the rules of the chart and nothing else.
const (
	adminToken   = "test-admin"
	managerToken = "test-manager"
	managerUser  = "ipcspace-manager"
	chartFiles   = "../../charts/ipcspace/files/"
)

var server *rest.Config // nil: not built

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	programs, err := exec.Command("../../test/e2e/tools/build.sh", "--built").Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "ipcspace-kube")
	if err == nil {
		defer os.RemoveAll(dir)
		var stop func()
		stop, err = startServer(string(programs[:len(programs)-1]), dir)
		defer stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "API server:", err)
		return 1
	}
	return m.Run()
}

// startServer starts etcd and an API server on free ports of the loopback.
func startServer(programs, dir string) (stop func(), err error) {
	var started []*exec.Cmd
	stop = func() {
		for i := len(started) - 1; i >= 0; i-- {
			_ = started[i].Process.Kill()
			_ = started[i].Wait()
		}
	}
	start := func(name string, args ...string) error {
		log, err := os.Create(filepath.Join(dir, name+".log"))
		if err != nil {
			return err
		}
		defer log.Close()
		cmd := exec.Command(filepath.Join(programs, name), args...)
		cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
		started = append(started, cmd)
		return cmd.Start()
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return stop, err
	}
	accounts := filepath.Join(dir, "accounts.key")
	tokens := filepath.Join(dir, "tokens.csv")
	err = errors.Join(
		os.WriteFile(accounts, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600),
		os.WriteFile(tokens, []byte(adminToken+",admin,1,system:masters\n"+managerToken+","+managerUser+",2\n"), 0o600))
	if err != nil {
		return stop, err
	}
	client, peer, secure := freePort(), freePort(), freePort()
	if err := start("etcd", "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", client.url("http"), "--advertise-client-urls", client.url("http"), "--listen-peer-urls", peer.url("http"),
		"--initial-advertise-peer-urls", peer.url("http"), "--initial-cluster", "default="+peer.url("http")); err != nil {
		return stop, err
	}
	if err := start("kube-apiserver", "--etcd-servers", client.url("http"), "--bind-address", "127.0.0.1",
		"--secure-port", secure.number(), "--cert-dir", filepath.Join(dir, "certificates"), "--service-cluster-ip-range", "10.0.0.0/24",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", accounts, "--service-account-signing-key-file", accounts,
		"--authorization-mode", "RBAC", "--token-auth-file", tokens,
		// There is no controller that makes service accounts.
		"--disable-admission-plugins", "ServiceAccount"); err != nil {
		return stop, err
	}
	server = &rest.Config{Host: secure.url("https"), TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
	return stop, prepare(secure)
}

// prepare waits for the server and installs the CRD and the rules.
func prepare(at address) error {
	ready := func() bool {
		transport, err := rest.HTTPClientFor(as(adminToken))
		if err != nil {
			return false
		}
		reply, err := transport.Get(at.url("https") + "/readyz")
		if err != nil {
			return false
		}
		defer reply.Body.Close()
		return reply.StatusCode == http.StatusOK
	}
	if !within(2*time.Minute, ready) {
		return errors.New("it is not ready after two minutes")
	}
	crd, err := os.ReadFile(chartFiles + "ipcspace.io_ipcspaces.yaml")
	if err != nil {
		return err
	}
	if err := post("apiextensions.k8s.io/v1", "customresourcedefinitions", crd); err != nil {
		return err
	}
	rules, err := os.ReadFile(chartFiles + "manager-rules.yaml")
	if err != nil {
		return err
	}
	role := rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: managerUser}}
	if err := yaml.UnmarshalStrict(rules, &role.Rules); err != nil {
		return err
	}
	binding := rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: managerUser}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: managerUser},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: managerUser}},
	}
	if err := errors.Join(post("rbac.authorization.k8s.io/v1", "clusterroles", role), post("rbac.authorization.k8s.io/v1", "clusterrolebindings", binding)); err != nil {
		return err
	}
	a, err := newAPI(as(managerToken))
	if err != nil {
		return err
	}
	served := func() bool {
		_, err := a.spaces("default").Get(context.Background(), "none", metav1.GetOptions{})
		return apierrors.IsNotFound(err) && strings.Contains(err.Error(), `"none"`)
	}
	if !within(time.Minute, served) {
		return errors.New("the CRD is not served after a minute")
	}
	return nil
}

// post makes an object of any kind, given as YAML or to be written as such.
func post(groupVersion, resource string, object any) error {
	body, ok := object.([]byte)
	if !ok {
		var err error
		if body, err = yaml.Marshal(object); err != nil {
			return err
		}
	}
	cfg := as(adminToken)
	gv, err := schema.ParseGroupVersion(groupVersion)
	if err != nil {
		return err
	}
	cfg.APIPath, cfg.GroupVersion = "/apis", &gv
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return err
	}
	return client.Post().AbsPath(cfg.APIPath, groupVersion, resource).SetHeader("Content-Type", "application/yaml").Body(body).Do(context.Background()).Error()
}

func as(token string) *rest.Config {
	cfg := rest.CopyConfig(server)
	cfg.BearerToken = token
	return cfg
}

// within asks again and again.
func within(most time.Duration, is func() bool) bool {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if is() {
			return true
		}
	}
	return is()
}

// address is a port of the loopback that was free a moment ago.
type address string

func freePort() address {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return ""
	}
	defer l.Close()
	return address(l.Addr().String())
}

func (a address) url(scheme string) string { return scheme + "://" + string(a) }

func (a address) number() string {
	_, port, _ := net.SplitHostPort(string(a))
	return port
}
