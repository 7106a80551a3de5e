package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager"
)

// answers is a Manager that says what the test told it to.
type answers struct {
	err      error
	created  manager.SpaceConfig
	admitted []string
	next     manager.NextIDs
	removed  struct {
		family manager.Family
		id     int
	}
}

var shop = manager.SpaceInfo{
	Name: "shop", ID: 7, Dir: "/x/spaces/shop", Created: time.Unix(1000, 0), Size: 1 << 30, Used: 4096,
	Limits: manager.DefaultLimits(), Objects: [abi.Families]int{1, 2, 3}, Semaphores: 9, Sessions: 4, MaxSessions: 64, Sealed: true,
}

func (a *answers) CreateSpace(_ context.Context, c manager.SpaceConfig) (manager.SpaceInfo, error) {
	a.created = c
	return shop, a.err
}
func (a *answers) Spaces() []manager.SpaceInfo { return []manager.SpaceInfo{shop} }
func (a *answers) Space(string) (manager.SpaceDetail, error) {
	return manager.SpaceDetail{SpaceInfo: shop, SessionList: []manager.SessionInfo{{Session: 2, PID: 55, Command: "perl"}}}, a.err
}
func (a *answers) RemoveSpace(context.Context, string, bool) error { return a.err }
func (a *answers) Objects(string) ([]manager.ObjectInfo, error) {
	return []manager.ObjectInfo{{Family: manager.Msg, ID: 32768, Key: 0xffffffff, Mode: 0o640, Messages: 2}}, a.err
}
func (a *answers) EnsureSpace(_ context.Context, cfg manager.SpaceConfig, mustExist bool) (manager.SpaceInfo, bool, error) {
	a.created = cfg
	return shop, !mustExist, a.err
}
func (a *answers) Admit(_ context.Context, _ string, pods []string) error {
	a.admitted = pods
	return a.err
}
func (*answers) Examine(string) ([]manager.Finding, error) { return nil, nil }
func (a *answers) SetLimits(_ context.Context, _ string, change func(*manager.Limits), next manager.NextIDs) (manager.SpaceInfo, error) {
	info := shop
	change(&info.Limits)
	a.next = next
	return info, a.err
}
func (a *answers) RemoveObject(_ context.Context, _ string, f manager.Family, id int) error {
	a.removed.family, a.removed.id = f, id
	return a.err
}

// serve starts the API on a socket of the test's own and dials it.
func serve(t *testing.T, m Manager) (*Client, string) {
	t.Helper()
	root := t.TempDir()
	listener, err := Listen(SocketPath(root))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, m, nil, listener, "v1", slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(SocketPath(root)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	client, err := Dial(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, root
}

func TestCalls(t *testing.T) {
	m := &answers{}
	client, root := serve(t, m)
	ctx := t.Context()

	if info, err := os.Stat(SocketPath(root)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v; want 0600", info.Mode(), err)
	}
	v, err := client.Version(ctx, &VersionRequest{})
	if err != nil || v.GetVersion() != "v1" || v.GetLayoutMajor() != abi.LayoutMajor {
		t.Errorf("Version = %v, %v", v, err)
	}
	seven := uint64(7)
	made, err := client.CreateSpace(ctx, &CreateSpaceRequest{Name: "shop", Limits: &Limits{Shmmni: &seven}})
	if err != nil || made.GetSpace().GetDir() != shop.Dir || made.GetSpace().GetMsgQueues() != 3 || !made.GetSpace().GetSealed() {
		t.Errorf("CreateSpace = %v, %v", made, err)
	}
	want := manager.DefaultLimits()
	want.ShmMni = 7
	if m.created.Limits == nil || *m.created.Limits != want {
		t.Errorf("limits %+v, want Linux's with shmmni 7", m.created.Limits)
	}
	id := uint32(99)
	changed, err := client.SetLimits(ctx, &SetLimitsRequest{Space: "shop", Limits: &Limits{Msgmnb: &seven}, MsgNextId: &id})
	if l := changed.GetSpace().GetLimits(); err != nil || l.GetMsgmnb() != 7 || l.GetMsgmax() != want.MsgMax {
		t.Errorf("SetLimits = %v, %v", changed, err)
	}
	if len(m.next) != 1 || m.next[manager.Msg] != 99 {
		t.Errorf("next ids %v, want 99 for queues", m.next)
	}
	list, err := client.ListSpaces(ctx, &ListSpacesRequest{})
	if err != nil || len(list.GetSpaces()) != 1 {
		t.Errorf("ListSpaces = %v, %v", list, err)
	}
	detail, err := client.InspectSpace(ctx, &InspectSpaceRequest{Name: "shop"})
	if err != nil || len(detail.GetSessions()) != 1 || detail.GetSessions()[0].GetPid() != 55 {
		t.Errorf("InspectSpace = %v, %v", detail, err)
	}
	objects, err := client.ListObjects(ctx, &ListObjectsRequest{Space: "shop"})
	if err != nil || len(objects.GetObjects()) != 1 {
		t.Fatalf("ListObjects = %v, %v", objects, err)
	}
	if o := objects.GetObjects()[0]; o.GetFamily() != Family_FAMILY_MSG || o.GetKey() != 0xffffffff || o.GetSent() != nil {
		t.Errorf("object %v", o)
	}
	if _, err := client.RemoveObject(ctx, &RemoveObjectRequest{Space: "shop", Family: Family_FAMILY_SEM, Id: 5}); err != nil {
		t.Error(err)
	}
	if m.removed.family != manager.Sem || m.removed.id != 5 {
		t.Errorf("removed %v %d, want sem 5", m.removed.family, m.removed.id)
	}
	_, err = client.RemoveObject(ctx, &RemoveObjectRequest{Space: "shop", Id: 5})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("RemoveObject of no family: %v", err)
	}
	_, err = client.Publish(ctx, &PublishRequest{PodUid: "5"})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Publish of a manager without Kubernetes: %v", err)
	}
	health, err := grpc_health_v1.NewHealthClient(client.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health = %v, %v", health, err)
	}
}

func TestErrorsBecomeCodes(t *testing.T) {
	m := &answers{}
	client, _ := serve(t, m)
	for err, want := range map[error]codes.Code{
		manager.ErrNoSpace: codes.NotFound, manager.ErrNoObject: codes.NotFound,
		manager.ErrExists: codes.AlreadyExists, manager.ErrInUse: codes.FailedPrecondition,
		manager.ErrInvalidName: codes.InvalidArgument, manager.ErrInvalid: codes.InvalidArgument,
		manager.ErrTooMany: codes.ResourceExhausted, manager.ErrClosed: codes.Unavailable,
		manager.ErrVersion: codes.FailedPrecondition, errors.New("disk on fire"): codes.Internal,
	} {
		m.err = fmt.Errorf("space %q: %w", "shop", err)
		_, got := client.RemoveSpace(t.Context(), &RemoveSpaceRequest{Name: "shop"})
		if status.Code(got) != want || status.Convert(got).Message() != m.err.Error() {
			t.Errorf("%v became %v, want %v with the same words", err, got, want)
		}
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)

	// A dead manager's socket is replaced.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	first, err := Listen(path)
	if err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	// A live one's is not.
	if second, err := Listen(path); err == nil {
		second.Close()
		t.Error("two managers listen at one place")
	}
	// Who ends late leaves its successor's socket alone.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := first.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
}

func TestDialNobody(t *testing.T) {
	if _, err := Dial(t.Context(), t.TempDir()); !errors.Is(err, ErrNoManager) {
		t.Errorf("Dial = %v, want ErrNoManager", err)
	}
}
