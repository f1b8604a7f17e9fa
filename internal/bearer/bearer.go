// Package bearer gives each HTTP request its access token (RFC 6750).
package bearer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/reconnect"
	"example.com/mosaic/internal/refresh"
)

// A Transport adds the token for its URL to each request that goes to a known origin. It is safe for
// concurrent use.
type Transport struct {
	Plain  http.RoundTripper        // the caller's transport; if nil, http.DefaultTransport
	Own    func() http.RoundTripper // for requests to a known origin that have their own Authorization header
	Knows  func(*url.URL) bool      // reports whether tokens may go to the URL's origin
	Source func(*url.URL) *refresh.Source
	Log    *slog.Logger

	calls  reconnect.Sender // for calls to known origins through Plain
	mu     sync.Mutex
	logged [][2]string // host and reason of each record so far; guarded by mu
}

// RoundTrip sends req with a token. It sends req unchanged if tokens may not go to req's origin or if
// req has its own Authorization header. The response's Request is set to req, so that the caller does
// not see the token, and so that untrusted can trace a chain of redirects back.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.roundTrip(req)
	if res != nil {
		res.Request = req
	}
	return res, err
}

func (t *Transport) roundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		return t.plain().RoundTrip(req) // without a URL, this returns the usual error
	}
	if hasAuthorization(req.Header) {
		t.logWithout(slog.LevelDebug, req.URL.Host, "it has its own Authorization header")
		if t.Knows(req.URL) {
			return t.send(t.Own(), req)
		}
		return t.plain().RoundTrip(req)
	}
	if reason := t.untrusted(req); reason != "" {
		t.logWithout(slog.LevelWarn, req.URL.Host, reason)
		return t.plain().RoundTrip(req)
	}
	source := t.Source(req.URL)
	tok, err := source.Token(req.Context())
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	res, err := t.sendWith(tok, req, req.Body)
	if err == nil && res != nil && res.StatusCode == http.StatusUnauthorized {
		return t.unauthorized(source, tok, req, res)
	}
	if tok.Via != nil && isAlert(err) {
		source.Replace(tok) // a new token comes with the current certificate, if the server has refused this one
	}
	return res, err
}

func (t *Transport) plain() http.RoundTripper { return cmp.Or(t.Plain, http.DefaultTransport) }

// untrusted returns the reason to send req without a token, or "". It checks every request in a
// chain of redirects, because an untrusted server must not be able to make the client send
// DELETE /cis/… with a token.
func (t *Transport) untrusted(req *http.Request) (reason string) {
	r := req
	for range 100 { // a limit, because a chain made by a caller can be a cycle; http.Client follows ten redirects
		switch {
		case r == nil || r.URL == nil || !t.Knows(r.URL):
			if r == req {
				return "its origin is not known: check Endpoint, Resource and Hosts, and that the URL is https"
			}
			return "it was redirected by an origin that is not known"
		case r.Host != "" && (len(r.Host) != len(r.URL.Host) || !strings.EqualFold(r.Host, r.URL.Host)): // EqualFold also folds ſ to s
			return "its Host is not that of its URL: in a ReverseProxy, use Rewrite with SetURL"
		case r != req && (hasAuthorization(r.Header) || r.URL.User != nil):
			return "the request before the redirect had its own Authorization header"
		case r.Response == nil:
			return ""
		}
		r = r.Response.Request
	}
	return "it was redirected too often"
}

// hasAuthorization reports whether h has an Authorization header, in any letter case.
func hasAuthorization(h http.Header) bool {
	for name := range h {
		if strings.EqualFold(name, "Authorization") {
			return true
		}
	}
	return false
}

// maxLogged bounds the records of requests without a token, because a caller's URLs may name any
// number of hosts.
const maxLogged = 32

// logWithout logs a request without a token, once for each host and reason.
func (t *Transport) logWithout(level slog.Level, host, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key := [2]string{host, reason}; len(t.logged) < maxLogged && !slices.Contains(t.logged, key) {
		t.logged = append(t.logged, key)
		t.Log.Log(context.Background(), level, "mosaic: request sent without a token", "host", host, "reason", reason)
	}
}

// sendWith sends a copy of req with tok and body.
func (t *Transport) sendWith(tok *refresh.Token, req *http.Request, body io.ReadCloser) (*http.Response, error) {
	sent := *req
	sent.Body = body
	sent.Header = make(http.Header, len(req.Header)+1)
	maps.Copy(sent.Header, req.Header)
	sent.Header["Authorization"] = []string{tok.Authorization}
	return t.send(cmp.Or(tok.Via, t.Plain), &sent)
}

// send sends req to a known origin through rt, which is Plain or presents a certificate.
func (t *Transport) send(rt http.RoundTripper, req *http.Request) (*http.Response, error) {
	if via, ok := rt.(*mtls.Transport); ok {
		return via.APICalls.Send(via, req)
	}
	return t.calls.Send(rt, req)
}

// maxRetryWait bounds the wait for a new token after a 401. A renewal takes well under a second, and
// a caller is waiting.
const maxRetryWait = 5 * time.Second

// unauthorized handles res, the 401 to a request with tok. It begins the renewal of tok. If req can be
// sent again, it waits for the new token, closes res, and sends req with that token. Otherwise it
// returns res untouched.
func (t *Transport) unauthorized(source *refresh.Source, tok *refresh.Token, req *http.Request, res *http.Response) (*http.Response, error) {
	empty := req.Body == nil || req.Body == http.NoBody
	done, coming := source.Replace(tok)
	if !coming || !saysInvalidToken(res.Header) && !isRepeatable(req) || !empty && req.GetBody == nil {
		return res, nil
	}
	ctx, cancel := context.WithTimeout(req.Context(), maxRetryWait)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		return res, nil
	}
	next, err := source.Token(ctx)
	if err != nil || next.AccessToken == tok.AccessToken {
		return res, nil
	}
	body := req.Body
	if !empty {
		if body, err = req.GetBody(); err != nil {
			return res, nil
		}
	}
	if res.Body != nil {
		res.Body.Close()
	}
	return t.sendWith(next, req, body)
}

const maxChallenges = 8 << 10 // bytes of WWW-Authenticate that are read

// challenge matches a parameter of WWW-Authenticate, or a scheme (RFC 9110 §11.6.1).
var challenge = regexp.MustCompile(`([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)|([\w-]+)`)

// saysInvalidToken reports whether a 401 is about the token (RFC 6750 §3.1).
func saysInvalidToken(h http.Header) bool {
	challenges := strings.Join(h["Www-Authenticate"], ",") // equivalent to separate headers (RFC 9110 §5.3)
	scheme := ""
	for _, m := range challenge.FindAllStringSubmatch(challenges[:min(len(challenges), maxChallenges)], -1) {
		switch {
		case m[3] != "":
			scheme = m[3]
		case strings.EqualFold(scheme, "Bearer") && strings.EqualFold(m[1], "error") && strings.Trim(m[2], `"`) == "invalid_token":
			return true
		}
	}
	return false
}

// isRepeatable reports whether net/http itself would repeat req after its connection broke. Any other
// request may carry a user's password. If a 401 means that the password is wrong, repeating the
// request could lock the user out.
func isRepeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

// isAlert reports whether the server ended the connection with a TLS alert.
func isAlert(err error) bool {
	var e *net.OpError
	return errors.As(err, &e) && e.Op == "remote error"
}

// CloseIdleConnections is called by http.Client's method of the same name.
func (t *Transport) CloseIdleConnections() {
	for _, rt := range []http.RoundTripper{t.Plain, t.Own()} {
		(&http.Client{Transport: rt}).CloseIdleConnections()
	}
}
