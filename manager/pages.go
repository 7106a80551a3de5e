package manager

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// pageFile is a file of session pages: one, or the spares that a parent got at
// once. It goes with the last of them.
type pageFile struct {
	inode
	serial uint64 // a part of its name, which never comes again
	file   *file
	mem    []byte
	fresh  *os.File // of a new one, for the first who is given it; nil: open it
	length int      // in pages
	taken  int      // pages that sessions have
}

// newPages makes a file of n pages, with memory for them. A session's next page
// has a file of a new name, for whoever has the one before may keep it.
func (s *space) newPages(n int) (*pageFile, error) {
	serial := s.state.nextPages()
	path := s.storage.path(pagesName(serial))
	f, err := s.storage.createFresh(path)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(make([]byte, n*abi.PageSize))
	var pf *pageFile
	if err == nil {
		pf, err = s.storage.mapPages(f, serial, n)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return nil, err
	}
	pf.fresh = f
	return pf, nil
}

// openPages opens the file of an earlier manager's. Members may have changed its
// length: what is missing of its pages is found when they are looked at.
func (s *storage) openPages(serial uint64) (*pageFile, error) {
	f, err := openFile(s.path(pagesName(serial)), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return s.mapPages(f, serial, int(min(max(pages(uint64(fi.Size())), 1), abi.MaxSpares)))
}

func (s *storage) mapPages(f *os.File, serial uint64, n int) (*pageFile, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	size := n * abi.PageSize
	// Each page is looked at: at once, for less than as many page faults.
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	pf := &pageFile{
		inode: inode{st.Dev, st.Ino}, serial: serial, mem: mem, length: n,
		file: &file{storage: s, path: f.Name(), made: true, size: int64(size)},
	}
	s.pages += uint64(n)
	s.growth.watch(pf.file, int(f.Fd()))
	return pf, nil
}

// take is page i, for a session. It is the caller's to close.
func (pf *pageFile) take(i int) *page {
	pf.taken++
	offset := i * abi.PageSize
	return &page{mem: pf.mem[offset : offset+abi.PageSize : offset+abi.PageSize], of: pf, offset: uint64(offset)}
}

// open is a descriptor to be given away.
func (pf *pageFile) open() (*os.File, error) {
	if f := pf.fresh; f != nil {
		pf.fresh = nil
		return f, nil
	}
	return openFile(pf.file.path, os.O_RDWR, 0)
}

// remove unlinks a file of which no session has a page. Members may hold it.
func (pf *pageFile) remove() {
	pf.release()
	pf.file.storage.discard(pf.file.path)
}

// release closes the file if no session has a page of it. true: it did.
func (pf *pageFile) release() bool {
	if pf.taken > 0 || pf.mem == nil {
		return false
	}
	_ = unix.Munmap(pf.mem)
	pf.mem = nil
	if pf.fresh != nil {
		_ = pf.fresh.Close()
	}
	s := pf.file.storage
	s.pages -= uint64(pf.length)
	s.growth.forget(pf.file)
	pf.file.close()
	return true
}

// fill writes what the manager says in a page that nobody has yet.
func (p *page) fill(number, parent uint32, cookie [16]byte) error {
	return guarded(func() {
		v := (*abi.SessionPage)(unsafe.Pointer(&p.mem[0]))
		v.Cookie, v.Session, v.Parent = cookie, number, parent
	})
}

// alone tells whether the page is all of its file, which may be given to its
// process then.
func (p *page) alone() bool { return p.of.length == 1 }

// close lets go of the page, which may stay in its file for the next manager.
func (p *page) close() {
	if p != nil && p.mem != nil {
		p.mem = nil
		p.of.taken--
		p.of.release()
	}
}

// remove ends the page. Its process may hold it.
func (p *page) remove() {
	if p == nil || p.of == nil {
		return
	}
	p.close()
	if p.of.taken == 0 {
		p.of.remove()
	}
	p.of = nil
}

// mapsPage tells by the text of /proc/<pid>/maps whether the page at an offset
// of a file is mapped.
func mapsPage(maps string, of inode, offset uint64) bool {
	named := fmt.Sprintf("%s%d ", devText(of.dev), of.ino)
	for line := range strings.Lines(maps) {
		var start, end, first uint64
		if !strings.Contains(line, named) {
			continue
		}
		_, err := fmt.Sscanf(line, "%x-%x %s %x", &start, &end, new(string), &first)
		if err == nil && first <= offset && offset-first < end-start {
			return true
		}
	}
	return false
}
