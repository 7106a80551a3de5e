package e2e_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is who all in the cluster trust; its files are in scratch/pki.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func pki(name string) string { return filepath.Join(scratch, "pki", name) }

func newAuthority() (*authority, error) {
	if err := os.MkdirAll(pki(""), 0o700); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "e2e"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	a := &authority{certificate: template}
	key, err := a.issue("ca", template)
	if err != nil {
		return nil, err
	}
	a.key = key
	return a, nil
}

// issue signs a certificate with a new key; NAME.crt and NAME.key are their files.
func (a *authority) issue(name string, template *x509.Certificate) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	signed, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	if err := writePEM(pki(name+".crt"), "CERTIFICATE", signed); err != nil {
		return nil, err
	}
	return key, writeKey(name, key)
}

// writeKey writes NAME.key and NAME.pub.
func writeKey(name string, key crypto.Signer) error {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(pki(name+".pub"), "PUBLIC KEY", public); err != nil {
		return err
	}
	return writePEM(pki(name+".key"), "PRIVATE KEY", private)
}

func writePEM(path, kind string, content []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600)
}

// client issues a certificate for a client of the API server, and writes NAME.kubeconfig.
func (a *authority) client(name, user string, groups ...string) error {
	_, err := a.issue(name, &x509.Certificate{
		Subject:  pkix.Name{CommonName: user, Organization: groups},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(pki(name+".kubeconfig"), fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://127.0.0.1:6443", certificate-authority: %q}}]
users: [{name: e2e, user: {client-certificate: %q, client-key: %q}}]
contexts: [{name: e2e, context: {cluster: e2e, user: e2e}}]
current-context: e2e
`, pki("ca.crt"), pki(name+".crt"), pki(name+".key")), 0o600)
}

// server issues the API server's.
func (a *authority) server(addresses ...net.IP) error {
	_, err := a.issue("apiserver", &x509.Certificate{
		Subject:  pkix.Name{CommonName: "kube-apiserver"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, IPAddresses: addresses,
	})
	return err
}
