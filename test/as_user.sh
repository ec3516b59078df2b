#!/bin/sh
# go test -exec: runs a test binary as $TEST_USER in the copy of its package.
set -eu
here=$TEST_COPY${PWD#"$TEST_FROM"}
binary=$here/$(basename "$1")
install -m 0755 "$1" "$binary"
shift
cd "$here"
home=$(getent passwd "$TEST_USER" | cut -d: -f6)
exec setpriv --reuid="$TEST_USER" --regid="$TEST_USER" --init-groups --reset-env \
	env PATH="$PATH" HOME="$home" LANG=C.UTF-8 XDG_RUNTIME_DIR="/run/user/$(id -u "$TEST_USER")" \
	GORACE="$GORACE" ${TEST_TMP:+TMPDIR="$TEST_TMP"} ${CI:+CI="$CI"} ${KERNEL_FILTERS_STUCK:+KERNEL_FILTERS_STUCK="$KERNEL_FILTERS_STUCK"} "$binary" "$@"
