package plane

import (
	"fmt"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Verify checks all invariants of a queue that nobody changes meanwhile. The
// error says which does not hold and where; it is not an errno.
func (q *Queue) Verify() error {
	if err := q.verifyLock(); err != nil {
		return err
	}
	queued, err := q.verifyList(messages, abi.KindMessage)
	if err != nil {
		return err
	}
	receivers, err := q.verifyList(waiters, abi.KindReceiver)
	if err != nil {
		return err
	}
	listed, err := q.verifyList(senders, abi.KindSender)
	if err != nil {
		return err
	}
	for cell := range receivers {
		listed[cell] = true
	}
	if err := q.verifyCells(listed); err != nil {
		return err
	}
	if err := q.verifyMessages(queued); err != nil {
		return err
	}
	return q.verifyWaiting()
}

func (q *Queue) verifyMessages(queued map[int]bool) error {
	var bytes, count uint64
	owned := map[int]bool{} // chunks
	for i := range q.present() {
		off := q.cellsOff + i*abi.CellSize
		st := q.state(off)
		if (st.phase() == abi.CellQueued) != queued[off] {
			return fmt.Errorf("message %d is in state %d, in the queue: %v", i+1, st.phase(), queued[off])
		}
		if !queued[off] {
			continue
		}
		size := q.msgSize(off)
		bytes += uint64(size)
		count++
		if !q.owns(off) {
			return fmt.Errorf("message %d of %d bytes does not own its chunks", i+1, size)
		}
		chunks, _ := q.numbers(nil, off, size)
		for _, number := range chunks {
			if owned[int(number)] {
				return fmt.Errorf("chunk %d is in two messages", number)
			}
			owned[int(number)] = true
		}
	}
	if st := q.Stat(); st.Bytes != bytes || st.Messages != count {
		return fmt.Errorf("the queue has %d messages of %d bytes, but counts %d of %d",
			count, bytes, st.Messages, st.Bytes)
	}
	for i := range q.learn() {
		w := q.data.load(abi.ChunkWordOff(i))
		cell, ok := q.cell(w)
		if w != 0 && (!ok || q.state(cell).kind() != abi.KindMessage) {
			return fmt.Errorf("chunk %d belongs to cell %d, which is no message", i, w)
		}
	}
	return nil
}

// verifyWaiting finds calls that sleep and could go on: lost wake-ups.
func (q *Queue) verifyWaiting() error {
	if q.load(offPending)&1 != 0 {
		return nil
	}
	t := &transaction{o: &q.object, work: maxWork, limit: roomy}
	for _, l := range []list{waiters, senders} {
		for c := t.walk(l); c.next(); {
			if q.state(c.cell).phase() != abi.CellWaiting {
				continue
			}
			could := false
			if l == waiters {
				_, could = q.search(t, uint32(q.load(c.cell+offFlags)>>32), int64(q.load(c.cell+offRecvType)))
			} else if _, size, ok := q.prepared(c.cell, q.state(c.cell)); ok {
				could = q.fits(t, size)
			}
			if could {
				return fmt.Errorf("cell %d sleeps, but could go on", q.number(c.cell))
			}
		}
	}
	return nil
}
