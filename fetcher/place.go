package fetcher

import (
	"context"
	"net/http"
	"net/url"
)

// A place is where a blob's bytes are.
type place struct {
	url        *url.URL // nil: not known
	redirected bool     // it is not where the specification has the blob: the registry has led us there
	known      int      // times that it has been found so far
}

// get makes a request for the blob, and returns an answer with status 200 or
// 206. A place that answers otherwise is forgotten: the registry may name another.
func (b *remoteBlob) get(ctx context.Context, header http.Header) (*http.Response, error) {
	for renewals := 0; ; renewals++ {
		resp, at, err := b.ask(ctx, header)
		if err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
			return resp, nil
		}
		b.forget(at)
		if err != nil {
			return nil, err
		}
		switch resp.StatusCode {
		case http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
			discard(resp)
			b.noRange.Store(true)
			return nil, b.noRanges()
		}
		if !at.expired(resp.StatusCode) || renewals == maxRenewals {
			return nil, b.src.session.answerError(resp, b.what)
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
func (b *remoteBlob) ask(ctx context.Context, header http.Header) (*http.Response, place, error) {
	resp, at, err := b.locate(ctx, header)
	if resp != nil || err != nil {
		return resp, at, err
	}
	resp, _, err = b.src.session.follow(ctx, at.url, request{header: header, what: b.what, keepToken: at.redirected})
	return resp, at, err
}

// locate returns where the blob is. As long as nobody knows, one caller asks
// the registry, with its own request, whose answer is returned as well; the
// others wait.
func (b *remoteBlob) locate(ctx context.Context, header http.Header) (*http.Response, place, error) {
	if at := b.where(); at.url != nil {
		return nil, at, nil
	}
	select {
	case b.asking <- struct{}{}:
		defer func() { <-b.asking }()
	case <-ctx.Done():
		return nil, place{}, connectionError(ctx, b.what, b.src.session.host(), nil)
	}
	if at := b.where(); at.url != nil {
		return nil, at, nil
	}
	resp, u, err := b.src.session.follow(ctx, b.url(), request{header: header, what: b.what})
	if err != nil {
		return nil, place{}, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, b.found(u), nil
	}
	return resp, place{url: u, redirected: b.redirected(u)}, nil
}

// url returns where the specification has the blob.
func (b *remoteBlob) url() *url.URL {
	return b.src.session.url("blobs", b.layer.Digest.String())
}

func (b *remoteBlob) redirected(u *url.URL) bool { return u.String() != b.url().String() }

func (b *remoteBlob) where() place {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.place
}

func (b *remoteBlob) found(u *url.URL) place {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.place = place{url: u, redirected: b.redirected(u), known: b.place.known + 1}
	return b.place
}

// forget forgets a place, unless a newer one has been found.
func (b *remoteBlob) forget(at place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.place.known == at.known {
		b.place.url = nil
	}
}
