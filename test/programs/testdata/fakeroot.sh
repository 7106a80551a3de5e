#!/bin/sh
# A session of fakeroot: its daemon holds the ownership of files; each client asks it by message
# queues, one client at a time by a semaphore with SEM_UNDO. fakeroot's library is preloaded beside
# whatever LD_PRELOAD says already.
# SEES_IPCS=1: ipcs shows the objects of the place where this runs, and only those.
set -eu
if [ "${1-}" != inside ]; then
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	cd "$dir"
	fakeroot-sysv -- sh "$0" inside
	if [ "${SEES_IPCS-}" = 1 ]; then
		# faked removes its objects when fakeroot ends it.
		tries=0
		while ipcs | grep '^0x'; do
			tries=$((tries + 1))
			[ $tries -lt 50 ] || { echo "fakeroot is gone, its objects are not" >&2; exit 1; }
			sleep 0.1
		done
	fi
	echo done
	exit
fi

fail() { echo "fakeroot: $*" >&2; exit 1; }
same() { [ "$2" = "$3" ] || fail "$1: got '$2', want '$3'"; }

same "uid inside" "$(id -u)" 0
if [ "${SEES_IPCS-}" = 1 ]; then
	same "message queues" "$(ipcs -q | grep -c '^0x')" 2
	same "semaphore sets" "$(ipcs -s | grep -c '^0x')" 1
fi

touch file
chown 1234:5678 file
same "owner" "$(stat -c %u:%g file)" 1234:5678
mknod null c 1 3
same "device" "$(stat -c %F:%t:%T null)" "character special file:1:3"
tar cf archive.tar file null
tar tvf archive.tar | grep -q '1234/5678.* file$' || fail "tar does not see the owner: $(tar tvf archive.tar)"

# Many clients at once: each waits its turn at the semaphore.
for n in $(seq 40); do
	(touch "many$n" && chown "$n:$n" "many$n") &
done
wait
for n in $(seq 40); do
	same "owner of many$n" "$(stat -c %u:%g "many$n")" "$n:$n"
done

# Clients killed at any point: undo opens the semaphore again, or the next client hangs here.
for n in $(seq 30); do
	(while :; do stat -c %u file many* >/dev/null; done) 2>/dev/null &
	victim=$!
	sleep "0.0$((n % 5))"
	for pid in $(cat "/proc/$victim/task/$victim/children" 2>/dev/null) $victim; do
		kill -KILL "$pid" 2>/dev/null || :
	done
	wait $victim 2>/dev/null || :
	same "owner after kill $n" "$(timeout 20 stat -c %u:%g file)" 1234:5678
done
