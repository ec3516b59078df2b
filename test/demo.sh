#!/bin/sh
# The whole story in a few seconds: start, the five lines, what the process sees
# inside beside what the host sees, a crash and its recovery, stop. Ends with 1 as
# soon as something is not as told.
set -eu

bin=${ACTIVATOR_BIN:-bin}
port=$((20000 + $$ % 10000)) # its own, where several run at once
dir=$(mktemp -d)
log=$dir/log
trap 'kill "$pid" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
chmod 755 "$dir"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; sh -c "$*"; }
# await PATTERN [N]: until N lines of the log have it
await() {
	n=0
	until [ "$(grep -c -- "$1" "$log" || true)" -ge "${2:-1}" ]; do
		n=$((n + 1))
		[ $n -lt 400 ] || { echo "no line $1 in the log:"; cat "$log"; exit 1; }
		sleep 0.025
	done
}
hello() {
	printf '$ echo hello | socat - %s\n' "$1"
	got=$(echo hello | socat - "$1")
	echo "$got"
	[ "$got" = hello ] || { echo "not answered"; exit 1; }
}
service() { sed -n 's/.*service=echo state=running.* pid=\([0-9]*\).*/\1/p' "$log" | tail -n 1; }

cat >"$dir/echo.toml" <<TOML
[[socket]]
listen = ["tcp://127.0.0.1:$port", "udp://127.0.0.1:$port",
          "tcp://[::1]:$port", "udp://[::1]:$port", "unix://$dir/echo_stream_sock"]

[service]
exec = ["$(cd "$bin" && pwd)/echo"]
TOML
cat >"$dir/view.toml" <<TOML
[[socket]]
listen = ["unixgram://$dir/view"]

[service]
exec = ["/bin/sh", "-c", "exec >&2; dd bs=64 count=1 <&3 >/dev/null 2>&1; echo pid \$\$ of: /proc/[0-9]*; cat /proc/net/dev | sed 1,2d | cut -d: -f1; grep -e ^Cap -e NoNewPrivs /proc/self/status | tr -s '\\t' ' '; touch /etc/x; exit 0"]
TOML

say "1. The activator binds five sockets; no service runs"
show "cat $dir/echo.toml"
"$bin/activator" --config "$dir" 2>"$log" &
pid=$!
await "activator ready"
sed -n 's/^time=[^ ]* //p' "$log"

say "2. The first client starts the service; the others find it running"
for a in tcp4:127.0.0.1:$port "tcp6:[::1]:$port" udp4:127.0.0.1:$port "udp6:[::1]:$port" "unix:$dir/echo_stream_sock"; do
	hello "$a"
done
await "service=echo state=running"
grep service=echo "$log" | sed 's/^time=[^ ]* //'

say "3. What the host sees, and what a service sees of it"
echo "the host: $(ls -d /proc/[0-9]* | wc -l) processes, interfaces $(sed 1,2d /proc/net/dev | cut -d: -f1 | xargs)"
echo "inside:"
echo look | socat -u - "UNIX-SENDTO:$dir/view"
await "service=view state=listening" 2
sed -n 's/.*msg="\{0,1\}\(.*[^"]\)"\{0,1\} service=view stream=stderr.*/  \1/p' "$log"

say "4. The service is killed; who comes next is answered by the next one"
running=$(service)
show "kill -9 $running"
await "service=echo state=resting"
hello tcp4:127.0.0.1:$port
await "service=echo state=running" 2
grep service=echo "$log" | sed 's/^time=[^ ]* //' | tail -n 4

say "5. Stop: the service ends, the paths go"
show "kill -TERM $pid"
wait "$pid"
tail -n 3 "$log" | sed 's/^time=[^ ]* //'
[ ! -e "$dir/echo_stream_sock" ] || { echo "the path is left behind"; exit 1; }
show "ls $dir"
say "All as told."
