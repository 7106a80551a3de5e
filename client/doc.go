// Package client lets Go programs use an ipcspace: System V shared memory,
// semaphores and message queues of a space that exactly the containers share
// that were given it, with C programs, scripts and other Go programs. It needs
// no cgo and no preloaded library, and works in an image that has nothing but
// the program.
//
// # What a space is
//
// A space is one isolated key space, as a kernel's IPC namespace is: segments,
// sets and queues are found there by key (shmget, semget, msgget) or used by
// id. A manager on the node keeps it and hands out its files by permission; a
// container has the space's public folder, mounted read-only, where Open finds
// it: /run/ipcspace, or where IPCSPACE_DIR says. To try it without a container,
// start the program with "ipcspace run -- PROGRAM".
//
// The names are the system's: what the manual pages shmget(2), shmop(2),
// semop(2), semctl(2), msgop(2) and msgctl(2) say of the calls holds here, and
// each method's comment names the call that it is. A method's error is an
// [*Error]: errors.Is(err, client.ErrNoMessage) and errors.Is(err, unix.ENOMSG)
// are the same, and a call that its context ended is context.Canceled or
// context.DeadlineExceeded.
//
// # What costs a system call
//
// None: Op with what is free, without waiting; Value, Values, SetValue; Send
// and Receive where there is room and a message; Stat of sets and queues;
// looking up the key of an object that is there; Limits and Usage. They happen
// in memory that all members map, with nobody asked.
//
// One or two: waking somebody who waits, and waiting. Waiting takes a
// goroutine; the first few that wait in a program have a thread each, which is
// quickest, and all others share one, so thousands may wait.
//
// A message to the manager and back, some tens of microseconds: Open, making
// and removing objects, the first call on an object, SetPermissions, Stat of a
// segment, and growing an object that has become too small for its messages or
// waiters. So is every call on a set or queue of which the caller has read
// permission without write permission or the other way round: the manager does
// it in his place. Attach is mmap, Close of what is attached munmap.
//
// # What happens on a crash
//
// Killing a program at any instant loses nothing that was done and does
// nothing twice: an Op, a Send or a Receive happened entirely or not at all. A
// message that Receive took, and the program did not come to read, is gone
// with it, as it would be in the kernel. Adjustments of operations with Undo
// are applied and segments detached before the parent's wait returns. Nobody
// is left waiting for a dead program: there is no lock that one could hold.
//
// Killing the manager disturbs no call that needs no message; those that do
// wait for the next manager (30 s, or as long as their context allows), which
// goes on with the objects and sessions that are there. Only a call that
// the manager was doing in the caller's place ends with unix.ECONNRESET; not if
// the manager was ended, as for an upgrade: the next one does it then.
//
// # Processes and goroutines
//
// To a space a program is one process, a session, whatever its goroutines do
// and however often it calls Open. Undo and attaches belong to it, as in the
// kernel, and end when it does, not when a goroutine returns, and not at
// Close. A mutex made by Undo therefore protects processes from each other and
// from each other's death; among the goroutines of one program it excludes as
// any semaphore does, but only the end of the program gives it back.
//
// All methods may be called by any number of goroutines at once. What is in an
// attached segment is the program's to synchronize, by sync/atomic or under a
// semaphore. The race detector knows that calls on one object are ordered; it
// does not look into attached memory, and atomics there order nothing to it.
//
// Programs started by os/exec are sessions of their own and inherit nothing:
// no descriptor, no attach, no undo. A program that calls syscall.Exec stays
// the same process: its attaches are gone, its undo stays. Raw forks are not
// supported, as nowhere in Go.
//
// # What differs from the kernel
//
//   - Signals do not interrupt calls: contexts do, and the call then was not
//     carried out. There is no EINTR to repeat.
//   - Rights are decided when an object is first used. A program that changes
//     its credentials calls CredentialsChanged. In the kernel each call asks.
//   - There is no attaching at a chosen address, and no execution of segments.
//     Memory is detached by Close; munmap by other means is not counted.
//   - A Set's waiters begin again when SetPermissions takes rights away.
//   - See the table of known differences in the project's README for the rest.
package client
