#!/bin/sh
# build.sh PROGRAM [FLAG...]: the library's sources with sanitizers, library.c and manager.c. CC must be clang
# with -fsanitize=fuzzer; without, replay.c is the main program.
set -eu
program=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")" && pwd)/testdata
preload=$here/../../../client/preload
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
flags="-std=gnu11 -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all -I$preload -include $here/renamed.h"
# The sanitizer's own memory functions look at what they copy.
own="-Dmemcpy=ipcspace_memcpy -Dmemset=ipcspace_memset -Dmemcmp=ipcspace_memcmp"
cd "$objects"
# shellcheck disable=SC2046,SC2086 # words
${CC:-gcc} $flags "$@" -c $(ls "$preload"/*.c | grep -v /sys.c) "$here/library.c" "$here/manager.c"
# shellcheck disable=SC2086
${CC:-gcc} $flags -Wno-unknown-pragmas $own "$@" -c "$preload/sys.c"
case " $* " in
*-fsanitize=fuzzer*) ;;
*) ${CC:-gcc} -O1 -g -c "$here/replay.c" ;;
esac
${CC:-gcc} -fsanitize=address,undefined "$@" -o "$program" ./*.o
