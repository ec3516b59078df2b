#!/bin/sh
# image.sh NAME PROGRAM makes a podman image that holds one static program and
# nothing else, without a registry.
set -eu
command -v podman >/dev/null || { echo "podman is not installed: apt-get install podman crun" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
install -m 0755 "$2" "$root/echo"
chmod 0755 "$root"
old=$(podman image inspect --format '{{.Id}}' "$1" 2>/dev/null || true)
tar -C "$root" --owner=0 --group=0 --numeric-owner -c . |
	podman import --quiet --change 'ENTRYPOINT ["/echo"]' --message "activator's echo" - "$1"
if [ -n "$old" ]; then
	podman image rm "$old" >/dev/null 2>&1 || true # nameless now; one of which a container runs stays
fi
