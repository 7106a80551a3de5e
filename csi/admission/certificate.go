package admission

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// pair is a certificate and its key in files, which somebody may renew.
type pair struct {
	certificate, key string
	log              *slog.Logger

	mu      sync.Mutex
	changed [2]time.Time // of the files that current is from
	current *tls.Certificate
}

// get is tls.Config's GetCertificate. While what is in the files does not fit together, as in the
// middle of a renewal, the last that did goes on.
func (p *pair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var changed [2]time.Time
	for i, path := range []string{p.certificate, p.key} {
		if st, err := os.Stat(path); err == nil {
			changed[i] = st.ModTime()
		}
	}
	if p.current != nil && changed == p.changed {
		return p.current, nil
	}
	loaded, err := tls.LoadX509KeyPair(p.certificate, p.key)
	switch {
	case err == nil:
		if p.current != nil {
			p.log.Info("certificate renewed", "file", p.certificate)
		}
		p.current, p.changed = &loaded, changed
	case p.current == nil:
		return nil, err
	default:
		p.log.Warn("certificate not renewed", "error", err)
	}
	return p.current, nil
}
