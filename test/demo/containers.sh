#!/usr/bin/env bash
# Shows three real containers: two that share a space, and one outside of it. With PostgreSQL, that a
# server in one container keeps another one's away from its data. About half a minute.
#
#   test/demo/containers.sh    after make build; make demo does both
#
# Needs root and Docker. Its dockerd and manager run in mount and pid namespaces of their own, with a
# /run of their own: nothing of this machine's is touched, and all is gone at the end.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "$here/../.." && pwd)/bin
# shellcheck source=test/demo/words.sh
. "$here/words.sh"

if [ "$(id -u)" != 0 ]; then
	heading "Containers: run make demo as root to see two of them share a space"
	exit 0
fi
for tool in docker dockerd runc busybox; do
	if ! command -v $tool >/dev/null; then
		heading "Containers: $tool is missing. apt-get install --no-install-recommends docker.io runc busybox-static shows more"
		exit 0
	fi
done
if [ -z "${IPCSPACE_DEMO_INSIDE-}" ]; then
	exec env IPCSPACE_DEMO_INSIDE=1 unshare --mount --pid --fork --kill-child --mount-proc --propagation private -- "$here/containers.sh"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/ipcspace-demo.XXXXXX")
manager='' daemon=''
clean_up() {
	local status=$?
	trap - EXIT
	trap '' HUP INT TERM
	# Or their cgroups would stay.
	docker ps -aq 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1 || :
	for pid in $daemon $manager; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || :; done
	findmnt -rno TARGET | grep "^$work" | sort -r | xargs -r umount -l 2>/dev/null || :
	rm -rf "$work"
	case $status in
	0 | 129 | 130 | 143) ;;
	*) printf '%sdemo: it failed, see above (status %s)%s\n' "$red" "$status" "$plain" >&2 ;;
	esac
	exit $status
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

await() { # await WHAT LOG COMMAND…: up to 60 s
	local what=$1 log=$2
	shift 2
	for _ in $(seq 300); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.2
	done
	[ -z "$log" ] || tail -n 15 "$log" | indent >&2
	fail "$what: not within 60 s"
}
show() { # show COMMAND…: as somebody would type it, and what it prints
	printf '   $ %s\n' "$*"
	"$@" 2>"$work/stderr" | sed '/^$/d' | indent || { indent <"$work/stderr" >&2; fail "$*"; }
}

# ---- a node: the manager, Docker, an image ----

mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir "$work/bin" "$work/image"
cp "$bin/ipcspace" "$bin/ipcspace-manager" "$bin/ipcspace-shim" "$bin/libipcspace.so" "$work/bin/"
ln -s ipcspace-shim "$work/bin/ipcspace-runc"
PATH=$work/bin:$PATH
ipcspace-manager --log-level warn 2>"$work/manager.log" &
manager=$!
export DOCKER_HOST=unix:///run/docker.sock
dockerd --data-root "$work/docker" --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --bridge=none \
	--exec-opt native.cgroupdriver=cgroupfs --add-runtime "ipcspace=$work/bin/ipcspace-runc" >"$work/docker.log" 2>&1 &
daemon=$!
await "the manager" "$work/manager.log" ipcspace space list
await "Docker" "$work/docker.log" docker version

# An image of this machine's own tools, as unmodified as they are.
(
	cd "$work/image"
	mkdir -p bin etc proc sys dev tmp usr/bin
	cp "$(command -v busybox)" bin/busybox
	for name in sh cat sleep kill; do ln -s busybox bin/$name; done
	echo 'user:x:1000:1000:user:/:/bin/sh' >etc/passwd
	for tool in ipcs ipcmk ipcrm; do cp "$(command -v $tool)" usr/bin/; done
	ldd usr/bin/* | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r library; do
		mkdir -p ".${library%/*}"
		cp "$library" ".$library"
	done
	tar -c . | docker import - tools >/dev/null
)

# ---- the show ----

space='/run/ipcspace/spaces/orders:/run/ipcspace:ro'
count() { docker exec "$1" ipcs | grep -c '^0x' || :; }

heading "7. A space for two containers"
show ipcspace space create orders --size 256m
show docker run -d --name alice --runtime=ipcspace -v $space tools sleep 600
show docker run -d --name bob --runtime=ipcspace -v $space --user 1000 --read-only --cap-drop ALL tools sleep 600
show docker run -d --name carol --runtime=ipcspace tools sleep 600
note "   Alice and Bob were given the space, and Carol was not. Bob is nobody: no rights, a read-only root."

heading "8. What Alice makes, Bob has, and Carol does not see"
show docker exec alice ipcmk -Q -S 3 -M 1048576 -p 666
show docker exec bob ipcs
[ "$(count bob)" = 3 ] || fail "bob does not see alice's three objects"
show docker exec carol ipcs
[ "$(count carol)" = 0 ] || fail "carol sees something"

postgres=
for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -Vr); do
	[ -x "$candidate" ] && postgres=${candidate%/postgres} && break
done
if [ -n "$postgres" ]; then
	heading "9. PostgreSQL in one container; a second one with the same data"
	mkdir -m 0700 "$work/data"
	chown 1000:1000 "$work/data"
	serve=(--runtime=ipcspace --user 1000 -v /usr:/usr:ro -v "$work/data:/data" tools)
	docker run --rm "${serve[@]}" "$postgres/initdb" -D /data/db -U postgres -A trust --no-locale -E UTF8 --no-sync >"$work/initdb.log" 2>&1 ||
		{ tail -n 15 "$work/initdb.log" | indent >&2; fail initdb; }
	printf "listen_addresses = ''\nunix_socket_directories = '/data'\n" >>"$work/data/db/postgresql.conf"
	docker run -d --name first -v $space "${serve[@]}" "$postgres/postgres" -D /data/db >/dev/null 2>"$work/stderr"
	ready() { docker logs first 2>&1 | grep -q 'ready to accept connections'; }
	await "PostgreSQL" '' ready
	printf '    the first one says: %s\n' "$(docker exec first "$postgres/psql" -XAtq -h /data -U postgres -c "SELECT 'I have '||count(*)||' tables' FROM pg_tables" postgres)"
	note "   \$ docker run -v $space -v …/data:/data … postgres -D /data/db"
	if docker run --rm -v $space "${serve[@]}" "$postgres/postgres" -D /data/db >"$work/second.log" 2>&1; then
		fail "a second server started on the same data"
	fi
	grep -h 'FATAL\|HINT' "$work/second.log" | sed 's/^.*\(FATAL\|HINT\)/\1/' | indent
	grep -q 'pre-existing shared memory block' "$work/second.log" || fail "it was not the space that kept it away"
	note "   In containers of their own, pids say nothing: the attach count of a common segment does."
fi

heading "10. The node's side"
show ipcspace space list
show ipcspace space inspect orders
note "   All containers are killed. What had a key stays, as in the kernel, until somebody removes it:"
docker ps -q | xargs docker kill >/dev/null
show ipcspace ipcs --space orders
show ipcspace ipcrm --space orders --all
show ipcspace space list
