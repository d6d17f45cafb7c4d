# make test is what CI runs; see CONTRIBUTING.md.

# The version that the program tells: a tag, or the commit.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO ?= go
FUZZTIME ?= 10s

.PHONY: build test check unit prepare demo bench fuzz clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/imgfs ./cmd/imgfs

test: prepare check unit

# What the end-to-end tests need of this machine.
prepare:
	e2e/prepare.sh

check:
	@unformatted="$$(gofmt -l .)"; test -z "$$unformatted" || { echo "gofmt -l: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# Not from go's cache of test results: it does not see that e2e tests a program
# which is built of all the other packages. The first run makes the images of
# e2e, which takes some minutes.
unit:
	$(GO) test -race -count=1 -timeout 20m ./...

demo: build
	$(GO) run ./e2e/demo bin/imgfs

# Some twenty minutes, on a machine that does nothing else; the first run makes the
# corpus before. docs/performance.md says what it measures. Needs root. The shell
# is one that sees a failure in front of tee.
bench: SHELL = /bin/bash
bench: .SHELLFLAGS = -o pipefail -c
bench:
	e2e/prepare.sh bench
	mkdir -p bin
	{ $(GO) test -run '^$$' -bench Inflate -cpu 1 -benchtime 5x ./index/inflate && \
	$(GO) test -run '^$$' -bench 'Build|Size|Sequential' -benchtime 3x -timeout 20m ./index && \
	$(GO) test -run '^$$' -bench 'Entries|Random' ./index && \
	$(GO) test -run '^$$' -bench . -benchmem ./layers ./cache ./fetcher ./fs && \
	$(GO) test -run '^$$' -bench 'Tree|Read|Mount' -benchtime 3x -timeout 20m ./e2e && \
	$(GO) test -run '^$$' -bench 'Memory|FirstLook|IndexSize' -benchtime 1x -timeout 20m ./e2e; } 2>&1 | tee bin/bench.txt
	@echo; echo "ratios: mean, least and most (all of it is in bin/bench.txt):"
	@$(GO) run ./internal/measure/ratios <bin/bench.txt

# Every fuzz target for a while. go test takes one target at a time. It may spend
# a minute on making one input smaller, and try nothing else meanwhile, if let.
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 50x $$package || exit 1; \
		done; \
	done

clean:
	rm -rf bin
