package behaviour_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// Faults of a token endpoint.
var (
	unavailable = mosaictest.Fault{Status: http.StatusServiceUnavailable}
	broken      = mosaictest.Fault{}
	hanging     = mosaictest.Fault{Hang: true}
	loginPage   = mosaictest.Fault{Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>Sign in</html>"}
	garbage     = mosaictest.Fault{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: "\x00{]"}
	otherType   = mosaictest.Fault{Status: http.StatusOK, Header: garbage.Header, Body: `{"access_token":"x","token_type":"DPoP","expires_in":3600}`}
	refusing    = mosaictest.OAuthError(http.StatusUnauthorized, "invalid_client", "")
	limiting    = mosaictest.Fault{Status: http.StatusTooManyRequests}
	absentADay  = absent("86400")
)

func absent(retryAfter string) mosaictest.Fault {
	return mosaictest.Fault{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {retryAfter}}}
}

var outages = []struct {
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
}

func TestAnOutageOf20MinutesGoesUnnoticed(t *testing.T) {
	t.Parallel()
	for _, tt := range outages {
		for begins := 0 * time.Minute; begins < time.Hour; begins += 5 * time.Minute {
			t.Run(fmt.Sprintf("%s from %s on", tt.name, begins), func(t *testing.T) {
				kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					src := srv.Config().TokenSource(srv.Context(t.Context()))
					call := func() { kit.Promptly(t, src) }
					call()
					kit.Every(10*time.Second, begins, call)
					srv.Fail(tt.fault)
					kit.Every(10*time.Second, 20*time.Minute, call)
					srv.Heal()
					kit.Every(10*time.Second, 2*time.Hour-20*time.Minute-begins, call)
					wantRequests(t, srv, 4, 40)
				})
			})
		}
	}
}

func TestAnOutageUntilHalfASecondBeforeATokensEndGoesUnnoticed(t *testing.T) {
	t.Parallel()
	for _, tt := range outages {
		for begins := 0 * time.Minute; begins < 36*time.Minute; begins += 5 * time.Minute {
			t.Run(fmt.Sprintf("%s from %s on", tt.name, begins), func(t *testing.T) {
				kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					src := srv.Config().TokenSource(srv.Context(t.Context()))
					end := kit.Promptly(t, src).Expiry
					call := func() { kit.Promptly(t, src) }
					kit.Every(10*time.Second, begins, call)
					srv.Fail(tt.fault)
					srv.SetLatency(300*time.Millisecond, 0) // a wait for a renewal would show
					kit.Every(10*time.Second, 59*time.Minute-begins, call)
					kit.Every(50*time.Millisecond, time.Until(end)-500*time.Millisecond, call)
					srv.Heal()
					srv.SetLatency(0, 0)
					kit.Every(50*time.Millisecond, time.Minute, func() { kit.Within(t, src, kit.Reconnecting) })
				})
			})
		}
	}
}

func TestARenewalThatOutlivesItsTokenIsNotCutOff(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.SetLifetime(30 * time.Second)
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		kit.Promptly(t, src)
		time.Sleep(25 * time.Second) // a second token is there, and unused
		end := srv.TokenRequests()[1].Time.Truncate(time.Second).Add(30 * time.Second)
		time.Sleep(time.Until(end) - 4*time.Second)
		srv.SetLatency(6*time.Second, 0)
		kit.Promptly(t, src)
		time.Sleep(3 * time.Second)
		if _, err := src.Token(); err != nil || time.Until(end) != -2*time.Second {
			t.Errorf("got error %v %s after the old token's end; want the new one after 2s", err, -time.Until(end))
		}
		wantRequests(t, srv, 3, 3)
	})
}

func TestAHangingEndpointKeepsNobodyLong(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.Fail(hanging)
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		begun := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				_, err := src.Token()
				if err == nil || !strings.Contains(err.Error(), "no reply in time") || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got error %v; want no reply in time, and not the end of a context of the caller", err)
				}
				if took := time.Since(begun); took > 30*time.Second {
					t.Errorf("a caller had its error after %s; want 30s at most", took)
				}
			})
		}
		wg.Wait()
		wantRequests(t, srv, 3, 3)
	})
}

// wantErrors calls src every 20 ms for so long.
func wantErrors(t *testing.T, src oauth2.TokenSource, d time.Duration) {
	t.Helper()
	kit.Every(20*time.Millisecond, d, func() {
		if _, err := src.Token(); err == nil {
			t.Fatal("a call was served; want an error")
		}
	})
}

func TestWithoutATokenNothingHammersAndTheEndIsNoticed(t *testing.T) {
	t.Parallel()
	rotate := func(srv *mosaictest.Server) { srv.SetSecret("another secret") }
	meet := func(f mosaictest.Fault) func(*mosaictest.Server) {
		return func(srv *mosaictest.Server) { srv.Fail(f) }
	}
	for _, tt := range []struct {
		name   string
		begin  func(*mosaictest.Server)
		before time.Duration // the end of a token; 0: there is none
		lasts  time.Duration // without a token
		most   int           // requests
		within time.Duration // calls succeed again
	}{
		{"a wrong secret", rotate, 0, 10 * time.Minute, 60, 45 * time.Second},
		{"a wrong secret, put right at once", rotate, 0, 3 * time.Second, 5, 6 * time.Second},
		{"a secret changed 50 minutes before", rotate, 50 * time.Minute, 10 * time.Minute, 120, 45 * time.Second},
		{"a secret changed 50 minutes before, put right soon after", rotate, 50 * time.Minute, 3 * time.Second, 90, 6 * time.Second},
		{"200 with a login page", meet(loginPage), 0, 10 * time.Minute, 60, 45 * time.Second},
		{"200 with garbage", meet(garbage), 0, 10 * time.Minute, 60, 45 * time.Second},
		{"200 with a token of another type", meet(otherType), 0, 10 * time.Minute, 60, 45 * time.Second},
		{"503", meet(unavailable), 0, 10 * time.Minute, 699, 3 * time.Second},
		{"503 from 50 minutes before", meet(unavailable), 50 * time.Minute, 10 * time.Minute, 699, 3 * time.Second},
		{"no connection", meet(broken), 0, 10 * time.Minute, 699, 3 * time.Second},
		{"429", meet(limiting), 0, 10 * time.Minute, 60, 45 * time.Second},
		{"Retry-After: 86400", meet(absentADay), 0, 10 * time.Minute, 15, 5 * time.Minute},
		{"Retry-After: 86400 from 50 minutes before", meet(absentADay), 50 * time.Minute, 10 * time.Minute, 75, 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := srv.Config()
				src := conf.TokenSource(srv.Context(t.Context()))
				if tt.before > 0 {
					end := kit.Promptly(t, src).Expiry
					time.Sleep(time.Until(end) - tt.before)
				}
				tt.begin(srv)
				kit.Every(time.Second, tt.before, func() { kit.Promptly(t, src) })
				wantErrors(t, src, tt.lasts)
				wantRequests(t, srv, 2, tt.most)

				srv.Heal()
				srv.SetSecret(conf.ClientSecret)
				for healed := time.Now(); ; time.Sleep(20 * time.Millisecond) {
					if _, err := src.Token(); err == nil {
						break
					}
					if time.Since(healed) > tt.within {
						t.Fatalf("%s after the end of the outage calls still fail", tt.within)
					}
				}
			})
		})
	}
}

// The pauses grow long only after several refusals in a row, because then a person has to act. A
// gateway on its way back may send a refusal or two.
func TestARefusalInAnOutageDoesNotKeepItsEndUnnoticed(t *testing.T) {
	for _, last := range []mosaictest.Fault{limiting, refusing, loginPage} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			src := srv.Config().TokenSource(srv.Context(t.Context()))
			srv.Fail(unavailable)
			wantErrors(t, src, 3*time.Minute)
			srv.Fail(last)
			wantErrors(t, src, 3*time.Second)
			srv.Heal()
			time.Sleep(5 * time.Second)
			kit.Promptly(t, src)
		})
	}
}
