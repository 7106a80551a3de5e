package manager

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// calmHandler bounds how often the log says the same: what members do must
// not fill a node's disk. Messages are told apart by their text, which is the
// manager's own.
type calmHandler struct {
	slog.Handler
	said *said
}

// A message may come logBurst times in logPause. The first after that says how
// often it was left out.
const (
	logBurst = 20
	logPause = 10 * time.Second
)

type said struct {
	mu       sync.Mutex
	messages map[string]*saying
}

type saying struct {
	times   int
	since   time.Time
	leftOut int
}

func calm(l *slog.Logger) *slog.Logger {
	return slog.New(&calmHandler{l.Handler(), &said{messages: map[string]*saying{}}})
}

func (h *calmHandler) Handle(ctx context.Context, r slog.Record) error {
	leftOut, ok := h.said.may(r.Message, r.Time)
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left-out", leftOut))
	}
	return h.Handler.Handle(ctx, r)
}

func (h *calmHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &calmHandler{h.Handler.WithAttrs(attrs), h.said}
}

func (h *calmHandler) WithGroup(name string) slog.Handler {
	return &calmHandler{h.Handler.WithGroup(name), h.said}
}

// may tells whether a message may be said again, and how often it was not.
func (s *said) may(message string, now time.Time) (leftOut int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[message]
	if m == nil {
		m = &saying{since: now}
		s.messages[message] = m
	}
	if now.Sub(m.since) >= logPause {
		leftOut = m.leftOut
		*m = saying{since: now}
	}
	if m.times++; m.times > logBurst {
		m.leftOut++
		return 0, false
	}
	return leftOut, true
}
