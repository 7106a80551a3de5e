// Package admin is the manager's API for those who steer it: the command
// line, the container runtime's side, the CSI driver. It owns the protobuf
// definition, the server over the manager's exported calls, and the client's
// Dial. It never touches a space itself.
//
// Errors become gRPC codes here and nowhere else.
package admin

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative admin.proto

import (
	"path/filepath"

	"github.com/ipcspace/ipcspace/manager"
)

// DefaultRoot is the folder of a node's manager.
const DefaultRoot = "/run/ipcspace"

// SocketName is the API's socket in the manager's root.
const SocketName = "admin.sock"

// ValidName tells whether a name can be a space's: a DNS label (RFC 1123). Who makes a path of a
// name that others gave asks first.
func ValidName(name string) bool { return manager.ValidName(name) }

// SocketPath is where the manager of root listens.
func SocketPath(root string) string {
	return filepath.Join(root, SocketName)
}
