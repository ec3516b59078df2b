#!/bin/sh
# make test-kernels: boots Debian's kernels in qemu and has the README's lines and
# the escape suite run in each; see test/kernels. Its words are test/kernels's flags.
set -eu
cd "$(dirname "$0")/.."
missing=
for p in qemu-system-x86_64:qemu-system-x86 qemu-system-aarch64:qemu-system-arm xz:xz-utils; do # PROGRAM:PACKAGE
	command -v "${p%%:*}" >/dev/null || missing="$missing ${p##*:}"
done
case " $* " in
*" -ci "*) missing=$(printf '%s' "$missing" | sed 's/qemu-system-arm//') ;; # amd64 alone
esac
if [ -n "$(printf '%s' "$missing" | tr -d ' ')" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "install as root: apt-get install$missing" >&2
		exit 1
	fi
	apt-get update -q
	# shellcheck disable=SC2086 # a list
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi
exec go run ./test/kernels "$@"
