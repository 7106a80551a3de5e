package main

import "github.com/ipcspace/ipcspace/client"

// space does the calls by package client.
type space struct{ s *client.Space }

func newSpace() way {
	s, err := client.Open(ctx)
	must(err)
	return space{s}
}

func (w space) newSet(n int) set {
	s, err := w.s.Set(ctx, client.Private, n, client.Create(0o600))
	must(err)
	return spaceSet{s}
}

func (w space) newQueue() queue {
	q, err := w.s.Queue(ctx, client.Private, client.Create(0o600))
	must(err)
	return spaceQueue{q}
}

func (w space) set(id int) set     { return spaceSet{w.s.SetByID(id)} }
func (w space) queue(id int) queue { return spaceQueue{w.s.QueueByID(id)} }

type spaceSet struct{ *client.Set }

func (s spaceSet) id() int       { return s.ID() }
func (s spaceSet) op(num, n int) { must(s.Op(ctx, client.Op{Num: uint16(num), Op: int16(n)})) }
func (s spaceSet) remove()       { must(s.Remove(ctx)) }

type spaceQueue struct{ *client.Queue }

func (q spaceQueue) id() int                     { return q.ID() }
func (q spaceQueue) send(typ int64, text []byte) { must(q.Send(ctx, typ, text)) }
func (q spaceQueue) receive(typ int64, buf []byte) int {
	n, _, err := q.Receive(ctx, typ, buf)
	must(err)
	return n
}
func (q spaceQueue) remove() { must(q.Remove(ctx)) }
