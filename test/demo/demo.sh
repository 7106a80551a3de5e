#!/usr/bin/env bash
# Shows the main job in about half a minute: two isolated spaces, PostgreSQL in each with the same
# System V keys, what ipcs sees from each side, and the kernel's own tables untouched.
#
#   test/demo/demo.sh          after make build; make demo does both
#
# As root the servers run as nobody, each with its data on a tmpfs of its own in a private mount
# namespace. As an ordinary user they run as that user. Without PostgreSQL a Perl program takes its
# place. Everything made here is gone at the end, however it ends.
#
# IPCSPACE_DEMO_KERNEL=1 takes kernel IPC namespaces for spaces (root): a test of the script itself.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "$here/../.." && pwd)/bin
user=nobody # who runs the servers when root runs this
# shellcheck source=test/demo/words.sh
. "$here/words.sh"

if [ "$(id -u)" = 0 ] && [ -z "${IPCSPACE_DEMO_INSIDE-}" ] && unshare --mount true 2>/dev/null; then
	exec env IPCSPACE_DEMO_INSIDE=1 unshare --mount --propagation private -- "$here/demo.sh" "$@"
fi

# ---- what must be there ----

missing=() packages=()
require() { # require TOOL PACKAGE
	command -v "$1" >/dev/null || { missing+=("$1"); packages+=("$2"); }
}
require ipcs util-linux
require ipcmk util-linux
require setpriv util-linux
require perl perl
require ps procps
if [ ${#missing[@]} -gt 0 ]; then
	fail "missing: ${missing[*]}. Install with: apt-get install --no-install-recommends ${packages[*]}"
fi
if [ -z "${IPCSPACE_DEMO_KERNEL-}" ]; then
	for file in ipcspace libipcspace.so; do
		[ -e "$bin/$file" ] || fail "$bin/$file is not there yet: run make build (or make demo, which does all)"
	done
fi
postgres=
for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -Vr); do
	[ -x "$candidate" ] && postgres=${candidate%/postgres} && break
done

# ---- clean-up ----

work=
started=() # pids of servers and workers that this script started
declare -A to from shell server

alive() { kill -0 "$1" 2>/dev/null && [ "$(ps -o stat= -p "$1" 2>/dev/null | cut -c1)" != Z ]; }
any_alive() {
	local pid
	for pid; do alive "$pid" && return 0; done
	return 1
}
end() { # end SIGNAL PID…: and wait for all of them, up to 4 s
	local pid signal=$1
	shift
	for pid; do kill "-$signal" "$pid" 2>/dev/null || :; done
	for _ in $(seq 40); do
		any_alive "$@" || return 0
		sleep 0.1
	done
	return 1
}
descendants() { # descendants PID: of all generations, those of other process groups too
	local child
	for child in $(ps -o pid= --ppid "$1"); do
		echo "$child"
		descendants "$child"
	done
}
clean_up() {
	local status=$? side pid programs=()
	local IFS=$' \t\n' # a signal may arrive while read has it empty
	trap - EXIT
	trap '' HUP INT TERM # a second Ctrl-C must not leave half of it
	# First what runs in the spaces, recorded or not yet, while the spaces exist.
	for pid in $(for pid in "${shell[@]}" "${started[@]}"; do descendants "$pid"; done) "${started[@]}"; do
		case $(ps -o comm= -p "$pid") in
		sh | ipcspace | '') ;;
		*) programs+=("$pid") ;;
		esac
	done
	# INT is PostgreSQL's fast shutdown.
	end INT "${programs[@]}" || end TERM "${programs[@]}" || end KILL "${programs[@]}" || :
	for side in "${!shell[@]}"; do echo exit >&"${to[$side]}"; done
	end 0 "${shell[@]}" || end TERM "${shell[@]}" || end KILL "${shell[@]}" || :
	for side in red blue; do
		if mountpoint -q "$work/$side" 2>/dev/null; then umount -l "$work/$side" || :; fi
	done
	[ -z "$work" ] || rm -rf "$work"
	if [ $status -gt 128 ] || [ $status = 0 ]; then exit $status; fi
	printf '%sdemo: it failed, see above (status %s)%s\n' "$red" "$status" "$plain" >&2
	exit $status
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

work=$(mktemp -d "${TMPDIR:-/tmp}/ipcspace-demo.XXXXXX")
chmod 0755 "$work"
cp "$here/server.pl" "$work/" # the tree may lie where the servers' user cannot read

# ---- two shells, one in each space ----

if [ -n "${IPCSPACE_DEMO_KERNEL-}" ]; then
	enter=(unshare --ipc --) shown='unshare --ipc -- sh'
else
	enter=("$bin/ipcspace" run --) shown='ipcspace run -- sh'
fi
open_space() { # open_space SIDE
	local side=$1 in out
	mkfifo "$work/$side.in" "$work/$side.out"
	exec {in}<>"$work/$side.in" {out}<>"$work/$side.out"
	# The shell must not hold the writing end of its own input.
	(exec {in}>&- {out}>&-; exec "${enter[@]}" sh -s) <"$work/$side.in" >"$work/$side.out" 2>&1 &
	shell[$side]=$!
	to[$side]=$in from[$side]=$out
	inside "$side" 'true' || fail "the shell in space $side did not start: ${shown}"
}
# inside SIDE COMMANDS: types them into that space's shell, prints what they print, returns their status.
# Whoever reads that must read all of it: what is left would be taken for the next answer.
inside() {
	local side=$1 line
	printf '{ %s\n} </dev/null; echo "::end $?"\n' "$2" >&"${to[$side]}"
	while :; do
		if ! IFS= read -r -t 60 -u "${from[$side]}" line; then
			alive "${shell[$side]}" || fail "the shell in space $side ended"
			fail "no answer from space $side in 60 s to: $2"
		fi
		case $line in
		'::end 0') return 0 ;;
		'::end '*) return "${line#::end }" ;;
		*) printf '%s\n' "$line" ;;
		esac
	done
}
# start_inside SIDE LOG COMMAND: in the background of that shell; the pid is kept for clean-up.
start_inside() {
	local pid
	pid=$(inside "$1" "$3 >'$2' 2>&1 & echo \$!") || fail "could not start in space $1: $3"
	server[$1]=$pid
	started+=("$pid")
}

kernel_objects() { tail -q -n +2 /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | wc -l; }
# Segments there that one of the servers created: other programs may use the kernel's tables too.
kernel_segments_of_servers() {
	awk -v red="${server[red]}" -v blue="${server[blue]}" '$5 == red || $5 == blue' /proc/sysvipc/shm
}

# ---- the servers ----

as=
[ "$(id -u)" = 0 ] && as="setpriv --reuid $(id -u $user) --regid $(id -g $user) --clear-groups --"

make_room() { # make_room SIDE: its data directory
	mkdir "$work/$1"
	# PostgreSQL's key is its data directory's inode number: a new tmpfs counts from the start, so
	# both servers want the same key.
	if [ -n "${IPCSPACE_DEMO_INSIDE-}" ]; then mount -t tmpfs -o size=512m,mode=0755 tmpfs "$work/$1"; fi
	mkdir -m 0700 "$work/$1/data"
	[ -z "$as" ] || chown -R "$user:" "$work/$1"
}
wait_for() { # wait_for SIDE WHAT COMMAND…: up to 60 s, as long as the side's server lives
	local side=$1 what=$2
	shift 2
	for _ in $(seq 300); do
		if "$@"; then return 0; fi
		alive "${server[$side]}" || { indent <"$work/$side/log" >&2; fail "the server in space $side ended before $what"; }
		sleep 0.2
	done
	fail "$what in space $side: not within 60 s"
}

server_files() { # the two lines of postmaster.pid that say "ready" and "key id"
	[ "$(sed -n 8p "$work/$1/data/postmaster.pid" 2>/dev/null | tr -d ' ')" = ready ]
}
start_postgres() {
	local side=$1
	inside "$side" "$as '$postgres/initdb' -D '$work/$side/data' -U postgres -A trust --no-locale -E UTF8 --no-sync" \
		>"$work/$side.initdb" || { tail -n 15 "$work/$side.initdb" | indent >&2; fail "initdb in space $side"; }
	cat >>"$work/$side/data/postgresql.conf" <<-END
		shared_memory_type = sysv
		dynamic_shared_memory_type = sysv
		shared_buffers = 32MB
		listen_addresses = ''
		unix_socket_directories = '$work/$side'
		fsync = off
		max_wal_size = 64MB
	END
	: >"$work/$side/log"
	start_inside "$side" "$work/$side/log" "$as '$postgres/postgres' -D '$work/$side/data'"
	wait_for "$side" "it was ready" server_files "$side"
	read -r key id < <(sed -n 7p "$work/$side/data/postmaster.pid")
	printf '    %-5s pid %-7s took key 0x%08x and got segment id %s\n' "$side" "${server[$side]}" $((key & 0xffffffff)) "$id"
}
client() { # client SIDE PROGRAM ARGS…: outside of the spaces, through the server's socket
	local side=$1 program=$2
	shift 2
	"$postgres/$program" -h "$work/$side" -U postgres "$@"
}
work_postgres() { # in the background, for both sides at once
	local side=$1
	client "$side" psql -Xq -c "CREATE TABLE color AS SELECT '$side'::text AS name" postgres
	client "$side" pgbench -i -q -s 1 postgres >/dev/null 2>&1
	client "$side" pgbench -n -c 4 -j 2 -T 3 postgres 2>&1 | sed -n 's/^number of transactions actually processed: //p'
}

start_perl() {
	local side=$1
	: >"$work/$side/log"
	[ -z "$as" ] || chown "$user:" "$work/$side/log"
	start_inside "$side" "$work/$side/log" "$as perl '$work/server.pl' $side"
	wait_for "$side" "it was ready" grep -q ready "$work/$side/log"
	printf '    %-5s pid %-7s %s\n' "$side" "${server[$side]}" "$(sed -n 's/^ready: //p' "$work/$side/log")"
}

# ---- the show ----

before=$(kernel_objects)

heading "1. Two spaces: red and blue"
note "   \$ $shown        (twice: think of two terminals, or two containers)"
# The rooms first: a space that run has mounted sees no mounts that come later.
for side in red blue; do make_room $side; done
for side in red blue; do open_space $side; done
# Where /proc/sysvipc cannot be hidden, util-linux's ipcs reads the kernel's tables there first.
look='ipcs' look_shown='ipcs'
probe=$(inside red 'ipcmk -Q' | sed -n 's/.*id: //p')
seen=$(inside red 'ipcs -q')
grep -q "^0x[0-9a-f]* $probe " <<<"$seen" || { look="'$bin/ipcspace' ipcs" look_shown='ipcspace ipcs'; }
inside red "ipcrm -q $probe" || fail "ipcrm -q $probe in space red"
note "   Each has a shell now, and its own keys and ids."

if [ -n "$postgres" ]; then
	heading "2. $("$postgres/postgres" --version | sed 's/postgres (PostgreSQL)/PostgreSQL/; s/ (.*//') in each, unmodified, with shared_memory_type = sysv"
	run=postgres
else
	heading "2. A Perl program in each (PostgreSQL is not installed: apt-get install postgresql-15 shows more)"
	run=perl
fi
for side in red blue; do start_$run $side; done
if [ $run = postgres ] && [ -z "${IPCSPACE_DEMO_INSIDE-}" ]; then
	note "   Their keys come from inode numbers, so they differ here; run as root to see the same key twice."
else
	note "   The same key on both sides: in one kernel table the second would have met the first."
fi

heading "3. What ipcs sees from each side"
for side in red blue; do
	note "   $side \$ $look_shown"
	inside $side "$look" | grep -v '^$' | indent
done

heading "4. Both work at the same time"
if [ $run = postgres ]; then
	for side in red blue; do
		work_postgres $side >"$work/$side.done" &
		started+=($!)
		declare "worker_$side=$!"
	done
	# shellcheck disable=SC2154 # set by declare above
	wait "$worker_red" "$worker_blue" || fail "pgbench failed"
	for side in red blue; do
		printf '    %-5s %s transactions in 3 s; its table says it is %s\n' $side "$(cut -d/ -f1 "$work/$side.done")" \
			"$(client $side psql -XAtq -c 'SELECT name FROM color' postgres)"
	done
else
	for side in red blue; do
		printf '    %-5s ' $side
		inside $side "$as perl '$work/server.pl' $side ask"
	done
fi

heading "5. The kernel's own tables meanwhile"
note "   \$ cat /proc/sysvipc/{shm,sem,msg} | wc -l        (without the three title lines)"
during=$(kernel_objects)
printf '    %s objects now, %s before\n' "$during" "$before"
leaked=$(kernel_segments_of_servers)
[ -z "$leaked" ] || fail "a server took segments from the kernel: $leaked"
[ "$during" = "$before" ] || note "   (Other programs on this machine use them; the servers own none of these.)"

heading "6. Red shuts down; blue does not notice"
end INT "${server[red]}" || fail "the server in space red did not stop"
for side in red blue; do
	count=$(inside $side "$look" | grep -c '^0x' || :)
	printf '    %-5s has %s objects\n' $side "$count"
	case $side in
	red) [ "$count" = 0 ] || fail "space red still has objects" ;;
	blue) [ "$count" -gt 0 ] || fail "space blue lost its objects" ;;
	esac
done
if [ $run = postgres ]; then
	printf '    blue  answers: %s accounts\n' "$(client blue psql -XAtq -c 'SELECT count(*) FROM pgbench_accounts' postgres)"
else
	printf '    blue  '
	inside blue "$as perl '$work/server.pl' blue ask"
fi

heading "That was it. Try your own program:  bin/ipcspace run -- CMD"
