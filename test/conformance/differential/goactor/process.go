package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var operations map[string]func(a *actor)

func init() {
	operations = map[string]func(a *actor){
		"thread": (*actor).startThread, "leave": (*actor).leave, "exit": func(*actor) { os.Exit(0) },
		"spawn": (*actor).spawn, "exec": (*actor).exec,
		"become": (*actor).become, "adopt": (*actor).adopt, "capability": (*actor).capability,
	}
	for name, perform := range calls {
		operations[name] = perform
	}
}

func (a *actor) say(format string, args ...any) { fmt.Fprintf(&a.answer, format, args...) }

// arg is an argument, 0 if it is not there.
func (a *actor) arg(i int) int {
	if i < len(a.args) {
		return a.args[i]
	}
	return 0
}

// startThread PLACE
func (a *actor) startThread() {
	if a.thread[a.arg(0)].Load() != 0 {
		a.say(" no")
		return
	}
	a.begin(a.arg(0), " began")
	a.say(" 0")
}

// leave ends this thread: the process goes with its last one.
func (a *actor) leave() {
	if a.actors.Add(-1) == 0 {
		os.Exit(0)
	}
	runtime.Goexit()
}

// secure is stage/actor.c's.
func secure() bool { return os.Geteuid() != os.Getuid() || os.Getegid() != os.Getgid() }

// command is the program of a place, in the language of another.
func (a *actor) command(place, as int, greeting string) (path string, argv []string) {
	path = "/proc/self/exe"
	if a.inGo.Load()>>as&1 == 0 {
		path = os.Getenv("C_ACTOR")
	}
	return path, []string{"actor", strconv.Itoa(place), strconv.Itoa(a.fd), greeting}
}

// spawn PLACE: another program there, which inherits nothing.
func (a *actor) spawn() {
	place := a.arg(0)
	if a.thread[place].Load() != 0 || a.pids.Load() >= maxPids || secure() {
		a.say(" no")
		return
	}
	path, argv := a.command(place, place, " born")
	a.starting[place].Store(1)
	cmd := &exec.Cmd{Path: path, Args: argv, Stderr: os.Stderr}
	err := cmd.Start()
	if err == nil {
		go func() { _ = cmd.Wait() }()
		for a.thread[place].Load() == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	a.starting[place].Store(0)
	a.result(err)
}

// exec AS: in the language of that place.
func (a *actor) exec() {
	if a.actors.Load() > 1 || secure() {
		a.say(" no")
		return
	}
	path, argv := a.command(a.place, a.arg(0), " executed")
	a.starting[a.place].Store(1)
	a.result(syscall.Exec(path, argv, os.Environ()))
	a.starting[a.place].Store(0)
}

// alone says whether credentials may change: Go programs have them together.
func (a *actor) alone() bool {
	if a.actors.Load() == 1 {
		return true
	}
	a.say(" no")
	return false
}

// become UID GID GROUP(0: none): the effective ids.
func (a *actor) become() {
	if !a.alone() {
		return
	}
	defer a.space.CredentialsChanged()
	if os.Geteuid() != 0 {
		a.result(syscall.Seteuid(0))
	}
	var groups []int
	if g := a.arg(2); g != 0 {
		groups = append(groups, g)
	}
	a.result(syscall.Setgroups(groups))
	a.result(syscall.Setegid(a.arg(1)))
	a.result(syscall.Seteuid(a.arg(0)))
}

// adopt UID GID: all ids, for good.
func (a *actor) adopt() {
	if !a.alone() {
		return
	}
	defer a.space.CredentialsChanged()
	uid, gid := a.arg(0), a.arg(1)
	a.result(syscall.Setgroups(nil))
	a.result(syscall.Setresgid(gid, gid, gid))
	a.result(syscall.Setresuid(uid, uid, uid))
}

// capability NUMBER(-1: all) ON
func (a *actor) capability() {
	if !a.alone() {
		return
	}
	defer a.space.CredentialsChanged()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		a.result(err)
		return
	}
	for c := range 41 {
		if a.arg(0) >= 0 && a.arg(0) != c {
			continue
		}
		d, bit := &data[c/32], uint32(1)<<(c%32)
		d.Effective &^= bit
		if a.arg(1) != 0 {
			d.Effective |= d.Permitted & bit
		}
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if errno != 0 {
		a.result(errno)
		return
	}
	a.result(nil)
}
