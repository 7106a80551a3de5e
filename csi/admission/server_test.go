package admission

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/ipcspace/ipcspace/csi/cluster"
)

// certify writes a certificate of this serial number and its key.
func certify(t *testing.T, certificate, key string, serial int64) *x509.CertPool {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "webhook"}, DNSNames: []string{"webhook"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return pool
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serving starts a webhook that reaches no API server, and goes on for a while when it is to end.
func serving(t *testing.T, pair *pair, leave time.Duration) (address string, end func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	api, err := dynamic.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	pair.log = log
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, &handler{spaces: &spaces{client: cluster.New(api), log: log}, log: log},
			tls.NewListener(listener, &tls.Config{GetCertificate: pair.get}), leave)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String(), cancel
}

// A renewed certificate is served without a restart; files that do not fit each other change nothing.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	p := &pair{certificate: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	pool := certify(t, p.certificate, p.key, 1)
	address, _ := serving(t, p, 0)
	serial := func(pool *x509.CertPool) (int64, error) {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "webhook"})
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if n, err := serial(pool); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	certify(t, p.certificate, filepath.Join(dir, "elsewhere"), 2) // not its key
	if n, err := serial(pool); err != nil || n != 1 {
		t.Errorf("%d, %v; want the first certificate while the files do not fit", n, err)
	}
	renewed := certify(t, p.certificate, p.key, 3)
	if n, err := serial(renewed); err != nil || n != 3 {
		t.Errorf("%d, %v; want the renewed certificate", n, err)
	}
}

// A cluster's nodes learn of a pod's end after the pod does: what they send it meanwhile is answered.
func TestLeaving(t *testing.T) {
	dir := t.TempDir()
	p := &pair{certificate: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	pool := certify(t, p.certificate, p.key, 1)
	address, end := serving(t, p, 2*time.Second)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "webhook"}}}
	t.Cleanup(client.CloseIdleConnections)
	live := func() error {
		resp, err := client.Get("https://" + address + "/livez")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	if err := live(); err != nil {
		t.Fatal(err)
	}
	end()
	time.Sleep(200 * time.Millisecond) // by now it knows
	if err := live(); err != nil {
		t.Errorf("when it is to end: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); live() == nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it goes on for good")
		}
	}
}

func TestReview(t *testing.T) {
	dir := t.TempDir()
	p := &pair{certificate: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	pool := certify(t, p.certificate, p.key, 1)
	address, _ := serving(t, p, 0)
	url := "https://" + address + "/mutate"
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "webhook"}}}
	t.Cleanup(client.CloseIdleConnections)
	post := func(body string) (status int, text []byte) {
		t.Helper()
		resp, err := client.Post(url, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err = io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, text
	}
	review := func(pod, more string) *admissionv1.AdmissionResponse {
		t.Helper()
		_, text := post(fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","namespace":"shop","object":%s%s}}`, fromYAML(t, pod), more))
		var answer admissionv1.AdmissionReview
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Kind != "AdmissionReview" || answer.APIVersion != "admission.k8s.io/v1" || answer.Response.UID != "u1" {
			t.Errorf("answer %s", text)
		}
		return answer.Response
	}
	// Without the API server it is placed by affinity to pods, and has all else.
	const pod = "{metadata: {annotations: {ipcspace.io/space: orders}}, spec: {containers: [{name: c}]}}"
	r := review(pod, "")
	if !r.Allowed || !bytes.Contains(r.Patch, []byte("podAffinity")) || !bytes.Contains(r.Patch, []byte("csi.ipcspace.io")) {
		t.Errorf("%+v %s", r, r.Patch)
	}
	r = review("{metadata: {annotations: {ipcspace.io/space: Orders}}, spec: {containers: [{name: c}]}}", "")
	if r.Allowed || !strings.Contains(r.Result.Message, "lower-case letters") {
		t.Errorf("%+v", r)
	}
	r = review("{metadata: {annotations: {ipcspace.io/space: orders}}, spec: {hostIPC: true, containers: [{name: c}]}}", "")
	if !r.Allowed || len(r.Warnings) != 1 {
		t.Errorf("%+v", r)
	}
	r = review("{spec: {containers: [{name: c}]}}", "")
	if !r.Allowed || r.Patch != nil || r.PatchType != nil {
		t.Errorf("%+v %s", r, r.Patch)
	}
	r = review("{metadata: {annotations: {ipcspace.io/space: orders}}, spec: {volumes: [{name: v, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: orders}}}], ephemeralContainers: [{name: e}]}}",
		`,"subResource":"ephemeralcontainers","oldObject":{}`)
	if !r.Allowed || !bytes.Contains(r.Patch, []byte(`/spec/ephemeralContainers/0/volumeMounts`)) {
		t.Errorf("%+v %s", r, r.Patch)
	}
	for _, nonsense := range []string{"", "{}", "no JSON", `{"request":null}`} {
		if status, text := post(nonsense); status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", nonsense, status, text)
		}
	}
}
