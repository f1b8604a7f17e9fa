// Package bearer gives each HTTP request the access token that it needs (RFC 6750).
package bearer

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"example.com/mosaic/internal/refresh"
)

// A Transport gives each request to a known origin the token for its URL. It is
// safe for concurrent use.
type Transport struct {
	Plain  http.RoundTripper              // the caller's own
	Bound  http.RoundTripper              // presents a certificate to known origins; nil: Plain goes there, too
	Knows  func(*url.URL) bool            // may tokens go to this origin?
	Source func(*url.URL) *refresh.Source // of this URL's tokens
	Log    *slog.Logger
}

// RoundTrip sends req with a token, or as it is: to an unknown origin, or with an
// Authorization of its own.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		return t.Plain.RoundTrip(req) // for its error
	}
	if why := t.untrusted(req); why != "" {
		t.Log.DebugContext(req.Context(), "mosaic: request goes without a token",
			"why", why, "scheme", req.URL.Scheme, "host", req.URL.Host)
		return send(t.Plain, req, req)
	}
	if hasAuthorization(req.Header) {
		return send(t.known(), req, req)
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
	return res, err
}

// CloseIdleConnections is called by the method of http.Client.
func (t *Transport) CloseIdleConnections() {
	type closer interface{ CloseIdleConnections() }
	for _, rt := range []http.RoundTripper{t.Plain, t.Bound} {
		if c, ok := rt.(closer); ok {
			c.CloseIdleConnections()
		}
	}
}

// maxRedirects bounds a chain of redirects. An http.Client follows ten; a crafted
// request can be its own cause.
const maxRedirects = 100

// untrusted returns the reason to send req without a token, or "". Every request
// of a redirect counts: a foreign page must not make the client send a token with
// DELETE /cis/….
func (t *Transport) untrusted(req *http.Request) (reason string) {
	r := req
	for range maxRedirects {
		switch {
		case r.URL == nil || !t.Knows(r.URL):
			if r == req {
				return "its origin is not known"
			}
			return "it was redirected by an origin that is not known"
		case r.Host != "" && !strings.EqualFold(r.Host, r.URL.Host):
			return "its Host is not that of its URL"
		case r != req && (hasAuthorization(r.Header) || r.URL.User != nil):
			return "the request before the redirect had an Authorization of its own"
		case r.Response == nil:
			return ""
		case r.Response.Request == nil:
			return "it was redirected by an unknown request"
		}
		r = r.Response.Request
	}
	return "it was redirected too often"
}

// hasAuthorization reports whether h has an Authorization, in any case.
func hasAuthorization(h http.Header) bool {
	for name := range h {
		if len(name) == len("Authorization") && strings.EqualFold(name, "Authorization") {
			return true
		}
	}
	return false
}

// known returns the RoundTripper to known origins.
func (t *Transport) known() http.RoundTripper {
	if t.Bound != nil {
		return t.Bound
	}
	return t.Plain
}

// sendWith sends a copy of req with the token and this body.
func (t *Transport) sendWith(tok *refresh.Token, req *http.Request, body io.ReadCloser) (*http.Response, error) {
	sent := *req
	sent.Body = body
	sent.Header = make(http.Header, len(req.Header)+1)
	maps.Copy(sent.Header, req.Header)
	sent.Header["Authorization"] = []string{tok.Authorization}
	return send(t.known(), req, &sent)
}

// send sends req, or a copy in its place. The response's Request is req: the token
// stays here, and untrusted relies on it for redirects, whatever rt returns.
func send(rt http.RoundTripper, req, sent *http.Request) (*http.Response, error) {
	res, err := rt.RoundTrip(sent)
	if res != nil {
		res.Request = req
	}
	return res, err
}
