# Words on the terminal, for the demonstrations.
# shellcheck shell=bash disable=SC2034

bold='' faint='' red='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' faint=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'; fi
heading() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s%s%s\n' "$faint" "$*" "$plain"; }
indent() { sed 's/^/    /'; }
fail() {
	printf '%sdemo: %s%s\n' "$red" "$*" "$plain" >&2
	exit 1
}
