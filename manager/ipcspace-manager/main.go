// Command ipcspace-manager keeps spaces of System V IPC for the processes of
// a machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/manager/kube"
)

// version is set when the command is linked.
var version = "unknown"

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "ipcspace-manager:", err)
			os.Exit(1)
		}
	}
}

// options are the command line.
type options struct {
	config manager.Config
	space  string

	kubernetes      bool
	nodeName        string
	kubeconfig      string
	foreignRuntimes string
	userRole        string
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	var level slog.Level
	flags := flag.NewFlagSet("ipcspace-manager", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.config.Root, "root", "/run/ipcspace", "`folder` of the spaces")
	flags.StringVar(&o.config.Library, "library", beside("libipcspace.so"), "`file` to install into each space as its library")
	flags.BoolVar(&o.config.Unprivileged, "unprivileged", false, "make plain folders instead of mounts, and do not seal objects")
	flags.BoolVar(&o.config.Ephemeral, "ephemeral", false, "remove all spaces at the end")
	flags.Uint64Var(&o.config.Budget, "budget", memory()/2, "most `bytes` that all spaces together may promise; 0: no bound. The default is half of the memory")
	flags.Uint64Var(&o.config.DefaultSize, "default-size", min(1<<30, memory()/4), "`bytes` of a space that is made without a size. The default is 1 GiB, at most a quarter of the memory")
	flags.DurationVar(&o.config.ReclaimDelay, "reclaim-delay", 30*time.Second, "how long a space that goes with its last container stays after it was last asked for")
	flags.StringVar(&o.space, "space", "", "make the space of this `name` at the start if it is not there")
	flags.BoolVar(&o.kubernetes, "kubernetes", false, "let the pods of this node into spaces (IPCSpace objects, CSI volumes)")
	flags.StringVar(&o.nodeName, "node-name", os.Getenv("NODE_NAME"), "with --kubernetes: `name` of this node; default $NODE_NAME")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "with --kubernetes: `file` that leads to the API server; default the pod's service account")
	flags.StringVar(&o.foreignRuntimes, "foreign-runtimes", strings.Join(kube.DefaultForeignRuntimes, ","), "with --kubernetes: `patterns` of RuntimeClasses, or their handlers, whose pods have a kernel of their own")
	flags.StringVar(&o.userRole, "user-role", kube.DefaultUserRole, "with --kubernetes: `name` of the ClusterRole that lets service accounts use spaces, for events")
	flags.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q; see --help", flags.Arg(0))
	}
	o.config.Log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	return o, nil
}

// memory is the machine's, in bytes.
func memory() uint64 {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0
	}
	return si.Totalram * uint64(si.Unit)
}

// beside is a file in this program's folder, if it is there.
func beside(name string) string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	path := filepath.Join(filepath.Dir(exe), name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func run(args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	m, err := manager.New(o.config)
	if err != nil {
		return err
	}
	if o.space != "" {
		if _, err := m.CreateSpace(ctx, manager.SpaceConfig{Name: o.space}); err != nil && !errors.Is(err, manager.ErrExists) {
			return errors.Join(err, m.Close())
		}
	}
	listener, err := admin.Listen(admin.SocketPath(o.config.Root))
	if err != nil {
		return errors.Join(err, m.Close())
	}
	var pods admin.Publisher // an interface without a value: no Kubernetes
	var work sync.WaitGroup
	if o.kubernetes {
		node, err := newNode(o, m)
		if err != nil {
			return errors.Join(err, listener.Close(), m.Close())
		}
		pods = node
		work.Go(func() { node.Run(ctx) })
	}
	served := make(chan error, 1)
	go func() { served <- admin.Serve(ctx, m, pods, listener, version, o.config.Log) }()
	notify("READY=1")
	o.config.Log.Info("ready", "root", o.config.Root)
	select {
	case err = <-served:
	case <-ctx.Done():
		notify("STOPPING=1")
		err = <-served
	}
	stop()
	work.Wait()
	return errors.Join(err, m.Close())
}

// newNode is the Kubernetes side of a manager.
func newNode(o options, m *manager.Manager) (*kube.Node, error) {
	klog.SetSlogLogger(o.config.Log) // client-go's
	client, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("%w; --kubernetes needs a pod's service account or --kubeconfig", err)
	}
	client.UserAgent = "ipcspace-manager/" + version
	boot, err := kube.BootID()
	if err != nil {
		return nil, err
	}
	return kube.New(kube.Config{
		Client: client, NodeName: o.nodeName, BootID: boot,
		ForeignRuntimes: strings.FieldsFunc(o.foreignRuntimes, func(r rune) bool { return r == ',' }), UserRole: o.userRole, Log: o.config.Log,
	}, m)
}
