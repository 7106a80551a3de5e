package manager

import (
	"sync/atomic"
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

// The key entries of the table are for clients, which take a key that they miss for
// one that is not there; the manager itself goes by table.keys. An entry that is lost
// at a cut is of a request that nobody has the answer of: recovery enters it.

func (t *table) keyEntry(f Family, bucket uint32) *uint64 {
	return (*uint64)(unsafe.Pointer(&t.mem[abi.TableKeysOff+(int(f)*abi.KeyBuckets+int(bucket))*8]))
}

// keyWord is a used entry.
func keyWord(key, index uint32) uint64 {
	return abi.KeyUsed | uint64(index)<<abi.KeyIndexShift | uint64(key)
}

func bucketOf(key uint32) uint32 {
	return (key * abi.KeyHash) >> 16 & (abi.KeyBuckets - 1)
}

// addKey enters a key that is not there. At most half of the buckets are in
// use, so there is always room.
func (t *table) addKey(f Family, key, index uint32) {
	t.keys[f][key] = index
	b := bucketOf(key)
	for range abi.KeyBuckets {
		e := t.keyEntry(f, b)
		if v := atomic.LoadUint64(e); v&abi.KeyUsed == 0 {
			atomic.StoreUint64(e, keyWord(key, index))
			return
		}
		b = (b + 1) % abi.KeyBuckets
	}
}

// dropKey leaves a tombstone, and clears the run of tombstones that ends at a
// bucket never used: a search that came there would have ended anyway.
func (t *table) dropKey(f Family, key uint32) {
	index, ok := t.keys[f][key]
	if !ok {
		return
	}
	delete(t.keys[f], key)
	want := keyWord(key, index)
	b := bucketOf(key)
	for range abi.KeyBuckets {
		e := t.keyEntry(f, b)
		v := atomic.LoadUint64(e)
		if v == 0 {
			return
		}
		if v == want {
			atomic.StoreUint64(e, abi.KeyTombstone)
			break
		}
		b = (b + 1) % abi.KeyBuckets
	}
	t.clearTombstones(f, b)
}

// clearTombstones clears those that end at bucket b, if a bucket never used follows.
func (t *table) clearTombstones(f Family, b uint32) {
	if atomic.LoadUint64(t.keyEntry(f, (b+1)%abi.KeyBuckets)) != 0 {
		return
	}
	for range abi.KeyBuckets {
		e := t.keyEntry(f, b)
		if atomic.LoadUint64(e) != abi.KeyTombstone {
			return
		}
		atomic.StoreUint64(e, 0)
		b = (b - 1) % abi.KeyBuckets
	}
}

// correctKeys makes the entries agree with keys. A client that searches meanwhile
// finds each that is right.
func (t *table) correctKeys(f Family, keys map[uint32]uint32) {
	t.keys[f] = map[uint32]uint32{}
	for b := range uint32(abi.KeyBuckets) {
		e := t.keyEntry(f, b)
		v := atomic.LoadUint64(e)
		if v&abi.KeyUsed == 0 {
			continue
		}
		key := uint32(v)
		index, there := keys[key]
		_, twice := t.keys[f][key]
		if !there || twice || v != keyWord(key, index) || !t.leadsTo(f, key, b) {
			atomic.StoreUint64(e, abi.KeyTombstone)
			continue
		}
		t.keys[f][key] = index
	}
	for key, index := range keys {
		if _, there := t.keys[f][key]; !there {
			t.addKey(f, key, index)
		}
	}
	for b := range uint32(abi.KeyBuckets) {
		t.clearTombstones(f, b)
	}
}

// leadsTo tells whether a search for the key comes to bucket b.
func (t *table) leadsTo(f Family, key, b uint32) bool {
	for at := bucketOf(key); at != b; at = (at + 1) % abi.KeyBuckets {
		if atomic.LoadUint64(t.keyEntry(f, at)) == 0 {
			return false
		}
	}
	return true
}
