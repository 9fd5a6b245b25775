# Every target is a thin name for a command that can be run alone; README.md and docs/TESTING.md explain them.

# Time per fuzz target, and how many run side by side.
FUZZTIME ?= 5m
FUZZJOBS ?= 2
# How often `make torture` repeats the loss of the Primary.
REPEAT ?= 20

# How often the Primary changes in `make failovers`.
FAILOVERS ?= 500

# How much `make model` checks: short, ci or full.
MODEL ?= ci

# How long `make soak` plays simulated histories.
HOURS ?= 8

.PHONY: build test lint fuzz bench demo torture failovers soak model ci

build:
	go build -o bin/duet ./cmd/duet

test:
	go test -race -timeout 20m ./...

lint:
	.ci/run lint

fuzz:
	scripts/fuzz -t $(FUZZTIME) -n $(FUZZJOBS)

bench:
	go run ./scripts/bench

demo:
	go run ./cmd/duet demo

torture:
	DUET_TEST_REPEAT=$(REPEAT) go test -count=1 -timeout 60m -v -run 'TestPrimaryKilled' ./tests

failovers:
	DUET_FAILOVERS=$(FAILOVERS) go test -count=1 -timeout 12h -v -run '^TestFaults$$' ./tests/failover

soak:
	scripts/soak -t $(HOURS)

model:
	quorum/model/check $(MODEL)

ci:
	.ci/run
