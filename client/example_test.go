package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

// A producer and a consumer over a queue. They may as well be two programs, in
// two containers: the key is what they share.
func Example_producerConsumer() {
	ctx := context.Background()
	space, err := client.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer space.Close()
	const key, work, end = 0x4a0b5, 1, 2
	queue, err := space.Queue(ctx, key, client.Create(0o600))
	if err != nil {
		log.Fatal(err)
	}
	defer queue.Remove(ctx)

	var consumer sync.WaitGroup
	consumer.Go(func() {
		jobs, err := space.Queue(ctx, key)
		if err != nil {
			log.Fatal(err)
		}
		buf := make([]byte, 64)
		for {
			n, typ, err := jobs.Receive(ctx, 0, buf)
			if err != nil {
				log.Fatal(err)
			}
			if typ == end {
				return
			}
			fmt.Printf("got %s\n", buf[:n])
		}
	})
	for i := range 3 {
		if err := queue.Send(ctx, work, fmt.Appendf(nil, "job %d", i)); err != nil {
			log.Fatal(err)
		}
	}
	if err := queue.Send(ctx, end, nil); err != nil {
		log.Fatal(err)
	}
	consumer.Wait()

	// Nothing more comes, and the call does not wait for ever.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, _, err = queue.Receive(ctx, 0, make([]byte, 64))
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	_, _, err = queue.Receive(ctx, 0, make([]byte, 64), client.NoWait)
	fmt.Println(errors.Is(err, client.ErrNoMessage), errors.Is(err, unix.ENOMSG))
	// Output:
	// got job 0
	// got job 1
	// got job 2
	// true
	// true true
}

// A mutex between processes: a semaphore of value 1. With Undo it is free again
// however its holder ends.
func Example_mutex() {
	ctx := context.Background()
	space, err := client.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer space.Close()
	set, err := space.Set(ctx, client.Private, 1, client.Create(0o600))
	if err != nil {
		log.Fatal(err)
	}
	defer set.Remove(ctx)
	if err := set.SetValue(0, 1); err != nil {
		log.Fatal(err)
	}
	lock := client.Sub(0, 1).Undo()
	unlock := client.Add(0, 1).Undo()

	n := 0
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if err := set.Op(ctx, lock); err != nil {
				log.Fatal(err)
			}
			n++ // nobody else is here, in this program or another
			if err := set.Op(ctx, unlock); err != nil {
				log.Fatal(err)
			}
		})
	}
	all.Wait()
	fmt.Println(n)

	if err := set.Op(ctx, lock); err != nil {
		log.Fatal(err)
	}
	err = set.Op(ctx, lock.NoWait())
	fmt.Println(errors.Is(err, client.ErrWouldBlock))
	// Output:
	// 10
	// true
}

// ring is what the segment of Example_sharedRing has: one writer, one reader.
type ring struct {
	written, read atomic.Uint64
	slots         [64]uint64
}

// A ring in a segment, and a set to wait by: how many slots are free, and how
// many are filled.
func Example_sharedRing() {
	ctx := context.Background()
	space, err := client.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer space.Close()
	segment, err := space.Segment(ctx, client.Private, 4096, client.Create(0o600))
	if err != nil {
		log.Fatal(err)
	}
	attached, err := segment.Attach(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer attached.Close()
	// Removed at once, it goes with the last that has it attached, even if all
	// of them crash. Its id finds it until then.
	if err := segment.Remove(ctx); err != nil {
		log.Fatal(err)
	}
	r, err := client.View[ring](attached.Bytes(), 0)
	if err != nil {
		log.Fatal(err)
	}
	set, err := space.Set(ctx, client.Private, 2, client.Create(0o600))
	if err != nil {
		log.Fatal(err)
	}
	defer set.Remove(ctx)
	const free, filled = 0, 1
	if err := set.SetValues([]uint16{uint16(len(r.slots)), 0}); err != nil {
		log.Fatal(err)
	}

	const numbers = 1000
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range uint64(numbers) {
			if err := set.Op(ctx, client.Sub(free, 1)); err != nil {
				log.Fatal(err)
			}
			r.slots[r.written.Load()%uint64(len(r.slots))] = i
			r.written.Add(1)
			if err := set.Op(ctx, client.Add(filled, 1)); err != nil {
				log.Fatal(err)
			}
		}
	})
	sum := uint64(0)
	for range numbers {
		if err := set.Op(ctx, client.Sub(filled, 1)); err != nil {
			log.Fatal(err)
		}
		sum += r.slots[r.read.Load()%uint64(len(r.slots))]
		r.read.Add(1)
		if err := set.Op(ctx, client.Add(free, 1)); err != nil {
			log.Fatal(err)
		}
	}
	writer.Wait()
	fmt.Println(sum)

	_, err = client.View[ring](attached.Bytes(), 4000)
	fmt.Println(err)
	// Output:
	// 499500
	// view of client_test.ring: 528 bytes at 4000 do not fit 4096: invalid argument
}

// The peer is a C program (testdata/peer.c) that knows nothing of spaces: it
// calls msgrcv and msgsnd, and the preloaded library does the rest.
func Example_peerInC() {
	ctx := context.Background()
	space, err := client.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer space.Close()
	queue, err := space.Queue(ctx, client.Private, client.Create(0o600))
	if err != nil {
		log.Fatal(err)
	}
	defer queue.Remove(ctx)

	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "peer")
	if out, err := exec.Command("gcc", "-o", program, "testdata/peer.c").CombinedOutput(); err != nil {
		log.Fatalf("%v: %s", err, out)
	}
	peer := exec.Command(program, strconv.Itoa(queue.ID()))
	peer.Env = append(os.Environ(), "LD_PRELOAD="+filepath.Join(os.Getenv("IPCSPACE_DIR"), "lib/libipcspace.so"))
	if err := peer.Start(); err != nil {
		log.Fatal(err)
	}
	const question, answer = 1, 2
	buf := make([]byte, 100)
	for _, word := range []string{"system", "five"} {
		if err := queue.Send(ctx, question, []byte(word)); err != nil {
			log.Fatal(err)
		}
		n, _, err := queue.Receive(ctx, answer, buf)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", buf[:n])
	}
	// An empty message ends it.
	if err := queue.Send(ctx, question, nil); err != nil {
		log.Fatal(err)
	}
	if err := peer.Wait(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// SYSTEM
	// FIVE
}
