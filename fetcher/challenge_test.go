package fetcher

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChallengesAreReadAsServersWriteThem(t *testing.T) {
	for _, test := range []struct {
		headers []string
		want    []challenge
	}{
		{nil, nil},
		{[]string{`Basic`}, []challenge{{"basic", map[string]string{}}}},
		{[]string{`BASIC realm="a, b=\"c\""`}, []challenge{{"basic", map[string]string{"realm": `a, b="c"`}}}},
		{[]string{`Bearer realm="https://x/token",service=reg , Scope = "a:b:pull,push"`},
			[]challenge{{"bearer", map[string]string{"realm": "https://x/token", "service": "reg", "scope": "a:b:pull,push"}}}},
		{[]string{`Negotiate, Basic realm=x`, `Digest realm="y", nonce=""`, `Bearer realm="z"`},
			[]challenge{{"basic", map[string]string{"realm": "x"}}, {"bearer", map[string]string{"realm": "z"}}}},
		{[]string{`Negotiate YWJj==, Bearer realm="z"`}, []challenge{{"bearer", map[string]string{"realm": "z"}}}},
		{[]string{`,, ;"="Bearer realm="z`, `=`, `"`, `Bearer realm="z\`},
			[]challenge{{"bearer", map[string]string{"realm": "z"}}, {"bearer", map[string]string{"realm": "z"}}}},
	} {
		got := challenges(http.Header{"Www-Authenticate": test.headers})
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(challenge{})); diff != "" {
			t.Errorf("%q:\n%s", test.headers, diff)
		}
	}
}

// FuzzChallenges: whatever a server writes, what is read of it reads the same again.
func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://x/token",service="reg"`)
	f.Add(`Negotiate YWJj==, Basic realm=x`)
	f.Add(`"\`)
	f.Fuzz(func(t *testing.T, header string) {
		for _, c := range parseChallenges(header) {
			again := c.scheme
			for key, value := range c.params {
				if again != c.scheme {
					again += ","
				}
				again += fmt.Sprintf(` %s=%s`, key, quote(value))
			}
			got := parseChallenges(again)
			if diff := cmp.Diff([]challenge{c}, got, cmp.AllowUnexported(challenge{})); diff != "" {
				t.Errorf("%q, of %q:\n%s", again, header, diff)
			}
		}
	})
}

// quote writes a quoted string of RFC 9110, section 5.6.4.
func quote(s string) string {
	out := `"`
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			out += `\`
		}
		out += string(s[i : i+1])
	}
	return out + `"`
}

func TestARegistryMayHaveAnOpenFrontDoor(t *testing.T) {
	w := newWorld(t)
	for _, basic := range []bool{false, true} {
		c := newCanary(w, "https://reg.example:443")
		c.basic, c.realm = basic, "https://auth.example/token"
		c.odd = func(_ http.ResponseWriter, req *http.Request, _ string) bool { return req.URL.Path == "/v2/" }
		if err := c.pull(t, "reg.example", "a password", Options{}); err != nil {
			t.Errorf("basic %v: %v", basic, err)
		}
	}
}

func TestATokenIsAskedForWithTheScopeThatARefusalNames(t *testing.T) {
	const reg, scope = "https://reg.example:443", "repository:mapped/a:pull"
	c := newCanary(newWorld(t), reg)
	c.realm = "https://auth.example/token"
	c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
		switch {
		case strings.HasSuffix(req.URL.Path, "/token"):
			if !slices.Contains(req.URL.Query()["scope"], scope) {
				fmt.Fprint(rw, `{"token":"too-narrow"}`)
				return true
			}
		case origin == reg && req.URL.Path != "/v2/" && !c.known(req):
			rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,scope=%q,error="insufficient_scope"`, c.realm, scope))
			rw.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}
	if err := c.pull(t, "reg.example", "a password", Options{}); err != nil {
		t.Error(err)
	}
}
