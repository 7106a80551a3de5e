package manager

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// In a brokered space not even an object's owner gets its file, also from the next manager; segments
// are mapped as ever. Without huge pages a large segment's tmpfs has none.
func TestBrokeredSpace(t *testing.T) {
	needRoot(t)
	cfg := Config{Root: tempRoot(t)}
	m, err := New(cfg)
	check(t, err)
	info, err := m.CreateSpace(context.Background(), SpaceConfig{Name: "a", Brokered: true, SmallPages: true})
	check(t, err)
	for range 2 {
		p := mustPeer(t, info.Dir)
		for _, f := range []Family{Sem, Msg} {
			id, err := p.get(f, 1, unix.IPC_CREAT|0o600, 1)
			check(t, err)
			opened, err := p.call(abi.MsgOpen, nil, int64(f), id)
			check(t, err)
			if opened.Val[1] != abi.AccessRead|abi.AccessWrite || opened.Val[2] != 1 || len(opened.fds) != 0 {
				t.Errorf("%v opened by its owner: %v with %d files", f, opened.Val, len(opened.fds))
			}
			opened.close()
		}
		set, err := p.get(Sem, 1, 0o600, 1)
		check(t, err)
		_, err = p.call(abi.MsgSemCtl, nil, set, 0, abi.SemSetVal, 5)
		check(t, err)
		got, err := p.call(abi.MsgSemCtl, nil, set, 0, abi.SemGetVal)
		check(t, err)
		if got.Val[0] != 5 {
			t.Errorf("value %d, want 5", got.Val[0])
		}
		segment, err := p.get(Shm, 1, unix.IPC_CREAT|0o600, 2<<20)
		check(t, err)
		mem, err := p.attach(segment, abi.AccessRead|abi.AccessWrite)
		check(t, err)
		mem[0] = 1
		_ = unix.Munmap(mem)
		if s := m.Spaces()[0]; !s.Brokered || !s.SmallPages {
			t.Errorf("made as %+v", s)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		check(t, err)
		found := false
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, cfg.Root+"/private/a/SYSV") {
				found = true
				if strings.Contains(line, "huge=") {
					t.Errorf("huge pages: %s", line)
				}
			}
		}
		if !found {
			t.Error("the segment has no tmpfs of its own")
		}
		p.close()
		check(t, m.Close())
		m, err = New(cfg)
		check(t, err)
	}
	check(t, m.RemoveSpace(context.Background(), "a", true))
	check(t, m.Close())
}

// An agent of the node that has the public folder alone keeps an open space, but not one that is
// closed to all but some pods.
func TestAgentIsNoMember(t *testing.T) {
	needRoot(t)
	m, info := newManager(t, Config{}, SpaceConfig{})
	closed, err := m.CreateSpace(context.Background(), SpaceConfig{Name: "closed", Closed: true})
	check(t, err)
	for _, s := range []SpaceInfo{info, closed} {
		agent := exec.Command("/bin/sh", "-ec", `
			mkdir "$1.seen"; mount --bind "$1" "$1.seen"; umount -R "$2/private/`+s.Name+`"; umount "$2/private/`+s.Name+`.public"
			echo ready; exec sleep 1000`, "sh", s.Dir, m.cfg.Root)
		agent.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
		agent.Stderr = os.Stderr
		out, err := agent.StdoutPipe()
		check(t, err)
		check(t, agent.Start())
		var line [6]byte
		_, err = out.Read(line[:])
		check(t, err)
		err = m.RemoveSpace(context.Background(), s.Name, false)
		if s.Name == closed.Name {
			check(t, err)
		} else {
			wantErr(t, "an open space that an agent has", err, ErrInUse)
		}
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}
}

// Two containers with user namespaces of their own meet as user 999 of a space with their ids. One
// that makes a namespace for itself gains nothing by it.
func TestContainerIDs(t *testing.T) {
	needRoot(t)
	_, info := newManager(t, Config{}, SpaceConfig{ContainerIDs: true})
	const user = 999
	in := func(first int, flags uintptr) syscall.SysProcAttr {
		maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
		return syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | flags, UidMappings: maps, GidMappings: maps, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{Uid: user, Gid: user, Groups: []uint32{1999}},
		}
	}
	a := newPuppetIn(t, info.Dir, "puppet", in(100000, unix.CLONE_NEWPID))
	var b *puppet
	asContainerRoot(t, 200000, func() { b = newPuppetIn(t, info.Dir, "puppet", in(200000, unix.CLONE_NEWPID)) })
	made := a.want("create", 0, abi.MsgGet, int64(Sem), 1, unix.IPC_CREAT|0o600, 1)
	id := made.Val[0]
	opened := b.want("open as the same user", 0, abi.MsgOpen, int64(Sem), id)
	if opened.Val[1] != abi.AccessRead|abi.AccessWrite {
		t.Errorf("rights %d of the same user in another container", opened.Val[1])
	}
	st := b.want("stat", 0, abi.MsgCtl, int64(Sem), id, unix.IPC_STAT)
	got := *(*abi.Stat)(unsafe.Pointer(&st.Body[0]))
	if got.UID != user || got.CUID != user || got.GID != user {
		t.Errorf("owner %d:%d, creator %d; want %d", got.UID, got.GID, got.CUID, user)
	}
	b.want("give it away", 0, abi.MsgCtl, int64(Sem), id, unix.IPC_SET, 1000, 1999, 0o660)
	st = a.want("stat by group", 0, abi.MsgCtl, int64(Sem), id, unix.IPC_STAT)
	if got := *(*abi.Stat)(unsafe.Pointer(&st.Body[0])); got.UID != 1000 || got.GID != 1999 || got.CUID != user {
		t.Errorf("owner %d:%d, creator %d after IPC_SET", got.UID, got.GID, got.CUID)
	}

	// The node's user 999 is one, too: it has no other name.
	host := newPuppet(t, info.Dir, &syscall.Credential{Uid: user, Gid: user})
	host.want("stat by the node's 999", 0, abi.MsgCtl, int64(Sem), id, unix.IPC_STAT)
	// The node's user 5 in a namespace of its own in which it is called 999, with a pid namespace or
	// not: it is user 5 all the same.
	for _, role := range []string{"puppet", "forger", "forger of pids", "forger of root"} {
		forger := newPuppetIn(t, info.Dir, role, syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 5, Gid: 5}})
		forger.want(role, unix.EACCES, abi.MsgCtl, int64(Sem), id, unix.IPC_STAT)
	}
}

// A user to whom newuidmap has granted ids is called 999 by one of them, in a namespace of its own: not in
// the space.
func TestGrantedIDs(t *testing.T) {
	needRoot(t)
	_, info := newManager(t, Config{}, SpaceConfig{ContainerIDs: true})
	made := newPuppet(t, info.Dir, &syscall.Credential{Uid: 999, Gid: 999}).want("create", 0, abi.MsgGet, int64(Sem), 1, unix.IPC_CREAT|0o600, 1)
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100001, Size: 65535}}
	asContainerRoot(t, 1000, func() {
		newPuppetIn(t, info.Dir, "puppet", syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID, UidMappings: maps, GidMappings: maps, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{Uid: 999, Gid: 999},
		}).want("stat", unix.EACCES, abi.MsgCtl, int64(Sem), made.Val[0], unix.IPC_STAT)
	})
}

// asContainerRoot makes what do makes the container's root's own, as containerd does with the user
// namespace of a pod.
func asContainerRoot(t *testing.T, uid int, do func()) {
	t.Helper()
	runtime.LockOSThread() // never unlocked if the thread stays another's
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	check(t, unix.Capget(&header, &all[0]))
	become := func(uid int) {
		const same = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			t.Fatal(errno)
		}
	}
	become(uid)
	check(t, unix.Capset(&header, &all[0]))
	do()
	become(0)
	runtime.UnlockOSThread()
}

// forgerMain is a puppet in a user namespace of its own making, where it is called by an id of its choice.
func forgerMain(id int, flags uintptr) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=puppet")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | flags, Pdeathsig: unix.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		os.Exit(2)
	}
}
