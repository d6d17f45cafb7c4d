# make test is what CI runs; see CONTRIBUTING.md.

# The version that the program tells: a tag, or the commit.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO ?= go
FUZZTIME ?= 10s

# Where make install puts things, below DESTDIR: the program and what belongs to it, and the links by which mount(8) knows it,
# which looks for them in /sbin and nowhere else.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
SHAREDIR ?= $(PREFIX)/share
UNITDIR ?= $(PREFIX)/lib/systemd/system
MOUNTDIR ?= /sbin

.PHONY: all build share install uninstall test check unit prepare demo bench fuzz clean

all: build share

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/imgfs ./cmd/imgfs

# The manual pages and completions. The program writes them, so it is built for this machine, whatever it is built for
# otherwise. They are of the time of the commit, so that they are the same in every build.
share: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)
share:
	rm -rf bin/share
	GOOS= GOARCH= CGO_ENABLED=0 $(GO) run -ldflags '-X main.version=$(VERSION)' ./cmd/imgfs share bin/share

# What make has built. It does not build: that would be as root, as a rule.
install:
	@test -x bin/imgfs -a -d bin/share || { echo "make install: run make first" >&2; exit 1; }
	install -D -m 755 bin/imgfs '$(DESTDIR)$(BINDIR)/imgfs'
	@for f in $$(cd bin/share && find * -type f); do install -D -v -m 644 "bin/share/$$f" "$(DESTDIR)$(SHAREDIR)/$$f" || exit 1; done
	sed 's|/usr/local/bin|$(BINDIR)|' 'docs/imgfs@.service' | install -D -m 644 /dev/stdin '$(DESTDIR)$(UNITDIR)/imgfs@.service'
	install -d '$(DESTDIR)$(MOUNTDIR)'
	ln -sf '$(BINDIR)/imgfs' '$(DESTDIR)$(MOUNTDIR)/mount.imgfs'
	ln -sf '$(BINDIR)/imgfs' '$(DESTDIR)$(MOUNTDIR)/mount.fuse.imgfs'

uninstall:
	rm -f '$(DESTDIR)$(BINDIR)/imgfs' '$(DESTDIR)$(UNITDIR)/imgfs@.service' \
		'$(DESTDIR)$(MOUNTDIR)/mount.imgfs' '$(DESTDIR)$(MOUNTDIR)/mount.fuse.imgfs' \
		'$(DESTDIR)$(SHAREDIR)/man/man1/'imgfs.1 '$(DESTDIR)$(SHAREDIR)/man/man1/'imgfs-*.1 \
		'$(DESTDIR)$(SHAREDIR)/man/man8/mount.imgfs.8' \
		'$(DESTDIR)$(SHAREDIR)/bash-completion/completions/imgfs' \
		'$(DESTDIR)$(SHAREDIR)/zsh/site-functions/_imgfs' \
		'$(DESTDIR)$(SHAREDIR)/fish/vendor_completions.d/imgfs.fish'

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
	$(GO) test -race -count=1 -timeout 45m ./...

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
