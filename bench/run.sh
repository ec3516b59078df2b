#!/bin/sh
# make bench: installs the peers where it may, and measures. Options go to bench.
set -eu
cd "$(dirname "$0")"
user=${TEST_USER:-tester}
# Programs of the peers, and the package of Debian each is from.
programs="systemd-socket-activate:systemd bwrap:bubblewrap podman:podman crun:crun newuidmap:uidmap xinetd:xinetd
haproxy:haproxy nginx:nginx-light iperf3:iperf3 wrk:wrk unshare:util-linux tar:tar"
PATH=$PATH:/usr/sbin:/sbin
export PATH

install_missing() {
	missing=
	for p in $programs; do # PROGRAM:PACKAGE
		command -v "${p%%:*}" >/dev/null || missing="$missing ${p##*:}"
	done
	[ -n "$missing" ] || return 0
	echo "installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	# What is installed shall not start by itself: invoke-rc.d(8) asks this first.
	made=
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		made=/usr/sbin/policy-rc.d
		trap 'rm -f "$made"' EXIT
		printf '#!/bin/sh\nexit 101\n' >$made
		chmod 0755 $made
	fi
	# Who cannot be had is reported as absent, and the others are measured.
	apt-get update -q || true
	for p in $missing; do
		apt-get install -q -y --no-install-recommends "$p" || echo "not to be had: $p"
	done
	[ -z "$made" ] || rm -f "$made"
	trap - EXIT
}

if [ "$(id -u)" = 0 ]; then
	if command -v apt-get >/dev/null; then
		install_missing
	fi
	id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$user" || true
	runtime=/run/user/$(id -u "$user")
	mkdir -p "$runtime"
	chown "$user:" "$runtime"
	chmod 0700 "$runtime"
fi
TEST_USER=$user
export TEST_USER
go build -o ../bin/bench .
exec ../bin/bench "$@"
