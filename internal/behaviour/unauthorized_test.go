package behaviour_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic/mosaictest"
)

const (
	refusal      = `{"message":["no"],"error_code":401}`
	invalidToken = `Bearer error="invalid_token"`
)

// says answers 401, with a line of WWW-Authenticate for each of the challenge.
func says(challenge string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Www-Authenticate"] = strings.Split(challenge, "\n")
		rw.WriteHeader(http.StatusUnauthorized)
		io.WriteString(rw, refusal)
	}
}

// refuseFirst mounts an API: h answers requests with the first token, "welcome" any other.
func (w *world) refuseFirst(path string, h http.HandlerFunc) {
	var first atomic.Value
	w.Handle(path, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); first.CompareAndSwap(nil, got) || first.Load() == got {
			h(rw, r)
			return
		}
		io.WriteString(rw, "welcome")
	}))
}

// refused makes a world in which h answers /cis/refused to the client's token, ten seconds old.
func refused(t *testing.T, h http.HandlerFunc, test func(*testing.T, *world)) {
	t.Helper()
	inWorld(t, func(t *testing.T, w *world) {
		w.refuseFirst("/cis/refused", h)
		w.warm(10 * time.Second)
		test(t, w)
	})
}

func TestARevokedTokenIsRenewedOnceForFifty(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.warm(10 * time.Second)
		w.Revoke()
		w.SetLatency(time.Second, 0)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				method := []string{"GET", "POST"}[i%2] // the stand-in says invalid_token
				w.send(request(method, "/cis/fifty", strings.NewReader("form"))).want(time.Second, 200)
			})
		}
		wg.Wait()
		w.wantTokenRequests(2)
		for _, r := range w.arrived("/cis/fifty", 100) {
			if string(r.Body) != "form" {
				t.Errorf("a request arrived with a body of %d bytes; want all of it", len(r.Body))
			}
		}
	})
}

func TestALateRefusalFindsTheSuccessorOrWaitsForAnother(t *testing.T) {
	for _, late := range []time.Duration{3 * time.Second, 3 * time.Hour} { // after the latter the successor has ended
		refused(t, says(invalidToken), func(t *testing.T, w *world) {
			w.refuseFirst("/cis/slow", func(rw http.ResponseWriter, r *http.Request) {
				time.Sleep(late)
				says(invalidToken)(rw, r)
			})
			var wg sync.WaitGroup
			wg.Go(func() { w.get("/cis/slow").want(late, 200, "welcome") })
			synctest.Wait()
			w.get("/cis/refused").want(0, 200, "welcome")
			w.wantTokenRequests(2)
			wg.Wait()
			if late < time.Hour {
				w.wantTokenRequests(2)
			}
		})
	}
}

func TestWhichRequestsAreSentAgainAfterA401(t *testing.T) {
	form := func() io.Reader { return strings.NewReader("form") }
	once := func() io.Reader { return newStreamed() }
	none := func() io.Reader { return nil }
	empty := func() io.Reader { return http.NoBody }
	const post, long = "POST", 8<<10 - len(","+invalidToken)
	for _, tt := range []struct {
		name, method, header, challenge string
		body                            func() io.Reader
		want                            int // arrivals
	}{
		{"GET", "GET", "", "", none, 2},
		{"no method, or GET", "", "", "", none, 2},
		{"HEAD", "HEAD", "", "", none, 2},
		{"OPTIONS", "OPTIONS", "", "", none, 2},
		{"TRACE", "TRACE", "", "", none, 2},
		{"GET with a body", "GET", "", "", form, 2},
		{"GET with a streamed body", "GET", "", "", once, 1},
		{"POST", post, "", "", form, 1},
		{"POST without a body", post, "", "", none, 1},
		{"DELETE", "DELETE", "", "", none, 1},
		{"another method", "PURGE", "", "", none, 1},
		{"Idempotency-Key", post, "Idempotency-Key", "", form, 2},
		{"X-Idempotency-Key, not to be sent", post, "X-Idempotency-Key", "", form, 2},
		{"Idempotency-Key with a streamed body", post, "Idempotency-Key", "", once, 1},

		{"invalid_token", post, "", invalidToken, form, 2},
		{"an empty body", post, "", invalidToken, empty, 2},
		{"a streamed body", post, "", invalidToken, once, 1},
		{"after other parameters", post, "", `Bearer realm="x", error="invalid_token", error_description="revoked"`, form, 2},
		{"without blanks", post, "", `Bearer realm="x",error="invalid_token"`, form, 2},
		{"without quotes, in lower case", post, "", `bearer error=invalid_token`, form, 2},
		{"in the second challenge", post, "", `Basic realm="x", Bearer error="invalid_token"`, form, 2},
		{"in the second line", post, "", "Basic realm=\"x\"\n" + invalidToken, form, 2},
		{"within another scheme's realm", post, "", `Basic realm="see bearer, error=invalid_token"`, form, 1},
		{"of another scheme", post, "", `DPoP error="invalid_token"`, form, 1},
		{"of another scheme, after Bearer", post, "", `Bearer realm="a", DPoP error="invalid_token"`, form, 1},
		{"of a scheme that ends in Bearer", post, "", `XBearer error="invalid_token"`, form, 1},
		{"within a description", post, "", `Bearer error_description="error=\"invalid_token\""`, form, 1},
		{"within a description, after a quote", post, "", `Bearer error_description="\", error=invalid_token"`, form, 1},
		{"as a description", post, "", `Bearer error_description="invalid_token"`, form, 1},
		{"another error", post, "", `Bearer error="insufficient_scope"`, form, 1},
		{"a longer error", post, "", `Bearer error="invalid_token_format"`, form, 1},
		{"a longer error without quotes", post, "", `Bearer error=invalid_token_format`, form, 1},
		{"within 8 KiB", post, "", strings.Repeat("x", long) + "\n" + invalidToken, form, 2},
		{"behind 8 KiB", post, "", strings.Repeat("x", long+1) + "\n" + invalidToken, form, 1},
		{"behind 880 KiB in a hundred lines", post, "", strings.Repeat(strings.Repeat("x ", 4400)+"\n", 100) + invalidToken, form, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, says(tt.challenge), func(t *testing.T, w *world) {
				w.SetLatency(3*time.Second, 0)
				req := request(tt.method, "/cis/refused", tt.body())
				req.Method = tt.method
				switch tt.header {
				case "Idempotency-Key":
					req.Header.Set(tt.header, "k")
				case "X-Idempotency-Key":
					req.Header[tt.header] = nil // as net/http documents
				}
				switch o := w.send(req); {
				case tt.method == "HEAD":
					o.want(3*time.Second, 200, "")
				case tt.want == 2:
					o.want(3*time.Second, 200, "welcome")
				default:
					o.want(0, 401, refusal) // at once
				}
				want := ""
				if body := tt.body(); body != nil && body != http.NoBody {
					want = "form"
				}
				arrived := w.arrived("/cis/refused", tt.want)
				for _, got := range arrived {
					if string(got.Body) != want || got.Method != cmp.Or(tt.method, "GET") || !slices.Equal(got.Header[tt.header], req.Header[tt.header]) {
						t.Errorf("%s arrived with a body of %d bytes; want %s with %q, and its own headers", got.Method, len(got.Body), tt.method, want)
					}
				}
				time.Sleep(3 * time.Second)
				w.wantTokenRequests(2) // whichever is sent again, the token is renewed
				w.get("/cis/next").want(0, 200)
				if w.arrived("/cis/next", 1)[0].Header.Get("Authorization") == arrived[0].Header.Get("Authorization") {
					t.Error("the next request has the refused token; want its successor")
				}
			})
		})
	}
}

func TestA401IsHandedBackWithoutASuccessor(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*world, *http.Request)
		took time.Duration
	}{
		{"refused", func(w *world, _ *http.Request) { w.SetSecret("another-secret") }, 0},
		{"unavailable", func(w *world, _ *http.Request) { w.Fail(mosaictest.Fault{Status: 503}) }, 0},
		{"broken off", func(w *world, _ *http.Request) { w.Fail(mosaictest.Fault{}) }, 0},
		{"too late", func(w *world, _ *http.Request) { w.SetLatency(5*time.Second+1, 0) }, 5 * time.Second},
		{"never", func(w *world, _ *http.Request) { w.Fail(mosaictest.Fault{Hang: true}) }, 5 * time.Second},
		{"the request's context ends", func(w *world, req *http.Request) {
			ctx, cancel := context.WithCancel(req.Context())
			time.AfterFunc(time.Second, cancel)
			*req = *req.WithContext(ctx)
			w.SetLatency(3*time.Second, 0)
		}, time.Second},
		{"GetBody fails", func(_ *world, req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		}, 0},
		{"the same token again", func(w *world, _ *http.Request) {
			tok := strings.TrimPrefix(w.arrived("/cis/warm", 1)[0].Header.Get("Authorization"), "Bearer ")
			w.Fail(mosaictest.Fault{
				Status: 200,
				Header: http.Header{"Content-Type": {"application/json"}},
				Body:   fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3590}`, tok),
			})
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, says(invalidToken), func(t *testing.T, w *world) {
				req := request("POST", "/cis/refused", strings.NewReader("form"))
				tt.set(w, req)
				w.send(req).want(tt.took, 401, refusal)
				w.arrived("/cis/refused", 1)
				w.get("/cis/other").want(0, 200) // without a wait
				w.wantTokenRequests(2)
			})
		})
	}
}

func TestATokenYoungerThanTenSecondsIsNotRenewed(t *testing.T) {
	for _, challenge := range []string{"", invalidToken} {
		for age, requests := range map[time.Duration]int{0: 1, 10*time.Second - 1: 1, 10 * time.Second: 2} {
			inWorld(t, func(t *testing.T, w *world) {
				w.refuseFirst("/cis/refused", says(challenge))
				w.warm(age)
				w.get("/cis/refused").want(0, map[int]int{1: 401, 2: 200}[requests])
				w.wantTokenRequests(requests)
			})
		}
	}
}

func TestTheOldTokenStaysInServiceUntilItsSuccessorIsThere(t *testing.T) {
	refused(t, says(invalidToken), func(t *testing.T, w *world) {
		w.SetLatency(3*time.Second, 0)
		var wg sync.WaitGroup
		wg.Go(func() { w.get("/cis/refused").want(3*time.Second, 200, "welcome") })
		for range 6 {
			synctest.Wait()
			w.get("/cis/other").want(0, 200)
			time.Sleep(time.Second)
		}
		wg.Wait()
		old := w.arrived("/cis/warm", 1)[0].Header.Get("Authorization")
		for i, r := range w.arrived("/cis/other", 6) {
			if got, want := r.Header.Get("Authorization") == old, i < 3; got != want && i != 3 { // the fourth comes with the successor
				t.Errorf("after %ds, a request had the old token: %t; want %t", i, got, want)
			}
		}
	})
}

func TestAPathThatAnswers401ForGoodCostsLittle(t *testing.T) {
	for _, challenge := range []string{invalidToken, ""} {
		for _, tt := range []struct {
			name  string
			set   func(*world)
			least int
		}{
			{"well", func(*world) {}, 9},
			{"slow", func(w *world) { w.SetLatency(2*time.Second, 0) }, 9},
			{"outage", func(w *world) { w.Fail(mosaictest.Fault{Status: 503}) }, 5},
			{"hanging", func(w *world) { w.Fail(mosaictest.Fault{Hang: true}) }, 5},
			{"refused", func(w *world) { w.SetSecret("another-secret") }, 5},
		} {
			t.Run(tt.name+" "+challenge, func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					var sent atomic.Int32
					w.intercept("/cis/bad", served(func(rw http.ResponseWriter, r *http.Request) {
						sent.Add(1)
						says(challenge)(rw, r)
					}))
					w.intercept("/cis/good", served(nothing))
					w.warm(0)
					tt.set(w)
					var wg sync.WaitGroup
					for range 600 {
						wg.Go(func() {
							o := w.get("/cis/bad")
							o.want(min(o.took, 5*time.Second), 401, refusal)
						})
						w.get("/cis/good").want(0, 200)
						time.Sleep(time.Second)
					}
					wg.Wait()
					asked := w.TokenRequests()[1:]
					if len(asked) < tt.least || int(sent.Load()) > 600+3*len(asked) {
						t.Errorf("got %d renewals and %d requests; want %d or more, and some of 600 sent once more", len(asked), sent.Load(), tt.least)
					}
					for i := 1; i < len(asked); i++ {
						if gap := asked[i].Time.Sub(asked[i-1].Time); gap < time.Minute {
							t.Fatalf("got a token request %s after another; want a minute or more", gap)
						}
					}
				})
			})
		}
	}
}

func TestEachAudienceIsRenewedByItself(t *testing.T) {
	refused(t, says(""), func(t *testing.T, w *world) {
		w.refuseFirst("/risk/refused", says(""))
		w.get("/risk/warm").want(0, 200)
		time.Sleep(10 * time.Second)
		w.get("/cis/refused").want(0, 200, "welcome")
		w.get("/risk/refused").want(0, 200, "welcome")
		w.wantTokenRequests(4)
	})
}

// The stand-in speaks HTTP/1.1, in which the unread body occupies the only connection.
func TestWithMaxConnsPerHost1TheCallerGetsIts401AfterFiveSeconds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.transport.MaxConnsPerHost = 1
		w.refuseFirst("/cis/refused", says(invalidToken))
		w.warm(10 * time.Second)
		w.send(request("POST", "/cis/refused", strings.NewReader("form"))).want(5*time.Second, 401, refusal)
		w.wantTokenRequests(2)
		w.get("/cis/refused").want(0, 200, "welcome")
	})
}

// A notedBody notes its calls without a lock, so calls of two goroutines at a time are a data race.
type notedBody struct {
	io.ReadCloser
	calls []string
}

func (b *notedBody) Read(p []byte) (int, error) {
	b.calls = append(b.calls, "Read")
	return b.ReadCloser.Read(p)
}

func (b *notedBody) Close() error {
	b.calls = append(b.calls, "Close")
	return b.ReadCloser.Close()
}

func TestTheBodyOfA401WaitsUnread(t *testing.T) {
	for _, tt := range []struct {
		latency, took time.Duration
		status        int
		calls         []string
	}{
		{0, 0, 200, []string{"Close"}},
		{3 * time.Second, 3 * time.Second, 200, []string{"Close"}},
		{5*time.Second + 1, 5 * time.Second, 401, nil},
	} {
		inWorld(t, func(t *testing.T, w *world) {
			body, answer := io.Pipe()
			noted := &notedBody{ReadCloser: body}
			w.intercept("/cis/refused", func(*http.Request) (*http.Response, error) {
				if noted.calls != nil {
					return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
				}
				go io.WriteString(answer, refusal) // and no end
				return &http.Response{StatusCode: http.StatusUnauthorized, Body: noted}, nil
			})
			w.warm(10 * time.Second)
			w.SetLatency(tt.latency, 0)
			begun := time.Now()
			res, err := w.client().Do(request("GET", "/cis/refused", nil))
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took != tt.took || res.StatusCode != tt.status || !slices.Equal(noted.calls, tt.calls) {
				t.Errorf("got %d after %s, and the calls %q of the body; want %d after %s, and %q", res.StatusCode, took, noted.calls, tt.status, tt.took, tt.calls)
			}
			if got := make([]byte, len(refusal)); tt.status == 401 {
				if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != refusal {
					t.Errorf("got %q, error %v; want the body of the 401", got, err)
				}
			}
			res.Body.Close()
		})
	}
}

func TestABodyWhoseClosePanicsDoesSoInItsCaller(t *testing.T) {
	for latency, want := range map[time.Duration]any{0: "closed", time.Hour: nil} {
		inWorld(t, func(t *testing.T, w *world) {
			body, answer := io.Pipe()
			defer answer.Close()
			w.intercept("/cis/refused", func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusUnauthorized, Body: panicking{body}}, nil
			})
			w.warm(10 * time.Second)
			w.SetLatency(latency, 0)
			defer func() {
				if got := recover(); got != want {
					t.Errorf("recovered %v; want %v", got, want)
				}
			}()
			if res, err := w.client().Do(request("GET", "/cis/refused", nil)); err != nil || res.StatusCode != 401 {
				t.Errorf("got error %v, or no 401", err)
			}
		})
	}
}

type panicking struct{ io.Reader }

func (panicking) Close() error { panic("closed") }

func TestAnAlertToAClientWithoutACertificateRenewsNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.intercept("/cis/alert", func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "remote error", Err: errors.New("tls: internal error")}
		})
		w.warm(10 * time.Second)
		if o := w.get("/cis/alert"); o.err == nil {
			t.Error("got no error; want the alert")
		}
		w.wantTokenRequests(1)
	})
}
