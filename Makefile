# erlmcp: everything is done from here. `make serve` and `make test` need nothing but git, Go and make.
#
#   make serve        build, then run a server on ./data
#   make test         everything that must hold before a change is merged (lint, then all tests)
#   make help         the other targets

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO      ?= go
BIN     := $(CURDIR)/bin
TOOLS   := $(BIN)/tools
MODULE  := github.com/erlmcp/erlmcp
DATA    ?= $(CURDIR)/data
PREFIX  ?= $(or $(shell $(GO) env GOBIN),$(shell $(GO) env GOPATH)/bin)

# A clone without tags is "dev-<commit>", a tree that is not a git clone is "dev".
VERSION := $(shell git describe --tags --dirty 2>/dev/null || { c=$$(git rev-parse --short HEAD 2>/dev/null) && echo dev-$$c; } || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -s -w -X $(MODULE)/internal/version.stamp=$(VERSION) -X $(MODULE)/internal/version.commit=$(COMMIT)

# Pinned: a check that changes under us is not a check.
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0
# A real S3 server: the tests of repositories in buckets run against it, and not against a fake.
VERSITYGW   := github.com/versity/versitygw/cmd/versitygw@v1.8.0
export ERLMCP_TEST_VERSITYGW ?= $(TOOLS)/versitygw

# The race detector needs a C compiler. Without one the tests still run, and say what was left out; in CI that is an error.
HAVE_CC := $(shell command -v $${CC:-gcc} >/dev/null 2>&1 && echo yes)
RACE    := $(if $(HAVE_CC),-race,)

TESTFLAGS ?=
FUZZTIME  ?= 30s
CRASH_STATES ?= 1000000
CORRUPTIONS  ?= 20000
DAMAGES      ?= 1000
MIB          ?= 2048
MIN          ?= 2
FAILOVERS    ?= 100
SOAKFLAGS    ?=
BENCHFLAGS   ?=

.PHONY: backup-faults backup-memory cluster cluster-load failover failures help build serve test lint conformance conversations cluster-conversations fuzz crash corruption soak bench bench-wal install clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r t d; do printf '  make %-14s %s\n' "$$t" "$$d"; done

build: ## build the static binaries into ./bin
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

serve: build ## run a server on ./data (DATA=dir for another place, ARGS=... for more flags)
	@exec $(BIN)/erlmcp serve --data '$(DATA)' $(ARGS)

test: lint $(TOOLS)/versitygw ## lint, then all tests with the race detector, then 10000 crash states without it
ifeq ($(RACE),)
	@echo "NOTE: no C compiler found, so the tests run WITHOUT the race detector (install gcc to have it)." >&2
	@if [ -n "$${CI:-}" ]; then echo "In CI that is not acceptable." >&2; exit 1; fi
endif
	$(GO) test $(RACE) -timeout 15m $(TESTFLAGS) ./...
	@echo "crash enumeration in full, without the race detector (above: a tenth of it, with)"
	$(GO) test -timeout 10m -count=1 -run 'SurvivesEveryCrash|SurvivesEveryFault|SurvivesFaults|Corruption' -v ./fuzz | grep -vE '^=== |^ +--- PASS' | sed -E 's/: map\[.*//'

lint: $(TOOLS)/gofumpt $(TOOLS)/staticcheck $(TOOLS)/govulncheck ## formatting, vet, staticcheck, known vulnerabilities
	@echo "gofumpt"; unformatted=$$(find . \( -path ./bin -o -path ./data -o -name testdata \) -prune -o -name '*.go' -print0 | xargs -0 $(TOOLS)/gofumpt -l); \
	  if [ -n "$$unformatted" ]; then echo "not formatted (run $(TOOLS)/gofumpt -w):"; echo "$$unformatted"; exit 1; fi
	@echo "go vet"; $(GO) vet ./...
	@echo "staticcheck"; $(TOOLS)/staticcheck ./...
	@echo "govulncheck"; $(govulncheck)

# Exit code 0: nothing found; 3: vulnerabilities that the program reaches; anything else: the check did not take place. Then
# the output says why, and a database out of reach (an offline machine) is reported loudly without failing the build.
define govulncheck
code=0; out=$$($(TOOLS)/govulncheck ./... 2>&1) || code=$$?; \
if [ $$code -eq 0 ]; then echo "$$out" | tail -n 1; \
elif [ $$code -ne 3 ] && echo "$$out" | grep -qiE 'vuln\.go\.dev|dial tcp|lookup .*: |no such host|proxyconnect|forbidden|timeout'; then \
  printf '%s\n' "WARNING: govulncheck could not reach the vulnerability database; known vulnerabilities were NOT checked:" "$$(echo "$$out" | tail -n 1)" >&2; \
else echo "$$out"; exit 1; fi
endef

$(TOOLS)/versitygw: Makefile
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install $(VERSITYGW)
	@touch $@

$(TOOLS)/gofumpt $(TOOLS)/staticcheck $(TOOLS)/govulncheck: Makefile
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install $(if $(findstring gofumpt,$@),$(GOFUMPT),$(if $(findstring staticcheck,$@),$(STATICCHECK),$(GOVULNCHECK)))
	@touch $@

conformance: ## the public MCP conformance suite, both protocol generations on one URL (see docs/conformance.md)
	$(GO) test -count=1 -v $(TESTFLAGS) ./mcp/conformance

conversations: ## kill -9 behind every message of long conversations, with the Go and the TypeScript client (about 20 minutes)
	ERLMCP_CONVERSATIONS=all $(GO) test -count=1 -timeout 0 -v $(TESTFLAGS) ./test/conversation

cluster-conversations: ## the same with a cluster: members die, move out of reach, lose each other behind every message (about 40 minutes)
	ERLMCP_CONVERSATIONS=all $(GO) test -count=1 -timeout 0 -v -run 'Talk|Clients|Conversation' $(TESTFLAGS) ./test/cluster

fuzz: ## every fuzz target for FUZZTIME (30s) each
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; \
	  done; \
	done

crash: ## power loss at every disk operation, CRASH_STATES (1000000) of them
	ERLMCP_CRASH_STATES=$(CRASH_STATES) $(GO) test -timeout 0 -run 'Crash|Fault' -v $(TESTFLAGS) ./fuzz

corruption: ## damage at rest, CORRUPTIONS (20000) per kind of file
	ERLMCP_CORRUPTIONS=$(CORRUPTIONS) $(GO) test -timeout 0 -run 'Corruption|Damage' -v $(TESTFLAGS) ./fuzz

backup-faults: ## backups: kill at every change of every operation, DAMAGES (1000) random damages
	ERLMCP_TEST_BACKUP_KILLS=all ERLMCP_TEST_BACKUP_DAMAGES=$(DAMAGES) $(GO) test -count=1 -timeout 0 -run 'Killed|Fenced|RandomDamage|KeyAndNonce|AtOnce|DiskThatFails' -v $(TESTFLAGS) ./backupfmt

backup-memory: ## peak memory of backup, restore, verify ... of a store of MIB (2048)
	ERLMCP_TEST_BACKUP_MIB=$(MIB) $(GO) test -count=1 -timeout 0 -run 'TakeLittleMemory' -v $(TESTFLAGS) ./cmd/erlmcp

soak: ## the real server under load for MIN (2) minutes, kill -9 every few seconds; SOAKFLAGS='-seed N -rate 0'
	$(GO) run ./test/soak -duration $(MIN)m $(SOAKFLAGS)

cluster: build ## three members on the loopback with TLS; prints what to try; Ctrl-C ends them
	@BIN='$(BIN)' ./test/cluster/demo.sh

failover: ## kill -9 the leader FAILOVERS (100) times under load: nothing lost, the gaps
	ERLMCP_TEST_FAILOVERS=$(FAILOVERS) $(GO) test -count=1 -timeout 0 -run 'LeaderIsKilled' -v $(TESTFLAGS) ./test/cluster

cluster-load: ## three members under full load for MIN (2) minutes: fails when there is an election
	cd bench && $(GO) run . elections -minutes $(MIN) $(BENCHFLAGS)

failures: ## split, flapping, lossy and slow networks, full disks, frozen leaders, for minutes each (root and network namespaces)
	ERLMCP_TEST_CLUSTER=long $(GO) test -count=1 -timeout 0 -run 'Fabric|Isolated|BadNetwork|FarAway|DiskFull|SlowDisk|OneWay|Frozen|Rolling' -v $(TESTFLAGS) ./test/cluster

bench: ## all benchmark tables (about 15 minutes; an idle machine, please)
	cd bench && for table in wal engine recovery restart damage; do $(GO) run . $$table $(BENCHFLAGS); done

bench-wal: ## durable appends beside raft-wal, etcd, Pebble and tidwall/wal
	cd bench && $(GO) run . wal $(BENCHFLAGS)

install: build ## copy the binaries to GOBIN (PREFIX=dir for another place)
	@mkdir -p '$(PREFIX)'
	install -m 0755 $(BIN)/erlmcp $(BIN)/tcpsdump '$(PREFIX)/'

clean: ## remove what was built; ./data stays
	rm -rf $(BIN) coverage.out
