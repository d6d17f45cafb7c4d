package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"time"
)

// A place is where a blob's bytes are.
type place struct {
	session    *session
	url        *url.URL // nil: not known
	redirected bool     // it is not where the specification has the blob: the registry has led us there
	astray     bool     // it is another server that has led us there
	known      int      // times that it has been found so far
}

// get makes a request for the blob at s, and returns an answer with status 200
// or 206. A place that answers otherwise is forgotten: the registry may name another.
func (b *remoteBlob) get(ctx context.Context, s *session, header http.Header) (*http.Response, error) {
	for renewals := 0; ; renewals++ {
		resp, at, err := b.ask(ctx, s, header)
		if err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
			if b.stand != nil && isChanged(b.stand, resp.Header) {
				resp.Body.Close()
				return nil, fmt.Errorf("%s has been changed while it was read", b.what)
			}
			return resp, nil
		}
		b.forget(at)
		if err != nil {
			return nil, err
		}
		switch resp.StatusCode {
		case http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
			discard(resp)
			b.setWhole(s)
			return nil, b.noRanges()
		}
		if !at.expired(resp.StatusCode) || renewals == maxRenewals {
			return nil, s.answerError(resp, b.what)
		}
		discard(resp)
	}
}

// expired tells whether an answer with that status may just mean that a
// redirect is too old: 401, 403, 404, 410, and the 400 of some object stores.
func (at place) expired(status int) bool {
	return at.redirected && status/100 == 4 &&
		status != http.StatusTooManyRequests && status != http.StatusRequestTimeout
}

// ask makes a request where the blob is, and returns that place with the answer.
func (b *remoteBlob) ask(ctx context.Context, s *session, header http.Header) (*http.Response, place, error) {
	resp, at, err := b.locate(ctx, s, header)
	if resp != nil || err != nil {
		return resp, at, err
	}
	u := *at.url
	resp, _, err = s.follow(ctx, &u, request{header: header, what: b.what, keepToken: at.redirected, astray: at.astray})
	return resp, at, err
}

// locate returns where at s the blob is. As long as nobody knows, one caller
// asks, with its own request, whose answer is returned as well; the others wait.
func (b *remoteBlob) locate(ctx context.Context, s *session, header http.Header) (*http.Response, place, error) {
	if at := b.where(s); at.url != nil {
		return nil, at, nil
	}
	select {
	case b.asking <- struct{}{}:
		defer func() { <-b.asking }()
	case <-ctx.Done():
		return nil, place{}, connectionError(ctx, b.what, s.name, nil)
	}
	if at := b.where(s); at.url != nil {
		return nil, at, nil
	}
	resp, at, err := s.follow(ctx, s.url("blobs", b.layer.Digest.String()), request{header: header, what: b.what})
	if err != nil {
		return nil, place{}, err
	}
	at.session = s
	if resp.StatusCode/100 == 2 {
		at = b.found(at)
	}
	return resp, at, nil
}

// where returns the place at s; without a URL where it is not known.
func (b *remoteBlob) where(s *session) place {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.place.session != s {
		return place{}
	}
	return b.place
}

func (b *remoteBlob) found(at place) place {
	b.mu.Lock()
	defer b.mu.Unlock()
	at.known = b.place.known + 1
	b.place = at
	return at
}

// forget forgets a place, unless a newer one has been found.
func (b *remoteBlob) forget(at place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.place.known == at.known {
		b.place.url = nil
	}
}

// pick returns whom to ask next: the first who is fit and has not failed of
// late; if all have, the one whose failure is the longest ago.
func (b *remoteBlob) pick() *session {
	s, _ := b.choose()
	return s
}

// choose is pick, and tells whether who is picked has not failed of late.
func (b *remoteBlob) choose() (picked *session, usable bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var oldest time.Time
	for _, s := range b.route {
		if b.unfit[s] {
			continue
		}
		failed, usable := s.failure()
		if usable {
			return s, true
		}
		if picked == nil || failed.Before(oldest) {
			picked, oldest = s, failed
		}
	}
	return picked, false
}

func (b *remoteBlob) isRegistry(s *session) bool { return s == b.route[len(b.route)-1] }

// moveOn tells whether there is somebody else to ask at once after s has
// failed, and remembers why not to ask s again: it is down, or it does not
// serve this blob.
func (b *remoteBlob) moveOn(s *session, err error) bool {
	if len(b.route) == 1 || errors.Is(err, fs.ErrClosed) || errors.Is(err, errors.ErrUnsupported) {
		return false
	}
	var t *transient
	switch {
	case errors.As(err, &t):
		s.fail(err)
		_, usable := b.choose()
		return usable
	case b.isRegistry(s):
		return false
	}
	b.src.f.log.Info("a mirror does not serve a blob", "mirror", s.name, "layer", b.layer.Digest, "error", err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unfit[s] = true
	return true
}

// soften makes an error of s one that may pass, where there is a mirror that
// may do better: there are networks that have nothing but mirrors.
func (b *remoteBlob) soften(s *session, err error) error {
	if !b.isRegistry(s) || !isLasting(err) {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.unfit) == len(b.route)-1 {
		return err
	}
	s.fail(err)
	return &transient{err: err}
}

// doubt is told that what came last was wrong.
func (b *remoteBlob) doubt() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.place.session
	if s == nil || b.isRegistry(s) || b.unfit[s] {
		return false
	}
	b.src.f.log.Warn("a mirror serves wrong bytes, and is not asked for them again", "mirror", s.name, "layer", b.layer.Digest)
	b.unfit[s] = true
	return true
}

// isWhole tells whether s has shown that it serves the blob as a whole only.
func (b *remoteBlob) isWhole(s *session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole[s]
}

// setWhole remembers that s has shown that, and says so the first time.
func (b *remoteBlob) setWhole(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole[s] {
		b.src.f.log.Warn("the server does not serve ranges: the layer is fetched as a whole, once", "layer", b.layer.Digest, "registry", s.name)
	}
	b.whole[s] = true
}
