package behaviour_test

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// Date and iat are whole seconds, and the way takes time: a server strict to a quarter of a minute
// refuses an assertion before its Date is 5 s off.
func TestAServerThatIsStrictAboutAgeIsSatisfiedByTheSecondRequest(t *testing.T) {
	for skew := 3 * time.Second; skew <= 7*time.Second; skew += 250 * time.Millisecond {
		for begin := time.Duration(0); begin < time.Second; begin += 250 * time.Millisecond {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				time.Sleep(begin)
				conf := kit.KeyClient(t, srv, kit.EC())
				srv.SetSkew(skew)
				requests := 0
				_, err := conf.Token(kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
					requests++
					iat := time.Unix(int64(assertionSent(t, req)["iat"].(float64)), 0)
					time.Sleep(100 * time.Millisecond)
					if now := time.Now().Add(skew); now.Sub(iat) > 15*time.Second {
						return refuseAt(now).RoundTrip(req)
					}
					return srv.Client().Transport.RoundTrip(req)
				})))
				if err != nil || requests > 2 {
					t.Errorf("%s behind, %s into a second: got error %v after %d requests; want a token after 2 at most", skew, begin, err, requests)
				}
			})
		}
	}
}

// assertionSent returns the claims of req's assertion, and leaves the body unread.
func assertionSent(t testing.TB, req *http.Request) jwt.MapClaims {
	t.Helper()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Error(err)
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	_, claims := kit.Assertion(t, mosaictest.Request{Form: form})
	return claims
}

// refuseAt returns a server with this Date. It refuses all assertions.
func refuseAt(date time.Time) *kit.Stub {
	header := "Content-Type: application/json\r\nDate: " + date.UTC().Format(http.TimeFormat)
	return &kit.Stub{Replies: []string{kit.Reply("401 Unauthorized", header, `{"error":"invalid_client"}`)}}
}

func TestAClockThatIsPutRightIsNoticed(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := kit.KeyClient(t, srv, kit.EC()).TokenSource(srv.Context(t.Context()))
		last := new(oauth2.Token)
		for _, step := range []struct {
			skew     time.Duration
			statuses []int
		}{
			{30 * time.Minute, []int{401, 200}},
			{30 * time.Minute, []int{200}},
			{0, []int{401, 200}},
			{0, []int{200}},
			{-25 * time.Hour, []int{401, 200}},
		} {
			srv.ForgetRequests()
			srv.SetSkew(step.skew)
			time.Sleep(45 * time.Minute) // it is renewed in the background, with one attempt
			tok, err := src.Token()
			if err != nil {
				t.Fatalf("%s off: %v", step.skew, err)
			}
			if got := kit.Statuses(srv.TokenRequests()); !slices.Equal(got, step.statuses) || tok.AccessToken == last.AccessToken {
				t.Errorf("%s off: got answers %v; want %v, and another token", step.skew, got, step.statuses)
			}
			last = tok
		}
	})
}

func TestAWrongDateIsNotBelievedForGood(t *testing.T) {
	for _, off := range []time.Duration{2 * time.Minute, -2 * time.Minute} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			src := kit.KeyClient(t, srv, kit.EC()).TokenSource(kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				res, err := srv.Client().Transport.RoundTrip(req)
				if err == nil { // a proxy stamps it
					res.Header.Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
				}
				return res, err
			})))
			srv.FailNext(1, mosaictest.OAuthError(http.StatusUnauthorized, "invalid_client", ""))
			if _, err := src.Token(); err == nil {
				t.Error("got a token in spite of a refusal that the Date does not explain")
			}
			time.Sleep(time.Minute)
			if _, err := src.Token(); err != nil {
				t.Errorf("later: got %v; want a token", err)
			}
			if got, want := kit.Statuses(srv.TokenRequests()), []int{401, 401, 200}; !slices.Equal(got, want) {
				t.Errorf("%s off: got answers %v; want %v: one by the Date, then one by the own clock", off, got, want)
			}
		})
	}
}

func TestADateIsNotOffBecauseTheReplyWasSlow(t *testing.T) {
	for _, latency := range [][2]time.Duration{{7 * time.Second, 0}, {0, 7 * time.Second}} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			srv.SetLatency(latency[0], latency[1])
			conf := &mosaic.Config{ClientID: "nobody", PrivateKey: kit.EC(), Endpoint: srv.Endpoint()}
			_, err := conf.Token(srv.Context(t.Context()))
			if n := len(srv.TokenRequests()); n != 1 || err == nil || strings.Contains(err.Error(), "clock") {
				t.Errorf("%v: got %v after %d requests; want a refusal after one, and no word of clocks", latency, err, n)
			}
		})
	}
}

func TestASecondRequestForTheClocksSakeIsNoFurtherAttempt(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.SetSkew(30 * time.Minute)
		srv.SetLatency(0, time.Second)
		conf := kit.KeyClient(t, srv, kit.EC())
		time.AfterFunc(time.Second/2, func() { srv.FailNext(2, mosaictest.Fault{}) }) // an outage, when the first is in flight
		if _, err := conf.Token(srv.Context(t.Context())); err != nil {
			t.Errorf("got %v; want a token after a refusal and two failures", err)
		}
		if n := len(srv.TokenRequests()); n != 4 {
			t.Errorf("got %d requests; want 4", n)
		}
	})
}

func TestARefusalBesideAClockThatIsOffSaysSo(t *testing.T) {
	for _, tt := range []struct {
		name           string
		first, further time.Duration // of the server's clock, and from each reply to the next
		requests       int
		want           string
	}{
		{"a client that nobody knows", 30 * time.Minute, 0, 2, ""},
		{"one behind", -30 * time.Minute, 0, 2, ""},
		{"servers whose clocks differ among themselves", time.Hour, 30 * time.Minute, 2, "the local clock differs from the server's by 1h30m0s"},
		{"more than a day", -26*time.Hour - time.Minute, 0, 1, "the local clock differs from the server's by 26h1m0s"},
	} {
		kit.Bubble(t, func(t *testing.T, _ *mosaictest.Server) {
			date, requests := tt.first, 0
			conf := &mosaic.Config{ClientID: "nobody", PrivateKey: kit.EC(), Endpoint: mosaic.EU}
			_, err := conf.Token(kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				defer func() { requests++; date += tt.further }()
				return refuseAt(time.Now().Add(date)).RoundTrip(req)
			})))
			if requests != tt.requests || !kit.IsLine(err) || !strings.Contains(err.Error(), "invalid_client") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v after %d requests; want %d, and %q", tt.name, err, requests, tt.requests, tt.want)
			}
		})
	}
}

// Whoever terminates TLS for an hour reads assertions. If they were dated by a Date of its own
// choice, they would be of use to it later.
func TestNobodyCollectsAssertionsForNextYear(t *testing.T) {
	const halfAYear = 183 * 24 * time.Hour
	for name, ahead := range map[string]func(n int) time.Duration{
		"half a year":             func(int) time.Duration { return halfAYear },
		"a day more with each":    func(n int) time.Duration { return time.Duration(n) * 25 * time.Hour },
		"half a year, then a day": func(n int) time.Duration { return []time.Duration{halfAYear, 25 * time.Hour}[n%2] },
		"as much as is believed":  func(int) time.Duration { return 26 * time.Hour },
	} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			collected, ended := 0, time.Now().Add(time.Hour)
			src := kit.KeyClient(t, srv, kit.EC()).TokenSource(kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				if time.Now().After(ended) {
					return srv.Client().Transport.RoundTrip(req)
				}
				collected++
				exp := time.Unix(int64(assertionSent(t, req)["exp"].(float64)), 0)
				if valid := time.Until(exp); valid > 26*time.Hour+time.Minute {
					t.Errorf("%s ahead: an assertion is valid in %s; want 26 hours at most", name, valid)
				}
				return refuseAt(time.Now().Add(ahead(collected))).RoundTrip(req)
			})))
			kit.Every(time.Second, time.Hour, func() {
				if _, err := src.Token(); err == nil {
					t.Fatal("got a token")
				}
			})
			time.Sleep(time.Minute)
			if _, err := src.Token(); err != nil || collected < 100 {
				t.Errorf("%s ahead: after %d refusals got %v; want a token", name, collected, err)
			}
		})
	}
}
