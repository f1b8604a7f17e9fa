// Package bearer gives each HTTP request the token that it needs (RFC 6750).
package bearer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"example.com/mosaic/internal/refresh"
)

// A Transport gives each request to a known origin the token that its URL asks
// for. It is safe for concurrent use.
type Transport struct {
	Plain    http.RoundTripper   // the caller's own
	Bound    http.RoundTripper   // presents a certificate to known origins; nil: Plain leads there, too
	Knows    func(*url.URL) bool // may tokens go there?
	SameHost func(scheme, a, b string) bool
	Source   func(*url.URL) *refresh.Source
	Log      *slog.Logger
}

const (
	// A 401 begins a renewal no more often than this: a minute where it does not
	// say invalid_token and so means something else as a rule.
	pauseInvalid = 10 * time.Second
	pauseOther   = time.Minute

	maxRedirects = 100 // ten times what an http.Client follows; a request may be made to lead to itself

	maxReplayWait = 5 * time.Second // a renewal takes well under one, and somebody waits
	maxHeldBody   = 64 << 10        // a 401 has a line or two
	maxChallenge  = 8 << 10         // bytes of one WWW-Authenticate, which has a line
)

// RoundTrip sends req, with a token where its origin is known.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		return send(t.Plain, req, req) // which knows best how to refuse that
	}
	if why := t.stranger(req); why != "" {
		t.Log.DebugContext(req.Context(), "mosaic: request goes without a token",
			"why", why, "scheme", req.URL.Scheme, "host", req.URL.Host)
		return send(t.Plain, req, req)
	}
	sent, authorization := withAuthorization(req)
	if sent == nil {
		return send(t.base(), req, req)
	}
	source := t.Source(req.URL)
	tok, err := source.Token(req.Context())
	if err != nil {
		closeBody(req)
		return nil, err
	}
	*authorization = tok.Authorization
	res, err := send(t.base(), req, sent)
	if err == nil && res != nil && res.StatusCode == http.StatusUnauthorized {
		return t.unauthorized(source, req, res, tok)
	}
	return res, err
}

// CloseIdleConnections is what http.Client's method of that name calls.
func (t *Transport) CloseIdleConnections() {
	type closer interface{ CloseIdleConnections() }
	for _, rt := range []http.RoundTripper{t.Plain, t.Bound} {
		if c, ok := rt.(closer); ok {
			c.CloseIdleConnections()
		}
	}
}

func (t *Transport) base() http.RoundTripper {
	if t.Bound != nil {
		return t.Bound
	}
	return t.Plain
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// stranger returns why req is not to have a token, or "". A redirect's request
// is judged by all that led to it: a page that Mosaic did not write must not be
// able to send the client to DELETE /cis/… with a token.
func (t *Transport) stranger(req *http.Request) (why string) {
	r, first := req, true
	for range maxRedirects {
		switch {
		case !t.Knows(r.URL) && first:
			return "its origin is not known"
		case !t.Knows(r.URL):
			return "a redirect from an origin that is not known led to it"
		case r.Host != "" && r.Host != r.URL.Host && !t.SameHost(r.URL.Scheme, r.Host, r.URL.Host):
			return "its Host is not that of its URL"
		case !first && (hasAuthorization(r.Header) || r.URL.User != nil):
			return "the request that was redirected had an Authorization of its own"
		case r.Response == nil:
			return ""
		case r.Response.Request == nil:
			return "a redirect from an unknown request led to it"
		}
		r, first = r.Response.Request, false
	}
	return "too many redirects led to it"
}

func hasAuthorization(h http.Header) bool {
	for name := range h {
		if isAuthorization(name) {
			return true
		}
	}
	return false
}

// isAuthorization reports whether name, in any case, is the header's.
func isAuthorization(name string) bool {
	return len(name) == len("Authorization") && strings.EqualFold(name, "Authorization")
}

// send sends req, or a copy in its place. The response's Request is req itself:
// nobody sees the one that holds the token, and stranger knows by it how a
// redirect came about, whatever rt says.
func send(rt http.RoundTripper, req, sent *http.Request) (*http.Response, error) {
	res, err := rt.RoundTrip(sent)
	if res != nil {
		res.Request = req
	}
	return res, err
}

// withAuthorization returns a copy of req, with a header of its own, for what is
// below may change what it is given, and the place in that for Authorization's
// value. It returns nil if req has one already.
func withAuthorization(req *http.Request) (sent *http.Request, authorization *string) {
	header := make(http.Header, len(req.Header)+1)
	// The copy and the values of most headers in one allocation.
	one := &struct {
		request http.Request
		values  [4]string
	}{request: *req}
	all := one.values[:0]
	for name, values := range req.Header {
		if isAuthorization(name) {
			return nil, nil
		}
		if values == nil { // net/http has a meaning for that
			header[name] = nil
			continue
		}
		i := len(all)
		all = append(all, values...)
		header[name] = all[i:len(all):len(all)]
	}
	i := len(all)
	all = append(all, "")
	header["Authorization"] = all[i:]
	one.request.Header = header
	return &one.request, &all[i]
}

// unauthorized answers a 401: it sees to a successor of tok, and sends req once
// more with it where that is safe.
func (t *Transport) unauthorized(source *refresh.Source, req *http.Request, res *http.Response, tok *refresh.Token) (*http.Response, error) {
	invalid, pause := saysInvalidToken(res.Header), pauseOther
	if invalid {
		pause = pauseInvalid
	}
	done, coming := source.Replace(tok, pause)
	if !coming || !(invalid || isRepeatable(req)) || !canRewind(req) {
		return res, nil
	}

	ctx, cancel := context.WithTimeout(req.Context(), maxReplayWait)
	defer cancel()
	if !hold(ctx, res) {
		return res, nil
	}
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
	if req.Body != nil && req.Body != http.NoBody && req.GetBody != nil {
		if body, err = req.GetBody(); err != nil {
			return res, nil
		}
	}
	again, authorization := withAuthorization(req)
	*authorization = next.Authorization
	again.Body = body
	return send(t.base(), req, again)
}

// challenge matches a parameter of a WWW-Authenticate header, or a scheme (RFC
// 9110 §11.6.1).
var challenge = regexp.MustCompile(`([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)|([\w-]+)`)

// saysInvalidToken reports whether a 401 says that it is for the token (RFC 6750
// §3.1).
func saysInvalidToken(h http.Header) bool {
	for _, value := range h["Www-Authenticate"] {
		scheme := ""
		for _, m := range challenge.FindAllStringSubmatch(value[:min(len(value), maxChallenge)], -1) {
			switch {
			case m[3] != "":
				scheme = m[3]
			case strings.EqualFold(scheme, "Bearer") && strings.EqualFold(m[1], "error") && strings.Trim(m[2], `"`) == "invalid_token":
				return true
			}
		}
	}
	return false
}

// isRepeatable reports whether net/http itself would repeat req on a connection
// that broke. A 401 to any other may mean a wrong password, and sending that
// twice locks a user out.
func isRepeatable(req *http.Request) bool {
	switch cmp.Or(req.Method, http.MethodGet) {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

func canRewind(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// hold reads res's body into memory, so that its connection is free for the
// renewal. Where the body is too long for that, or breaks off, or does not end
// before ctx, it reports false, and the body is as it would have been.
func hold(ctx context.Context, res *http.Response) bool {
	if res.Body == nil {
		return true
	}
	body := &heldBody{rest: res.Body, more: make(chan struct{}, 1)}
	res.Body = body
	go body.readAhead()
	for open := true; open; {
		select {
		case _, open = <-body.more:
		case <-ctx.Done():
			return false
		}
	}
	if body.err != io.EOF || len(body.head) > maxHeldBody {
		return false
	}
	body.Close()
	return true
}

// A heldBody is a response body whose beginning is, or is being, read ahead.
type heldBody struct {
	rest io.ReadCloser
	more chan struct{} // gets a value when there is more, and is closed when no more is read ahead

	mu   sync.Mutex
	head []byte // read ahead, and not by the caller; guarded by mu
	err  error  // behind head; nil: the rest is; guarded by mu
}

func (b *heldBody) readAhead() {
	defer close(b.more)
	defer func() {
		if recover() != nil { // it is not the caller's goroutine
			b.add(nil, errors.New("mosaic: reading the response's body panicked"))
		}
	}()
	chunk := make([]byte, 4<<10)
	for held := 0; held <= maxHeldBody; {
		n, err := b.rest.Read(chunk)
		held += n
		b.add(chunk[:n], err)
		if err != nil {
			return
		}
	}
}

func (b *heldBody) add(p []byte, err error) {
	b.mu.Lock()
	b.head, b.err = append(b.head, p...), err
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
}

func (b *heldBody) Read(p []byte) (int, error) {
	for open := true; ; _, open = <-b.more {
		b.mu.Lock()
		n, err := copy(p, b.head), b.err
		b.head = b.head[n:]
		b.mu.Unlock()
		switch {
		case n > 0 || len(p) == 0:
			return n, nil
		case err != nil:
			return 0, err
		case !open:
			return b.rest.Read(p)
		}
	}
}

func (b *heldBody) Close() error { return b.rest.Close() }
