// Package differential searches for programs of operations that show a process something else in a
// space than on the kernel.
//
// A program is a list of steps of several processes (stage/actor.c, which knows the operations). It
// runs once on the kernel, in an IPC namespace of its own, and once in a space, and the two
// transcripts, of every result, errno, byte and field, must be equal. What differs is shrunk to the
// smallest program that still does.
//
// go test runs it for a minute; -differential.for=2h searches for longer, and -rapid.seed=N
// repeats a search. A divergence that was understood becomes a case in ../rows.
package differential
