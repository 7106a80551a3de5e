#!/bin/sh
# util-linux's ipcmk, ipcs and ipcrm, in a place that has no objects yet.
set -eu
fail() { echo "tools: $*" >&2; exit 1; }
same() { [ "$2" = "$3" ] || fail "$1: got '$2', want '$3'"; }
rows() { ipcs "$1" | grep '^0x' || :; }
made() { sed -n 's/.*id: \([0-9]*\)$/\1/p'; }
word() { # word N LINE
	echo "$2" | awk -v n="$1" '{ print $n }'
}

for family in -m -s -q; do
	same "ipcs $family at the start" "$(rows $family)" ""
done

shm=$(ipcmk -M 8191 -p 0640 | made)
sem=$(ipcmk -S 3 -p 0600 | made)
msg=$(ipcmk -Q | made)
[ -n "$shm" ] && [ -n "$sem" ] && [ -n "$msg" ] || fail "ipcmk printed no id: '$shm' '$sem' '$msg'"

for family in -m -s -q; do
	same "number of rows of ipcs $family" "$(rows $family | wc -l)" 1
done
segment=$(rows -m) set=$(rows -s) queue=$(rows -q)
same "segment's id" "$(word 2 "$segment")" "$shm"
same "segment's mode" "$(word 4 "$segment")" 640
same "segment's size, not rounded" "$(word 5 "$segment")" 8191
same "segment's nattch" "$(word 6 "$segment")" 0
same "set's id" "$(word 2 "$set")" "$sem"
same "set's mode" "$(word 4 "$set")" 600
same "set's semaphores" "$(word 5 "$set")" 3
same "queue's id" "$(word 2 "$queue")" "$msg"
same "queue's mode" "$(word 4 "$queue")" 644
same "queue's bytes" "$(word 5 "$queue")" 0

# The owner, by number where the name is not known: the one who runs this.
same "segment's owner" "$(word 3 "$segment")" "$(id -un)"
ipcs -m -i "$shm" | grep -q 'bytes=8191' || fail "ipcs -m -i $shm: $(ipcs -m -i "$shm")"
ipcs -s -i "$sem" | grep -q 'nsems = 3' || fail "ipcs -s -i $sem: $(ipcs -s -i "$sem")"
ipcs -q -i "$msg" | grep -q 'qnum=0' || fail "ipcs -q -i $msg: $(ipcs -q -i "$msg")"
ipcs -m -p | grep -q "^$shm " || fail "ipcs -m -p: $(ipcs -m -p)"
ipcs -u | grep -q 'segments allocated 1' || fail "ipcs -u: $(ipcs -u)"
ipcs -u | grep -q 'allocated queues = 1' || fail "ipcs -u: $(ipcs -u)"
ipcs -u | grep -q 'allocated semaphores = 3' || fail "ipcs -u: $(ipcs -u)"

# By id, by key, all of the rest.
ipcrm -m "$shm"
same "segments after ipcrm -m" "$(rows -m)" ""
ipcrm -m "$shm" 2>/dev/null && fail "ipcrm -m removed $shm twice"
ipcrm -S "$(word 1 "$set")"
same "sets after ipcrm -S" "$(rows -s)" ""
same "queues, untouched" "$(rows -q)" "$queue"
ipcmk -M 4096 >/dev/null
ipcmk -S 1 >/dev/null
ipcrm --all
for family in -m -s -q; do
	same "ipcs $family after ipcrm --all" "$(rows $family)" ""
done
echo done
