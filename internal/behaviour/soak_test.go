package behaviour_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

var soakFor = flag.Duration("soak", 2*time.Second, "how long TestSoak runs")

// TestSoak has callers of every kind use sources of every audience in real time, with tokens of two
// seconds. Meanwhile the token endpoint meets faults, tokens are revoked, secrets and certificates
// are rotated. All the while:
//   - no call fails while a good token exists
//   - no token is sent past its exp, or over a connection of another certificate than its own
//   - no audience is renewed twice at once
//
// In the end every source serves again, and goroutines and memory are back to the beginning.
//
// A long one is run by itself: go test -race -run Soak ./internal/behaviour -soak=5m
func TestSoak(t *testing.T) {
	// The packages underneath keep pools, caches and tables of types. A leak with each token or call
	// would pass it within seconds.
	const maxGrowth = 8 << 20
	resources := func() (goroutines int, heap uint64) {
		runtime.GC()
		runtime.GC() // the first one empties sync.Pools by half
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	goroutines, heap := resources()
	func() {
		srv := mosaictest.NewServer()
		defer srv.Close()
		newSoak(t, srv).run()
	}()
	for range 100 { // goroutines end a moment later
		n, now := resources()
		if n <= goroutines && now <= heap+maxGrowth {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	n, now := resources()
	t.Errorf("%d goroutines and %d KiB of heap at the beginning, %d and %d at the end", goroutines, heap>>10, n, now>>10)
}

const (
	ownResource = "https://api.acme.com"
	certifiedID = "certified"

	// recovery is the longest way back to service: a hanging request, and a pause after a refusal.
	recovery = 50 * time.Second
)

// paths has the path of an API for each audience.
var paths = map[mosaic.Resource]string{
	"":                          "/cis/v1/users",
	mosaic.IdentityVerification: "/verify/api/v1/verification",
	mosaic.FraudPrevention:      "/risk/v1/recommendation",
	mosaic.DataValidation:       "/xdv/v1/validate",
	ownResource:                 "/acme",
}

// A soak is TestSoak at work.
type soak struct {
	t            *testing.T
	srv          *mosaictest.Server
	crowd        int           // of each kind of callers
	pause        time.Duration // of a caller, at most
	faults       []mosaictest.Fault
	end          time.Time
	secret, pair atomic.Pointer[mosaic.Credentials] // in service
	ca           *tls.Certificate
	wg           sync.WaitGroup

	served, failed, rotations atomic.Int64
}

func newSoak(t *testing.T, srv *mosaictest.Server) *soak {
	srv.SetLifetime(2 * time.Second)
	srv.AddResource(ownResource)
	srv.BindTokens(true)
	s := &soak{t: t, srv: srv, crowd: 3, pause: 200 * time.Millisecond, end: time.Now().Add(*soakFor)}
	// A refusal can cost a source 30 seconds, a hanging request ten.
	s.faults = []mosaictest.Fault{unavailable, broken, absent("1")}
	if *soakFor >= time.Minute {
		s.crowd, s.pause = 10, time.Second
		s.faults = append(s.faults, loginPage, garbage, refusing, limiting, hanging)
	}
	s.ca = kit.Certificate(t, "CA", kit.EC(), nil)
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Leaf)
	srv.RegisterCA(certifiedID, roots, "CN=client")
	s.secret.Store(&mosaic.Credentials{ClientSecret: srv.Config().ClientSecret})
	s.pair.Store(s.issue())
	return s
}

func (s *soak) issue() *mosaic.Credentials {
	return &mosaic.Credentials{Certificate: kit.Certificate(s.t, "client", kit.NewEC(s.t), s.ca)}
}

func (s *soak) run() {
	conf := func(id string, creds *atomic.Pointer[mosaic.Credentials], resource mosaic.Resource) *mosaic.Config {
		get := func(context.Context) (mosaic.Credentials, error) { return *creds.Load(), nil }
		return &mosaic.Config{ClientID: id, Endpoint: s.srv.Endpoint(), GetCredentials: get, Resource: resource}
	}
	secretID := s.srv.Config().ClientID
	client := conf(secretID, &s.secret, "").Client(kit.Over(s.t.Context(), s.counting()))
	certified := conf(certifiedID, &s.pair, "").Client(s.srv.Context(s.t.Context()))
	for resource, path := range paths {
		ctx, url := kit.Over(s.t.Context(), s.counting()), s.srv.Endpoint().URL(path)
		src := conf(secretID, &s.secret, resource).TokenSource(ctx)
		w := &witness{s: s, name: "TokenSource for " + path}
		s.callers(w, token(src))
		cache := oauth2.ReuseTokenSourceWithExpiry(nil, src, 500*time.Millisecond)
		s.callers(w, func(*call) error { _, err := cache.Token(); return err }) // no witness: it does not hear of Invalidate
		s.callers(w, hasty(src))
		s.callers(w, s.holder(src, url))
		s.callers(w, api(oauth2.NewClient(ctx, src), url))
		if resource != ownResource { // whose path Client takes for one of the default audience
			s.callers(&witness{s: s, name: "Client with a secret for " + path}, api(client, url))
			s.callers(&witness{s: s, name: "Client with a certificate for " + path}, api(certified, url))
		}
	}
	s.weather()
	s.wg.Wait()
	s.inspect()
	s.t.Logf("%d calls served, %d failed without a token, %d rotations", s.served.Load(), s.failed.Load(), s.rotations.Load())
}

// weather meets the server: rotations, revocations and faults, each of which ends before the next.
// Calm prevails, so that sources have something to lose.
func (s *soak) weather() {
	pause := func(least, most time.Duration) { time.Sleep(min(least+mathrand.N(most-least), time.Until(s.end))) }
	for {
		next := rand.Text()
		s.srv.AddSecret(next) // Mosaic's own procedure: generate, update the services,
		before := s.secret.Swap(&mosaic.Credentials{ClientSecret: next})
		s.pair.Store(s.issue())
		pause(250*time.Millisecond, time.Second)
		s.srv.RevokeSecret(before.ClientSecret) // revoke
		s.rotations.Add(1)
		pause(250*time.Millisecond, 1500*time.Millisecond)
		s.srv.Revoke()
		pause(0, 500*time.Millisecond)
		s.inspect()
		if !time.Now().Before(s.end) {
			return
		}
		if fault := s.faults[mathrand.N(len(s.faults))]; fault.Hang {
			s.srv.FailNext(2, fault)
		} else {
			s.srv.Fail(fault)
		}
		pause(0, 1500*time.Millisecond)
		s.srv.Heal()
	}
}

// inspect looks at the API requests since the last time, and forgets them.
func (s *soak) inspect() {
	requests := s.srv.APIRequests()
	s.srv.ForgetRequests()
	for _, r := range requests {
		claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")})
		if err != nil {
			s.t.Errorf("an API request came without a token: %v", err)
			continue
		}
		// On a busy machine nothing is certain of a later moment than the begin of its call.
		if begun, _ := strconv.ParseInt(r.Header.Get("X-Begun"), 10, 64); claims.ExpiresAt.UnixNano() <= begun {
			s.t.Errorf("a token for %q was sent %s past its exp", claims.Audience, time.Unix(0, begun).Sub(claims.ExpiresAt.Time))
		}
		thumbprint := ""
		if r.Certificate != nil {
			thumbprint = x5t(r.Certificate)
		}
		if cnf := claims.Confirmation; (cnf != nil) != (claims.Subject == certifiedID) || cnf != nil && cnf.CertificateThumbprint != thumbprint {
			s.t.Errorf("a token of %s was sent over a connection of another certificate than its own", claims.Subject)
		}
	}
}

// counting returns a transport that minds the token requests in flight for each audience.
func (s *soak) counting() kit.RoundTripper {
	var mu sync.Mutex
	inflight := map[string]int{}
	return func(req *http.Request) (*http.Response, error) {
		if strings.HasSuffix(req.URL.Path, "/oidc/token") {
			copied := req.Clone(req.Context())
			copied.Body, _ = req.GetBody()
			resource := copied.FormValue("resource")
			count := func(n int) {
				mu.Lock()
				defer mu.Unlock()
				if inflight[resource] += n; inflight[resource] > 1 {
					s.t.Errorf("%d token requests for %q at once", inflight[resource], resource)
				}
			}
			count(1)
			defer count(-1)
		}
		return s.srv.Client().Transport.RoundTrip(req)
	}
}

// callers has a crowd make calls until the end, and then until one succeeds.
func (s *soak) callers(w *witness, do func(c *call) error) {
	for range s.crowd {
		s.wg.Go(func() {
			for {
				c := w.begin()
				err := do(c)
				c.ended(err)
				switch now := time.Now(); {
				case now.After(s.end) && err == nil:
					return
				case now.After(s.end.Add(recovery)):
					s.t.Errorf("%s after the last fault, calls of %s still fail: %v", recovery, w.name, err)
					return
				}
				time.Sleep(mathrand.N(s.pause))
			}
		})
	}
}

// token requests a token a hundred times for every API call of others.
func token(src oauth2.TokenSource) func(*call) error {
	return func(c *call) error {
		for range 100 {
			*c = *c.w.begin()
			tok, err := src.Token()
			if err != nil {
				return err
			}
			c.got(tok.Expiry)
		}
		return nil
	}
}

// hasty has hardly time to wait. It writes into its tokens, as oauth2.ReuseTokenSource does.
func hasty(src *mosaic.TokenSource) func(*call) error {
	return func(c *call) error {
		ctx, cancel := context.WithTimeout(context.Background(), mathrand.N(20*time.Millisecond))
		defer cancel()
		tok, err := src.TokenContext(ctx)
		if err == nil {
			c.got(tok.Expiry)
			tok.AccessToken = ""
		}
		return err
	}
}

// holder calls an API by hand, and drops a token that it refuses.
func (s *soak) holder(src *mosaic.TokenSource, url string) func(*call) error {
	return func(c *call) error {
		tok, err := src.Token()
		if err != nil {
			return err
		}
		c.got(tok.Expiry)
		status, err := c.get(s.srv.Client(), url, tok)
		if status == http.StatusUnauthorized {
			c.w.drop()
			src.Invalidate(tok)
			c.w.drop() // calls in between may have got tok
		}
		return err
	}
}

// api calls an API through client.
func api(client *http.Client, url string) func(*call) error {
	return func(c *call) error { _, err := c.get(client, url, nil); return err }
}

// A witness knows until when a source has a good token, and so whether a call may fail.
type witness struct {
	s    *soak
	name string

	mu    sync.Mutex // guards the following
	end   time.Time  // the latest token's exp; zero: dropped, or none yet
	drops int
}

// A call is a user's, with the state of its witness when it began.
type call struct {
	w          *witness
	begun, end time.Time
	drops      int
}

func (w *witness) begin() *call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &call{w, time.Now(), w.end, w.drops}
}

func (w *witness) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = time.Time{}
	w.drops++
}

// got notes the end of a token that served c.
func (c *call) got(end time.Time) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if !end.After(c.begun) {
		c.w.s.t.Errorf("%s: a token was served %s past its end", c.w.name, c.begun.Sub(end))
	}
	if end.After(c.w.end) && c.drops == c.w.drops {
		c.w.end = end
	}
}

// get calls an API, with tok by hand unless it is nil. The stand-in replies with the token's exp.
func (c *call) get(client *http.Client, url string, tok *oauth2.Token) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	if tok != nil {
		tok.SetAuthHeader(req)
	}
	req.Header.Set("X-Begun", strconv.FormatInt(c.begun.UnixNano(), 10))
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var reply struct{ Exp int64 }
	if err := json.NewDecoder(res.Body).Decode(&reply); err != nil {
		return 0, err
	}
	switch res.StatusCode {
	case http.StatusOK:
		c.got(time.Unix(reply.Exp, 0))
	case http.StatusUnauthorized: // revoked, or ended on its way
	default:
		return 0, fmt.Errorf("the API answered %s", res.Status)
	}
	return res.StatusCode, nil
}

// ended judges c by its error.
func (c *call) ended(err error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	switch {
	case err == nil:
		c.w.s.served.Add(1)
	case errors.Is(err, context.DeadlineExceeded): // the caller's own
	default:
		c.w.s.failed.Add(1)
		if left := time.Until(c.end); left > 0 && c.drops == c.w.drops {
			c.w.s.t.Errorf("%s: a call failed though a token was good for %s more: %v", c.w.name, left, err)
		}
	}
}
