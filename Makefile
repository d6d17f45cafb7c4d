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

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# Every fuzz target for a while. go test takes one target at a time.
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

clean:
	rm -rf bin
