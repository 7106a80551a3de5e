package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// ErrNoManager: nobody answers at a manager's socket.
var ErrNoManager = errors.New("no manager answers")

// Client is a connection to a manager.
type Client struct {
	AdminClient
	conn *grpc.ClientConn
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Dial connects to the manager of root and asks who it is, so that a manager
// that is not there is found out here: ErrNoManager, or os.ErrPermission where
// only the caller's rights are missing.
func Dial(ctx context.Context, root string) (*Client, error) {
	path := SocketPath(root)
	// gRPC hides why a connection failed: try the socket first.
	probe, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("connect to %s: %w", path, os.ErrPermission)
	case err != nil:
		return nil, fmt.Errorf("%w at %s", ErrNoManager, path)
	}
	probe.Close()
	conn, err := grpc.NewClient("passthrough:///"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	client := &Client{AdminClient: NewAdminClient(conn), conn: conn}
	if _, err := client.Version(ctx, &VersionRequest{}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("the manager at %s does not serve: %s", path, status.Convert(err).Message())
	}
	return client, nil
}
