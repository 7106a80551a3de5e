package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/admin"
)

// runSpace is the name of the space of an embedded manager.
const runSpace = "run"

// closePatience bounds how long the embedded manager may take to end.
const closePatience = 5 * time.Second

// embedManager starts a manager inside this process, with one space, and
// serves its admin API for `ipcspace ipcs` inside the command.
func embedManager(ctx context.Context, opts runOptions, mounts bool) (p *place, err error) {
	library, err := findLibrary(opts.library)
	if err != nil {
		return nil, err
	}
	p = &place{space: runSpace, mounts: mounts}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err := p.makeBase(mounts); err != nil {
		return nil, err
	}

	level := slog.LevelWarn
	if opts.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	m, err := manager.New(manager.Config{
		Root: filepath.Join(p.root, "root"), Log: log, Library: library,
		Unprivileged: !mounts, Ephemeral: true,
	})
	if err != nil {
		return nil, fmt.Errorf("start the manager: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { ended <- m.Run(ctx) }()
	p.onClose(func() error {
		stop()
		return waitFor(ended, "end the manager")
	})

	info, err := m.CreateSpace(ctx, manager.SpaceConfig{Name: runSpace, Size: opts.size, Limits: admin.LimitsFrom(opts.limits)})
	if err != nil {
		return nil, fmt.Errorf("make a space: %w", err)
	}
	p.dir, p.writable = info.Dir, true
	if mounts {
		if err := p.mountSpace(info.Dir, info.Proc); err != nil {
			return nil, err
		}
		p.hide = filepath.Join(p.root, "root")
	}
	if p.library, err = preloadable(filepath.Join(p.dir, abi.LibraryName), library); err != nil {
		return nil, err
	}

	listener, err := admin.Listen(admin.SocketPath(p.root))
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	serving, stopServing := context.WithCancel(ctx)
	go func() { served <- admin.Serve(serving, m, nil, listener, version, log) }()
	p.onClose(func() error {
		stopServing()
		return waitFor(served, "end the admin API")
	})
	return p, nil
}

func waitFor(ended <-chan error, what string) error {
	select {
	case err := <-ended:
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-time.After(closePatience):
		return fmt.Errorf("%s: still busy after %s", what, closePatience)
	}
}

// makeBase makes the folder that the manager's root and socket stand in:
// mounted, and gone with the namespace; or private on /dev/shm.
func (p *place) makeBase(mounts bool) error {
	if mounts {
		p.root = mountBase
		if err := mountPlace(); err != nil {
			return err
		}
		// A mount of its own, so that the command's namespace can do without it.
		dir := filepath.Join(p.root, "root")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		return mountTmpfs(dir, "mode=0755")
	}
	shm := "/dev/shm"
	if unix.Access(shm, unix.W_OK|unix.X_OK) != nil {
		shm = os.TempDir()
	}
	prefix := fmt.Sprintf("ipcspace-run-%d-", os.Geteuid())
	sweepLeft(shm, prefix)
	base, err := os.MkdirTemp(shm, prefix)
	if err != nil {
		return err
	}
	p.root = base
	p.onClose(func() error { return os.RemoveAll(base) })
	// Held until this process ends, however it ends: who finds it free sweeps.
	lock, err := os.OpenFile(filepath.Join(base, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	p.onClose(lock.Close)
	return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) // nobody else knows the folder yet
}

const lockName = "lock"

// youngAge spares folders whose run may not have taken its lock yet.
const youngAge = time.Minute

// sweepLeft removes what runs of this user left that were killed with SIGKILL.
// What cannot be removed is left for the next.
func sweepLeft(dir, prefix string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) || time.Since(info.ModTime()) < youngAge {
			continue
		}
		base := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if unix.Lstat(base, &st) != nil || st.Uid != uint32(os.Geteuid()) {
			continue
		}
		lock, err := unix.Open(filepath.Join(base, lockName), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			if unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB) == nil {
				_ = os.RemoveAll(base)
			}
			unix.Close(lock)
		}
	}
}

// preloadable is the space's copy of the library, or the original where the
// copy is on a mount that nothing may be executed from (/dev/shm of many
// containers).
func preloadable(copied, original string) (string, error) {
	var st unix.Statfs_t
	path := copied
	if err := unix.Statfs(copied, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", copied, err)
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		path = original
	}
	if strings.ContainsAny(path, " :") {
		return "", fmt.Errorf("LD_PRELOAD cannot name %q: it has a space or a colon in it", path)
	}
	return path, nil
}
