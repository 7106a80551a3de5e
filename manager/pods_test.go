package manager

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPodOf(t *testing.T) {
	const pod, other = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	for _, c := range []struct{ name, cgroup, want string }{
		{"v2, cgroupfs", "0::/kubepods/burstable/pod" + pod + "/4d2c\n", pod},
		{"v2, systemd", "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0f8fad5b_d9cb_469f_a165_70867728950e.slice/cri-containerd-4d2c.scope\n", pod},
		{"seen from another cgroup", "0::/../../burstable/pod" + pod + "/4d2c\n", pod},
		{"v1, not in all hierarchies", "5:cpu:/\n4:memory:/x/kubepods/pod" + pod + "/4d2c\n1:name=systemd:/kubepods/pod" + pod + "/4d2c\n", pod},
		{"static pod", "0::/kubepods/pod5d0b1fa3c65d1a2f7b0f8f4f53b0c2aa/4d2c\n", "5d0b1fa3c65d1a2f7b0f8f4f53b0c2aa"},
		{"a cgroup that the pod made", "0::/kubepods/pod" + pod + "/4d2c/kubepods/pod" + other + "/x\n", pod},
		{"two pods", "2:cpu:/kubepods/pod" + pod + "\n1:memory:/kubepods/pod" + other + "\n", ""},
		{"no pod", "0::/user.slice/podman-" + pod + "\n", ""},
		{"nothing", "", ""},
	} {
		got, err := podOf([]byte(c.cgroup))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// A closed space refuses who is of no admitted pod, also after its manager was killed.
func TestClosed(t *testing.T) {
	cfg := Config{Root: t.TempDir(), Unprivileged: true}
	ctx := context.Background()
	m, err := New(cfg)
	check(t, err)
	info, err := m.CreateSpace(ctx, SpaceConfig{Name: "a", Closed: true})
	check(t, err)
	_, err = newPeer(info.Dir)
	wantErr(t, "hello to a closed space", err, unix.EACCES)
	wantErr(t, "not a uid", m.Admit(ctx, info.Name, []string{"../x"}), ErrInvalid)
	wantErr(t, "no space", m.Admit(ctx, "nowhere", nil), ErrNoSpace)
	check(t, m.Admit(ctx, info.Name, []string{"0f8fad5b-d9cb-469f-a165-70867728950e"}))
	_, err = newPeer(info.Dir)
	wantErr(t, "hello of no pod", err, unix.EACCES)

	check(t, m.Close())
	again, err := New(cfg)
	check(t, err)
	defer again.Close()
	_, err = newPeer(info.Dir)
	wantErr(t, "hello after a restart", err, unix.EACCES)
}
