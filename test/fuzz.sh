#!/bin/sh
# Runs every fuzz target of the module for the given time.
set -eu
cd "$(dirname "$0")/.."
export GORACE=atexit_sleep_ms=0
for package in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "== $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$package"
	done
done
