#!/bin/sh
# Makes the new namespaces that it is in a node, and runs a command there: as pid 1, so that with its
# end everything ends, and so that somebody reaps the orphans. "$IPCSPACE_E2E_SCRATCH" is a folder. In
# the network namespace of a node it makes a further one.
set -eu
: "${IPCSPACE_E2E_SCRATCH:?}"
trap 'exit 1' INT TERM

further=
if ip link show cni0 >/dev/null 2>&1; then
	further=yes
	# Copies of the first one's mounts: what it unmounts is to be gone.
	umount --recursive --lazy /run
	umount --recursive --lazy /var
fi

# Mounts go from the node to its containers, as the kubelet expects.
mount --make-rshared /
mkdir -p "$IPCSPACE_E2E_SCRATCH/var/lib" "$IPCSPACE_E2E_SCRATCH/var/log" "$IPCSPACE_E2E_SCRATCH/var/tmp"
ln -s /run "$IPCSPACE_E2E_SCRATCH/var/run"
mount --bind "$IPCSPACE_E2E_SCRATCH/var" /var
mount -t tmpfs -o mode=755 run /run
mkdir /run/lock
mount --make-rshared /run

# Who has a user namespace mounts a /proc only beside one that shows all, and what comes now hides some.
mkdir "$IPCSPACE_E2E_SCRATCH/proc"
mount -t proc proc "$IPCSPACE_E2E_SCRATCH/proc"

# The kubelet sets these for the whole machine. It gets files to write that say what it wants.
given() {
	mkdir -p /run/node
	file=/run/node/$(echo "$1" | tr / _)
	echo "$2" >"$file"
	mount --bind "$file" "/proc/sys/$1"
}
given vm/overcommit_memory 1
given vm/panic_on_oom 0
given kernel/panic 10
given kernel/panic_on_oops 1
given kernel/keys/root_maxkeys 1000000
given kernel/keys/root_maxbytes 25000000

if [ -z "$further" ]; then
	ip link set lo up
	ip link add cni0 type bridge
	ip address add 10.88.0.1/16 dev cni0
	ip link set cni0 up
	ip route add default dev cni0
	echo 1 >/proc/sys/net/ipv4/ip_forward
fi

"$@" &
wait $!
