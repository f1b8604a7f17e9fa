// Package behaviour_test drives package mosaic through its public API, against mosaictest. Each
// file holds one promise to users.
package behaviour_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// wantRequests compares the number of token requests so far.
func wantRequests(t testing.TB, srv *mosaictest.Server, least, most int) {
	t.Helper()
	if n := len(srv.TokenRequests()); n < least || n > most {
		t.Errorf("the token endpoint saw %d requests; want %d to %d", n, least, most)
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

// getUsers makes an API call.
func getUsers(t testing.TB, client *http.Client, srv *mosaictest.Server) {
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

func TestOnlyTheFirstCallWaits(t *testing.T) {
	// Ten hours of a call a second are too many for a network.
	api := kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: req}, nil
	})
	for _, direct := range []bool{true, false} {
		for _, pause := range []time.Duration{time.Second, 25 * time.Minute} {
			t.Run(fmt.Sprintf("directly %t, every %s", direct, pause), func(t *testing.T) {
				kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					srv.SetLatency(2*time.Second, 0)
					src := srv.Config().TokenSource(srv.Context(t.Context()))
					client := oauth2.NewClient(kit.Over(t.Context(), api), src)
					first := time.Now()
					kit.Every(pause, 10*time.Hour, func() {
						begun := time.Now()
						var err error
						if direct {
							_, err = src.Token()
						} else {
							_, err = client.Get("https://example.com/cis/v1/users")
						}
						if err != nil {
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

func TestAHerdOnAColdSourceCostsOneRequest(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.SetLatency(2*time.Second, 0)
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		begun := time.Now()
		var wg sync.WaitGroup
		for range 5000 {
			wg.Go(func() {
				if _, err := src.Token(); err != nil || time.Since(begun) != 2*time.Second {
					t.Errorf("a caller was served after %s with error %v; want a token after 2s, with the reply", time.Since(begun), err)
				}
			})
		}
		wg.Wait()
		wantRequests(t, srv, 1, 1)
	})
}

func TestAnIdleSourceHoldsNoGoroutineAndMakesOneFurtherRequestAtMost(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		before := kit.Goroutines(t)
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		kit.Promptly(t, src)
		time.Sleep(1000 * time.Hour)
		wantRequests(t, srv, 1, 2)
		srv.Client().CloseIdleConnections()
		if n := kit.Goroutines(t); n > before {
			t.Errorf("an idle source holds %d goroutines; want none", n-before)
		}
		kit.Promptly(t, src)
	})
}

// Only the source uses the transport. The count of all objects in the heap would not do, because
// other goroutines allocate, too, and because the runtime may keep a stopped timer for a while.
func TestADroppedSourceIsCollectedAndMakesNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoint := &kit.Stub{Replies: []string{kit.TokenReply("opaque", `"expires_in":3600`)}}
		transport := &struct {
			http.RoundTripper
			_ [64]byte // so that it is not allocated together with other objects
		}{RoundTripper: endpoint}
		conf := &mosaic.Config{ClientID: "id", ClientSecret: "secret", Endpoint: mosaic.EU}
		kit.Promptly(t, conf.TokenSource(kit.Over(t.Context(), transport)))
		synctest.Wait()
		kit.Collect(t, transport)
		time.Sleep(10 * time.Hour)
		if n := len(endpoint.Requests()); n != 1 {
			t.Errorf("a dropped source made %d requests; want the first one only", n)
		}
	})
}

func TestAFleetStartedTogetherDoesNotRenewTogether(t *testing.T) {
	t.Parallel()
	const fleet = 2000
	synctest.Test(t, func(t *testing.T) {
		// 19,000 signatures and exchanges over TLS are too many for a test.
		endpoint := &kit.Stub{Replies: []string{kit.TokenReply("opaque", `"expires_in":3600`)}}
		conf := &mosaic.Config{ClientID: "id", ClientSecret: "secret", Endpoint: mosaic.EU}
		begun, sources := time.Now(), make([]*mosaic.TokenSource, fleet)
		for i := range sources {
			sources[i] = conf.TokenSource(endpoint.Context(t.Context()))
		}
		kit.Every(10*time.Minute, 6*time.Hour, func() {
			for _, src := range sources {
				kit.Promptly(t, src)
			}
		})
		requests, minutes := endpoint.Requests(), map[int]int{}
		for _, r := range requests {
			minutes[int(r.At.Sub(begun)/time.Minute)]++
		}
		for minute, n := range minutes {
			if minute > 0 && n >= fleet*2/5 {
				t.Errorf("minute %d saw %d requests of a fleet of %d; want less than %d", minute, n, fleet, fleet*2/5)
			}
		}
		if n := len(requests); n < 6*fleet || n > 11*fleet {
			t.Errorf("six hours saw %d requests; want %d to %d", n, 6*fleet, 11*fleet)
		}
	})
}

func TestAClockThatIsOffCostsNo401(t *testing.T) {
	t.Parallel()
	for _, user := range users {
		for _, off := range []time.Duration{5 * time.Second, 30 * time.Minute, 90 * time.Minute, 25 * time.Hour} {
			for _, skew := range []time.Duration{off, -off} {
				t.Run(fmt.Sprintf("%s by %s", user.name, skew), func(t *testing.T) {
					kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
						srv.SetSkew(skew)
						client := user.client(srv.Config(), srv.Context(t.Context()))
						srv.FailNext(1, refusing) // and soon forgotten
						if _, err := client.Get(srv.Endpoint().URL("/cis/v1/users")); err == nil {
							t.Error("a call succeeded without a token")
						}
						call := func() { getUsers(t, client, srv) }
						kit.Every(3*time.Minute, 2*time.Hour, call)
						// The worst of pauses: a token believed in for too long is sent.
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
	t.Parallel()
	for _, tt := range []struct{ lifetime, late, skew time.Duration }{ // late: from minting to the reply
		{5 * time.Second, 0, 0},
		{5 * time.Second, 0, 4300 * time.Millisecond},
		{30 * time.Second, 0, 4300 * time.Millisecond},
		{time.Minute, 8 * time.Second, 0},
		{5 * time.Minute, 0, 0},
		{24 * time.Hour, 0, 0},
		{30 * 24 * time.Hour, 0, 0},
	} {
		for _, user := range users {
			t.Run(fmt.Sprintf("%s through %s, %s late, by a clock %s off", tt.lifetime, user.name, tt.late, tt.skew), func(t *testing.T) {
				kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					srv.SetLifetime(tt.lifetime)
					srv.SetSkew(tt.skew)
					srv.SetLatency(0, tt.late)
					client := user.client(srv.Config(), srv.Context(t.Context()))
					kit.Every(tt.lifetime/20, 4*tt.lifetime, func() { getUsers(t, client, srv) })
					wantNo401(t, srv)
					wantRequests(t, srv, 4, 8)
				})
			})
		}
	}
}

func TestARenewalCarriesNobodysContext(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		type key struct{} // of a tenant's header, or of another's trace
		value := new([64]byte)
		var carried, api atomic.Int32
		transport := kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Context().Value(key{}) != nil {
				if req.URL.Path == "/oidc/token" {
					carried.Add(1)
				} else {
					api.Add(1)
				}
			}
			return srv.Client().Transport.RoundTrip(req)
		})
		conf := srv.Config()
		build := func() (*mosaic.TokenSource, *http.Client) {
			ctx, cancel := context.WithCancel(context.WithValue(kit.Over(t.Context(), transport), key{}, value))
			defer cancel()
			return conf.TokenSource(ctx), conf.Client(ctx)
		}
		src, client := build()
		caller := context.WithValue(t.Context(), key{}, "a caller's")
		kit.Every(time.Minute, 5*time.Hour, func() {
			if _, err := src.TokenContext(caller); err != nil {
				t.Fatal(err)
			}
			req, _ := http.NewRequestWithContext(caller, http.MethodGet, srv.Endpoint().URL("/cis/v1/users"), nil)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
		})
		wantNo401(t, srv)
		if carried.Load() != 0 || api.Load() != 300 {
			t.Errorf("%d token requests and %d API requests carried the caller's values; want none and 300", carried.Load(), api.Load())
		}
		if _, err := conf.Token(kit.Over(caller, transport)); err != nil || carried.Load() != 1 {
			t.Errorf("Config.Token, which is not shared: got error %v, and %d requests with its caller's values; want one", err, carried.Load())
		}
		synctest.Wait()
		kit.Collect(t, value)
		runtime.KeepAlive(src)
		runtime.KeepAlive(client)
	})
}

func TestACallersDeadlineEndsOnlyItsOwnWait(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.SetLatency(5*time.Second, 0)
		conf := srv.Config()
		src, client := conf.TokenSource(srv.Context(t.Context())), conf.Client(srv.Context(t.Context()))
		begun := time.Now()
		var wg sync.WaitGroup
		for deadline := time.Millisecond; deadline <= 10*time.Second; deadline += time.Second {
			for name, call := range map[string]func(ctx context.Context) error{
				"TokenContext": func(ctx context.Context) error { _, err := src.TokenContext(ctx); return err },
				"Client": func(ctx context.Context) error {
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.Endpoint().URL("/cis/v1/users"), nil)
					res, err := client.Do(req)
					if err == nil {
						res.Body.Close()
					}
					return err
				},
			} {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), deadline)
					defer cancel()
					err := call(ctx)
					if took, ended := time.Since(begun), errors.Is(err, context.DeadlineExceeded); took != min(deadline, 5*time.Second) || ended != (deadline < 5*time.Second) || !ended && err != nil {
						t.Errorf("%s with a deadline of %s: got error %v after %s; want the earlier of a token after 5s and the deadline", name, deadline, err, took)
					}
				})
			}
		}
		wg.Wait()
		wantRequests(t, srv, 2, 2) // one of the source, one of the client

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := src.TokenContext(ended); err != nil {
			t.Errorf("with a valid token, a context that had ended got %v", err)
		}
	})
}

func TestFiftyHoldersOfARefusedTokenCauseOneRequest(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		src.Invalidate(nil)
		refused := kit.Promptly(t, src)
		srv.Revoke()
		srv.SetLatency(2*time.Second, 0)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond) // most come when the others have long got the next
				src.Invalidate(refused)
				if tok, err := src.Token(); err != nil || tok.AccessToken == refused.AccessToken {
					t.Errorf("got error %v, or the refused token again", err)
				}
			})
		}
		wg.Wait()
		wantRequests(t, srv, 2, 2)
	})
}

func TestTheTokenOfARenewalInFlightReplacesAnInvalidatedToken(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		old := kit.Promptly(t, src)
		srv.SetLatency(8*time.Second, 0)
		for len(srv.TokenRequests()) < 2 {
			time.Sleep(time.Second)
		}
		src.Invalidate(old)
		if tok, err := src.Token(); err != nil || tok.AccessToken == old.AccessToken {
			t.Errorf("got error %v, or the invalidated token", err)
		}
		wantRequests(t, srv, 2, 2)
	})
}

func TestATokenIsItsCallersOwn(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		tok := kit.Promptly(t, src)
		before := *tok
		tok.AccessToken, tok.Expiry = "changed", time.Time{}
		if after := kit.Promptly(t, src); after.AccessToken != before.AccessToken || after.Expiry != before.Expiry {
			t.Error("one caller's change of its token was seen by another")
		}
	})
}
