// Command scratch is a program in an image that has nothing else but a space.
package main

import (
	"context"
	"log"

	"github.com/ipcspace/ipcspace/client"
)

func main() {
	log.SetFlags(0)
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	s, err := client.Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	q, err := s.Queue(ctx, 0x99)
	if err != nil {
		return err
	}
	return q.Send(ctx, 42, []byte("from scratch"))
}
