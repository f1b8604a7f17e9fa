package grant_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/grant"
	"example.com/mosaic/internal/identity"
	"example.com/mosaic/internal/refresh"
)

const (
	endpoint = "https://api.acme.com/oidc/token"
	failed   = "mosaic: token request to " + endpoint + " for client acme failed"

	// secret is special in a form, in JSON and in HTML.
	secret = `s3cret&="<'+/>% ü`

	jsonType = "Content-Type: application/json"
)

// newClient returns a client that has a secret, over rt.
func newClient(t testing.TB, rt http.RoundTripper) *grant.Client {
	t.Helper()
	return newClientOf(t, rt, &identity.Credentials{Secret: secret})
}

// newClientOf returns a client that has creds, over rt.
func newClientOf(t testing.TB, rt http.RoundTripper, creds *identity.Credentials) *grant.Client {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	id, err := identity.New(creds, nil, rt, log)
	if err != nil {
		t.Fatal(err)
	}
	return &grant.Client{
		Config:   clientcredentials.Config{ClientID: "acme", TokenURL: endpoint, AuthStyle: oauth2.AuthStyleInParams},
		MTLSURL:  "https://api.acme.com/cis/oidc/token",
		Identity: id,
		Log:      log,
	}
}

// request returns c's token, or its error after up to three attempts.
func request(t testing.TB, ctx context.Context, c *grant.Client) (*refresh.Token, *grant.Error) {
	t.Helper()
	tok, err := c.Token(ctx, "", refresh.Attempts)
	if err == nil {
		return tok, nil
	}
	var failure *grant.Error
	if !errors.As(err, &failure) {
		t.Fatalf("got a %T; want a *grant.Error", err)
	}
	kit.OneLine(t, err, 1000)
	if want := strings.Contains(err.Error(), "deadline exceeded") || strings.Contains(err.Error(), "in time"); failure.Timeout() != want {
		t.Errorf("got Timeout %t; want %t", failure.Timeout(), want)
	}
	return nil, failure
}

// fail is request for a test that wants an error.
func fail(t testing.TB, ctx context.Context, c *grant.Client) *grant.Error {
	t.Helper()
	_, failure := request(t, ctx, c)
	if failure == nil {
		t.Fatal("got a token; want an error")
	}
	return failure
}

const usable = `"expires_in":60`

func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	const passing, refusal, neither = "passing", "refusal", "neither"
	for _, tt := range []struct{ name, reply, kind string }{
		{"a transport error", "", passing},
		{"no HTTP", "SSH-2.0-\x1b[31m", passing},
		{"a body that breaks off", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", passing},
		{"a refusal that breaks off", "HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{", passing},
		{"408", kit.Reply("408 Request Timeout", "", ""), passing},
		{"429", kit.Reply("429 Too Many Requests", "", ""), passing + refusal},
		{"500", kit.Reply("500 Internal Server Error", "", ""), passing},
		{"503 with an error code", kit.Reply("503 Service Unavailable", jsonType, `{"error":"temporarily_unavailable"}`), passing},
		{"599", kit.Reply("599 Odd", "", ""), passing},
		{"301", kit.Reply("301 Moved Permanently", "", ""), neither},
		{"400", kit.Reply("400 Bad Request", "", ""), refusal},
		{"401", kit.Reply("401 Unauthorized", "", ""), refusal},
		{"499", kit.Reply("499 Odd", "", ""), refusal},
		{"204", kit.Reply("204 No Content", "", ""), refusal},
		{"an error with status 200", kit.Reply("200 OK", jsonType, `{"error":"server_error"}`), refusal},
		{"HTML with status 200", kit.Reply("200 OK", "Content-Type: text/html", "<html>"), refusal},
		{"a reply of more than a MiB", kit.Reply("200 OK", jsonType, `{"access_token":"t",`+usable+strings.Repeat(" ", 1<<20)+"}"), refusal},
		{"a token that cannot be used", kit.TokenReply("a b", usable), refusal},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			attempts, prefix := 1, failed+": "
			if strings.HasPrefix(tt.kind, passing) {
				attempts, prefix = 3, failed+" (3 attempts): "
			}
			stub := &kit.Stub{Replies: []string{tt.reply}}
			failure := fail(t, t.Context(), newClient(t, stub))
			if got := len(stub.Requests()); got != attempts || failure.Refused() != strings.HasSuffix(tt.kind, refusal) || !strings.HasPrefix(failure.Error(), prefix) {
				t.Errorf("got %v, refused %t after %d attempts; want %d", failure, failure.Refused(), got, attempts)
			}
			stub.Replies = []string{tt.reply, tt.reply, kit.TokenReply("opaque", usable)}
			if _, failure := request(t, t.Context(), newClient(t, stub)); (failure == nil) != (attempts == 3) {
				t.Errorf("an endpoint that recovers: got error %v", failure)
			}
		})
	}
}

func TestAttemptsBackOffWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[time.Duration]bool)
		for range 20 {
			stub := new(kit.Stub)
			fail(t, t.Context(), newClient(t, stub))
			sent := stub.Requests()
			first, second := sent[1].At.Sub(sent[0].At), sent[2].At.Sub(sent[1].At)
			if first < 250*time.Millisecond || first >= 500*time.Millisecond || second < 500*time.Millisecond || second >= time.Second {
				t.Errorf("got pauses of %s and %s; want 0.25 to 0.5 s and 0.5 to 1 s", first, second)
			}
			seen[first], seen[second] = true, true
		}
		if len(seen) < 30 {
			t.Errorf("got %d different pauses of 40", len(seen))
		}
	})
}

func TestRetryAfterIsMindedAsFarAsItFits(t *testing.T) {
	const jitter = 0 // a pause of less than a second
	const year = 366 * 24 * time.Hour
	const brokenOff = "\r\nContent-Length: 9\r\n\r\n<"
	for _, tt := range []struct {
		name, header string
		pauses       []time.Duration
		told         time.Duration
	}{
		{"seconds", "Retry-After: 3", []time.Duration{3e9, 3e9}, 3e9},
		{"seconds before a body that breaks off", "Retry-After: 3" + brokenOff, []time.Duration{3e9, 3e9}, 3e9},
		{"it fits once", "Retry-After: 29", []time.Duration{29e9}, 29e9},
		{"it does not fit", "Retry-After: 30", nil, 30e9},
		{"zero", "Retry-After: 0", []time.Duration{jitter, jitter}, 0},
		{"negative", "Retry-After: -5", []time.Duration{jitter, jitter}, 0},
		{"too large for 32 bits", "Retry-After: 2147483648", nil, year},
		{"19 seconds, if an int64 of nanoseconds overflows", "Retry-After: 18446744093", nil, year},
		{"too large for 64 bits", "Retry-After: 99999999999999999999", nil, year},
		{"too small for 64 bits", "Retry-After: -99999999999999999999", []time.Duration{jitter, jitter}, 0},
		{"nonsense", "Retry-After: soon", []time.Duration{jitter, jitter}, 0},
		// A bubble's clock begins with the year 2000.
		{"a date", "Retry-After: Sat, 01 Jan 2000 00:00:20 GMT", []time.Duration{20e9, jitter}, 0},
		{"a date that does not fit", "Retry-After: Sat, 01 Jan 2000 00:01:00 GMT", nil, time.Minute},
		{"the last date of all", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", nil, year},
		{"a date in the past", "Retry-After: Fri, 31 Dec 1999 23:00:00 GMT", []time.Duration{jitter, jitter}, 0},
		{"a date by the server's clock", "Date: Sat, 01 Jan 2000 07:00:00 GMT\r\nRetry-After: Sat, 01 Jan 2000 07:00:04 GMT", []time.Duration{4e9, 4e9}, 4e9},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			stub := &kit.Stub{Replies: []string{"HTTP/1.1 503 Service Unavailable\r\n" + tt.header + "\r\n\r\n"}}
			failure := fail(t, t.Context(), newClient(t, stub))
			sent := stub.Requests()
			if len(sent) != len(tt.pauses)+1 || failure.RetryAfter() != tt.told || time.Since(sent[len(sent)-1].At) != 0 {
				t.Fatalf("got %d attempts, Retry-After %s; want %d, %s, and the error at once", len(sent), failure.RetryAfter(), len(tt.pauses)+1, tt.told)
			}
			for i, want := range tt.pauses {
				if got := sent[i+1].At.Sub(sent[i].At); got != want && (want != jitter || got <= 0 || got >= time.Second) {
					t.Errorf("got a pause of %s; want %s", got, want)
				}
			}
		})
	}
}

// endless is a body that ends with its context.
type endless struct{ context.Context }

func (e endless) Read([]byte) (int, error) { <-e.Done(); return 0, e.Err() }
func (e endless) Close() error             { return nil }

func TestTheTimeOfARequestIsBounded(t *testing.T) {
	hangs := map[string]kit.RoundTripper{
		"no reply": func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
		"no end": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: endless{r.Context()}}, nil
		},
	}
	for _, tt := range []struct {
		timeout  time.Duration // of the HTTP client
		attempts int           // of ten seconds each, if there is so much left
		total    time.Duration
		named    bool
	}{
		{0, 3, 30 * time.Second, false},
		{time.Minute, 3, 30 * time.Second, false},
		{15 * time.Second, 2, 15 * time.Second, true},
		{5 * time.Second, 1, 5 * time.Second, true},
	} {
		for name, hang := range hangs {
			kit.Run(t, fmt.Sprint(tt.timeout, " ", name), func(t *testing.T) {
				begun := time.Now()
				attempts := 0
				c := newClient(t, kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
					deadline, _ := r.Context().Deadline()
					if attempts++; time.Until(deadline) != min(10*time.Second, tt.total-time.Since(begun)) {
						t.Errorf("attempt %d has %s", attempts, time.Until(deadline))
					}
					return hang(r)
				}))
				c.Timeout = tt.timeout
				failure := fail(t, t.Context(), c)
				if took := time.Since(begun); took != tt.total || attempts != tt.attempts {
					t.Errorf("got %d attempts in %s; want %d in %s", attempts, took, tt.attempts, tt.total)
				}
				text := failure.Error()
				if named := strings.Contains(text, "the Timeout of the HTTP client is "+tt.timeout.String()); named != tt.named || !failure.Timeout() || strings.Contains(text, "context") || !strings.Contains(text, "in time") {
					t.Errorf("got %s; want a timeout, that of the HTTP client named: %t, and no context", text, tt.named)
				}
			})
		}
	}
}

func TestErrorsIsFindsTheCallersContextAndOnlyThat(t *testing.T) {
	hang := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, errors.New("went away")
	}
	unavailable := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"5"}}}, nil
	}
	late := func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return unavailable(r) }
	cancel := func(ctx context.Context) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(3*time.Second, cancel)
		return ctx
	}
	after := func(d time.Duration) func(context.Context) context.Context {
		return func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, d)
			time.AfterFunc(2*time.Hour, cancel)
			return ctx
		}
	}
	for _, tt := range []struct {
		name  string
		rt    kit.RoundTripper
		end   func(context.Context) context.Context
		want  error
		reply bool // the last one is in the error
	}{
		{"cancelled during an attempt", hang, cancel, context.Canceled, false},
		{"cancelled while the reply came", late, cancel, context.Canceled, true},
		{"cancelled between attempts", unavailable, cancel, context.Canceled, true},
		{"a deadline during an attempt", hang, after(3 * time.Second), context.DeadlineExceeded, false},
		{"a deadline while the reply came", late, after(3 * time.Second), context.DeadlineExceeded, true},
		{"a deadline in the second attempt", hang, after(15 * time.Second), context.DeadlineExceeded, false},
		{"a deadline that a pause does not fit into", unavailable, after(3 * time.Second), nil, true},
		{"a deadline that is not reached", unavailable, after(time.Hour), nil, true},
		{"a deadline that the network's timers notice first", func(*http.Request) (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return nil, errors.New("i/o timeout")
		}, func(ctx context.Context) context.Context { return unnoticed{ctx, time.Now().Add(3 * time.Second)} }, context.DeadlineExceeded, false},
		{"a transport that says so", func(*http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("a pool of its own: %w, %w", context.Canceled, context.DeadlineExceeded)
		}, after(time.Hour), nil, false},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			begun := time.Now()
			failure := fail(t, tt.end(t.Context()), newClient(t, tt.rt))
			if took := time.Since(begun); tt.want == context.Canceled && took != 3*time.Second {
				t.Errorf("it took %s; want it to end with the caller's context", took)
			}
			for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
				if got := errors.Is(failure, end); got != (tt.want == end) {
					t.Errorf("errors.Is finds %v: got %t; want %t", end, got, !got)
				}
			}
			var reply *oauth2.RetrieveError
			if found := errors.As(failure, &reply); found != tt.reply || found && !strings.Contains(failure.Error(), "503 Service Unavailable") {
				t.Errorf("errors.As finds the last reply: got %t; want %t; and its status in %s", found, tt.reply, failure)
			}
			if tt.want != nil && (!strings.Contains(failure.Error(), ": "+tt.want.Error()) || failure.Refused()) {
				t.Errorf("got %s, refused %t; want the end of the context", failure, failure.Refused())
			}
		})
	}
}

// unnoticed is a context whose deadline has had no effect yet.
type unnoticed struct {
	context.Context
	deadline time.Time
}

func (u unnoticed) Deadline() (time.Time, bool) { return u.deadline, true }

func TestRedirectsAreRefused(t *testing.T) {
	for status := 300; status <= 308; status++ {
		for _, location := range []string{"https://evil.example/oidc/token", "/elsewhere", "https://evil.example/%zz", ""} {
			stub := &kit.Stub{Replies: []string{kit.Reply(fmt.Sprint(status, " Elsewhere"), "Location: "+location, "")}}
			failure := fail(t, t.Context(), newClient(t, stub))
			if sent := stub.Requests(); len(sent) != 1 || sent[0].URL != endpoint {
				t.Errorf("%d to %q: got %d requests; want one, to the token endpoint", status, location, len(sent))
			}
			if text := failure.Error(); !strings.Contains(text, fmt.Sprintf("failed: %d", status)) || !strings.Contains(text, "redirect") || strings.Contains(text, "elsewhere") || strings.Contains(text, "evil") {
				t.Errorf("%d to %q: got %v; want a redirect named, without its destination", status, location, failure)
			}
		}
	}
}

func TestAFailureOnTheWayIsNamedAndNotReachable(t *testing.T) {
	proxied := func(reply string) http.RoundTripper {
		rt := kit.Wire(reply)
		rt.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.acme.com:8080"})
		return rt
	}
	connect := func(status string) http.RoundTripper { return proxied(kit.Reply(status, "", "")) }
	unreachable := connect("").(*http.Transport)
	unreachable.DialContext = func(_ context.Context, network, addr string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New(addr + ": connection refused")}
	}
	own := &oauth2.RetrieveError{ErrorCode: "invalid_grant", ErrorDescription: "the proxy's"} // of a transport that uses x/oauth2 itself
	for _, tt := range []struct {
		name string
		rt   http.RoundTripper
		want string // the end
	}{
		{"a proxy's 407", connect("407 Proxy Authentication Required"), "the proxy refused CONNECT: 407 Proxy Authentication Required: check HTTPS_PROXY and its credentials, and that the proxy allows this host"},
		{"a proxy's 403", connect("403 Forbidden"), "the proxy refused CONNECT: 403 Forbidden: check HTTPS_PROXY and its credentials, and that the proxy allows this host"},
		{"a proxy's 502", connect("502 Bad Gateway"), "the proxy refused CONNECT: 502 Bad Gateway: check HTTPS_PROXY and its credentials, and that the proxy allows this host"},
		{"a proxy's own words", connect("403 Denied by policy 7"), `the proxy refused CONNECT: "Denied by policy 7": check HTTPS_PROXY and its credentials, and that the proxy allows this host`},
		{"a proxy without words", connect("403 "), `the proxy refused CONNECT: check HTTPS_PROXY and its credentials, and that the proxy allows this host`},
		{"a proxy that knows the secret", connect("403 Denied: " + secret), `the proxy refused CONNECT: "Denied: [redacted]": check HTTPS_PROXY and its credentials, and that the proxy allows this host`},
		{"no proxy", proxied("SSH-2.0-OpenSSH_9.6\r\n\r\n"), `"malformed HTTP response "SSH-2.0-OpenSSH_9.6"": check HTTPS_PROXY and its credentials, and that the proxy allows this host`},
		{"a proxy that hangs up", proxied(""), `"unexpected EOF": check HTTPS_PROXY and its credentials, and that the proxy allows this host`},
		{"a proxy that cannot be reached", unreachable, `proxy.acme.com:8080: connection refused": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`},
		{"an error", kit.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, own }), `"oauth2: "invalid_grant" "the proxy's""`},
		{"an error of the body", kit.RoundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(own))}, nil
		}), `the reply broke off: "oauth2: "invalid_grant" "the proxy's""`},
		{"an error with the form", kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			form, _ := io.ReadAll(r.Body)
			return nil, fmt.Errorf("refused %s with\n%s", form, secret)
		}), `"refused [withheld]"`},
		{"an error that panics", kit.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, panics{} }), `"[withheld]"`},
		{"a connection that is closed", kit.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, io.EOF }), "the connection was closed before a reply came"},
		{"a server's certificate that does not verify", kit.RoundTripper(func(*http.Request) (*http.Response, error) {
			return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
		}), `the server's certificate does not verify ("tls: failed to verify certificate: x509: certificate signed by unknown authority"): check Endpoint, the local clock, and whether a proxy terminates TLS here`},
		{"nothing", kit.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, nil }), `"the RoundTripper returned nothing"`},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			failure := fail(t, t.Context(), newClient(t, tt.rt))
			prefix := failed + " (3 attempts): "
			if strings.Contains(tt.want, "does not verify") || strings.Contains(tt.want, "refused CONNECT: 40") {
				prefix = failed + ": "
			}
			if !strings.HasPrefix(failure.Error(), prefix) || !strings.HasSuffix(failure.Error(), tt.want) || failure.Refused() != (prefix == failed+": ") {
				t.Errorf("got  %v, refused %t\nwant %s at its end", failure, failure.Refused(), tt.want)
			}
			var found *oauth2.RetrieveError
			if errors.As(failure, &found) {
				t.Error("errors.As finds a RetrieveError, which is not the token endpoint's")
			}
			kit.NoSecret(t, failure, secret, url.QueryEscape(secret))
		})
	}
}

type panics struct{}

func (panics) Error() string { panic(secret) }

func TestTokensAcceptedAndRefused(t *testing.T) {
	for _, tt := range []struct{ name, token, further, want string }{
		{"every character of a b64token", "aZ09-._~+/==", usable, ""},
		{"16 KiB", strings.Repeat("a", 16384), usable, ""},
		{"bearer in lower case", "opaque", usable + `,"token_type":"bearer"`, ""},
		{"no type", "opaque", usable + `,"token_type":""`, ""},
		{"expires_in as a string", "opaque", `"expires_in":"60"`, ""},
		{"exp alone", kit.JWT(`{"exp":%d}`, time.Now().Add(time.Hour).Unix()), "", ""},
		{"DPoP", "opaque", usable + `,"token_type":"DPoP"`, `"DPoP", not Bearer`},
		{"N_A", "opaque", usable + `,"token_type":"N_A"`, `"N_A", not Bearer`},
		{"a token_type of more than a word", "opaque", usable + `,"token_type":"Bearer token"`, "not Bearer"},
		{"a line end", `a\n`, usable, "RFC 6750"},
		{"a blank", "a b", usable, "RFC 6750"},
		{"an equals sign within", "a=b", usable, "RFC 6750"},
		{"equals signs only", "==", usable, "RFC 6750"},
		{"16 KiB and a byte", strings.Repeat("a", 16385), usable, "16385 bytes"},
		{"no token", "", usable, "not a token response"},
		{"no end", "opaque", `"scope":"a"`, "no usable exp claim"},
		{"an end in the past", "opaque", `"expires_in":-60`, "no usable expires_in"},
		{"an end in 68 years", "opaque", `"expires_in":2147483647`, "no such lifetime"},
		{"expires_in a word", "opaque", `"expires_in":"soon"`, "not a token response"},
		{"expires_in a fraction", "opaque", `"expires_in":3600.5`, "not a token response"},
	} {
		tok, failure := request(t, t.Context(), newClient(t, &kit.Stub{Replies: []string{kit.TokenReply(tt.token, tt.further)}}))
		switch {
		case tt.want == "" && (failure != nil || tok.AccessToken != tt.token || tok.Type() != "Bearer" || tok.Authorization != "Bearer "+tt.token || !tok.Valid() || tok.Via != nil):
			t.Errorf("%s: got error %v; want the token", tt.name, failure)
		case tt.want != "" && (failure == nil || !failure.Refused() || !strings.Contains(failure.Error(), tt.want)):
			t.Errorf("%s: got %v; want a refusal with %q", tt.name, failure, tt.want)
		}
	}
}

func TestAnAssertionIsDatedByTheServersClockWithinADay(t *testing.T) {
	kit.NoFIPS(t)
	const year = 366 * 24 * time.Hour
	for _, tt := range []struct {
		skew   time.Duration // of the Date of the refusal
		status int
		want   string // "dated": a second assertion is, by the Date; "named": the difference is in the error
	}{
		{0, 401, ""}, {3 * time.Second, 401, ""}, {-3 * time.Second, 401, ""}, {time.Hour, 403, ""}, {time.Hour, 500, ""},
		{4 * time.Second, 401, "dated"}, {-4 * time.Second, 400, "dated"}, {26 * time.Hour, 401, "dated"}, {-26 * time.Hour, 401, "dated"},
		{26*time.Hour + time.Second, 401, "named"}, {-26*time.Hour - time.Second, 401, "named"},
		{year / 2, 401, "named"}, {10 * year, 401, "named"}, {-10 * year, 401, "named"},
	} {
		kit.Run(t, fmt.Sprint(tt.skew, " ", tt.status), func(t *testing.T) {
			begun := time.Now()
			var dates []time.Duration
			c := newClientOf(t, kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				var claims jwt.RegisteredClaims
				err := r.ParseForm()
				if _, _, jwtErr := jwt.NewParser().ParseUnverified(r.PostForm.Get("client_assertion"), &claims); err != nil || jwtErr != nil {
					t.Fatal(err, jwtErr)
				}
				dates = append(dates, claims.IssuedAt.Sub(begun)+10*time.Second) // dated back by ten
				return &http.Response{StatusCode: tt.status, Header: http.Header{"Date": {begun.Add(tt.skew).UTC().Format(http.TimeFormat)}}}, nil
			}), &identity.Credentials{Key: newKey(t, kit.EC(), "")})
			_, err := c.Token(t.Context(), "", 1)
			if strings.Contains(err.Error(), "attempts") {
				t.Errorf("got %v; want one attempt, whatever the assertion", err)
			}
			if named := strings.Contains(err.Error(), "the local clock differs from the server's by "+tt.skew.Abs().String()); named != (tt.want == "named") {
				t.Errorf("got %v; want the difference named: %t", err, !named)
			}
			want := []time.Duration{0}
			if tt.want == "dated" {
				want = append(want, tt.skew)
			}
			_, _ = c.Token(t.Context(), "", 1) // again by the local clock first: the Date was not at fault
			if want = append(want, want...); fmt.Sprint(dates) != fmt.Sprint(want) || time.Since(begun) != 0 {
				t.Errorf("got assertions dated %v after %s; want %v at once", dates, time.Since(begun), want)
			}
		})
	}
}

// A reply, however hostile, brings a token that can be used or an error that can be shown.
func FuzzTokenResponse(f *testing.F) {
	b64token := regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)
	ok, answer := kit.TokenReply, kit.Reply
	for _, reply := range []string{
		"", ok("opaque", usable), ok(kit.JWT(`{"exp":946688400}`), ""), ok(kit.JWT(`{"exp":946688400,"iat":946684800}`), `"expires_in":1`),
		ok(kit.JWT(`{"exp":1e300}`), `"expires_in":99999999999`), ok("a\\n", usable), ok("opaque", `"expires_in":1e3`), ok("", ""),
		answer("200 OK", "Content-Type: text/plain", "access_token=a&expires_in=18446744075"), answer("200 OK", "Content-Type: text/html", "<html>"),
		answer("200 "+secret, "", secret), answer("400 Bad", jsonType, `{"error":"invalid_client","error_description":"`+url.QueryEscape(secret)+`"}`),
		answer("401 Unauthorized", "Server: x\r\nX-Request-Id: 1", `{"message":["a",1,"b"],"error_code":4}`), answer("500 \x1b[31m", "Content-Type: text/html", html.EscapeString(secret)),
		answer("302 Found", "Location: "+secret, ""), "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", answer("503 x", "Retry-After: 5\r\nDate: x", ""),
		answer("200 OK", "Date: Sat, 01 Jan 2000 05:00:00 GMT", `{"access_token":"`+kit.JWT(`{"exp":946706400,"iat":946702800}`)+`"}`),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"err\r\n0\r\n\r\n", secret,
	} {
		f.Add(reply)
	}
	f.Fuzz(func(t *testing.T, reply string) {
		synctest.Test(t, func(t *testing.T) { // backoffs take no time, and the year is always 2000
			tok, failure := request(t, t.Context(), newClient(t, &kit.Stub{Replies: []string{reply}}))
			if failure != nil {
				kit.NoSecret(t, failure, secret, url.QueryEscape(secret), html.EscapeString(secret))
				return
			}
			if left := time.Until(tok.Expiry); left <= 0 || left > 366*24*time.Hour || !b64token.MatchString(tok.AccessToken) || len(tok.AccessToken) > 16384 || tok.Type() != "Bearer" {
				t.Errorf("got a token of type %q that ends in %s; want a Bearer token that is valid now, for no more than 366 days", tok.Type(), left)
			}
		})
	})
}
