package grant

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/redact"
)

// An Error is an error from a token request.
type Error struct {
	url      string
	clientID string
	attempts int
	ended    error         // from the caller's context, if that context ended the request
	what     string        // what happened: one bounded line without secrets
	hint     string        // what to do; empty if that is not known
	clock    time.Duration // how far the server's clock is ahead, if that may be the reason; zero otherwise
	cause    error         // for errors.Is and errors.As; may be nil

	timeout    bool
	transient  bool          // a further attempt may succeed
	redated    bool          // a further attempt, whose assertion is dated by the server's clock, may succeed
	refused    bool          // the next request will be refused, too
	retryAfter time.Duration // the wait that the endpoint asked for; zero if it asked for none
}

// Error composes the whole message. No part of it is added elsewhere.
func (e *Error) Error() string {
	text := "mosaic: token request to " + e.url + " for client " + redact.Own(e.clientID, "", 64) + " failed"
	if e.attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", e.attempts)
	}
	if e.ended != nil {
		text += ": " + e.ended.Error()
	}
	text += ": " + e.what
	if e.hint != "" {
		text += ": " + e.hint
	}
	if e.retryAfter > 0 {
		text += "; retry after " + e.retryAfter.String()
	}
	if e.clock != 0 {
		text += fmt.Sprintf("; the local clock differs from the server's by %s", e.clock.Abs().Round(time.Second))
	}
	return text
}

// Unwrap is for errors.Is and errors.As. The context's error comes first.
func (e *Error) Unwrap() []error {
	return slices.DeleteFunc([]error{e.ended, e.cause}, func(err error) bool { return err == nil })
}

// Timeout and Temporary make an Error a net.Error, because code that retries looks for one.
func (e *Error) Timeout() bool {
	return e.ended == context.DeadlineExceeded || e.ended == nil && e.timeout
}
func (e *Error) Temporary() bool           { return e.transient }
func (e *Error) Refused() bool             { return e.refused && e.ended == nil }
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// ownError returns the Error for an error from GetCredentials or a signer.
func ownError(err error) *Error {
	return &Error{what: err.Error(), cause: err, timeout: errors.Is(err, guard.ErrLate), transient: true}
}

// explain returns the Error for an error from x/oauth2.
func (a *attempt) explain(ctx context.Context, err error) *Error {
	x := &a.exchange
	if x.err != nil {
		return a.explainTransport(ctx)
	}
	head, _ := x.head(a.id.Secret)
	again := x.status == http.StatusRequestTimeout || x.status == http.StatusMisdirectedRequest
	e := &Error{what: head, refused: x.status/100 == 4 && !again || x.status/100 == 2}
	code := ""
	if retrieve := (*oauth2.RetrieveError)(nil); errors.As(err, &retrieve) {
		line, shown := x.show(retrieve, a.id.Secret)
		e.what, e.cause, code = line, shown, shown.ErrorCode
		e.transient = again || x.status == http.StatusTooManyRequests || x.status >= 500
	} else if x.status/100 == 2 { // otherwise it is a redirect without a usable Location
		e.what = "the reply (" + e.what + ") is not a token response (RFC 6749 §5.1)"
		if !x.isPage() {
			e.what += `: "` + redact.Peer(err.Error(), a.id.Secret, maxText) + `"`
		}
	}
	e.hint, e.retryAfter = a.hint(code), x.retryAfter()
	a.compareClocks(e)
	return e
}

// explainTransport explains an exchange without a complete reply.
func (a *attempt) explainTransport(ctx context.Context) *Error {
	err, reached := a.exchange.err, a.progress.reached(a.id.Transport)
	raw := fmt.Sprint(err) // fmt recovers if err.Error() panics
	text := `"` + redact.Peer(raw, a.id.Secret, maxText) + `"`
	wraps := func(target error) bool { return errors.Is(err, target) }
	e := &Error{what: text, hint: reached.hint, transient: true, retryAfter: a.exchange.retryAfter(), cause: transportError{text, wraps}}
	var late interface{ Timeout() bool }
	e.timeout = errors.As(err, &late) && late.Timeout()
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unverified):
		e.what, e.hint = "the server's certificate does not verify ("+text+")", hintVerify
		e.transient, e.refused = false, true
	case ended(ctx) == context.Canceled:
		e.what, e.hint = "no "+reached.name+" yet", ""
	case ended(ctx) != nil:
		e.what, e.timeout = "no "+reached.name+" in time", true
		if own := ownTimeout(0); errors.As(context.Cause(ctx), &own) {
			e.hint = own.Error()
		}
	case a.exchange.status != 0:
		e.what = "the reply broke off: " + text
	case reached == connecting:
		a.explainProxy(e, raw)
	case strings.Contains(raw, `malformed HTTP response "\x00\x00`): // begins like an HTTP/2 frame
		e.hint = hintHTTP2
	case strings.Contains(raw, "tls: failed to sign handshake"):
		e.hint = "" // the error came from Certificate's private key, and its message says enough
	default:
		a.explainBreak(e, raw)
	}
	return e
}

// explainProxy explains a request that waited for a proxy to connect it. If an HTTP proxy refuses,
// net/http returns an error whose message is only the proxy's reason phrase.
func (a *attempt) explainProxy(e *Error, raw string) {
	op, err := opOf(a.exchange.err), a.exchange.err
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || op != "" && op != "socks connect" {
		return // the connection broke
	}
	status := statusOf(raw)
	e.refused = status/100 == 4
	e.transient = !e.refused // further attempts after a 407 can lock an account
	if status != 0 {
		e.what = statusText(status)
	}
	e.what = "the proxy refused CONNECT" + strings.TrimSuffix(": "+e.what, `: ""`)
}

// statusOf returns the status code that net/http describes with this phrase, or 0.
func statusOf(phrase string) int {
	for code := 300; code < 600; code++ {
		if phrase != "" && phrase == http.StatusText(code) {
			return code
		}
	}
	return 0
}

// wantsCertificate matches the alerts of servers that got no client certificate.
var wantsCertificate = regexp.MustCompile("certificate required|handshake failure|bad certificate")

// explainBreak explains a connection that broke, often because of a client certificate. In TLS 1.3
// the server's alert may be lost. Then all that is known is that the first request broke.
func (a *attempt) explainBreak(e *Error, raw string) {
	op, closed := opOf(a.exchange.err), errors.Is(a.exchange.err, io.EOF)
	if closed {
		e.what = "the connection was closed before a reply came"
	}
	broke := op == "read" || op == "write" || strings.Contains(raw, "http2: client conn could not be established")
	switch {
	case op == "dial", op == "proxyconnect":
		e.hint = hintReach
	case a.id.Certificate.Valid() != nil: // it may have expired while a connection stayed open
		e.hint = a.id.Certificate.Valid().Error()
	case a.presents() && (closed || broke || op == "remote error"),
		op == "remote error" && wantsCertificate.MatchString(raw), broke && a.progress.fresh.Load() && a.overTLS():
		e.hint = a.hintCertificate()
	}
}

// opOf returns the Op of the net.OpError in err, or "".
func opOf(err error) string {
	e := new(net.OpError)
	_ = errors.As(err, &e)
	return e.Op
}

// presents reports whether a client certificate is presented, by us or by the HTTP client itself.
func (a *attempt) presents() bool { return a.id.Via != nil || a.url == a.client.MTLSURL }

func (a *attempt) overTLS() bool { return strings.HasPrefix(a.url, "https:") }

// hintCertificate returns the advice if the server may have refused or required a client certificate.
func (a *attempt) hintCertificate() string {
	switch {
	case a.id.Via != nil:
		return hintRefused
	case a.presents():
		return hintRefusedTLS
	}
	return hintRequired
}

// A transportError is an error from the HTTP client's transport. errors.Is finds what the error wraps,
// except context errors, which could be mistaken for those of the caller's context. errors.As finds
// nothing, and no field holds the original error, because its message may contain a secret.
type transportError struct {
	text  string
	wraps func(target error) bool
}

func (t transportError) Error() string { return t.text }
func (t transportError) Is(target error) bool {
	return target != context.Canceled && target != context.DeadlineExceeded && t.wraps(target)
}

const (
	// minSkew must be small: assertions are backdated by 10 s, so with 4 s of skew, and rounding, a
	// server that limits their age to 15 s refuses them.
	minSkew = 3 * time.Second

	// maxSkew is more than any mix-up of time zones causes. Without it, whoever terminates TLS could
	// collect assertions for next year.
	maxSkew = 26 * time.Hour
)

// compareClocks compares the Date of the reply that refused an assertion with the clock by which the
// assertion was dated. If they differ, the next assertion is dated by the server's clock.
func (a *attempt) compareClocks(e *Error) {
	date, status := a.exchange.date(), a.exchange.status
	if a.id.Key == nil || date.IsZero() || status != http.StatusBadRequest && status != http.StatusUnauthorized {
		return
	}
	skew := date.Sub(a.received)
	if a.skew >= skew-minSkew && a.skew <= date.Sub(a.sent)+minSkew {
		a.client.skew.Store(0) // the clock was not the reason, or the Date is a proxy's
		return
	}
	e.clock = skew
	if e.redated = skew.Abs() <= maxSkew; e.redated {
		a.client.skew.Store(int64(skew))
	}
}

// All hints are here. The descriptions of what happened are in the code that detects it.
const (
	hintRedirect   = "a redirect, which is not followed with credentials: check Endpoint"
	hintHTML       = "an HTML page: does a proxy or a firewall answer in Mosaic's place?"
	hintVerify     = "check Endpoint, the local clock, and whether a proxy terminates TLS here"
	hintReach      = "check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)"
	hintMaxConns   = "other requests may use all connections that the HTTP client's MaxConnsPerHost allows"
	hintProxy      = "check HTTPS_PROXY and its credentials, and that the proxy allows this host"
	hintHandshake  = "check Endpoint, and whether a firewall or a proxy on the way interferes with TLS"
	hintHTTP2      = "the server speaks HTTP/2, and the HTTP client's transport does not: remove h2 from its NextProtos"
	hintRefused    = "the server may have refused Certificate"
	hintRefusedTLS = "the server may have refused the certificate of the HTTP client"
	hintRequired   = "the server may require a client certificate: set Certificate"
	hintKey        = "check ClientID, KeyID, SigningAlgorithm and AssertionAudience, and that the application at this Endpoint has the JWK Set that JWKS returns"
	hintMTLS       = "check ClientID, and that the application at this Endpoint has this certificate"
	hintSecret     = "check ClientID and ClientSecret, and that both belong to this Endpoint"
	hintRequest    = "check EndpointParams, and the client authentication method set for the application"
	hintScope      = "check Scopes"
	hintGrant      = "the application has to be allowed the grant type client_credentials"
	hintNoTarget   = "the request names no resource: check Resource"
	hintForbidden  = "check that the application may request tokens, and that no firewall refuses this network"
	hintPath       = "check Endpoint: Mosaic's hosts answer 403 or 404 to an unknown path"
	hintLimit      = "Mosaic's rate limit is reached: share one source or client in each process"
	hintFault      = "a fault on Mosaic's side, or on the way there"
)

// hint returns the advice for a reply without a token, or "".
func (a *attempt) hint(code string) string {
	status := a.exchange.status
	switch {
	case status/100 == 3:
		return hintRedirect
	case status/100 == 4 && a.id.Certificate.Valid() != nil:
		return a.id.Certificate.Valid().Error()
	case a.hintCode(code) != "":
		return a.hintCode(code)
	case status == http.StatusTooManyRequests:
		return hintLimit
	case status >= 500:
		return hintFault
	case a.exchange.isPage() && (status != http.StatusBadRequest || !a.overTLS() && !a.presents()):
		return hintHTML
	case a.exchange.isPage(): // nginx answers 400 if it refuses a client certificate, or requires one
		return a.hintCertificate()
	case status == http.StatusUnauthorized:
		return a.hintCode("invalid_client")
	case status == http.StatusForbidden && a.exchange.isJSON:
		return hintForbidden
	case status == http.StatusForbidden, status == http.StatusNotFound:
		return hintPath
	}
	return ""
}

// hintCode returns the advice for an error code of RFC 6749 or RFC 8707, or "".
func (a *attempt) hintCode(code string) string {
	switch {
	case code == "invalid_scope":
		return hintScope
	case code == "unauthorized_client", code == "unsupported_grant_type":
		return hintGrant
	case code == "invalid_target" && a.resource == "":
		return hintNoTarget
	case code == "invalid_target":
		return fmt.Sprintf("check Resource: %q has to be configured for the application in Mosaic", redact.Own(a.resource, "", 200))
	case code != "invalid_client" && code != "invalid_request":
		return ""
	case a.id.Key != nil:
		return hintKey
	case code == "invalid_request":
		return hintRequest
	case a.id.Secret != "":
		return hintSecret
	}
	return hintMTLS
}
