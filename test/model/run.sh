#!/bin/sh
# Checks the protocol's model in several scenarios, each exhaustively, and that each planted bug
# is found. One line each: scenario, states, result.
set -eu
command -v spin >/dev/null || { echo "spin is missing: apt-get install spin (make deps)"; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# check NAME WANT [-D…]: WANT is holds or fails.
check() {
	name=$1 want=$2
	shift 2
	spin "$@" -a "$here/set.pml" >spin.log || { cat spin.log; exit 1; }
	${CC:-gcc} -O2 -w -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM="${MEMORY:-6000}" -o pan pan.c
	timeout "${SECONDS_EACH:-900}" ./pan -m1000000 -c1 >pan.log 2>&1 && end=0 || end=$?
	states=$(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log)
	if grep -q "errors: 0" pan.log; then got=holds; else got=fails; fi
	if grep -qE "max search depth too small|memory limit|out of memory" pan.log; then got="not exhausted"; fi
	if [ $end = 124 ]; then got="not exhausted: no more time (SECONDS_EACH)"; fi
	printf '%-58s %12s states  %s\n' "$name" "${states:-?}" "$got"
	if [ "$got" != "$want" ]; then
		cat pan.log
		[ ! -f set.pml.trail ] || spin "$@" -t -p -g -l "$here/set.pml" | tail -150
		exit 1
	fi
}
. "$here/scenarios.sh"
