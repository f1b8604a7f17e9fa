package behaviour_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

var soakFor = flag.Duration("soak", 0, "how long TestSoak runs; 0: it is skipped")

// TestSoak is run by itself: go test -run Soak ./internal/behaviour -soak=5m
// (in this order: go test takes what follows a flag that it does not know for
// the test's own).
func TestSoak(t *testing.T) {
	if *soakFor <= 0 {
		t.Skip("no -soak is given")
	}
	// A second's pause: the server keeps what arrives, some kilobytes a call.
	hammer(t, *soakFor, 10, time.Second, []mosaictest.Fault{unavailable, broken, loginPage, garbage, refusing, limiting, impatient, hanging})
}

// TestHammeredThroughRenewals is a short soak for each run of the tests, and for
// -race.
func TestHammeredThroughRenewals(t *testing.T) {
	hammer(t, 4*time.Second, 3, 200*time.Millisecond, []mosaictest.Fault{unavailable, broken, loginPage})
}

// impatient asks for a pause, as a rate limit that is about to end.
var impatient = mosaictest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}

// hammer has callers of every kind use sources of every audience in real time,
// with tokens of two seconds, while the token endpoint meets faults now and then
// and tokens are revoked. What holds all the while:
//
//   - no call fails while a good token exists,
//   - no token leaves past its exp,
//   - no audience is renewed twice at once,
//
// and when all is over, every source serves again, and goroutines and memory are
// back to where they began.
func hammer(t *testing.T, d time.Duration, crowd int, pause time.Duration, faults []mosaictest.Fault) {
	before := resources()
	func() {
		srv := mosaictest.NewServer()
		defer srv.Close()
		srv.SetLifetime(2 * time.Second)
		srv.AddResource(ownResource)
		l := &load{t: t, srv: srv, crowd: crowd, pause: pause, end: time.Now().Add(d)}
		l.run(faults)
	}()

	var after usage
	for range 100 { // what ends does so a moment later
		if after = resources(); after.goroutines <= before.goroutines && after.heap <= before.heap+maxGrowth {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%d goroutines and %d KiB of heap at the beginning, %d and %d at the end",
		before.goroutines, before.heap>>10, after.goroutines, after.heap>>10)
}

// maxGrowth is what the packages underneath may keep for good: pools, caches,
// tables of types. A source that leaked with each token or call would pass it
// within seconds.
const maxGrowth = 8 << 20

type usage struct {
	goroutines int
	heap       uint64
}

func resources() usage {
	runtime.GC()
	runtime.GC() // what sync.Pools held is gone after the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{runtime.NumGoroutine(), m.HeapAlloc}
}

// paths has the path of an API for each audience that the server knows.
var paths = map[mosaic.Resource]string{
	"":                          "/cis/v1/users",
	mosaic.IdentityVerification: "/verify/api/v1/verification",
	mosaic.FraudPrevention:      "/risk/v1/recommendation",
	mosaic.DataValidation:       "/xdv/v1/validate",
	ownResource:                 "/acme",
}

const ownResource = "https://api.acme.com"

// A load is hammer at work.
type load struct {
	t     *testing.T
	srv   *mosaictest.Server
	crowd int           // of each kind of callers
	pause time.Duration // of a caller, at most
	end   time.Time
	wg    sync.WaitGroup
}

func (l *load) run(faults []mosaictest.Fault) {
	shared := l.wire() // of one Client for all of Mosaic
	client := l.srv.Config().Client(over(shared))
	var witnesses []*witness
	for resource, path := range paths {
		own := l.wire()
		conf, ctx, url := l.srv.Config(), over(own), l.srv.Endpoint().URL(path)
		conf.Resource = resource
		src := conf.TokenSource(ctx)

		w := own.witnesses[resource]
		l.callers(w, token(src))
		l.callers(w, token(oauth2.ReuseTokenSourceWithExpiry(nil, src, 500*time.Millisecond)))
		l.callers(w, hasty(src))
		l.callers(w, holder(l.srv, src, url))
		l.callers(w, api(oauth2.NewClient(ctx, src), url))
		l.callers(w, api(oauth2.NewClient(ctx, src), url))
		witnesses = append(witnesses, w)
		if resource != ownResource { // whose path is to Client one of the default audience
			l.callers(shared.witnesses[resource], api(client, url))
			witnesses = append(witnesses, shared.witnesses[resource])
		}
	}
	l.weather(faults)
	l.wg.Wait()
	for _, w := range witnesses {
		w.report()
	}
}

// weather is what befalls the server: faults, each of which ends before the
// next, and revocations. Calm prevails: sources are to have something to lose.
func (l *load) weather(faults []mosaictest.Fault) {
	pause := func(least, most time.Duration) {
		time.Sleep(min(least+rand.N(most-least), time.Until(l.end)))
	}
	for {
		pause(500*time.Millisecond, 2500*time.Millisecond)
		l.srv.Revoke()
		pause(0, 500*time.Millisecond)
		if !time.Now().Before(l.end) {
			return
		}
		if fault := faults[rand.N(len(faults))]; fault.Hang {
			l.srv.FailNext(2, fault) // each of which costs a source ten seconds
		} else {
			l.srv.Fail(fault)
		}
		pause(0, 1500*time.Millisecond)
		l.srv.Heal()
	}
}

// recovery is what a source may take to serve again: a request that hangs, and
// the longest pause after a refusal.
const recovery = 50 * time.Second

// callers has a crowd make calls until the end, and then until one succeeds.
func (l *load) callers(w *witness, call func(c *call) error) {
	for range l.crowd {
		l.wg.Go(func() {
			for {
				c := w.begin()
				err := call(c)
				c.ended(err)
				now := time.Now()
				switch {
				case now.After(l.end) && err == nil:
					return
				case now.After(l.end.Add(recovery)):
					l.t.Errorf("%s after the last fault, calls for %q still fail: %v", recovery, w.resource, err)
					return
				}
				time.Sleep(rand.N(l.pause))
			}
		})
	}
}

// token asks for a token, a hundred times for every API call that others make.
func token(src oauth2.TokenSource) func(*call) error {
	return func(c *call) error {
		var err error
		for range 100 {
			c.begun = time.Now()
			var tok *oauth2.Token
			if tok, err = src.Token(); err != nil {
				return err
			}
			c.got(tok.AccessToken, tok.Expiry)
		}
		return nil
	}
}

// hasty has hardly time to wait. It writes into its tokens, as
// oauth2.ReuseTokenSource does: they are its own.
func hasty(src *mosaic.TokenSource) func(*call) error {
	return func(c *call) error {
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(20*time.Millisecond))
		defer cancel()
		tok, err := src.TokenContext(ctx)
		if err == nil {
			c.got(tok.AccessToken, tok.Expiry)
			tok.AccessToken = ""
		}
		return err
	}
}

// holder calls an API by hand, and drops a token that it refuses.
func holder(srv *mosaictest.Server, src *mosaic.TokenSource, url string) func(*call) error {
	return func(c *call) error {
		tok, err := src.Token()
		if err != nil {
			return err
		}
		c.got(tok.AccessToken, tok.Expiry)
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		tok.SetAuthHeader(req)
		status, err := do(srv.Client(), req)
		if status == http.StatusUnauthorized {
			c.w.drop(tok.AccessToken)
			src.Invalidate(tok)
		}
		return err
	}
}

// api calls an API through client; the wire underneath sees the token.
func api(client *http.Client, url string) func(*call) error {
	return func(c *call) error {
		req, err := http.NewRequestWithContext(context.WithValue(context.Background(), callKey{}, c), http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		_, err = do(client, req)
		return err
	}
}

func do(client *http.Client, req *http.Request) (status int, err error) {
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusUnauthorized { // revoked, or ended on its way
		return 0, fmt.Errorf("the API answered %s", res.Status)
	}
	return res.StatusCode, nil
}

// A wire is the transport below one Client, or below one TokenSource and the
// clients made of it.
type wire struct {
	l         *load
	witnesses map[mosaic.Resource]*witness
}

func (l *load) wire() *wire {
	w := &wire{l, make(map[mosaic.Resource]*witness)}
	for resource := range paths {
		w.witnesses[resource] = &witness{t: l.t, resource: resource, dropped: make(map[string]bool)}
	}
	return w
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	base := w.l.srv.Client().Transport
	if c, ok := req.Context().Value(callKey{}).(*call); ok && req.URL.Path != "/oidc/token" {
		tok := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		if claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: tok}); err != nil {
			w.l.t.Errorf("an API call left without a token: %v", err)
		} else {
			c.got(tok, claims.ExpiresAt.Time)
		}
		return base.RoundTrip(req)
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	form, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return nil, err
	}
	witness := w.witnesses[mosaic.Resource(values.Get("resource"))]
	witness.renewing(1)
	defer witness.renewing(-1)
	return base.RoundTrip(req)
}

// A witness knows what one source has handed out, and so whether a call may
// fail.
type witness struct {
	t        *testing.T
	resource mosaic.Resource

	mu             sync.Mutex // guards what follows
	token          string     // the one that was handed out last; "" if it was dropped
	end            time.Time  // its exp
	dropped        map[string]bool
	renewals       int // under way
	served, failed int // calls
}

type callKey struct{}

// A call is one that a user makes of a source, directly or through a client.
type call struct {
	w     *witness
	begun time.Time
	token string // that existed when the call began, or ""
	end   time.Time
}

func (w *witness) begin() *call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &call{w, time.Now(), w.token, w.end}
}

// got takes note of a token that left for c's sake.
func (c *call) got(token string, end time.Time) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if !end.After(c.begun) { // that is the latest moment which is certain on a busy machine
		c.w.t.Errorf("a token for %q left %s after its end", c.w.resource, c.begun.Sub(end))
	}
	if end.After(c.w.end) && !c.w.dropped[token] {
		c.w.token, c.w.end = token, end
	}
}

// ended judges a call by its error.
func (c *call) ended(err error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	switch {
	case err == nil:
		c.w.served++
	case errors.Is(err, context.DeadlineExceeded): // the caller's own
	default:
		c.w.failed++
		if left := time.Until(c.end); c.token != "" && left > 0 && !c.w.dropped[c.token] {
			c.w.t.Errorf("a call for %q failed though a token was good for %s more: %v", c.w.resource, left, err)
		}
	}
}

// drop comes before a token is invalidated.
func (w *witness) drop(token string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped[token] = true
	if w.token == token {
		w.token = ""
	}
}

func (w *witness) renewing(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.renewals += n; w.renewals > 1 {
		w.t.Errorf("%d token requests for %q at once", w.renewals, w.resource)
	}
}

func (w *witness) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("%q: %d calls served, %d failed while there was no token", w.resource, w.served, w.failed)
}
