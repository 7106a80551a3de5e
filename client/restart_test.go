package client_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/client"
)

func init() {
	roles["wait"] = func() {
		s, err := client.Open(bg)
		do(err)
		do(s.SetByID(idOf(1)).Op(bg, client.Zero(0)))
	}
	roles["make"] = makeUntilZero
}

// makeUntilZero makes and removes queues while a set that it may read is not 0.
func makeUntilZero() {
	s, err := client.Open(bg)
	do(err)
	set := s.SetByID(idOf(1))
	for {
		v, err := set.Value(0)
		do(err)
		if v == 0 {
			return
		}
		q, err := s.Queue(bg, client.Private, client.Create(0o600))
		do(err)
		do(q.Remove(bg))
	}
}

// A manager that is ended, as for an upgrade, fails no call: what it has not done the next one does,
// also for those who sleep in its arms because they have only part of the rights.
func TestManagerUpgrades(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	needsLibrary(t)
	testManager.kill()
	check(t, testManager.start("lasting"))
	t.Cleanup(func() {
		testManager.end()
		check(t, testManager.start())
	})
	s := open(t)
	set, err := s.Set(bg, client.Private, 1, client.Create(0o644))
	check(t, err)
	defer set.Remove(bg)
	check(t, set.SetValue(0, 1))
	id := strconv.Itoa(set.ID())
	program := compile(t, "testdata/upgrade.c")
	var work sync.WaitGroup
	for name, cmd := range map[string]*exec.Cmd{
		"C, asleep": withLibrary(exec.Command(program, "wait", id)), "C": withLibrary(exec.Command(program, "make", id)),
		"Go, asleep": role("wait", id), "Go": role("make", id),
	} {
		cmd, output := asNobody(t, cmd), &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = output, output
		check(t, cmd.Start())
		work.Go(func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v: %s", name, err, output)
			}
		})
	}
	for range 20 {
		time.Sleep(50 * time.Millisecond)
		testManager.end()
		check(t, testManager.start("lasting"))
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n, err := set.WaitingForZero(0)
		check(t, err)
		if n == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d of 2 wait for zero", n)
			break
		}
	}
	check(t, set.SetValue(0, 0))
	work.Wait()
}

// Killing the manager disturbs nothing that takes no message, and what takes
// one goes on with the next manager.
func TestManagerRestarts(t *testing.T) {
	s := open(t)
	set, queue := newSet(t, s, 2), newQueue(t, s)
	check(t, set.Op(bg, client.Add(0, 3)))
	received := make(chan error, 1)
	go func() {
		buf := make([]byte, 10)
		_, _, err := queue.Receive(bg, 0, buf)
		received <- err
	}()
	for round := range 5 {
		testManager.kill()
		check(t, set.Op(bg, client.Sub(0, 1)))
		check(t, set.Op(bg, client.Add(0, 1), client.Add(1, 1)))
		made := make(chan error)
		go func() {
			q, err := s.Queue(bg, client.Private, client.Create(0o600))
			if err == nil {
				err = q.Remove(bg)
			}
			made <- err
		}()
		if round%2 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		check(t, testManager.start())
		check(t, <-made)
	}
	check(t, queue.Send(bg, 1, []byte("x")))
	check(t, <-received)
	if v, err := set.Value(1); v != 5 || err != nil {
		t.Fatal(v, err)
	}
}

// A call that needs the manager ends with its context while there is none.
func TestNoManager(t *testing.T) {
	s := open(t)
	testManager.kill()
	defer func() { check(t, testManager.start()) }()
	ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
	defer cancel()
	_, err := s.Queue(ctx, client.Private, client.Create(0o600))
	want(t, err, context.DeadlineExceeded)
}
