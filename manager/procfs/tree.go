package procfs

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// folder has files or folders below it, all made when the tree is mounted.
type folder struct {
	fs.Inode
	made     time.Time
	children map[string]fs.InodeEmbedder
}

func newTree(space Space) *folder {
	made := time.Now()
	lists := &folder{made: made, children: map[string]fs.InodeEmbedder{}}
	for _, name := range Lists {
		lists.children[name] = &list{space: space, name: name, made: made}
	}
	sysctls := &folder{made: made, children: map[string]fs.InodeEmbedder{}}
	for _, name := range Sysctls {
		sysctls.children[name] = &sysctl{space: space, name: name, made: made}
	}
	return &folder{made: made, children: map[string]fs.InodeEmbedder{ListFolder: lists, SysctlFolder: sysctls}}
}

func (d *folder) OnAdd(ctx context.Context) {
	for name, child := range d.children {
		var mode uint32 = syscall.S_IFREG
		if _, ok := child.(*folder); ok {
			mode = syscall.S_IFDIR
		}
		d.AddChild(name, d.NewPersistentInode(ctx, child, fs.StableAttr{Mode: mode}), false)
	}
}

func (d *folder) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	describe(&out.Attr, 0o555, d.made)
	out.Nlink = 2
	return 0
}

// describe fills in what the files of proc have in common: no length.
func describe(a *fuse.Attr, mode uint32, made time.Time) {
	a.Mode, a.Nlink = mode, 1
	a.SetTimes(&made, &made, &made)
}

// list is a file of sysvipc/.
type list struct {
	fs.Inode
	space Space
	name  string
	made  time.Time
}

func (f *list) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	describe(&out.Attr, 0o444, f.made)
	return 0
}

func (f *list) Access(_ context.Context, mask uint32) syscall.Errno {
	return allow(mask&^unix.R_OK == 0)
}

func (f *list) Setattr(context.Context, fs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return unix.EPERM
}

func (f *list) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, 0, unix.EACCES
	}
	return &listing{file: f, reader: process(ctx)}, fuse.FOPEN_DIRECT_IO, 0
}

// listing is a list that somebody has open: the text as it was when it was
// last read from the beginning.
type listing struct {
	file   *list
	reader Process
	mu     sync.Mutex
	text   []byte
}

func (l *listing) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if off == 0 || l.text == nil {
		text, err := l.file.space.List(l.file.name, l.reader)
		if err != nil {
			return nil, errno(err)
		}
		l.text = text
	}
	from := min(off, int64(len(l.text)))
	return fuse.ReadResultData(l.text[from:min(from+int64(len(dest)), int64(len(l.text)))]), 0
}

// sysctl is a file of kernel/.
type sysctl struct {
	fs.Inode
	space Space
	name  string
	made  time.Time
}

func (f *sysctl) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	mode := uint32(0o644)
	if !f.space.MaySet(f.name, Process{}) {
		mode = 0o444 // a file that root writes by a capability only
	}
	describe(&out.Attr, mode, f.made)
	return 0
}

func (f *sysctl) Access(ctx context.Context, mask uint32) syscall.Errno {
	return allow(mask&unix.X_OK == 0 && (mask&unix.W_OK == 0 || f.space.MaySet(f.name, process(ctx))))
}

// Setattr lets O_TRUNC pass, which means nothing, and refuses as
// proc_sys_setattr (fs/proc/proc_sysctl.c).
func (f *sysctl) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return unix.EPERM
	}
	return f.Getattr(context.Background(), nil, out)
}

func (f *sysctl) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY && !f.space.MaySet(f.name, process(ctx)) {
		return nil, 0, unix.EACCES
	}
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *sysctl) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off > 0 {
		return fuse.ReadResultData(nil), 0
	}
	text, err := f.space.Sysctl(f.name)
	if err != nil {
		return nil, errno(err)
	}
	return fuse.ReadResultData(text[:min(len(text), len(dest))]), 0
}

// Write takes what comes at position 0, and swallows what comes after it
// (kernel.sysctl_writes_strict=1).
func (f *sysctl) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if off > 0 {
		return uint32(len(data)), 0
	}
	used, err := f.space.SetSysctl(f.name, data[:min(len(data), 4095)])
	if err != nil {
		return 0, errno(err)
	}
	return uint32(used), 0
}

func allow(ok bool) syscall.Errno {
	if ok {
		return 0
	}
	return unix.EACCES
}

// process is who makes the call that ctx belongs to.
func process(ctx context.Context) Process {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return Process{UID: ^uint32(0), GID: ^uint32(0)}
	}
	return Process{PID: int(c.Pid), UID: c.Uid, GID: c.Gid}
}

func errno(err error) syscall.Errno {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return unix.EIO
}

var (
	_ fs.NodeOnAdder   = (*folder)(nil)
	_ fs.NodeGetattrer = (*folder)(nil)
	_ fs.NodeGetattrer = (*list)(nil)
	_ fs.NodeSetattrer = (*list)(nil)
	_ fs.NodeAccesser  = (*list)(nil)
	_ fs.NodeOpener    = (*list)(nil)
	_ fs.FileReader    = (*listing)(nil)
	_ fs.NodeGetattrer = (*sysctl)(nil)
	_ fs.NodeSetattrer = (*sysctl)(nil)
	_ fs.NodeAccesser  = (*sysctl)(nil)
	_ fs.NodeOpener    = (*sysctl)(nil)
	_ fs.NodeReader    = (*sysctl)(nil)
	_ fs.NodeWriter    = (*sysctl)(nil)
)
