package grant

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/redact"
)

// An Error is a token request that failed.
type Error struct {
	url      string
	attempts int
	what     string // bounded, on one line, without secrets
	cause    error  // for errors.Is and errors.As; nil: none

	transient  bool          // worth a further attempt
	redated    bool          // worth one with an assertion dated by the server's clock
	refused    bool          // the next request will be refused, too
	retryAfter time.Duration // as the endpoint asked; zero: it did not
}

func (e *Error) Error() string {
	attempts := ""
	if e.attempts > 1 {
		attempts = fmt.Sprintf(" (%d attempts)", e.attempts)
	}
	return "mosaic: token request to " + e.url + " failed" + attempts + ": " + e.what
}

func (e *Error) Unwrap() error             { return e.cause }
func (e *Error) Timeout() bool             { return errors.Is(e.cause, context.DeadlineExceeded) }
func (e *Error) Refused() bool             { return e.refused }
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// endedBy returns e as the error of a request whose caller's context ended.
func (e *Error) endedBy(cause error) *Error {
	what := cause.Error()
	if e.cause != nil { // a reply's, or a signer's
		what += " (last: " + e.what + ")"
	}
	return &Error{url: e.url, attempts: e.attempts, what: what, cause: errors.Join(cause, e.cause)}
}

// explain returns the reason for err, with which x/oauth2 ended an exchange.
func (c *Client) explain(ctx context.Context, x *exchange, err error) *Error {
	var retrieve *oauth2.RetrieveError
	switch {
	case x.response == nil || x.broken:
		return c.explainTransport(ctx, x, err)
	case errors.As(err, &retrieve):
		r := choose(retrieve, c.ClientSecret)
		status := r.status
		return &Error{
			what:      withHint(r.String(), c.hint(r)),
			cause:     r.retrieve,
			transient: status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500,
			refused:   status/100 == 4 && status != http.StatusRequestTimeout || status/100 == 2,
		}
	}
	status := x.response.StatusCode
	what := "the reply (" + statusText(status) + ") is not a token response (RFC 6749 §5.1)"
	switch {
	case status/100 == 3: // without a Location that net/http can use
		return &Error{what: withHint(statusText(status), hintRedirect)}
	case isHTML(x.response):
		return &Error{what: withHint(what, hintHTML), refused: true}
	}
	return &Error{what: fmt.Sprintf("%s: \"%s\"", what, redact.Peer(err.Error(), c.ClientSecret, maxText)), refused: true}
}

// explainTransport explains an exchange without a whole reply. The cause is not
// reachable: it is foreign, may hold the request, and may claim to be the end of a
// context.
func (c *Client) explainTransport(ctx context.Context, x *exchange, err error) *Error {
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err // the URL is told already
	}
	raw := fmt.Sprint(err) // not err.Error(), which may panic
	text := `"` + redact.Peer(raw, c.ClientSecret, maxText) + `"`
	e := &Error{what: text, transient: true}
	var badCertificate *tls.CertificateVerificationError
	var network *net.OpError
	isNetwork := errors.As(err, &network)
	switch {
	case errors.As(err, &badCertificate):
		return &Error{what: withHint("the server's certificate does not verify ("+text+")", hintVerify), refused: true}
	case ended(ctx) != nil && x.response == nil:
		e.what = "no reply in time"
	case ended(ctx) != nil:
		e.what = "the reply did not end in time"
	case x.broken:
		e.what = "the reply broke off: " + text
	case isNetwork && (network.Op == "dial" || network.Op == "proxyconnect"), strings.Contains(raw, "HTTP response to HTTPS client"):
		e.what = withHint(text, hintReach)
	case strings.Contains(raw, "tls: failed to sign handshake") && c.handshake.Load() != nil:
		cause := c.handshake.Load()
		e.what, e.cause = "no TLS handshake: "+c.own(cause.error), cause
	case strings.Contains(raw, "remote error: tls:") && strings.Contains(raw, "certificate"):
		e.what = withHint(text, hintCertificate)
	default:
		closed := errors.Is(err, io.EOF)
		if closed {
			e.what = "the connection was closed before a reply came"
		}
		if c.bound != nil && (closed || isNetwork && (network.Op == "read" || network.Op == "write")) {
			e.what += ": the server may have refused Certificate" // in TLS 1.3 the alert may be lost behind the connection's end
		}
	}
	return e
}

// The advice of errors, in one place.
const (
	hintRedirect    = "a redirect, which is not followed with credentials: check Endpoint"
	hintHTML        = "an HTML page: does a proxy or a firewall answer in Mosaic's place?"
	hintVerify      = "check Endpoint, the local clock, and whether a proxy terminates TLS here"
	hintReach       = "check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)"
	hintCertificate = "check Certificate"
	hintTarget      = "check Resource, which has to be configured for the application in Mosaic"
	hintScope       = "check Scopes"
	hintGrant       = "the application has to be allowed the grant type client_credentials"
	hintKey         = "check ClientID, KeyID and SigningAlgorithm, and that the application at this Endpoint has what JWKS returns"
	hintMTLS        = "check ClientID, and that the application at this Endpoint has this Certificate"
	hintSecret      = "check ClientID and ClientSecret, and that both belong to this Endpoint"
	hintNotFound    = "check Endpoint"
	hintLimit       = "Mosaic's rate limit is reached"
	hintFault       = "a fault on Mosaic's side, or on the way there"
)

// hint returns the advice for a reply without a token, or "".
func (c *Client) hint(r *reply) string {
	switch {
	case r.status/100 == 3:
		return hintRedirect
	case r.code == "invalid_target":
		return hintTarget
	case r.code == "invalid_scope":
		return hintScope
	case r.code == "unauthorized_client", r.code == "unsupported_grant_type":
		return hintGrant
	case r.isHTML:
		return hintHTML
	case r.code == "invalid_client" && c.Key != nil:
		return hintKey
	case r.code == "invalid_client" && c.ClientSecret == "":
		return hintMTLS
	case r.code == "invalid_client", r.status == http.StatusUnauthorized:
		return hintSecret
	case r.status == http.StatusNotFound:
		return hintNotFound
	case r.status == http.StatusTooManyRequests:
		return hintLimit
	case r.status >= 500:
		return hintFault
	}
	return ""
}

func withHint(what, hint string) string {
	if hint == "" {
		return what
	}
	return what + ": " + hint
}
