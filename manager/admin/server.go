package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager"
)

// Manager is what the API serves; *manager.Manager is one.
type Manager interface {
	CreateSpace(context.Context, manager.SpaceConfig) (manager.SpaceInfo, error)
	EnsureSpace(ctx context.Context, cfg manager.SpaceConfig, mustExist bool) (info manager.SpaceInfo, created bool, err error)
	Spaces() []manager.SpaceInfo
	Space(name string) (manager.SpaceDetail, error)
	RemoveSpace(ctx context.Context, name string, force bool) error
	SetLimits(ctx context.Context, space string, change func(*manager.Limits), next manager.NextIDs) (manager.SpaceInfo, error)
	Objects(space string) ([]manager.ObjectInfo, error)
	RemoveObject(ctx context.Context, space string, f manager.Family, id int) error
	Admit(ctx context.Context, space string, pods []string) error
	Examine(space string) ([]manager.Finding, error)
}

// Publisher lets Kubernetes pods into spaces; *kube.Node is one. Its errors
// are gRPC statuses.
type Publisher interface {
	Publish(context.Context, *PublishRequest) (*PublishResponse, error)
}

// stopPatience is how long calls under way may take once Serve is to end.
const stopPatience = 2 * time.Second

// Listen makes the socket at path, for this user only. A socket that a dead
// manager left there is replaced; a live one's is not.
func Listen(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: a manager answers there already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Between bind and chmod others could connect: Accept asks the kernel who
	// they are, so the mode is only the friendlier refusal.
	if err := os.Chmod(path, 0o600); err != nil {
		socket.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	made, err := os.Lstat(path)
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The next manager may have its own socket there by the time this one ends.
	socket.SetUnlinkOnClose(false)
	return &ownListener{UnixListener: socket, path: path, made: made}, nil
}

// ownListener accepts connections of this process's own user and of root.
type ownListener struct {
	*net.UnixListener
	path string
	made os.FileInfo
}

func (l *ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
			return conn, nil
		}
		conn.Close()
	}
}

func (l *ownListener) Close() error {
	err := l.UnixListener.Close()
	if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.made) {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

// peerUID is the peer's effective uid when it connected, in this process's
// user namespace: root of a container's own one is not 0 here.
func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// Serve answers on listener until ctx is done, and closes it. version is what
// Version reports of the program. pods is nil for a manager that does not
// serve Kubernetes.
func Serve(ctx context.Context, m Manager, pods Publisher, listener net.Listener, version string, log *slog.Logger) error {
	server := grpc.NewServer()
	RegisterAdminServer(server, &service{manager: m, pods: pods, version: version})
	alive := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, alive)

	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		alive.Shutdown()
		late := time.AfterFunc(stopPatience, server.Stop)
		defer late.Stop()
		server.GracefulStop()
	}()
	log.Info("admin API serves", "address", listener.Addr().String())
	err := server.Serve(listener)
	close(ended)
	<-stopped
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the admin API: %w", err)
	}
	return nil
}

// service implements the generated AdminServer over a Manager.
type service struct {
	UnimplementedAdminServer
	manager Manager
	pods    Publisher // nil: no Kubernetes
	version string
}

func (s *service) Version(context.Context, *VersionRequest) (*VersionResponse, error) {
	return &VersionResponse{
		Version: s.version, LayoutMajor: abi.LayoutMajor, LayoutMinor: abi.LayoutMinor,
		Pid: int32(os.Getpid()),
	}, nil
}

func (s *service) CreateSpace(ctx context.Context, r *CreateSpaceRequest) (*CreateSpaceResponse, error) {
	info, err := s.manager.CreateSpace(ctx, configFrom(r))
	if err != nil {
		return nil, statusOf(err)
	}
	return &CreateSpaceResponse{Space: spaceOf(info)}, nil
}

func (s *service) EnsureSpace(ctx context.Context, r *EnsureSpaceRequest) (*EnsureSpaceResponse, error) {
	info, created, err := s.manager.EnsureSpace(ctx, configFrom(r.GetConfig()), r.GetMustExist())
	if err != nil {
		return nil, statusOf(err)
	}
	return &EnsureSpaceResponse{Space: spaceOf(info), Created: created}, nil
}

func (s *service) ListSpaces(context.Context, *ListSpacesRequest) (*ListSpacesResponse, error) {
	reply := &ListSpacesResponse{}
	for _, info := range s.manager.Spaces() {
		reply.Spaces = append(reply.Spaces, spaceOf(info))
	}
	return reply, nil
}

func (s *service) InspectSpace(_ context.Context, r *InspectSpaceRequest) (*InspectSpaceResponse, error) {
	detail, err := s.manager.Space(r.GetName())
	if err != nil {
		return nil, statusOf(err)
	}
	reply := &InspectSpaceResponse{Space: spaceOf(detail.SpaceInfo)}
	for _, o := range detail.ObjectList {
		reply.Objects = append(reply.Objects, objectOf(o))
	}
	for _, one := range detail.SessionList {
		reply.Sessions = append(reply.Sessions, sessionOf(one))
	}
	for _, c := range detail.ContainerList {
		reply.Containers = append(reply.Containers, &Container{
			Name: c.Name, Pid: int32(c.PID), Mount: c.Mount, Writable: c.Writable, Processes: uint32(c.Processes), Registered: c.Registered,
		})
	}
	return reply, nil
}

func (s *service) RemoveSpace(ctx context.Context, r *RemoveSpaceRequest) (*RemoveSpaceResponse, error) {
	if err := s.manager.RemoveSpace(ctx, r.GetName(), r.GetForce()); err != nil {
		return nil, statusOf(err)
	}
	return &RemoveSpaceResponse{}, nil
}

func (s *service) Admit(ctx context.Context, r *AdmitRequest) (*AdmitResponse, error) {
	if err := s.manager.Admit(ctx, r.GetSpace(), r.GetPods()); err != nil {
		return nil, statusOf(err)
	}
	return &AdmitResponse{}, nil
}

func (s *service) Publish(ctx context.Context, r *PublishRequest) (*PublishResponse, error) {
	if s.pods == nil {
		return nil, status.Error(codes.FailedPrecondition, "this manager does not serve Kubernetes; start it with --kubernetes")
	}
	return s.pods.Publish(ctx, r)
}

func (s *service) SetLimits(ctx context.Context, r *SetLimitsRequest) (*SetLimitsResponse, error) {
	next := manager.NextIDs{}
	for f, id := range map[manager.Family]*uint32{
		manager.Shm: r.ShmNextId, manager.Sem: r.SemNextId, manager.Msg: r.MsgNextId,
	} {
		if id != nil {
			next[f] = *id
		}
	}
	info, err := s.manager.SetLimits(ctx, r.GetSpace(), r.GetLimits().apply, next)
	if err != nil {
		return nil, statusOf(err)
	}
	return &SetLimitsResponse{Space: spaceOf(info)}, nil
}

func (s *service) ListObjects(_ context.Context, r *ListObjectsRequest) (*ListObjectsResponse, error) {
	objects, err := s.manager.Objects(r.GetSpace())
	if err != nil {
		return nil, statusOf(err)
	}
	reply := &ListObjectsResponse{}
	for _, o := range objects {
		reply.Objects = append(reply.Objects, objectOf(o))
	}
	return reply, nil
}

func (s *service) RemoveObject(ctx context.Context, r *RemoveObjectRequest) (*RemoveObjectResponse, error) {
	var family manager.Family
	switch r.GetFamily() {
	case Family_FAMILY_SHM:
		family = manager.Shm
	case Family_FAMILY_SEM:
		family = manager.Sem
	case Family_FAMILY_MSG:
		family = manager.Msg
	default:
		return nil, status.Errorf(codes.InvalidArgument, "family %v: it must be shm, sem or msg", r.GetFamily())
	}
	if err := s.manager.RemoveObject(ctx, r.GetSpace(), family, int(r.GetId())); err != nil {
		return nil, statusOf(err)
	}
	return &RemoveObjectResponse{}, nil
}

func (s *service) ExamineSpace(_ context.Context, r *ExamineSpaceRequest) (*ExamineSpaceResponse, error) {
	found, err := s.manager.Examine(r.GetName())
	if err != nil {
		return nil, statusOf(err)
	}
	detail, err := s.manager.Space(r.GetName())
	if err != nil {
		return nil, statusOf(err)
	}
	reply := &ExamineSpaceResponse{Objects: uint32(len(detail.ObjectList)), Sessions: uint32(len(detail.SessionList))}
	for _, f := range found {
		reply.Findings = append(reply.Findings, &Finding{Serious: f.Serious, What: f.What, Text: f.Text, Remedy: f.Remedy})
	}
	return reply, nil
}

// statusOf is the one border where the manager's errors become gRPC codes.
func statusOf(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, manager.ErrNoSpace), errors.Is(err, manager.ErrNoObject):
		code = codes.NotFound
	case errors.Is(err, manager.ErrExists):
		code = codes.AlreadyExists
	case errors.Is(err, manager.ErrInvalidName), errors.Is(err, manager.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, manager.ErrInUse), errors.Is(err, manager.ErrVersion):
		code = codes.FailedPrecondition
	case errors.Is(err, manager.ErrTooMany):
		code = codes.ResourceExhausted
	case errors.Is(err, manager.ErrClosed):
		code = codes.Unavailable
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, err.Error())
}
