# `make help` lists the targets.

GO          ?= go
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 30s
IMAGE       ?= localhost/activator-echo

# Stamp the commit where git answers; a checkout that git refuses (another
# owner, no git) still builds.
VCS    := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo -buildvcs=auto || echo -buildvcs=false)
BUILD  := CGO_ENABLED=0 $(GO) build $(VCS) -trimpath -ldflags '-s -w'

.DEFAULT_GOAL := build
.PHONY: build
build: ## bin/activator and bin/echo, static, and what the escape suite needs
	$(BUILD) -o bin/activator ./cmd/activator
	$(BUILD) -o bin/echo ./cmd/echo
	$(BUILD) -o bin/intruder ./test/escape/intruder
	$(BUILD) -o bin/oldkernel ./test/oldkernel
	@mkdir -p bin/rootfs && if [ -e bin/echo ]; then cp bin/echo bin/rootfs/echo; fi # configs/rootfs.toml

.PHONY: run
run: build ## build, then serve the five sockets of configs/echo.toml
	bin/activator --config configs/echo.toml

.PHONY: demo
demo: build ## the whole story in a few seconds
	test/demo.sh

.PHONY: test
test: ## everything: install what the tests need (root), build, lint, all tests as root and as a user
	test/run.sh

.PHONY: lint
lint: ## gofmt, vet, staticcheck, and that it builds for arm64
	@unformatted=$$(gofmt -l bench cmd internal test); test -z "$$unformatted" || { echo "not gofmt'ed:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./...
	GOARCH=arm64 $(BUILD) -o /dev/null ./cmd/activator
	GOARCH=arm64 $(BUILD) -o /dev/null ./cmd/echo
	GOARCH=arm64 $(BUILD) -o /dev/null ./test/escape/intruder
	GOARCH=arm64 $(BUILD) -o /dev/null ./test/oldkernel
	cd bench && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./... && $(GO) test ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s)
	test/fuzz.sh $(FUZZTIME)

.PHONY: escape
escape: build ## who stops what: measure as root and as a user, write the table of docs/security.md
	test/escape.sh

.PHONY: soak
soak: build ## four services under attack, four with honest clients, for ACTIVATOR_SOAK (1h)
	ACTIVATOR_SOAK=$${ACTIVATOR_SOAK:-1h} $(GO) test -count=1 -timeout 0 -run '^TestSoak$$' -v ./test/escape | grep -v '^=== \|^    --- PASS'

.PHONY: test-kernels
test-kernels: ## boot kernels of Debian in qemu: the five lines and the escape suite there; ALL=1 all of docs/kernels.md
	test/kernels.sh $(if $(ALL),-all -write) $(KERNELS)

.PHONY: bench
bench: build ## measure us and our peers, write docs/benchmarks.md; BENCH='-only NAME' for a part
	bench/run.sh $(BENCH)

.PHONY: bench-compare
bench-compare: ## hold two runs against each other: A=bench/results/X.json B=bench/results/Y.json
	@cd bench && $(GO) run . compare $(abspath $(A)) $(abspath $(B))

.PHONY: image
image: build ## the podman image localhost/activator-echo from bin/echo, without a registry
	test/image.sh $(IMAGE) bin/echo

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile
