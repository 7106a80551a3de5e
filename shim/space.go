package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/status"

	"github.com/ipcspace/ipcspace/manager/admin"
)

// managerPatience is how long a container's start waits for a manager that is away. One that is
// restarted or upgraded is back long before.
const managerPatience = 10 * time.Second

// Root is the manager's folder: IPCSPACE_ROOT of the runtime's own environment, or the default.
func Root() string {
	if root := os.Getenv("IPCSPACE_ROOT"); root != "" {
		return filepath.Clean(root)
	}
	return admin.DefaultRoot
}

// Ensure has the manager make the space that is asked for, if it is to be made, and returns its
// folder. The folder is to be mounted within a minute, before which the space is not reclaimed.
func (r *Request) Ensure(ctx context.Context, root string) (dir string, err error) {
	ctx, cancel := context.WithTimeout(ctx, managerPatience)
	defer cancel()
	client, err := dial(ctx, root)
	if err != nil {
		return "", fmt.Errorf("%w: space %q: %w; start ipcspace-manager --root %s, or drop the annotation %s",
			ErrRefused, r.Space, err, root, AnnotationSpace)
	}
	defer client.Close()
	reply, err := client.EnsureSpace(ctx, &admin.EnsureSpaceRequest{Config: r.Config, MustExist: r.MustExist})
	if err != nil {
		return "", fmt.Errorf("%w: space %q: %s", ErrRefused, r.Space, status.Convert(err).Message())
	}
	return reply.GetSpace().GetDir(), nil
}

func dial(ctx context.Context, root string) (*admin.Client, error) {
	for {
		client, err := admin.Dial(ctx, root)
		if err == nil || !errors.Is(err, admin.ErrNoManager) {
			return client, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// looksLikeSpace tells whether a folder is a space's, wherever it is mounted: it has the register, a
// FIFO, and the table.
func looksLikeSpace(dir string) bool {
	register, err := os.Lstat(filepath.Join(dir, "register"))
	if err != nil || register.Mode()&os.ModeNamedPipe == 0 {
		return false
	}
	_, err = os.Lstat(filepath.Join(dir, "table"))
	return err == nil
}
