package fetcher

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Bounds of a list of tags.
const (
	maxTags    = 1 << 20
	maxTagPage = 16 << 20 // bytes
	tagsAtOnce = 1000
)

// Tags returns the tags of a repository, in the order of its registry, which is
// asked itself, and not its mirrors. Of ref only the repository counts. Errors
// wrap ErrReference where ref is no repository of a registry, and what
// Resolve's do.
func (f *Fetcher) Tags(ctx context.Context, ref Reference) ([]string, error) {
	if ref.transport != "docker" {
		return nil, errorf(ErrReference, "%s is not in a registry: it has no list of tags", ref.Name())
	}
	if f.opts.Offline {
		return nil, errorf(ErrOffline, "tags of %s: offline they cannot be listed", ref.repository)
	}
	r, err := f.route(ref)
	if err != nil {
		return nil, err
	}
	s := r[len(r)-1]
	what := "tags of " + ref.repository
	var all []string
	u := s.endpoint.url("", "/"+s.repo+"/tags/list")
	query := u.Query()
	query.Set("n", fmt.Sprint(tagsAtOnce))
	u.RawQuery = query.Encode()
	for seen := map[string]bool{}; u != nil; {
		if seen[u.String()] {
			return nil, errorf(ErrMalformed, "%s: the list leads back to a part of it", what)
		}
		seen[u.String()] = true
		page, next, err := s.tagPage(ctx, f.command(what), u)
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); len(all) > maxTags || len(page) == 0 && next != nil {
			return nil, errorf(ErrMalformed, "%s: more than %d, or parts of the list without any", what, maxTags)
		}
		u = next
	}
	return all, nil
}

// tagPage fetches a part of a list, and where the next one is; nil after the last.
func (s *session) tagPage(ctx context.Context, retry *retrier, u *url.URL) ([]string, *url.URL, error) {
	for {
		at := *u
		b, header, err := s.documentOnce(ctx, retry, &at, request{what: retry.what}, maxTagPage)
		if err == nil {
			return parseTagPage(retry.what, b, header, &at)
		}
		if err := retry.again(ctx, err); err != nil {
			return nil, nil, err
		}
	}
}

func parseTagPage(what string, b []byte, header http.Header, at *url.URL) ([]string, *url.URL, error) {
	var page struct{ Tags []string }
	if err := json.Unmarshal(b, &page); err != nil {
		return nil, nil, errorf(ErrMalformed, "%s: the list is not JSON", what)
	}
	for _, tag := range page.Tags {
		if !tagPattern.MatchString(tag) {
			return nil, nil, errorf(ErrMalformed, "%s: %q is not a tag", what, printable(tag))
		}
	}
	link := nextLink(header)
	if link == "" {
		return page.Tags, nil, nil
	}
	next, err := at.Parse(link)
	if err != nil || originOf(next) != originOf(at) || next.User != nil {
		return nil, nil, errorf(ErrMalformed, "%s: the list goes on at another server, or nowhere", what)
	}
	return page.Tags, next, nil
}

// nextLink returns the target of the header Link with the relation next (RFC
// 8288); "" if there is none.
func nextLink(h http.Header) string {
	for _, line := range h.Values("Link") {
		for {
			var target, params string
			var ok bool
			if _, line, ok = strings.Cut(line, "<"); !ok {
				break
			}
			if target, line, ok = strings.Cut(line, ">"); !ok {
				break
			}
			params, line, _ = strings.Cut(line, ",")
			if isNext(params) {
				return target
			}
		}
	}
	return ""
}

// isNext tells whether the parameters of a link have the relation next.
func isNext(params string) bool {
	for _, p := range strings.Split(params, ";") {
		key, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(key), "rel") && strings.EqualFold(strings.Trim(value, `" `), "next") {
			return true
		}
	}
	return false
}
