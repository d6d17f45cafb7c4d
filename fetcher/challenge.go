package fetcher

import (
	"net/http"
	"strings"
)

// A challenge is what a server wants to see (RFC 9110, section 11.3). Its
// scheme and the names of its parameters are in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

// challenges returns the challenges of an answer that we know how to meet, in
// the order of the header.
func challenges(h http.Header) []challenge {
	var known []challenge
	for _, line := range h.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(line) {
			if c.scheme == "bearer" || c.scheme == "basic" {
				known = append(known, c)
			}
		}
	}
	return known
}

// parseChallenges reads one header. What makes no sense is left out.
func parseChallenges(s string) []challenge {
	var all []challenge
	for {
		s = strings.TrimLeft(s, ", \t")
		if s == "" {
			return all
		}
		var word string
		if word, s = cutToken(s); word == "" {
			s = s[1:]
			continue
		}
		word = strings.ToLower(word)
		value, ok := strings.CutPrefix(strings.TrimLeft(s, " \t"), "=")
		if !ok {
			all = append(all, challenge{word, map[string]string{}})
			continue
		}
		var text string
		text, s = cutValue(strings.TrimLeft(value, " \t"))
		if len(all) > 0 {
			all[len(all)-1].params[word] = text
		}
	}
}

// cutToken cuts a token (RFC 9110, section 5.6.2) off the beginning of s.
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// cutValue cuts a token or a quoted string off the beginning of s.
func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		return cutToken(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i == len(s) {
				return b.String(), ""
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}
