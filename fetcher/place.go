package fetcher

import (
	"context"
	"net/http"
	"net/url"
)

// A place is where a blob's bytes are.
type place struct {
	url   *url.URL // nil: not known
	known int      // times that it has been found so far
}

// get makes a request for the blob, and returns an answer with status 200 or
// 206. A place that no longer serves the blob is looked for again.
func (b *remoteBlob) get(ctx context.Context, header http.Header) (*http.Response, error) {
	s := b.src.session
	for renewals := 0; ; renewals++ {
		resp, at, err := b.ask(ctx, header)
		if err != nil {
			b.forget(at) // another place may answer
			return nil, err
		}
		switch resp.StatusCode {
		case http.StatusOK, http.StatusPartialContent:
			return resp, nil
		case http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
			discard(resp)
			b.noRange.Store(true)
			return nil, b.noRanges()
		}
		if !at.expired(resp.StatusCode, s.host()) || renewals == maxRenewals {
			return nil, s.answerError(resp, b.what)
		}
		discard(resp)
		b.forget(at)
	}
}

// expired tells whether an answer with that status may just mean that a redirect is too old.
func (at place) expired(status int, registry string) bool {
	return at.url.Host != registry && status/100 == 4 &&
		status != http.StatusTooManyRequests && status != http.StatusRequestTimeout
}

// ask makes a request where the blob is, and returns that place with the answer.
func (b *remoteBlob) ask(ctx context.Context, header http.Header) (*http.Response, place, error) {
	resp, at, err := b.locate(ctx, header)
	if resp != nil || err != nil {
		return resp, at, err
	}
	resp, _, err = b.src.session.follow(ctx, at.url, header)
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
		return nil, place{}, context.Cause(ctx)
	}
	if at := b.where(); at.url != nil {
		return nil, at, nil
	}
	s := b.src.session
	resp, u, err := s.follow(ctx, s.url("blobs", b.layer.Digest.String()), header)
	if err != nil {
		return nil, place{}, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, b.found(u), nil
	}
	return resp, place{url: u}, nil
}

func (b *remoteBlob) where() place {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.place
}

func (b *remoteBlob) found(u *url.URL) place {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.place = place{url: u, known: b.place.known + 1}
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
