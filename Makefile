# ipcspace: System V IPC in user space, for containers. See README.md.
#
#   make demo   build, and watch spaces and containers at work (about a minute)
#   make test   everything that must pass
#   make help   all targets

SHELL := /bin/sh
GO    ?= go
BIN   := bin
ARCH  := $(shell uname -m)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ipcspace

# make's own default is cc; the freestanding library needs gcc's dialect.
ifeq ($(origin CC),default)
CC := gcc
endif
ARM64_CC ?= aarch64-linux-gnu-gcc

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO_BUILD = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(GO_LDFLAGS) -X main.version=$(VERSION)'

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | \
		awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# ---- build ----

COMMANDS := ipcspace ipcspace-manager ipcspace-shim ipcspace-csi
# What a child runs after fork lies together, so that it costs few page faults.
PRELOAD_FORK := $(patsubst %,client/preload/%.c,fork spare session room thread piece connect channel packet sys)
PRELOAD  := $(PRELOAD_FORK) $(filter-out $(PRELOAD_FORK),$(wildcard client/preload/*.c))
LIBRARY  := $(BIN)/libipcspace.so
# The second architecture is optional where its compiler is missing, except in continuous integration.
ARM64    := $(if $(or $(CI),$(shell command -v $(ARM64_CC))),$(BIN)/arm64/libipcspace.so)

.PHONY: build commands library
build: commands library ## bin/: the commands, and the library for amd64 and arm64
commands: $(addprefix $(BIN)/,$(COMMANDS))
library: $(LIBRARY) $(ARM64)

# Go knows better than make what is out of date.
.PHONY: $(BIN)/ipcspace $(BIN)/ipcspace-manager $(BIN)/ipcspace-shim $(BIN)/ipcspace-csi
$(BIN)/ipcspace:
	@$(GO_BUILD) -o $@ ./client/ipcspace
$(BIN)/ipcspace-manager:
	@$(GO_BUILD) -o $@ ./manager/ipcspace-manager
$(BIN)/ipcspace-shim:
	@$(GO_BUILD) -o $@ ./shim/ipcspace-shim
$(BIN)/ipcspace-csi:
	@$(GO_BUILD) -o $@ ./csi/ipcspace-csi

# libipcspace.so lives inside programs of any libc and age: no DT_NEEDED, nothing undefined but weak
# references (-z defs), no outline atomics (libgcc's ask libc). libgcc has the arithmetic that the
# compiler takes for granted; its names stay inside.
PRELOAD_CFLAGS := -std=c11 -O2 -g -fPIC -ffreestanding -fno-stack-protector -fvisibility=hidden \
	-ftls-model=initial-exec -fno-plt -Wall -Wextra -Werror
PRELOAD_LDFLAGS := -shared -nostdlib -Wl,-z,now -Wl,-z,noexecstack -Wl,-z,defs -Wl,-z,noseparate-code -Wl,-Bsymbolic \
	-Wl,--hash-style=both -Wl,-soname,libipcspace.so -Wl,--build-id
PRELOAD_LIBS := -Wl,--exclude-libs,ALL -lgcc
PRELOAD_LDS := client/preload/libipcspace.lds
PRELOAD_LDFLAGS += -Wl,-T,$(PRELOAD_LDS)
PRELOAD_SOURCES := $(PRELOAD) $(wildcard client/preload/*.h) $(PRELOAD_LDS) Makefile

# Linked beside its place and renamed: a program that runs with the old one keeps it.
$(BIN)/libipcspace.so: $(PRELOAD_SOURCES)
	@mkdir -p $(@D)
	$(CC) $(PRELOAD_CFLAGS) $(PRELOAD_LDFLAGS) -o $@.new $(PRELOAD) $(PRELOAD_LIBS)
	@mv $@.new $@
$(BIN)/arm64/libipcspace.so: $(PRELOAD_SOURCES)
	@mkdir -p $(@D)
	$(ARM64_CC) $(PRELOAD_CFLAGS) -mno-outline-atomics $(PRELOAD_LDFLAGS) -o $@.new $(PRELOAD) $(PRELOAD_LIBS)
	@mv $@.new $@

# What the Dockerfile's image has, for GOARCH: times are those of SOURCE_DATE_EPOCH, so that the same
# sources make the same image.
SOURCE_DATE_EPOCH ?= 0
GOARCH ?= $(shell $(GO) env GOARCH)
.PHONY: image-files
image-files: build
	install -D -t $(DESTDIR)/bin $(addprefix $(BIN)/,$(COMMANDS))
	install -D -m 644 $(BIN)/libipcspace.so $(DESTDIR)/lib/ipcspace/amd64/libipcspace.so
	install -D -m 644 $(BIN)/arm64/libipcspace.so $(DESTDIR)/lib/ipcspace/arm64/libipcspace.so
	install -m 644 $(DESTDIR)/lib/ipcspace/$(GOARCH)/libipcspace.so $(DESTDIR)/bin/
	find $(DESTDIR) -exec touch --no-dereference --date=@$(SOURCE_DATE_EPOCH) {} +

# ---- test ----

# The library with fail points, which checks objects after each transaction, for test/chaos.
$(BIN)/test/libipcspace-fail.so: $(PRELOAD_SOURCES)
	@mkdir -p $(@D)
	$(CC) $(PRELOAD_CFLAGS) -DIPCSPACE_FAIL_POINTS -DIPCSPACE_VERIFY $(PRELOAD_LDFLAGS) -o $@.new $(PRELOAD) $(PRELOAD_LIBS)
	@mv $@.new $@

# The manager that kills itself where it is told to, for test/chaos.
.PHONY: $(BIN)/test/ipcspace-manager-fail
$(BIN)/test/ipcspace-manager-fail:
	@$(GO_BUILD) -tags failpoints -o $@ ./manager/ipcspace-manager
FAIL_POINTS := $(BIN)/test/libipcspace-fail.so $(BIN)/test/ipcspace-manager-fail

# Long tests of whole programs run after the packages' own, one package at a time: they measure
# waiting, and two cores are soon busy. No results of earlier runs (-count=1): the tests start
# programs and load the library, which go test does not see change.
PACKAGES      = $(shell $(GO) list ./... | grep -v '/ipcspace/test/')
# What takes minutes has targets of its own: make attacks, make chaos. Both are here in short.
LONG_TESTS := ^TestAttacks$$/(10,000|all_|word|noise)
TEST_PACKAGES = $(shell $(GO) list ./test/...)
TEST_FLAGS   ?=

.PHONY: test test-packages test-programs test-containers test-docker29
test: vet build test-packages test-programs chart ## everything that must pass

test-packages: build ## the packages' own tests, with the race detector
	$(GO) test -race -count=1 -timeout 15m $(TEST_FLAGS) $(PACKAGES)

test-programs: build $(FAIL_POINTS) ## conformance with the kernel, real programs, real containers
	$(GO) test -p 1 -count=1 -timeout 40m -skip '$(LONG_TESTS)' $(TEST_FLAGS) $(TEST_PACKAGES)

test-containers: build ## real containers: Docker, podman, containerd and runc, with the manager and the shim
	$(GO) test -count=1 -timeout 40m $(TEST_FLAGS) ./test/containers

.PHONY: start-latency
start-latency: build ## how long a container takes to start with and without the runtime wrapper, on an idle machine
	$(GO) test -v -count=1 -run TestStartLatency $(TEST_FLAGS) ./test/containers -latency

test-docker29: build ## the same with Docker 29, which is built first (ten minutes, once)
	$(GO) test -v -count=1 -timeout 90m -run 'Docker29|Readme' $(TEST_FLAGS) ./test/containers -docker29

.PHONY: cluster e2e
cluster: ## builds a Kubernetes cluster's programs into the cache, once (minutes)
	@test/e2e/tools/build.sh

# In its folder, go test shows what a test says while it runs.
e2e: build cluster $(CACHE)/chart/helm ## a real Kubernetes of one node: the chart, pods, restarts, a boot, an upgrade
	cd test/e2e && $(GO) test -v -count=1 -timeout 60m $(TEST_FLAGS) -e2e.whole

.PHONY: image-test
image-test: build ## the Dockerfile's image, built twice and run (many minutes)
	$(GO) test -v -count=1 -timeout 90m -run TestDockerfile $(TEST_FLAGS) ./test/containers -dockerfile

# Helm takes itself for one of Kubernetes 1.20 unless it is told otherwise when it is linked.
HELM := $(CACHE)/chart/helm
HELM_FLAGS := $(foreach p,pkg/chartutil pkg/lint/rules,$(foreach v,Major=1 Minor=37,-X helm.sh/helm/v3/$(p).k8sVersion$(v)))
$(HELM): test/chart/tools/go.mod
	@mkdir -p $(@D)
	cd test/chart/tools && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w $(HELM_FLAGS)' -o $(@D) tool
	@touch $@

.PHONY: chart
chart: $(HELM) ## helm lint and helm-unittest (builds both into the cache, once: minutes)
	$(HELM) lint --strict charts/ipcspace
	$(CACHE)/chart/helm-unittest charts/ipcspace

.PHONY: conformance
conformance: build ## the table: row, test, kernel, space
	CONFORMANCE_TABLE=$(abspath $(BIN))/conformance.md $(GO) test -count=1 -timeout 40m $(TEST_FLAGS) ./test/conformance; \
		status=$$?; cat $(BIN)/conformance.md; exit $$status

FOR ?= 10m
.PHONY: differential
differential: build ## random programs on the kernel and in a space, for FOR=10m
	$(GO) test -v -count=1 -timeout 0 ./test/conformance/differential -differential.for=$(FOR) $(TEST_FLAGS)

# CHAOS="-chaos.seed=…" repeats a run's events, if not their timing.
CHAOS ?= -chaos.time=3m -chaos.manager=200ms
.PHONY: chaos
chaos: build $(FAIL_POINTS) ## minutes of random deaths of clients and the manager; what was survived
	$(GO) test -v -run 'TestChaos$$' -count=1 -timeout 60m $(TEST_FLAGS) ./test/chaos $(CHAOS)
	$(GO) test -v -run 'TestControl$$' -count=1 -timeout 60m $(TEST_FLAGS) ./test/chaos -control.deaths=80

.PHONY: attacks
attacks: build ## the table: what a hostile member does, what must come of it, what came of it
	$(GO) test -v -run TestAttacks -count=1 -timeout 20m $(TEST_FLAGS) ./test/attacks

.PHONY: limits
limits: build ## the table: each limit of a space, how much there was, and the errno of more
	$(GO) test -v -run TestLimits -count=1 -timeout 10m $(TEST_FLAGS) ./test/limits

# EXPLORE=-explore.deep has one preemption more, which takes an hour.
.PHONY: model
model: ## the protocol, exhaustively: C's of a set by spin, Go's of sets and queues by running it in every order; planted bugs must be found (minutes)
	@test/model/run.sh
	$(GO) test -tags explore -v -count=1 -timeout 60m -run TestExplore $(TEST_FLAGS) ./client/plane $(EXPLORE)

# A freestanding library can have no sanitizer's runtime: undefined behaviour traps (SIGILL), and so
# does an object whose invariants do not hold after a transaction.
UNDEFINED := $(BIN)/undefined
$(UNDEFINED)/libipcspace.so: $(PRELOAD_SOURCES)
	@mkdir -p $(@D)
	$(CC) $(PRELOAD_CFLAGS) -DIPCSPACE_VERIFY -fsanitize=undefined -fsanitize-undefined-trap-on-error $(PRELOAD_LDFLAGS) -o $@.new $(PRELOAD) $(PRELOAD_LIBS)
	@mv $@.new $@

.PHONY: sanitize
sanitize: build $(UNDEFINED)/libipcspace.so ## conformance with a library that traps undefined behaviour and broken invariants
	@ln -sf $(addprefix ../,$(COMMANDS)) $(UNDEFINED)/
	IPCSPACE_TEST_BIN=$(CURDIR)/$(UNDEFINED) $(GO) test -count=1 -timeout 40m -run TestSpace $(TEST_FLAGS) ./test/conformance

# Each for FUZZ=30s: messages, lines, /proc, hostile sets and queues, tables, adoption of spoilt spaces.
FUZZ ?= 30s
.PHONY: fuzz
fuzz: ## go test -fuzz of everything that reads what others wrote
	@for target in manager:FuzzRegistration manager:FuzzRequest manager:FuzzControlMessage manager:FuzzStat \
		manager:FuzzRecovery manager:FuzzState client:FuzzReply client:FuzzTable client/plane:FuzzSet client/plane:FuzzQueue; do \
		echo "== $$target"; \
		$(GO) test -run '^$$' -fuzz "^$${target#*:}$$" -fuzztime $(FUZZ) -fuzzminimizetime 5s -parallel 2 ./$${target%%:*} || exit 1; \
	done

# With clang: Debian's clang and libclang-rt-14-dev.
.PHONY: fuzz-library
fuzz-library: ## the C library on hostile tables, objects and packets, with libFuzzer, ASan and UBSan, for FUZZ=30s
	@mkdir -p $(CACHE)/fuzz/corpus
	CC=clang test/fuzz/build.sh $(CACHE)/fuzz/library -fsanitize=fuzzer
	ASAN_OPTIONS=detect_leaks=0 $(CACHE)/fuzz/library -max_total_time=$(FUZZ:s=) -max_len=2048 -timeout=20 \
		-artifact_prefix=$(CACHE)/fuzz/ -print_final_stats=1 $(CACHE)/fuzz/corpus test/fuzz/corpus

.PHONY: failpoints
failpoints: build $(FAIL_POINTS) ## the tables: operation, point, death or interruption, result; step of the manager, death
	$(GO) test -v -run 'TestStopAtEachStep' -count=1 $(TEST_FLAGS) ./client/plane
	$(GO) test -v -run 'TestFailPoints|TestInstructions|TestManagerSteps' -count=1 -timeout 20m $(TEST_FLAGS) ./test/chaos -failpoints.table

.PHONY: bench
bench: build ## the same programs on the kernel and in a space in turn, as ratios; QUICK=1: under a minute
	$(GO) run ./test/bench $(if $(QUICK),-quick,-json $(BIN)/bench.json -svg $(BIN)/bench.svg) $(BENCH)

.PHONY: demo
demo: ## two isolated spaces with PostgreSQL in each, and real containers that share one: about a minute
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory build
	@test/demo/demo.sh
	@test/demo/containers.sh

# ---- the sources ----

.PHONY: vet
vet: ## format, go vet, and that generated files are up to date
	@unformatted="$$(gofmt -l client manager shim csi test)"; \
		if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags explore ./client/plane
	@mkdir -p $(CACHE) && (cd client/abi && $(GO) run ./gen $(CACHE)/abi.h) && \
		cmp $(CACHE)/abi.h client/preload/abi.h || { echo "client/preload/abi.h is stale, run make generate"; exit 1; }

.PHONY: fmt
fmt: ## format the Go sources
	gofmt -w client manager shim csi test

# What test/tools/go.mod pins is built once, into a cache outside the tree.
GENERATORS := $(addprefix $(CACHE)/tools/,protoc-gen-go protoc-gen-go-grpc controller-gen)
$(CACHE)/tools/%: test/tools/go.mod
	@mkdir -p $(@D)
	cd test/tools && $(GO) build -o $@ "$$($(GO) list tool | grep '/$*$$')"
	@touch $@

.PHONY: generate
generate: $(GENERATORS) ## abi.h, the admin API's code, the CRD (needs protoc: protobuf-compiler, libprotobuf-dev)
	PATH="$(CACHE)/tools:$$PATH" $(GO) generate ./client/abi ./manager/admin ./manager/kube/v1alpha1

GOLANGCI := $(CACHE)/tools/golangci-lint
.PHONY: install-tools
install-tools: $(GOLANGCI) ## golangci-lint as pinned (some minutes, once)

.PHONY: lint
lint: vet $(GOLANGCI) ## golangci-lint and gcc's analyzer
	$(GOLANGCI) run
	@# cell_at is NULL out of bounds; that an index was checked earlier is more than the analyzer follows.
	@for f in $(PRELOAD); do $(CC) $(PRELOAD_CFLAGS) -fanalyzer -Wno-analyzer-null-dereference -c -o /dev/null $$f || exit 1; done

.PHONY: deps
deps: ## what is missing on this machine: installs it as root on Debian, names it elsewhere
	@test/tools/deps.sh

PREFIX  ?= /usr/local
DESTDIR ?=
.PHONY: install
install: build ## commands, library and units for systemd, below PREFIX=/usr/local
	install -D -t $(DESTDIR)$(PREFIX)/bin $(addprefix $(BIN)/,$(COMMANDS))
	ln -sf ipcspace-shim $(DESTDIR)$(PREFIX)/bin/ipcspace-runc
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/ipcspace $(BIN)/libipcspace.so
	install -d $(DESTDIR)/etc/systemd/system
	for unit in shim/systemd/*.service; do \
		sed 's,/usr/local,$(PREFIX),g' $$unit >$(DESTDIR)/etc/systemd/system/$${unit##*/} || exit 1; \
	done

.PHONY: clean
clean: ## removes bin/
	rm -rf $(BIN)
