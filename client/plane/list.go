package plane

// list is a list of cells in the control file, changed by transactions alone.
type list struct{ head, tail int } // offsets of link words; tail 0: none

var (
	waiters  = list{offWaitHead, offWaitTail}
	senders  = list{offSendHead, offSendTail}
	messages = list{offMsgHead, offMsgTail}
	undoList = list{offUndoHead, 0}
)

// cursor walks a list as a transaction sees it. The walk ends after as many
// steps as there are cells, whatever the links say.
type cursor struct {
	t     *transaction
	l     list
	from  int // offset of the link that leads to cell
	prev  int // offset of the cell before, 0: none
	cell  int // offset of the cell
	steps int
}

func (t *transaction) walk(l list) *cursor {
	return &cursor{t: t, l: l, from: l.head}
}

// next goes to the next cell, which may have been unlinked by remove.
func (c *cursor) next() bool {
	if c.cell != 0 {
		c.from, c.prev = c.cell+offNext, c.cell
	}
	return c.look()
}

func (c *cursor) look() bool {
	off, ok := c.t.o.cell(c.t.get(c.from))
	if !ok || c.steps >= c.t.o.cells() {
		return false
	}
	c.steps++
	c.cell = off
	return true
}

// remove unlinks the cell. The next call of next goes to the one after it.
func (c *cursor) remove() {
	t := c.t
	t.setLink(c.from, uint64(uint32(t.get(c.cell+offNext))))
	if c.l.tail != 0 && uint64(uint32(t.get(c.l.tail))) == t.o.number(c.cell) {
		var prev uint64
		if c.prev != 0 {
			prev = t.o.number(c.prev)
		}
		t.setLink(c.l.tail, prev)
	}
	c.cell = 0
}

// find goes to the cell at off.
func (c *cursor) find(off int) bool {
	for c.next() {
		if c.cell == off {
			return true
		}
	}
	return false
}

// add appends a cell that is on no list. Its own link may lead anywhere still,
// from an earlier life: a message that another process made is added here too.
func (t *transaction) add(l list, off int) {
	if own := off + offNext; uint32(t.get(own)) != 0 {
		t.setLink(own, 0)
	}
	number := t.o.number(off)
	last, ok := t.o.cell(t.get(l.tail))
	if _, some := t.o.cell(t.get(l.head)); ok && some {
		t.setLink(last+offNext, number)
	} else {
		t.setLink(l.head, number)
	}
	t.setLink(l.tail, number)
}
