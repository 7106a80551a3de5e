package plane

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const (
	offMsgType = int(unsafe.Offsetof(abi.MessageCell{}.Type))
	offMsgSize = int(unsafe.Offsetof(abi.MessageCell{}.Size))
	offMsgMore = int(unsafe.Offsetof(abi.MessageCell{}.More))
	offText    = int(unsafe.Offsetof(abi.MessageCell{}.Text))
	offIndex   = int(unsafe.Offsetof(abi.IndexCell{}.Chunks))
)

// maxText bounds a message's size, as found in its cell.
const maxText = abi.MaxChunks * abi.ChunkSize

func (q *Queue) msgType(cell int) int64 { return int64(q.load(cell + offMsgType)) }

func (q *Queue) msgSize(cell int) int {
	return int(min(q.load(cell+offMsgSize), maxText))
}

// learn takes the present number of chunks from the host.
func (q *Queue) learn() int {
	_, n := q.host.Capacity()
	n = min(max(n, 0), abi.MaxChunks)
	q.data.extend(abi.DataSize(n))
	for {
		old := q.chunks.Load()
		if int64(n) <= old || q.chunks.CompareAndSwap(old, int64(n)) {
			return int(q.chunks.Load())
		}
	}
}

// chunk says whether there is a chunk of that number.
func (q *Queue) chunk(number uint32) bool {
	return int64(number) < q.chunks.Load() || int64(number) < int64(q.learn())
}

// allocChunk takes a free chunk for the message in cell.
func (q *Queue) allocChunk(cell int) (number uint32, err error) {
	for range 64 {
		n := int(q.chunks.Load())
		at := int(q.load(offChunkHint))
		for range n {
			if uint(at) >= uint(n) {
				at = 0
			}
			off := abi.ChunkWordOff(at)
			if q.data.load(off) == 0 && q.data.cas(off, 0, q.number(cell)) {
				q.store(offChunkHint, uint64(at+1))
				return uint32(at), nil
			}
			at++
		}
		if q.learn() > n {
			continue
		}
		cells, _ := q.host.Capacity()
		total := min(n+max(n/2, 8), abi.MaxChunks)
		if total == n {
			break
		}
		if err := q.host.Grow(cells, total); err != nil {
			return 0, err
		}
		q.learn()
	}
	return 0, unix.ENOMEM
}

// freeChunks frees a message's. The next one's text goes to where this one's is
// in the CPU's cache.
func (q *Queue) freeChunks(numbers []uint32, cell int) {
	for _, n := range numbers {
		if q.chunk(n) {
			q.data.cas(abi.ChunkWordOff(int(n)), q.number(cell), 0)
		}
	}
	if len(numbers) > 0 {
		q.store(offChunkHint, uint64(slices.Min(numbers)))
	}
}

// makeMessage fills a message of ours, before anything is locked.
func (q *Queue) makeMessage(typ int64, text []byte) (cell int, err error) {
	if len(text) > maxText {
		return 0, unix.EINVAL
	}
	cell, ok := q.alloc(abi.KindMessage)
	if !ok {
		if cell, err = q.allocGrow(abi.KindMessage); err != nil {
			return 0, err
		}
	}
	if uint32(q.fetch(cell+offNext)) != 0 {
		q.setNext(cell, 0)
	}
	q.put(cell+offMsgType, uint64(typ))
	q.put(cell+offMsgSize, uint64(len(text)))
	q.put(cell+offMsgMore, 0)
	if len(text) <= abi.MessageInline {
		q.memory.write(cell+offText, text)
		return cell, nil
	}
	fail(q.host, "filling")
	var few [abi.MessageChunks]uint32
	numbers := few[:0]
	for rest := text; len(rest) > 0; {
		number, err := q.allocChunk(cell)
		if err == nil {
			n := min(len(rest), abi.ChunkSize)
			q.data.write(abi.ChunkOff(int(number)), rest[:n])
			rest = rest[n:]
			numbers = append(numbers, number)
			continue
		}
		q.freeChunks(numbers, cell)
		q.free(cell)
		return 0, err
	}
	n := min(len(numbers), abi.MessageChunks)
	q.writeNumbers(cell+offText, numbers[:n])
	if err := q.makeIndex(cell, numbers[n:]); err != nil {
		q.freeChunks(numbers, cell)
		q.free(cell)
		return 0, err
	}
	return cell, nil
}

// makeIndex stores the chunk numbers that did not fit the message's cell.
func (q *Queue) makeIndex(cell int, numbers []uint32) error {
	last := 0
	for len(numbers) > 0 {
		index, err := q.allocGrow(abi.KindIndex)
		if err != nil {
			q.freeChain(q.load(cell+offMsgMore)&(1<<32-1), abi.KindIndex)
			return err
		}
		n := min(len(numbers), abi.IndexChunks)
		q.setNext(index, 0)
		q.writeNumbers(index+offIndex, numbers[:n])
		numbers = numbers[n:]
		if last == 0 {
			q.store(cell+offMsgMore, q.number(index))
		} else {
			q.setNext(last, q.number(index))
		}
		last = index
	}
	return nil
}

func (q *Queue) writeNumbers(off int, numbers []uint32) {
	var p [numbersSize]byte
	for i, n := range numbers {
		binary.LittleEndian.PutUint32(p[4*i:], n)
	}
	q.memory.write(off, p[:4*len(numbers)])
}

// numbersSize is how many bytes of chunk numbers stand in one cell at most.
const numbersSize = 4 * max(abi.MessageChunks, abi.IndexChunks)

// numbers reads which chunks a message of that size has, into the room at the
// end of chunks if that is enough, and which index cells. Both may be fewer than
// the size asks for, in a damaged queue.
func (q *Queue) numbers(chunks []uint32, cell, size int) (_ []uint32, index []int) {
	if size <= abi.MessageInline {
		return chunks, nil
	}
	want := (size + abi.ChunkSize - 1) / abi.ChunkSize
	read := func(off, n int) {
		var p [numbersSize]byte
		q.read(off, p[:4*n])
		for i := range n {
			chunks = append(chunks, binary.LittleEndian.Uint32(p[4*i:]))
		}
	}
	read(cell+offText, min(want, abi.MessageChunks))
	more := q.load(cell+offMsgMore) & (1<<32 - 1)
	for len(chunks) < want {
		off, ok := q.cell(more)
		if !ok || q.state(off).kind() != abi.KindIndex {
			break
		}
		index = append(index, off)
		read(off+offIndex, min(want-len(chunks), abi.IndexChunks))
		more = q.load(off + offNext)
	}
	return chunks, index
}

// text copies a message's text, of that size, to buf, as much as fits.
func (q *Queue) text(cell, size int, buf []byte) int {
	buf = buf[:min(len(buf), size)]
	if size <= abi.MessageInline {
		q.read(cell+offText, buf)
		return len(buf)
	}
	var few [abi.MessageChunks]uint32
	chunks, _ := q.numbers(few[:0], cell, size)
	rest := buf
	for _, number := range chunks {
		n := min(len(rest), abi.ChunkSize)
		if n == 0 {
			break
		}
		if q.chunk(number) {
			q.data.read(abi.ChunkOff(int(number)), rest[:n])
		} else {
			clear(rest[:n])
		}
		rest = rest[n:]
	}
	clear(rest)
	return len(buf)
}

// freeMessage frees a message of ours, its chunks before it: who dies in
// between leaves nothing that is not found again from the cell.
//
// Index cells name their sender. They are made ours before the first is freed,
// and the message is parted from them in between: so while it leads to them
// they are all its own, and afterwards they are found by our session.
func (q *Queue) freeMessage(cell int) {
	if st := q.state(cell); st.kind() != abi.KindMessage || st.phase() != abi.CellOwned || st.session() != q.me {
		return
	}
	if size := q.msgSize(cell); size > abi.MessageInline {
		q.releaseText(cell, size)
	}
	q.free(cell)
}

func (q *Queue) releaseText(cell, size int) {
	var few [abi.MessageChunks]uint32
	chunks, index := q.numbers(few[:0], cell, size)
	q.freeChunks(chunks, cell)
	me := q.me
	for _, off := range index {
		st := q.state(off)
		if st.session() != me && !q.shift(off, st, st.owned(abi.CellOwned, abi.KindIndex, me)) {
			return
		}
	}
	q.store(cell+offMsgMore, 0)
	for _, off := range index {
		q.free(off)
	}
}
