package main

import (
	"log/slog"
	"sync"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
)

// A keeper puts a blob into the cache while it streams by. Where the cache fails, the stream goes on without it. It is safe
// for concurrent use: what is made of the blob may be written while more of it is read.
type keeper struct {
	log    *slog.Logger
	digest digest.Digest

	mu   sync.Mutex  // protects the following
	temp *cache.Temp // nil once it failed
}

func (l *layer) newKeeper() *keeper {
	k := &keeper{log: l.session.app.log, digest: l.Digest}
	var err error
	if k.temp, err = l.session.cache.Create(cache.Blobs, l.Digest); err != nil {
		k.dropped(err)
	}
	return k
}

func (k *keeper) dropped(why error) {
	k.log.Warn("a blob is not kept in the cache", "layer", k.digest, "why", why)
}

// giveUp drops the blob, and tells whether there was one.
func (k *keeper) giveUp(why error) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.drop(why)
}

// drop is giveUp for who holds the lock.
func (k *keeper) drop(why error) bool {
	if k.temp == nil {
		return false
	}
	k.dropped(why)
	k.temp.Abort()
	k.temp = nil
	return true
}

func (k *keeper) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.temp != nil {
		if _, err := k.temp.Write(b); err != nil {
			k.drop(err)
		}
	}
	return len(b), nil
}

func (k *keeper) commit() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.temp == nil {
		return
	}
	if err := k.temp.Commit(); err != nil {
		k.drop(err)
	}
}

// abort drops what is not committed.
func (k *keeper) abort() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.temp != nil {
		k.temp.Abort()
	}
}
