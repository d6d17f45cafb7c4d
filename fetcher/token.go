package fetcher

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config/types"
)

// maxToken bounds the answer of a token server.
const maxToken = 1 << 20

func basicAuthorization(c types.AuthConfig) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// authorization returns the header that meets one of the challenges that the
// registry at the origin from has made; "" where there is nothing to meet it with.
func (s *session) authorization(ctx context.Context, from origin, cs []challenge, creds types.AuthConfig) (string, error) {
	if len(cs) == 0 {
		return "", nil
	}
	if creds.RegistryToken != "" {
		return "Bearer " + creds.RegistryToken, nil
	}
	if c := cs[0]; c.scheme == "bearer" {
		token, err := s.token(ctx, from, c, creds)
		return "Bearer " + token, err
	}
	if creds.Username == "" && creds.Password == "" {
		return "", nil
	}
	return basicAuthorization(creds), nil
}

// A tokenRequest asks a token server (the distribution project's token
// authentication, and its OAuth2 variant for identity tokens).
type tokenRequest struct {
	url           *url.URL
	authorization string // header
	form          url.Values
}

func newTokenRequest(realm *url.URL, service string, scopes []string, creds types.AuthConfig) tokenRequest {
	if creds.IdentityToken != "" {
		form := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {creds.IdentityToken},
			"client_id": {"imgfs"}, "service": {service}, "scope": {strings.Join(scopes, " ")},
		}
		return tokenRequest{url: realm, form: form}
	}
	u := *realm
	query := u.Query()
	query.Set("service", service)
	if len(scopes) > 0 {
		query["scope"] = scopes
	}
	u.RawQuery = query.Encode()
	r := tokenRequest{url: &u}
	if creds.Username != "" || creds.Password != "" {
		r.authorization = basicAuthorization(creds)
	}
	return r
}

// redirected returns the request that follows a redirect to next. Only one
// that stays at its origin carries what this one did.
func (r tokenRequest) redirected(status int, next *url.URL) tokenRequest {
	to := tokenRequest{url: next}
	if originOf(r.url) == originOf(next) {
		to.authorization = r.authorization
		if keepsMethod(status) {
			to.form = r.form
		}
	}
	return to
}

func (r tokenRequest) http(ctx context.Context) (*http.Request, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if r.form != nil {
		method, body = http.MethodPost, strings.NewReader(r.form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url.String(), body)
	if err != nil {
		return nil, errors.New("its token server is not a URL")
	}
	if r.form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if r.authorization != "" {
		req.Header.Set("Authorization", r.authorization)
	}
	return req, nil
}

// token gets a token from the server that c names. Nothing that it writes gets
// into errors: it has been sent credentials, and it answers with a token.
func (s *session) token(ctx context.Context, from origin, c challenge, creds types.AuthConfig) (string, error) {
	realm, err := url.Parse(c.params["realm"])
	if err != nil {
		return "", s.senseless("its token server is not a URL")
	}
	allowed, err := checkRealm(from, realm)
	if err != nil {
		return "", s.senseless(err.Error())
	}
	if !allowed && creds != (types.AuthConfig{}) {
		if s.isLogin() {
			return "", errorf(ErrUnauthorized, "token server %s of registry %s is sent no credentials: it is on another host, by plain HTTP",
				printable(realm.Host), s.name)
		}
		s.f.log.Warn("a token server is asked without credentials: it is on another host, by plain HTTP", "registry", s.name, "token_server", realm.Host)
		creds = types.AuthConfig{}
	}
	r := newTokenRequest(realm, c.params["service"], s.scopes(c), creds)
	for hops := 0; ; hops++ {
		resp, err := s.askToken(ctx, from, r)
		if err != nil {
			return "", err
		}
		next, err := redirection(r.url, resp)
		if err == nil && next == nil {
			return s.readToken(resp)
		}
		discard(resp)
		if err == nil {
			_, err = checkRealm(from, next)
		}
		if err != nil {
			return "", s.senseless(err.Error())
		}
		if hops == maxRedirects {
			return "", s.senseless(fmt.Sprintf("its token server redirects more than %d times", maxRedirects))
		}
		r = r.redirected(resp.StatusCode, next)
	}
}

func (s *session) askToken(ctx context.Context, from origin, r tokenRequest) (*http.Response, error) {
	req, err := r.http(ctx)
	if err != nil {
		return nil, s.senseless(err.Error())
	}
	rt := s.foreign
	if originOf(r.url) == from {
		rt = s.own
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, connectionError(ctx, s.firstContact(), r.url.Host, err)
	}
	return resp, nil
}

func (s *session) readToken(resp *http.Response) (string, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", s.statusError(resp.StatusCode, "", retryAfter(resp.Header, s.f.now()), s.firstContact())
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return "", connectionError(resp.Request.Context(), s.firstContact(), resp.Request.URL.Host, err)
	}
	if json.Unmarshal(b, &answer) != nil || answer.Token == "" && answer.AccessToken == "" {
		return "", s.senseless("its token server answers without a token")
	}
	if answer.Token == "" {
		return answer.AccessToken, nil
	}
	return answer.Token, nil
}

// scopes returns what a token has to be good for.
func (s *session) scopes(c challenge) []string {
	var all []string
	switch {
	case s.push:
		all = append(all, "repository:"+s.repo+":pull,push")
	case s.repo != "":
		all = append(all, "repository:"+s.repo+":pull")
	}
	if s.from != "" {
		all = append(all, "repository:"+s.from+":pull")
	}
	if more := c.params["scope"]; more != "" && !slices.Contains(all, more) {
		all = append(all, more)
	}
	return all
}

func (s *session) senseless(why string) error {
	return fmt.Errorf("%s: the registry's authentication makes no sense: %s", s.name, why)
}
