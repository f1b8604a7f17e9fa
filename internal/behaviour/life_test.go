// Package behaviour_test drives package mosaic through its public API, against
// mosaictest: what users are promised of a token's life.
package behaviour_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// What befalls a token endpoint.
var (
	unavailable = mosaictest.Fault{Status: http.StatusServiceUnavailable}
	broken      = mosaictest.Fault{}
	hanging     = mosaictest.Fault{Hang: true}
	loginPage   = mosaictest.Fault{Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>Sign in</html>"}
	garbage     = mosaictest.Fault{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: "\x00{]"}
	refusing    = mosaictest.Fault{Status: http.StatusUnauthorized, Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"error":"invalid_client"}`}
	limiting    = mosaictest.Fault{Status: http.StatusTooManyRequests}
	absentADay  = mosaictest.Fault{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"86400"}}}
)

// bubble runs f on a clock of its own, with a Mosaic that answers in no time.
func bubble(t *testing.T, f func(t *testing.T, srv *mosaictest.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := mosaictest.NewInMemory()
		defer srv.Close()
		f(t, srv)
	})
}

// every calls f, and again after each pause, until so much time has passed.
func every(pause, total time.Duration, f func()) {
	for end := time.Now().Add(total); time.Now().Before(end); time.Sleep(pause) {
		f()
	}
}

// promptly returns src's token, and ends t where there is none or it takes time.
func promptly(t testing.TB, src oauth2.TokenSource) *oauth2.Token {
	t.Helper()
	begun := time.Now()
	tok, err := src.Token()
	if err != nil {
		t.Fatalf("at %s a call failed: %v", begun.Format(time.TimeOnly), err)
	}
	if took := time.Since(begun); took != 0 {
		t.Fatalf("at %s a call waited for %s; want none to wait", begun.Format(time.TimeOnly), took)
	}
	return tok
}

func wantRequests(t testing.TB, srv *mosaictest.Server, least, most int) {
	t.Helper()
	if n := len(srv.TokenRequests()); n < least || n > most {
		t.Errorf("the token endpoint saw %d requests; want %d to %d", n, least, most)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// over is a context that carries a client with this transport.
func over(rt http.RoundTripper) context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: rt})
}

func TestAfterTheFirstCallNobodyWaits(t *testing.T) {
	// Ten hours of a call a second are too many for a network.
	api := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: req}, nil
	})
	for _, tt := range []struct {
		name string
		user func(src oauth2.TokenSource) func() error
	}{
		{"directly", func(src oauth2.TokenSource) func() error {
			return func() error { _, err := src.Token(); return err }
		}},
		{"through oauth2.NewClient", func(src oauth2.TokenSource) func() error {
			client := oauth2.NewClient(over(api), src)
			return func() error { _, err := client.Get("https://example.com/cis/v1/users"); return err }
		}},
	} {
		for _, pause := range []time.Duration{time.Second, 25 * time.Minute} {
			t.Run(fmt.Sprintf("%s every %s", tt.name, pause), func(t *testing.T) {
				bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					srv.SetLatency(2*time.Second, 0)
					call := tt.user(srv.Config().TokenSource(srv.Context(t.Context())))
					first := time.Now()
					every(pause, 10*time.Hour, func() {
						begun := time.Now()
						if err := call(); err != nil {
							t.Fatal(err)
						}
						if took := time.Since(begun); took != 0 && begun != first {
							t.Errorf("%s after the first call, one waited for %s", begun.Sub(first), took)
						}
					})
					wantRequests(t, srv, 10, 18)
				})
			})
		}
	}
}

func TestAnIdleSourceMakesAtMostOneFurtherRequest(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		before := goroutines(t)
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		promptly(t, src)
		time.Sleep(1000 * time.Hour)
		wantRequests(t, srv, 1, 2)
		srv.Client().CloseIdleConnections()
		if n := goroutines(t); n > before {
			t.Errorf("an idle source holds %d goroutines; want none", n-before)
		}
		promptly(t, src)
	})
}

// goroutines counts those of the caller's bubble once all are at rest: outside
// it the runtime's, and those of earlier tests, come and go.
func goroutines(t testing.TB) int {
	t.Helper()
	synctest.Wait()
	buf := make([]byte, 4<<20)
	all := string(buf[:runtime.Stack(buf, true)])
	own, _, _ := strings.Cut(all, "]") // the caller's comes first
	_, bubble, ok := strings.Cut(own, "synctest bubble ")
	if !ok {
		t.Fatalf("the caller is in no bubble: %s", own)
	}
	return strings.Count(all, "synctest bubble "+bubble+"]")
}

func TestADroppedSourceRenewsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		promptly(t, src)
		collect(t, src)
		time.Sleep(10 * time.Hour)
		wantRequests(t, srv, 1, 1)
	})
}

// collect fails t unless *p is garbage, but for the caller's pointer, which the
// call is to be the last use of.
func collect[T any](t testing.TB, p *T) {
	t.Helper()
	ref := weak.Make(p)
	p = nil
	synctest.Wait()
	for range 5 {
		runtime.GC()
		if ref.Value() == nil {
			return
		}
	}
	t.Error("it is not collected, though nobody uses it any more")
}

func TestAHerdOnAColdSourceCostsOneRequest(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.SetLatency(2*time.Second, 0)
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		begun := time.Now()
		var wg sync.WaitGroup
		for range 5000 {
			wg.Go(func() {
				if _, err := src.Token(); err != nil {
					t.Error(err)
				} else if took := time.Since(begun); took != 2*time.Second {
					t.Errorf("a caller was served after %s; want 2s, when the reply came", took)
				}
			})
		}
		wg.Wait()
		wantRequests(t, srv, 1, 1)
	})
}

func TestAHangingEndpointKeepsNobodyLong(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.Fail(hanging)
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		begun := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := src.Token(); err == nil || !strings.Contains(err.Error(), "no reply in time") {
					t.Errorf("got error %v; want one that says that there was no reply in time", err)
				}
				if took := time.Since(begun); took > 35*time.Second {
					t.Errorf("a caller had its error after %s; want 35 s at most", took)
				}
			})
		}
		wg.Wait()
		wantRequests(t, srv, 3, 3)
	})
}

func TestAnOutageOf20MinutesGoesUnnoticed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault mosaictest.Fault
	}{
		{"503", unavailable},
		{"hang", hanging},
		{"HTML with status 200", loginPage},
		{"garbage", garbage},
		{"401", refusing},
	} {
		for begins := 0 * time.Minute; begins < time.Hour; begins += 4 * time.Minute {
			t.Run(fmt.Sprintf("%s from %s on", tt.name, begins), func(t *testing.T) {
				bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					src := srv.Config().TokenSource(srv.Context(t.Context()))
					promptly(t, src)
					call := func() { promptly(t, src) }
					every(10*time.Second, begins, call)
					srv.Fail(tt.fault)
					every(10*time.Second, 20*time.Minute, call)
					srv.Heal()
					every(10*time.Second, 2*time.Hour-20*time.Minute-begins, call)
					wantRequests(t, srv, 4, 40)
				})
			})
		}
	}
}

func TestAnOutageUntilHalfASecondBeforeATokensEndGoesUnnoticed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault mosaictest.Fault
	}{
		{"503", unavailable},
		{"no connection", broken},
		{"hang", hanging},
		{"HTML with status 200", loginPage},
		{"garbage", garbage},
		{"401", refusing},
		{"429", limiting},
	} {
		for begins := 0 * time.Minute; begins < 36*time.Minute; begins += 5 * time.Minute {
			t.Run(fmt.Sprintf("%s from %s on", tt.name, begins), func(t *testing.T) {
				bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					src := srv.Config().TokenSource(srv.Context(t.Context()))
					end := promptly(t, src).Expiry
					call := func() { promptly(t, src) }
					every(10*time.Second, begins, call)
					srv.Fail(tt.fault)
					srv.SetLatency(300*time.Millisecond, 0) // a call that waited for a renewal would show
					every(10*time.Second, 59*time.Minute-begins, call)
					every(50*time.Millisecond, time.Until(end)-500*time.Millisecond, call)
					srv.Heal()
					srv.SetLatency(0, 0)
					every(50*time.Millisecond, time.Minute, call)
				})
			})
		}
	}
}

func TestWithoutATokenNothingHammersAndTheEndIsNoticed(t *testing.T) {
	rotate := func(srv *mosaictest.Server) { srv.SetSecret("another secret") }
	meet := func(f mosaictest.Fault) func(*mosaictest.Server) {
		return func(srv *mosaictest.Server) { srv.Fail(f) }
	}
	for _, tt := range []struct {
		name   string
		begin  func(*mosaictest.Server)
		ahead  time.Duration // of the end of a token; 0: there is none
		lasts  time.Duration // without a token
		most   int           // requests
		within time.Duration // calls succeed again
	}{
		{"a wrong secret", rotate, 0, 10 * time.Minute, 60, 45 * time.Second},
		{"a wrong secret, put right at once", rotate, 0, 3 * time.Second, 5, 6 * time.Second},
		{"a secret changed 50 minutes before", rotate, 50 * time.Minute, 10 * time.Minute, 120, 45 * time.Second},
		{"a secret changed 50 minutes before, put right soon after", rotate, 50 * time.Minute, 3 * time.Second, 90, 6 * time.Second},
		{"503", meet(unavailable), 0, 10 * time.Minute, 699, 3 * time.Second},
		{"503 from 50 minutes before", meet(unavailable), 50 * time.Minute, 10 * time.Minute, 699, 3 * time.Second},
		{"no connection", meet(broken), 0, 10 * time.Minute, 699, 3 * time.Second},
		{"no connection from 50 minutes before", meet(broken), 50 * time.Minute, 10 * time.Minute, 699, 3 * time.Second},
		{"429", meet(limiting), 0, 10 * time.Minute, 60, 45 * time.Second},
		{"Retry-After: 86400", meet(absentADay), 0, 10 * time.Minute, 15, 5 * time.Minute},
		{"Retry-After: 86400 from 50 minutes before", meet(absentADay), 50 * time.Minute, 10 * time.Minute, 75, 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := srv.Config()
				src := conf.TokenSource(srv.Context(t.Context()))
				if tt.ahead > 0 {
					end := promptly(t, src).Expiry
					time.Sleep(time.Until(end) - tt.ahead)
					tt.begin(srv)
					every(time.Second, tt.ahead, func() { promptly(t, src) })
				} else {
					tt.begin(srv)
				}
				every(20*time.Millisecond, tt.lasts, func() {
					if _, err := src.Token(); err == nil {
						t.Fatal("a call was served; want an error")
					}
				})
				wantRequests(t, srv, 2, tt.most)

				srv.Heal()
				srv.SetSecret(conf.ClientSecret)
				healed := time.Now()
				for {
					if _, err := src.Token(); err == nil {
						break
					}
					if time.Since(healed) > tt.within {
						t.Fatalf("%s after the end of the outage calls still fail", tt.within)
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		})
	}
}

// The pauses after a refusal are long because a person has to mend it; one among
// the failures of an outage, a gateway's that is coming back, is no such.
func TestARefusalInAnOutageDoesNotKeepItsEndUnnoticed(t *testing.T) {
	for _, last := range []mosaictest.Fault{limiting, refusing} {
		bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			src := srv.Config().TokenSource(srv.Context(t.Context()))
			fail := func(d time.Duration) {
				every(20*time.Millisecond, d, func() {
					if _, err := src.Token(); err == nil {
						t.Fatal("a call was served; want an error")
					}
				})
			}
			srv.Fail(unavailable)
			fail(3 * time.Minute)
			srv.Fail(last)
			fail(3 * time.Second)
			srv.Heal()
			time.Sleep(3 * time.Second)
			promptly(t, src)
		})
	}
}

func TestRetryAfterIsMindedUpToAMinute(t *testing.T) {
	const soon, backoff = 250 * time.Millisecond, 500 * time.Millisecond // as without the header
	for _, tt := range []struct {
		value       string
		least, most time.Duration // until the next request
	}{
		{"7", 7 * time.Second, 7 * time.Second},
		{"59", 59 * time.Second, 60 * time.Second},
		{"86400", 60 * time.Second, 61 * time.Second},
		{"0", soon, backoff},
		{"-5", soon, backoff},
		{"2147483648", 60 * time.Second, 61 * time.Second},
		{"99999999999999999999", 60 * time.Second, 61 * time.Second},
		{"18446744093", 60 * time.Second, 61 * time.Second}, // in nanoseconds, an int64 overflows to 19 seconds
		{"a while", soon, backoff},
		{"Sat, 01 Jan 2000 03:00:40 GMT", 40 * time.Second, 41 * time.Second}, // by the server's clock
		{"Sat, 01 Jan 2000 00:00:40 GMT", soon, backoff},
	} {
		t.Run(tt.value, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *mosaictest.Server) { // begins on January 1 of 2000, 00:00:00 UTC
				srv.SetSkew(3 * time.Hour)
				srv.Fail(mosaictest.Fault{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {tt.value}}})
				src := srv.Config().TokenSource(srv.Context(t.Context()))
				every(time.Second, 2*time.Minute, func() { src.Token() })
				seen := srv.TokenRequests()
				if gap := seen[1].Time.Sub(seen[0].Time); gap < tt.least || gap > tt.most {
					t.Errorf("the second request came after %s; want %s to %s", gap, tt.least, tt.most)
				}
			})
		})
	}
}

// users are the two kinds of HTTP client over a Config.
var users = []struct {
	name   string
	client func(conf *mosaic.Config, ctx context.Context) *http.Client
}{
	{"Client", (*mosaic.Config).Client},
	{"oauth2.NewClient", func(conf *mosaic.Config, ctx context.Context) *http.Client {
		return oauth2.NewClient(ctx, conf.TokenSource(ctx))
	}},
}

// get makes an API call.
func get(t testing.TB, client *http.Client, srv *mosaictest.Server) {
	t.Helper()
	res, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

// wantNo401 looks at the server: a client may have sent a call once more.
func wantNo401(t testing.TB, srv *mosaictest.Server) {
	t.Helper()
	for i, req := range srv.APIRequests() {
		if req.Status != http.StatusOK {
			t.Errorf("API call %d, at %s, was answered with %d", i+1, req.Time.Format(time.TimeOnly), req.Status)
		}
	}
}

func TestAClockThatIsOffCostsNo401(t *testing.T) {
	for _, user := range users {
		for _, off := range []time.Duration{5 * time.Second, 3 * time.Minute, 30 * time.Minute, 90 * time.Minute, 25 * time.Hour} {
			for _, skew := range []time.Duration{off, -off} {
				t.Run(fmt.Sprintf("%s by %s", user.name, skew), func(t *testing.T) {
					bubble(t, func(t *testing.T, srv *mosaictest.Server) {
						srv.SetSkew(skew)
						client := user.client(srv.Config(), srv.Context(t.Context()))
						srv.FailNext(1, refusing) // which is soon forgotten
						if _, err := client.Get(srv.Endpoint().URL("/cis/v1/users")); err == nil {
							t.Error("a call succeeded without a token")
						}
						call := func() { get(t, client, srv) }
						every(3*time.Minute, 2*time.Hour, call)
						// After the worst of pauses: a token that is believed in for too long is sent.
						for _, idle := range []time.Duration{59*time.Minute + 53*time.Second, 59*time.Minute + 58*time.Second, time.Hour + 3*time.Second} {
							call()
							time.Sleep(idle)
							call()
						}
						wantNo401(t, srv)
						wantRequests(t, srv, 5, 10)
					})
				})
			}
		}
	}
}

func TestAnyLifetimeCostsNo401AndNoRequestPerCall(t *testing.T) {
	for _, tt := range []struct {
		lifetime time.Duration
		late     time.Duration // from minting to the reply
		skew     time.Duration
	}{
		{5 * time.Second, 0, 0},
		{5 * time.Second, 0, 4300 * time.Millisecond},
		{30 * time.Second, 0, 0},
		{30 * time.Second, 0, 4300 * time.Millisecond},
		{time.Minute, 8 * time.Second, 0},
		{5 * time.Minute, 0, 0},
		{24 * time.Hour, 0, 0},
		{30 * 24 * time.Hour, 0, 0},
	} {
		for _, user := range users {
			t.Run(fmt.Sprintf("%s through %s, %s late, by a clock %s off", tt.lifetime, user.name, tt.late, tt.skew), func(t *testing.T) {
				bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					srv.SetLifetime(tt.lifetime)
					srv.SetSkew(tt.skew)
					srv.SetLatency(0, tt.late)
					client := user.client(srv.Config(), srv.Context(t.Context()))
					every(tt.lifetime/30, 4*tt.lifetime, func() { get(t, client, srv) })
					wantNo401(t, srv)
					wantRequests(t, srv, 4, 8)
				})
			})
		}
	}
}

func TestAFleetStartedTogetherDoesNotRenewTogether(t *testing.T) {
	const fleet = 2000
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		minutes := map[int]int{} // requests by the minute
		begun := time.Now()
		// 19,000 signatures and exchanges over TLS are too many for a test.
		endpoint := roundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			minutes[int(time.Since(begun)/time.Minute)]++
			return &http.Response{
				StatusCode: http.StatusOK,
				Header:     http.Header{"Content-Type": {"application/json"}},
				Body:       io.NopCloser(strings.NewReader(`{"access_token":"opaque","token_type":"Bearer","expires_in":3600}`)),
				Request:    req,
			}, nil
		})
		conf := &mosaic.Config{ClientID: "id", ClientSecret: "secret", Endpoint: mosaic.EU}
		sources := make([]*mosaic.TokenSource, fleet)
		for i := range sources {
			sources[i] = conf.TokenSource(over(endpoint))
		}
		every(10*time.Minute, 6*time.Hour, func() {
			for _, src := range sources {
				promptly(t, src)
			}
		})
		mu.Lock()
		defer mu.Unlock()
		total := 0
		for minute, n := range minutes {
			total += n
			if minute > 0 && n >= fleet*2/5 {
				t.Errorf("minute %d saw %d requests of a fleet of %d; want less than %d", minute, n, fleet, fleet*2/5)
			}
		}
		if total < 6*fleet || total > 11*fleet {
			t.Errorf("six hours saw %d requests; want %d to %d", total, 6*fleet, 11*fleet)
		}
	})
}

func TestOfAConstructorsContextTheHTTPClientAloneIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var traced atomic.Int32
		type key struct{}
		value := new([64]byte)
		build := func() (*mosaic.TokenSource, *http.Client) {
			ctx := httptrace.WithClientTrace(srv.Context(context.Background()), &httptrace.ClientTrace{
				GetConn: func(string) { traced.Add(1) },
			})
			ctx, cancel := context.WithCancel(context.WithValue(ctx, key{}, value))
			defer cancel()
			return srv.Config().TokenSource(ctx), srv.Config().Client(ctx)
		}
		src, client := build()
		every(time.Minute, 5*time.Hour, func() {
			promptly(t, src)
			get(t, client, srv)
		})
		wantNo401(t, srv)
		if n := traced.Load(); n != 0 {
			t.Errorf("the trace of the constructor's context fired %d times", n)
		}
		collect(t, value)
		runtime.KeepAlive(src)
		runtime.KeepAlive(client)
	})
}

func TestACallersDeadlineEndsItsWaitAlone(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.SetLatency(5*time.Second, 0)
		conf := srv.Config()
		src := conf.TokenSource(srv.Context(t.Context()))
		client := conf.Client(srv.Context(t.Context()))
		begun := time.Now()
		var wg sync.WaitGroup
		for deadline := time.Duration(0); deadline <= 10*time.Second; deadline += time.Second {
			call := func(f func(ctx context.Context) error) {
				ctx, cancel := context.WithTimeout(t.Context(), deadline+time.Millisecond)
				defer cancel()
				err := f(ctx)
				took := time.Since(begun)
				switch {
				case deadline < 5*time.Second && (took != deadline+time.Millisecond || !errors.Is(err, context.DeadlineExceeded)):
					t.Errorf("a deadline of %s ended the wait after %s with error %v", deadline+time.Millisecond, took, err)
				case deadline >= 5*time.Second && (took != 5*time.Second || err != nil):
					t.Errorf("with a deadline of %s, a caller got error %v after %s; want a token after 5s", deadline, err, took)
				}
			}
			wg.Go(func() {
				call(func(ctx context.Context) error { _, err := src.TokenContext(ctx); return err })
			})
			wg.Go(func() {
				call(func(ctx context.Context) error {
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.Endpoint().URL("/cis/v1/users"), nil)
					res, err := client.Do(req)
					if err == nil {
						res.Body.Close()
					}
					return err
				})
			})
		}
		wg.Wait()
		wantRequests(t, srv, 2, 2) // one of the source, one of the client

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := src.TokenContext(ended); err != nil {
			t.Errorf("with a token there, a context that had ended got %v", err)
		}
	})
}

func TestFiftyHoldersOfARefusedTokenCauseOneRequest(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		src.Invalidate(nil)
		refused := promptly(t, src)
		srv.Revoke()
		srv.SetLatency(2*time.Second, 0)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond) // most after the others have long got the next
				src.Invalidate(refused)
				tok, err := src.Token()
				if err != nil {
					t.Error(err)
				} else if tok.AccessToken == refused.AccessToken {
					t.Error("a refused token was handed out again")
				}
			})
		}
		wg.Wait()
		wantRequests(t, srv, 2, 2)
	})
}

func TestARenewalUnderWayDoesNotBringADroppedTokenBack(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.Fail(mosaictest.Fault{ // an endpoint that hands out the same token again
			Status: http.StatusOK,
			Header: http.Header{"Content-Type": {"application/json"}},
			Body:   `{"access_token":"same","token_type":"Bearer","expires_in":3600}`,
		})
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		same := promptly(t, src)
		time.Sleep(35 * time.Minute)
		srv.SetLatency(8*time.Second, 0)
		for len(srv.TokenRequests()) < 2 {
			time.Sleep(time.Second)
		}
		src.Invalidate(same) // the renewal takes some seconds yet
		srv.Heal()
		if tok, err := src.Token(); err != nil || tok.AccessToken == "same" {
			t.Errorf("got error %v and the dropped token back", err)
		}
		wantRequests(t, srv, 3, 3)
	})
}

func TestATokenIsItsCallersOwn(t *testing.T) {
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		tok := promptly(t, src)
		before := *tok
		tok.AccessToken, tok.Expiry = "changed", time.Time{}
		if after := promptly(t, src); after.AccessToken != before.AccessToken || after.Expiry != before.Expiry {
			t.Error("what one caller did to its token, another one saw")
		}
	})
}

// misbehaviour is foreign code that ends its goroutine once in a while.
type misbehaviour struct {
	on atomic.Bool
	do func()
}

func (m *misbehaviour) maybe() {
	if m.on.Load() {
		m.do()
	}
}

// signer is a key in a module that has its moods.
type signer struct {
	crypto.Signer
	*misbehaviour
}

func (s signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.maybe()
	return s.Signer.Sign(rand, digest, opts)
}

func TestForeignCodeEndsNeitherTheProcessNorTheSource(t *testing.T) {
	const poison = "a value with a secret"
	for _, end := range []struct {
		name string
		do   func()
		want string // in the error
	}{
		{"a panic", func() { panic(poison) }, "panicked (its stack is in the log)"},
		{"runtime.Goexit", runtime.Goexit, "ended its goroutine (runtime.Goexit)"},
	} {
		for _, place := range []string{"transport", "signer"} {
			t.Run(end.name+" in a "+place, func(t *testing.T) {
				bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					bad := &misbehaviour{do: end.do}
					conf, ctx := srv.Config(), srv.Context(t.Context())
					var log strings.Builder
					conf.Logger = slog.New(slog.NewTextHandler(&log, nil))
					switch place {
					case "transport":
						ctx = over(roundTripper(func(req *http.Request) (*http.Response, error) {
							bad.maybe()
							return srv.Client().Transport.RoundTrip(req)
						}))
					case "signer":
						conf.ClientSecret = ""
						conf.PrivateKey = signer{ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), bad}
						jwks, err := conf.JWKS()
						if err != nil {
							t.Fatal(err)
						}
						srv.RegisterKey(conf.ClientID, jwks)
					}
					src := conf.TokenSource(ctx)

					bad.on.Store(true)
					if _, err := src.Token(); err == nil || !strings.Contains(err.Error(), end.want) || strings.Contains(err.Error(), poison) {
						t.Errorf("got error %v; want one that says %q, without the panic's value", err, end.want)
					}
					bad.on.Store(false)
					promptly(t, src)
					bad.on.Store(true)
					every(time.Minute, 55*time.Minute, func() { promptly(t, src) })
					bad.on.Store(false)
					every(time.Minute, time.Hour, func() { promptly(t, src) })

					synctest.Wait()
					stack := strings.Contains(log.String(), "stack=")
					if want := end.name == "a panic"; stack != want || strings.Contains(log.String(), poison) {
						t.Errorf("the stack is in the log: %t; want %t, without the panic's value", stack, want)
					}
				})
			})
		}
	}
}

// handler is a slog.Handler that does something with each record.
type handler func()

func (h handler) Enabled(context.Context, slog.Level) bool  { return true }
func (h handler) Handle(context.Context, slog.Record) error { h(); return nil }
func (h handler) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h handler) WithGroup(string) slog.Handler             { return h }

func TestALogHandlerMayDoAnything(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(src *mosaic.TokenSource)
	}{
		{"panic", func(*mosaic.TokenSource) { panic("log") }},
		{"end its goroutine", func(*mosaic.TokenSource) { runtime.Goexit() }},
		{"ask the same source for a token", func(src *mosaic.TokenSource) { src.Token() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := srv.Config()
				var src *mosaic.TokenSource
				var handled atomic.Int32
				conf.Logger = slog.New(handler(func() {
					handled.Add(1)
					tt.do(src)
				}))
				src = conf.TokenSource(srv.Context(t.Context()))

				srv.Fail(refusing)
				if _, err := src.Token(); err == nil || !strings.Contains(err.Error(), "invalid_client") {
					t.Errorf("got error %v; want the endpoint's", err)
				}
				srv.Heal()
				time.Sleep(10*time.Second + 1)
				every(time.Minute, 30*time.Minute, func() { promptly(t, src) })
				srv.Fail(unavailable)
				every(time.Minute, 20*time.Minute, func() { promptly(t, src) })
				srv.Heal()
				every(time.Minute, 2*time.Hour, func() { promptly(t, src) })
				if n := handled.Load(); n < 8 {
					t.Errorf("the handler got %d records; want some of each kind", n)
				}
			})
		})
	}
}

func TestTheLogTellsOfEachTokenAndOfOutages(t *testing.T) {
	type record struct {
		Time               time.Time
		Level, Msg         string
		Endpoint, Resource string
		Lifetime, Took     time.Duration
		Error              string
		Failures           int
		RetryIn            time.Duration `json:"retry_in"`
	}
	bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var log strings.Builder
		conf := srv.Config()
		conf.Resource = mosaic.FraudPrevention
		conf.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		src := conf.TokenSource(srv.Context(t.Context()))
		srv.SetLatency(2*time.Second, 0)
		tok, err := src.Token()
		if err != nil {
			t.Fatal(err)
		}
		call := func() { promptly(t, src) }
		every(time.Minute, 30*time.Minute, call)
		srv.Fail(mosaictest.Fault{ // by a debug page that shows what it was sent, and more
			Status: http.StatusBadGateway,
			Body:   "client_secret=" + conf.ClientSecret + "&last_token=" + tok.AccessToken,
		})
		every(time.Minute, 25*time.Minute, call)
		srv.Heal()
		every(time.Minute, 5*time.Hour, call)
		synctest.Wait()

		if strings.Contains(log.String(), conf.ClientSecret) || strings.Contains(log.String(), "eyJ") {
			t.Error("there is a secret or a token in the log")
		}
		var obtained, failed []record
		for line := range strings.Lines(log.String()) {
			var r record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if r.Endpoint != string(conf.Endpoint) || r.Resource != string(conf.Resource) {
				t.Errorf("a record is of endpoint %q, resource %q", r.Endpoint, r.Resource)
			}
			switch {
			case r.Level == "DEBUG" && r.Msg == "mosaic: token obtained":
				obtained = append(obtained, r)
			case r.Level == "WARN" && r.Msg == "mosaic: token renewal failed":
				failed = append(failed, r)
			default:
				t.Errorf("a record at %s says %q", r.Level, r.Msg)
			}
		}

		var served int
		var arrivals []time.Time
		for _, req := range srv.TokenRequests() {
			arrivals = append(arrivals, req.Time)
			if req.Status == http.StatusOK {
				served++
			}
		}
		if len(obtained) != served {
			t.Errorf("%d records of tokens for %d tokens", len(obtained), served)
		}
		for _, r := range obtained {
			// The token was minted, and its end reckoned in whole seconds, two seconds after it was asked for.
			if r.Took != 2*time.Second || r.Lifetime < time.Hour || r.Lifetime > time.Hour+3*time.Second {
				t.Errorf("a token of an hour that took 2 s is logged with lifetime %s, took %s", r.Lifetime, r.Took)
			}
		}

		if len(failed) < 5 || len(failed) > 20 {
			t.Fatalf("an outage of 15 to 19 minutes is logged %d times; want about once a minute", len(failed))
		}
		for i, r := range failed {
			if i > 0 {
				if gap := r.Time.Sub(failed[i-1].Time); gap < time.Minute {
					t.Errorf("two warnings within %s; want one a minute", gap)
				}
			}
			if i == 0 && r.Failures != 1 || i > 0 && r.Failures <= failed[i-1].Failures {
				t.Errorf("warning %d counts %d failures", i+1, r.Failures)
			}
			if !strings.Contains(r.Error, "502") {
				t.Errorf("warning %d has error %q; want the endpoint's status in it", i+1, r.Error)
			}
			again := r.Time.Add(r.RetryIn)
			if !slices.ContainsFunc(arrivals, func(at time.Time) bool { return at.Sub(again).Abs() <= time.Millisecond }) {
				t.Errorf("warning %d says that it is tried again in %s, which it was not", i+1, r.RetryIn)
			}
		}
	})
}
