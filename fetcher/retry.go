package fetcher

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A transient error is one that another attempt may not meet.
type transient struct {
	err   error
	after time.Duration // the server asked for this pause
}

func (e *transient) Error() string { return e.err.Error() }
func (e *transient) Unwrap() error { return e.err }

// slowest is the rate, in bytes a second, that a server has to keep up. It is
// low enough for many downloads side by side over a slow line.
const slowest = 16 << 10

// refusedPatience is how long a server that refuses connections is waited for where somebody waits at a command line: it may
// be starting, or else the port is wrong.
const refusedPatience = 3 * time.Second

// A retrier decides how long a server is waited for, over all attempts at one
// thing. It begins with a patience of Fetcher.timeout. Waiting and pauses spend
// it; bytes that arrive earn it back at the rate slowest, up to what it was at
// first. So silence costs no more than that, however much was asked for, and
// neither does a trickle that never ends.
type retrier struct {
	f       *Fetcher
	what    string
	started time.Time
	left    time.Duration
	failed  int // attempts without progress
	total   int
	once    bool // one attempt is enough: there is somebody else to ask
	hasty   bool // a server that refuses connections gets refusedPatience
}

func (f *Fetcher) retrier(what string) *retrier {
	return &retrier{f: f, what: what, started: f.now(), left: f.timeout}
}

// command is retrier for what a command begins with: later, readers of a mount have more patience.
func (f *Fetcher) command(what string) *retrier {
	r := f.retrier(what)
	r.hasty = true
	return r
}

func (r *retrier) spend(d time.Duration) { r.left -= d }

// earn tells r that n bytes have arrived.
func (r *retrier) earn(n int) {
	if n > 0 {
		r.failed = 0
		r.left = min(r.f.timeout, r.left+time.Duration(n)*time.Second/slowest)
	}
}

// again returns nil after a pause when another attempt is to be made after
// err, and the error to end with otherwise.
func (r *retrier) again(ctx context.Context, err error) error {
	r.total++
	var t *transient
	if !errors.As(err, &t) || r.once {
		return err
	}
	if r.hasty && errors.Is(err, syscall.ECONNREFUSED) {
		r.left = min(r.left, refusedPatience)
	}
	pause := max(backoff(r.failed), t.after)
	r.failed++
	if t.after > r.left {
		return fmt.Errorf("%w (it asks for a pause of %v)", err, t.after)
	}
	if pause > r.left {
		return fmt.Errorf("%w (after %d attempts in %v)", err, r.total, r.f.now().Sub(r.started).Round(time.Second))
	}
	r.spend(pause)
	if r.total == 1 {
		r.f.log.Warn("a request failed, and is tried again", "what", r.what, "error", err)
	}
	if r.f.sleep(ctx, pause) != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	r.f.traffic.retries.Add(1)
	return nil
}

// backoff returns a pause of 0.1 s that doubles with each failure up to 5 s, and
// varies by half, so that readers who failed together do not come back together.
func backoff(failed int) time.Duration {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	pause := most
	if failed < 6 {
		pause = min(most, first<<failed)
	}
	return pause/2 + rand.N(pause)
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// connectionError sorts the errors of a round trip for what: names that do not
// exist, certificates, and refused plain HTTP stay as they are, the rest may
// pass. Where ctx is done, its cause counts, not err.
func connectionError(ctx context.Context, what, host string, err error) error {
	var t *transient
	if errors.As(err, &t) {
		return err // sorted already
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		if err != errStalled {
			return err
		}
	}
	out := &sentence{kind: err, text: fmt.Sprintf("%s: %s: %s", what, host, connectionText(err))}
	if isLasting(err) {
		return out
	}
	return &transient{err: out}
}

// connectionText returns what an error of a round trip says, in a line. What
// is not known to come from this side of the connection may quote the server,
// which has been sent credentials: quotations, and what follows them, are left out.
func connectionText(err error) string {
	var (
		dns    *net.DNSError
		cert   *tls.CertificateVerificationError
		op     *net.OpError
		record tls.RecordHeaderError
	)
	text := printable(err.Error())
	if errors.As(err, &dns) || errors.As(err, &cert) || errors.As(err, &op) || errors.As(err, &record) {
		return text
	}
	if before, _, quotes := strings.Cut(text, `"`); quotes {
		return strings.TrimSpace(before) + " …"
	}
	if strings.HasPrefix(text, "malformed ") {
		before, _, _ := strings.Cut(text, ":")
		return before
	}
	return text
}

// isLasting tells whether an error of a round trip would be the same next time.
func isLasting(err error) bool {
	var (
		dns  *net.DNSError
		cert *tls.CertificateVerificationError
		op   *net.OpError
	)
	return errors.As(err, &dns) && dns.IsNotFound ||
		errors.As(err, &cert) || errors.Is(err, errPlainHTTP) ||
		errors.As(err, &op) && op.Op == "remote error" // a TLS alert
}
