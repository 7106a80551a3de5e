#!/bin/sh
# Brings what building, testing and the demonstration need beyond Go and make.
# As root on Debian or Ubuntu: installs what is missing. Otherwise: names it, and fails if
# something is missing.
set -eu

# package        why
packages=$(cat <<'EOF'
gcc              the preloaded library, and the race detector of the tests
libc6-dev        the same
binutils         readelf: what the library may and may not need
util-linux       ipcs, ipcmk, ipcrm, unshare
procps           ps, for the demonstration
perl             IPC::SysV, a client of all three families
postgresql-15    a real program: shared memory
fakeroot         a real program: message queues, semaphores with SEM_UNDO
valgrind         a real program is watched by it
php-cli          a real program: its extensions are loaded with RTLD_DEEPBIND
musl-tools       a second libc in one space with glibc
runc             containers
docker.io        the same; its daemon is started by the tests alone
podman           the same; by CDI devices and hooks
debootstrap      the base of the image in which the Dockerfile is tested
libseccomp-dev   to build containerd's newer runc
pkg-config       the same
spin             checks the model of the protocol
iproute2         a Kubernetes node's network
iptables         the same: its services
busybox-static   what the containers run, and a static program
dpkg-dev         the source of PostgreSQL, to build it with System V semaphores
bison            the same
flex             the same
gcc-aarch64-linux-gnu    the library for arm64
libc6-dev-arm64-cross    the same
qemu-user-static         runs it in a test
EOF
)

if ! command -v dpkg-query >/dev/null; then
	missing=
	for tool in gcc readelf ipcs ipcmk perl fakeroot php musl-gcc runc ip iptables busybox bison flex aarch64-linux-gnu-gcc; do
		command -v "$tool" >/dev/null || missing="$missing $tool"
	done
	[ -z "$missing" ] && exit 0
	echo "Not found:$missing"
	echo "Install them with this system's package manager; on Debian they come from:"
	echo "$packages"
	exit 1
fi

missing=
for package in $(echo "$packages" | awk '{print $1}'); do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
	echo "Missing:$missing"
	echo "Install with: sudo apt-get update && sudo apt-get install --no-install-recommends$missing"
	exit 1
fi

# The tests run clusters of their own: installing PostgreSQL must not start one for the machine.
case "$missing" in
*postgresql*)
	mkdir -p /etc/postgresql-common/createcluster.d
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/ipcspace-tests.conf
	;;
esac
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
# shellcheck disable=SC2086 # a list of words
apt-get install -q -y --no-install-recommends $missing >/dev/null
