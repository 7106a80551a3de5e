#!/bin/sh
# Builds PostgreSQL with System V semaphores from Debian's source package and prints the directory
# of the result (bin/, lib/, share/). Debian's own build uses POSIX semaphores, so it exercises only
# shared memory; this one takes every semaphore from semget(2) too.
#
#   build-postgresql.sh [--check] [CACHE_DIR]
#
#   --check    build nothing: print the directory if it is there, otherwise exit with 1
#   CACHE_DIR  default ${XDG_CACHE_HOME:-~/.cache}/ipcspace
#
# A finished build is found again and costs nothing. An interrupted one leaves nothing behind: the
# work happens in a directory of its own, and the result appears under its name by one rename.
# The machine's package configuration is only read; the source lists live in the work directory.
#
# Exit status: 0 done, 1 the build failed, 2 wrong usage, 75 the source or a tool cannot be had.
set -eu

major=15
source_package=postgresql-$major
unavailable=75

say() { echo "build-postgresql: $*" >&2; }
give_up() { say "$*"; exit $unavailable; }

check=
case "${1-}" in
--check) check=1; shift ;;
-*) sed -n '2,/^set /{/^#/p}' "$0" >&2; exit 2 ;;
esac
cache=${1:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: name the cache directory}/.cache}/ipcspace}

finished() {
	for dir in "$cache"/postgresql-sysv-"$major".*; do
		if [ -x "$dir/bin/postgres" ]; then
			echo "$dir"
			return 0
		fi
	done
	return 1
}

if finished; then exit 0; fi
if [ -n "$check" ]; then
	say "no build in $cache"
	exit 1
fi

missing=
for tool in apt-get dpkg-source gcc make perl flock; do
	command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
	give_up "missing:$missing (apt-get install --no-install-recommends dpkg-dev gcc libc6-dev make perl util-linux)"
fi

mkdir -p "$cache"
# Two builds at once would only make each other slow: the second waits and finds the first's result.
exec 9>"$cache/postgresql-sysv.lock"
flock 9
if finished; then exit 0; fi

work=$(mktemp -d "$cache/postgresql-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The same mirrors and suites as the machine's binary packages, as source entries.
private_apt() {
	apt-get -q \
		-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
		-o Debug::NoLocking=1 -o APT::Sandbox::User= "$@"
}
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || keyring=
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
	sort -u |
	while read -r uri release component origin; do
		case $origin in
		Debian | '$(ORIGIN)') echo "deb-src ${keyring:+[signed-by=$keyring] }$uri $release $component" ;;
		esac # other vendors' repositories often have no sources, and have keys of their own
	done >"$work/sources.list"
[ -s "$work/sources.list" ] || give_up "apt has no sources configured"

cd "$work"
say "looking for the source package $source_package"
private_apt update >apt.log 2>&1 || give_up "apt-get update failed: $(tail -n 3 apt.log)"

# The newest version may be announced before the mirror has it, so older ones follow.
versions=$(private_apt indextargets --format '$(FILENAME)' 'Created-By: Sources' |
	while read -r list; do
		[ -e "$list" ] && /usr/lib/apt/apt-helper cat-file "$list"
	done |
	awk -v want="$source_package" '$1 == "Package:" { name = $2 } $1 == "Version:" && name == want { print $2 }' |
	sort -Vru)
[ -n "$versions" ] || give_up "no source package $source_package in $(cut -d' ' -f2- sources.list | tr '\n' ';')"

version=
for candidate in $versions; do
	say "fetching $source_package $candidate"
	if private_apt source --download-only "$source_package=$candidate" >>apt.log 2>&1; then
		version=$candidate
		break
	fi
done
[ -n "$version" ] || give_up "no version of $source_package could be fetched (tried" $versions"): $(tail -n 3 apt.log)"

dpkg-source --no-check -x "$source_package"_*.dsc tree >unpack.log 2>&1 ||
	{ tail -n 20 unpack.log >&2; exit 1; }

# PostgreSQL's makefiles generate headers only where no other make stands above them.
unset MAKELEVEL MAKEFLAGS MFLAGS

say "building $version, some minutes"
result=$cache/postgresql-sysv-$version
cd tree
# No library beyond libc: the result runs wherever this machine's libc does. PostgreSQL finds lib/
# and share/ relative to its own binary, so the directory may be copied to where another user reads it.
PREFERRED_SEMAPHORES=SYSV ./configure --prefix="$result" \
	--without-readline --without-zlib --without-icu CFLAGS='-O2 -g0' >"$work/build.log" 2>&1 &&
	make -s -C src -j "$(nproc)" >>"$work/build.log" 2>&1 &&
	make -s -C src DESTDIR="$work/install" install >>"$work/build.log" 2>&1 ||
	{ tail -n 40 "$work/build.log" >&2; exit 1; }
grep -q 'define USE_SYSV_SEMAPHORES 1' src/include/pg_config.h ||
	{ say "configure did not choose System V semaphores for $version"; exit 1; }

rm -rf "$work/install$result/include" "$work/install$result"/lib/*.a "$work/install$result/lib/pgxs"
mv -T "$work/install$result" "$result"
echo "$result"
