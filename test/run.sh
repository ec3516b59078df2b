#!/bin/sh
# make test: installs what the tests need where it may, builds, lints, and runs
# every test: as root and then as an ordinary user, or as the user who calls. In the
# end it says how many tests ran, which were skipped and why, and what was left behind.
set -eu
cd "$(dirname "$0")/.."
user=${TEST_USER:-tester}
# Programs (or files) that the tests need, and the package of Debian each is from.
programs="socat:socat curl:curl podman:podman crun:crun newuidmap:uidmap fuse-overlayfs:fuse-overlayfs
uuidd:uuid-runtime gunicorn:gunicorn rpcbind:rpcbind ip:iproute2 capsh:libcap2-bin setpriv:util-linux
busybox:busybox-static python3:python3 gcc:gcc g++:g++ tar:tar bwrap:bubblewrap systemd-analyze:systemd
musl-gcc:musl-tools nginx:nginx-light redis-server:redis-server redis-cli:redis-tools pg_lsclusters:postgresql memcached:memcached
unbound:unbound dnsmasq:dnsmasq-base caddy:caddy node:nodejs haproxy:haproxy perl:perl git:git sshd:openssh-server
ssh:openssh-client in.tftpd:tftpd-hpa tftp:tftp-hpa qemu-system-x86_64:qemu-system-x86 xz:xz-utils
apache2:apache2-bin mosquitto:mosquitto mosquitto_pub:mosquitto-clients mariadbd:mariadb-server-core
mariadb:mariadb-client-core radicale:radicale prometheus-node-exporter:prometheus-node-exporter rsync:rsync
dbus-daemon:dbus-daemon dbus-send:dbus-bin uwsgi:uwsgi-core puma:puma cupsd:cups-daemon lpstat:cups-client
transmission-daemon:transmission-daemon transmission-remote:transmission-cli kresd:knot-resolver
java:default-jre-headless javac:default-jdk-headless /usr/include/asio.hpp:libasio-dev /usr/include/ev.h:libev-dev
dovecot:dovecot-core /usr/lib/dovecot/imap:dovecot-imapd pipewire:pipewire-bin pw-play:pipewire-bin wireplumber:wireplumber
/usr/lib/uwsgi/plugins/python3_plugin.so:uwsgi-plugin-python3
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
	ls /usr/sbin/php-fpm[0-9]* >/dev/null 2>&1 || missing="$missing php-fpm" # of whatever version
	# Podman wants its helper for networks also for containers without one. Older
	# distributions have none, and their podman does without.
	netavark=/usr/lib/podman/netavark
	if [ -z "$missing" ] && [ -e $netavark ]; then
		return
	fi
	step "install$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	[ -e $netavark ] || missing="$missing netavark"
	there=
	for p in $missing; do
		if apt-cache show "$p" >/dev/null 2>&1; then
			there="$there $p"
		else
			echo "this distribution has no $p: the tests that need it are skipped"
		fi
	done
	# What is installed shall not start by itself: invoke-rc.d(8) asks this first.
	made=
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		made=/usr/sbin/policy-rc.d
		trap 'rm -f "$made"' EXIT
		printf '#!/bin/sh\nexit 101\n' >$made
		chmod 0755 $made
	fi
	# shellcheck disable=SC2086 # a list
	apt-get install -q -y --no-install-recommends $there libc6-dev
	[ -z "$made" ] || rm -f "$made"
	trap - EXIT
}

# make_user makes the ordinary user, with the subordinate ids that rootless
# podman wants and the folder that a login would have made.
make_user() {
	id "$user" >/dev/null 2>&1 || { useradd --create-home --shell /bin/sh "$user" && made_user=yes; }
	grep -q "^$user:" /etc/subuid 2>/dev/null || usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$user"
	runtime=/run/user/$(id -u "$user")
	[ -e "$runtime" ] || made_runtime=$runtime
	mkdir -p "$runtime"
	chown "$user:" "$runtime"
	chmod 0700 "$runtime"
}

# clean takes away what this script has made, and what podman has made for itself.
clean() {
	if [ -n "$made_user$made_runtime" ]; then # rootless podman leaves a process
		find /proc -maxdepth 1 -name '[0-9]*' -user "$user" -printf '%f\n' 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
	fi
	[ -z "$made_runtime" ] || rm -rf "$made_runtime"
	[ -z "$made_user" ] || userdel --remove "$user" >/dev/null 2>&1 || echo "user $user is left behind"
	if [ "$(id -u)" = 0 ] && command -v podman >/dev/null; then
		for image in localhost/activator-echo localhost/activator-intruder; do
			case " $images " in
			*" $image:"*) ;;
			*) podman image rm --force --ignore "$image" >/dev/null 2>&1 || true ;;
			esac
		done
		for d in /run/crun /run/libpod /run/containers /var/lib/containers; do
			grep -qx $d "$scratch/before" || { umount -n $d/storage/overlay 2>/dev/null || true; rm -rf $d; }
		done
	fi
	rm -rf "$scratch"
}

# places are where programs leave things. A folder of /tmp is made for each run.
places() {
	{
		find /run /run/user /run/netns /var/lib /var/cache /var/log -mindepth 1 -maxdepth 1
		find /sys/fs/cgroup -type d -name '*activator*'
	} 2>/dev/null | grep -vx "/run/user/$(id -u "$user" 2>/dev/null)" | sort -u
}

# look_behind fails if the tests have left something: whatever is in their own folder
# for temporary files, and in the places what has our name. Other things may be
# another program's of this machine; in CI there is none. (The tests say mount -n:
# mount(8) otherwise makes /run/mount, on a machine that has not got it.)
look_behind() {
	# A podman that is killed, as tests do at every moment of its start, leaves a file with a number for a name.
	left=$(find "$scratch/root" "$scratch/user" -mindepth 1 -maxdepth 1 ! \( -type f -regex '.*/[0-9]*' \) 2>/dev/null || true)
	places >"$scratch/after"
	new=$(grep -vxFf "$scratch/before" "$scratch/after" | grep -vxE '/run/(crun|libpod|containers)|/var/lib/containers' || true)
	if [ "${CI-}" = true ]; then
		left="$left $new"
	else
		left="$left $(printf '%s\n' "$new" | grep activator || true)"
	fi
	[ -n "$(printf %s "$left" | tr -d ' \n')" ] || return 0
	echo "left behind:" $left
	return 1
}

# run_as_user runs the tests from a copy: the user may not be able to enter the
# checkout. `go test` compiles as we, as_user.sh runs each binary as the user.
run_as_user() {
	copy=$scratch/copy
	mkdir -p "$copy" "$scratch/user"
	tar -c --exclude=./.git --exclude=./bin/kernels . | tar -x -C "$copy"
	chown -R "$user:" "$copy" "$scratch/user"
	TEST_USER=$user TEST_FROM=$PWD TEST_COPY=$copy TEST_TMP=$scratch/user run_tests "as $user" -exec "$PWD/test/as_user.sh"
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

# run_tests runs them with flags, in whatever order; test/report prints what go test
# would, and counts. Only a package that hangs exceeds the time limit: the longest one
# takes three minutes on a quiet machine, and sixteen were seen on a slow one. The two
# longest ask bin/activator from outside. The race detector would watch these tests
# alone, and every program that they start from themselves would cost twice as much.
# One go test that dies without a word is not made up for by the other.
run_tests() {
	title=$1
	shift
	rm -f "$scratch/failed"
	# shellcheck disable=SC2046,SC2086 # lists
	{
		TMPDIR=$scratch/root go test -json -count=1 -shuffle=on -timeout 25m "$@" ./test ./test/escape || touch "$scratch/failed"
		TMPDIR=$scratch/root go test -json $race -count=1 -shuffle=on -timeout 25m "$@" $(go list ./... | grep -vx 'activator/test\(/escape\)\?') || touch "$scratch/failed"
	} | "$scratch/report" -title "$title" -to "$scratch/count" && [ ! -e "$scratch/failed" ]
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
made_user= made_runtime= images=
scratch=$(mktemp -d /tmp/a.XXXXXX) # short: the path of a unix socket may have 107 bytes
places >"$scratch/before"
if [ "$(id -u)" = 0 ] && command -v podman >/dev/null; then
	images=$(podman images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | tr '\n' ' ')
fi
trap clean EXIT
trap 'exit 1' INT TERM
chmod 0755 "$scratch"
mkdir -m 1777 "$scratch/root"
step build
make build
go build -buildvcs=false -o "$scratch/report" ./test/report
step lint
make lint
failed=
step "tests as $(id -un)"
run_tests "as $(id -un)" || failed=" as $(id -un)"
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
step "count"
cat "$scratch/count"
look_behind || failed="$failed (left something behind)"
if [ -n "$failed" ]; then
	step "failed:$failed"
	exit 1
fi
