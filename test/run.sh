#!/bin/sh
# make test: installs what the tests need where it may, builds, lints, and runs
# every test: as root and then as an ordinary user, or as the user who calls.
set -eu
cd "$(dirname "$0")/.."
user=${TEST_USER:-tester}
# Programs (or files) that the tests need, and the package of Debian each is from.
programs="socat:socat curl:curl podman:podman crun:crun newuidmap:uidmap fuse-overlayfs:fuse-overlayfs
uuidd:uuid-runtime gunicorn:gunicorn rpcbind:rpcbind ip:iproute2 capsh:libcap2-bin setpriv:util-linux
busybox:busybox-static python3:python3 gcc:gcc tar:tar bwrap:bubblewrap systemd-analyze:systemd
musl-gcc:musl-tools nginx:nginx-light redis-server:redis-server pg_lsclusters:postgresql memcached:memcached
unbound:unbound dnsmasq:dnsmasq-base caddy:caddy node:nodejs haproxy:haproxy /usr/sbin/php-fpm8.2:php8.2-fpm perl:perl git:git sshd:openssh-server
ssh:openssh-client in.tftpd:tftpd-hpa tftp:tftp-hpa
/usr/lib/python3/dist-packages/uvicorn/__init__.py:python3-uvicorn
/usr/share/perl5/Server/Starter.pm:libserver-starter-perl"
PATH=$PATH:/usr/sbin:/sbin
export PATH
# A program with the race detector otherwise sleeps a second at each exit.
export GORACE=atexit_sleep_ms=0

step() { printf '\n== %s\n' "$*"; }

install_missing() {
	missing=
	for p in $programs; do # PROGRAM:PACKAGE
		command -v "${p%%:*}" >/dev/null || [ -e "${p%%:*}" ] || missing="$missing ${p##*:}"
	done
	netavark=/usr/lib/podman/netavark
	if [ -z "$missing" ] && [ -e $netavark ]; then
		return
	fi
	step "install$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	# Podman wants its helper for networks also for containers without one. Where
	# the distribution has none, its podman does without.
	if [ ! -e $netavark ] && apt-cache show netavark >/dev/null 2>&1; then
		missing="$missing netavark"
	fi
	# What is installed shall not start by itself: invoke-rc.d(8) asks this first.
	made=
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		made=/usr/sbin/policy-rc.d
		trap 'rm -f "$made"' EXIT
		printf '#!/bin/sh\nexit 101\n' >$made
		chmod 0755 $made
	fi
	# shellcheck disable=SC2086 # a list
	apt-get install -q -y --no-install-recommends $missing libc6-dev
	[ -z "$made" ] || rm -f "$made"
	trap - EXIT
}

# make_user makes the ordinary user, with the subordinate ids that rootless
# podman wants and the folder that a login would have made.
make_user() {
	id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$user"
	grep -q "^$user:" /etc/subuid 2>/dev/null || usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$user"
	runtime=/run/user/$(id -u "$user")
	mkdir -p "$runtime"
	chown "$user:" "$runtime"
	chmod 0700 "$runtime"
}

# run_as_user runs the tests from a copy: the user may not be able to enter the
# checkout. `go test` compiles as we, as_user.sh runs each binary as the user.
run_as_user() {
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	trap 'exit 1' INT TERM
	tar -c --exclude=./.git . | tar -x -C "$copy"
	chmod 0755 "$copy"
	chown -R "$user:" "$copy"
	TEST_USER=$user TEST_FROM=$PWD TEST_COPY=$copy run_tests -exec "$PWD/test/as_user.sh"
}

# find_stuck looks for kernel workers that stand in the BPF allocator for three
# seconds: with a thousand of them the kernel can neither free nor attach a filter
# until it is rebooted (6.18, when very many filters die at once), and whoever
# tries hangs for good. Only root sees where they stand.
find_stuck() {
	for _ in 1 2 3; do
		now=$(grep -l bpf_prog_pack_free /proc/[0-9]*/wchan 2>/dev/null | sort || true)
		stuck=${stuck-$now}
		stuck=$(printf '%s\n' "$now" | grep -Fx "$stuck" || true)
		[ -n "$stuck" ] || return 0
		sleep 1
	done
	KERNEL_FILTERS_STUCK="$(printf '%s\n' "$stuck" | wc -l) kernel workers stand in bpf_prog_pack_free"
	export KERNEL_FILTERS_STUCK
	echo "$KERNEL_FILTERS_STUCK: the tests that need seccomp or packet filters are skipped; reboot"
}

run_tests() {
	# shellcheck disable=SC2086 # empty or one word
	go test $race -count=1 -timeout 20m "$@" ./...
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	install_missing
fi
race=
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v "$(go env CC)" >/dev/null; then
	race=-race
else
	echo "no C compiler: the tests run without the race detector"
fi
find_stuck
step build
make build
step lint
make lint
failed=
step "tests as $(id -un)"
run_tests || failed=" as $(id -un)"
if [ "$(id -u)" = 0 ]; then
	step "tests as an ordinary user, $user"
	make_user
	run_as_user || failed="$failed as $user"
fi
# Only root may install qemu, and where there is no apt there is no kernel of Debian's.
if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || command -v qemu-system-x86_64 >/dev/null; }; then
	step "another kernel"
	test/kernels.sh -ci || failed="$failed on another kernel"
elif [ "${CI-}" = true ]; then
	failed="$failed on another kernel, which needs apt-get"
else
	echo "no other kernel is booted: that needs apt-get and qemu-system-x86"
fi
if [ -n "$failed" ]; then
	step "failed:$failed"
	exit 1
fi
