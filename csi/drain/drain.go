// Package drain is what must be over before the node pods of ipcspace are taken away: without them a
// pod with a space cannot end, for nobody unmounts it, and a space cannot go.
//
// It changes nothing before it knows that nobody uses a space, and takes back what it marked if it
// has to give up. What authors have marked themselves they want to end.
package drain

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ipcspace/ipcspace/csi/cluster"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// Main is "ipcspace-csi drain".
func Main(ctx context.Context, args []string) error {
	d := drain{out: os.Stdout, pause: 2 * time.Second}
	flags := flag.NewFlagSet("ipcspace-csi drain", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 3*time.Minute, "how `long` nodes have to let go of their spaces")
	flags.BoolVar(&d.removeRetained, "remove-retained", false, "also end retained spaces: what is in them is lost")
	kubeconfig := flags.String("kubeconfig", "", "`file` that says where the API server is; empty: the pod's service account does")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if d.client, err = cluster.Connect(*kubeconfig); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	return d.run(limited)
}

type drain struct {
	client         *cluster.Client
	removeRetained bool
	out            io.Writer
	pause          time.Duration // between two looks at the cluster
}

func (d *drain) run(ctx context.Context) (err error) {
	if err := d.refusals(ctx); err != nil {
		return err
	}
	// From the mark on, no pod joins a space. It is no use to who installs anew, so it goes at the end,
	// an author's with all spaces only.
	marked := map[string]*v1alpha1.IPCSpace{}
	defer func() {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		gaveUp := err != nil
		for _, space := range marked {
			if !gaveUp || !markedByAuthor(space) {
				err = errors.Join(err, d.client.PatchSpace(limited, space, mark("null")))
			}
		}
	}()
	said := ""
	for {
		spaces, err := d.client.Spaces(ctx)
		if err != nil {
			return err
		}
		for i, s := range spaces {
			name := s.Namespace + "/" + s.Name
			if marked[name] != nil {
				continue
			}
			if !markedByAuthor(&spaces[i]) {
				if err := d.client.PatchSpace(ctx, &spaces[i], mark(fmt.Sprintf("%q", ownMark))); err != nil {
					return err
				}
			}
			marked[name] = &spaces[i]
		}
		// Those that came before their space was marked.
		if err := d.refusePods(ctx); err != nil {
			return err
		}
		held, err := d.held(ctx, spaces)
		if err != nil {
			return err
		}
		if len(held) == 0 {
			fmt.Fprintln(d.out, "no node has a space any more")
			return nil
		}
		if now := list(held); now != said {
			fmt.Fprintf(d.out, "waiting for:\n%s", now)
			said = now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("these nodes have not let go of their spaces in time:\n%sSee that they are Ready and their ipcspace pods run (kubectl get pods -A -l app.kubernetes.io/component=node -o wide), delete the Node objects of nodes that are no more, then uninstall again", said)
		case <-time.After(d.pause):
		}
	}
}

// ownMark is the annotation's value if the drain has set it, now or before it was killed.
const ownMark = "uninstall"

func markedByAuthor(space *v1alpha1.IPCSpace) bool {
	value := space.Annotations[v1alpha1.AnnotationDrain]
	return value != "" && value != ownMark
}

// mark is the patch that sets the annotation to a value in JSON.
func mark(value string) string {
	return fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, v1alpha1.AnnotationDrain, value)
}

// refusals is why nothing may be uninstalled now.
func (d *drain) refusals(ctx context.Context) error {
	if err := d.refusePods(ctx); err != nil {
		return err
	}
	if d.removeRetained {
		return nil
	}
	spaces, err := d.client.Spaces(ctx)
	if err != nil {
		return err
	}
	var retained []v1alpha1.IPCSpace
	for i, s := range spaces {
		if s.Spec.Retain && !markedByAuthor(&spaces[i]) {
			retained = append(retained, s)
		}
	}
	held, err := d.held(ctx, retained)
	if err != nil || len(held) == 0 {
		return err
	}
	return fmt.Errorf("these spaces are retained, and what is in them would be lost:\n%sDelete their IPCSpaces, or end them all by kubectl annotate ipcspaces --all -A %s=yes, then uninstall again", list(held), v1alpha1.AnnotationDrain)
}

// mostNamed is how many pods a refusal names.
const mostNamed = 20

func (d *drain) refusePods(ctx context.Context) error {
	pods, err := d.client.Pods(ctx)
	if err != nil || len(pods) == 0 {
		return err
	}
	var text strings.Builder
	for i, p := range pods {
		if i == mostNamed {
			fmt.Fprintf(&text, "  and %d more\n", len(pods)-i)
			break
		}
		fmt.Fprintf(&text, "  %s/%s on node %s\n", p.Namespace, p.Name, p.Spec.NodeName)
	}
	return fmt.Errorf("these pods have spaces:\n%sEnd them first (scale what makes them to 0, or delete them), then uninstall again", text.String())
}

// held are the spaces that nodes have, by node. A node that is no more has none.
func (d *drain) held(ctx context.Context, spaces []v1alpha1.IPCSpace) (map[string][]string, error) {
	held := map[string][]string{}
	for _, s := range spaces {
		if s.Status.Node != "" {
			held[s.Status.Node] = append(held[s.Status.Node], s.Namespace+"/"+s.Name)
		}
	}
	for node := range held {
		there, err := d.client.HasNode(ctx, node)
		if err != nil {
			return nil, err
		}
		if !there {
			delete(held, node)
		}
	}
	return held, nil
}

// list is a line for each node.
func list(held map[string][]string) string {
	var text strings.Builder
	for _, node := range slices.Sorted(maps.Keys(held)) {
		slices.Sort(held[node])
		fmt.Fprintf(&text, "  node %s: %s\n", node, strings.Join(held[node], ", "))
	}
	return text.String()
}
