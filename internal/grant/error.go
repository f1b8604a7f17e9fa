package grant

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/redact"
)

// An Error is the error of a token request.
type Error struct {
	url      string
	clientID string
	attempts int
	ended    error         // of the caller's context; nil if it did not end the request
	what     string        // happened; bounded, on one line, without secrets
	hint     string        // what to do; empty if that is not known
	clock    time.Duration // how far the server's clock is ahead, if that may be why; zero otherwise
	cause    error         // for errors.Is and errors.As; nil if there is none

	timeout    bool
	transient  bool          // worth a further attempt
	redated    bool          // worth another one, with an assertion dated by the server's clock
	refused    bool          // the next request will be refused, too
	retryAfter time.Duration // as the endpoint asked; zero if it did not
}

// Error composes the whole text. No part of it is added elsewhere.
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

func (e *Error) Timeout() bool {
	if e.ended != nil {
		return e.ended == context.DeadlineExceeded
	}
	return e.timeout
}

// Temporary completes net.Error, which code that retries asks for.
func (e *Error) Temporary() bool           { return e.transient }
func (e *Error) Refused() bool             { return e.refused && e.ended == nil }
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// ownError returns the Error for one of foreign code on the caller's side.
func ownError(err error) *Error {
	return &Error{what: err.Error(), cause: err, timeout: errors.Is(err, guard.ErrLate), transient: true}
}

// explain returns the Error for x/oauth2's.
func (a *attempt) explain(ctx context.Context, err error) *Error {
	x := &a.exchange
	if x.err != nil {
		return a.explainTransport(ctx)
	}
	head, _ := x.head(a.id.Secret)
	e := &Error{
		what:    head, // or a redirect without a usable Location
		refused: x.status/100 == 4 && x.status != http.StatusRequestTimeout || x.status/100 == 2,
	}
	code := ""
	if retrieve := (*oauth2.RetrieveError)(nil); errors.As(err, &retrieve) {
		line, shown := x.show(retrieve, a.id.Secret)
		e.what, e.cause, code = line, shown, shown.ErrorCode
		e.transient = x.status == http.StatusRequestTimeout || x.status == http.StatusTooManyRequests || x.status >= 500
	} else if x.status/100 == 2 {
		e.what = "the reply (" + e.what + ") is not a token response (RFC 6749 §5.1)"
		if !x.isHTML() {
			e.what += `: "` + redact.Peer(err.Error(), a.id.Secret, maxText) + `"`
		}
	}
	e.hint, e.retryAfter = a.hint(code), x.retryAfter()
	a.compareClocks(e)
	return e
}

// explainTransport explains an exchange without a whole reply. The cause is not reachable: it is
// foreign, may have the request in it, and may claim to be the end of a context.
func (a *attempt) explainTransport(ctx context.Context) *Error {
	err := a.exchange.err
	raw := fmt.Sprint(err) // err.Error() may panic
	text := `"` + redact.Peer(raw, a.id.Secret, maxText) + `"`
	e := &Error{what: text, transient: true, retryAfter: a.exchange.retryAfter()}
	var badCertificate *tls.CertificateVerificationError
	network := new(net.OpError) // without an Op, unless err has one
	_ = errors.As(err, &network)
	switch closed, connect := errors.Is(err, io.EOF), refusedConnect(raw); {
	case errors.As(err, &badCertificate):
		e.what, e.hint = "the server's certificate does not verify ("+text+")", hintVerify
		e.transient, e.refused = false, true
	case ended(ctx) == context.Canceled:
		e.what = "no reply yet"
	case ended(ctx) != nil:
		e.what, e.timeout = "no reply in time", true
		if own := a.client.timeout(requestTimeout); own < requestTimeout && time.Since(a.sent) < attemptTimeout {
			e.hint = "the Timeout of the HTTP client is " + own.String()
		}
	case a.exchange.status != 0:
		e.what = "the reply broke off: " + text
	case connect == http.StatusProxyAuthRequired:
		e.what, e.hint = "the proxy refused CONNECT: "+statusText(connect), hintProxyAuth
	case connect != 0:
		e.what, e.hint = "the proxy refused CONNECT: "+statusText(connect), hintProxy
	case network.Op == "dial", network.Op == "proxyconnect", strings.Contains(raw, "HTTP response to HTTPS client"):
		e.hint = hintReach
	case strings.Contains(raw, "tls: failed to sign handshake"): // by the key of Certificate, whose error has advice if any
	case a.id.Via != nil && a.id.Certificate.Expired() != nil:
		e.hint = a.id.Certificate.Expired().Error()
	case a.id.Via != nil && (closed || network.Op == "remote error" || network.Op == "read" || network.Op == "write"): // in TLS 1.3 the alert may be lost
		e.hint = hintRefused
	case closed:
		e.what = "the connection was closed before a reply came"
	}
	return e
}

// refusedConnect returns the status of a proxy's refusal of CONNECT, or 0. net/http's error is its
// text only.
func refusedConnect(text string) int {
	for code := 300; code < 600; code++ {
		if text != "" && text == http.StatusText(code) {
			return code
		}
	}
	return 0
}

const (
	// minSkew: assertions are dated 10 s back; with 4 s of skew and rounding, a limit of 15 s
	// refuses them.
	minSkew = 3 * time.Second

	// maxSkew is more than any mistake of time zones. Without it, whoever terminates TLS could
	// collect assertions for next year.
	maxSkew = 26 * time.Hour
)

// compareClocks compares the Date of a refused assertion's reply with the clock assumed for the
// assertion. If they differ, the next assertion is dated by the server's clock.
func (a *attempt) compareClocks(e *Error) {
	date, status := a.exchange.date(), a.exchange.status
	if a.id.Key == nil || date.IsZero() || status != http.StatusBadRequest && status != http.StatusUnauthorized {
		return
	}
	skew := date.Sub(a.received)
	if a.skew >= skew-minSkew && a.skew <= date.Sub(a.sent)+minSkew {
		a.client.skew.Store(0) // the date was not the reason; or the Date is that of a proxy
		return
	}
	e.clock = skew
	if e.redated = skew.Abs() <= maxSkew; e.redated {
		a.client.skew.Store(int64(skew))
	}
}

// The hints, in one place.
const (
	hintRedirect  = "a redirect, which is not followed with credentials: check Endpoint"
	hintHTML      = "an HTML page: does a proxy or a firewall answer in Mosaic's place?"
	hintVerify    = "check Endpoint, the local clock, and whether a proxy terminates TLS here"
	hintReach     = "check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)"
	hintProxyAuth = "check HTTPS_PROXY and its credentials"
	hintProxy     = "check HTTPS_PROXY, and that the proxy allows this host"
	hintRefused   = "the server may have refused Certificate"
	hintKey       = "check ClientID, KeyID and SigningAlgorithm, and that the application at this Endpoint has what JWKS returns"
	hintMTLS      = "check ClientID, and that the application at this Endpoint has this certificate"
	hintSecret    = "check ClientID and ClientSecret, and that both belong to this Endpoint"
	hintForbidden = "check that the application may request tokens, and that no firewall refuses this network"
	hintPath      = "check Endpoint: Mosaic's hosts answer 403 or 404 to an unknown path"
	hintLimit     = "Mosaic's rate limit is reached: share one source or client in each process"
	hintFault     = "a fault on Mosaic's side, or on the way there"
)

var hintsByCode = map[string]string{
	"invalid_scope":          "check Scopes",
	"invalid_request":        "check EndpointParams, and the client authentication method set for the application",
	"unauthorized_client":    "the application has to be allowed the grant type client_credentials",
	"unsupported_grant_type": "the application has to be allowed the grant type client_credentials",
}

// hint returns the advice for a reply without a token, or "".
func (a *attempt) hint(code string) string {
	switch status := a.exchange.status; {
	case status/100 == 3:
		return hintRedirect
	case code == "invalid_target":
		return a.hintTarget()
	case hintsByCode[code] != "":
		return hintsByCode[code]
	case a.exchange.isHTML() && !a.exchange.isJSON:
		return hintHTML
	case code == "invalid_client", status == http.StatusUnauthorized:
		switch {
		case a.id.Key != nil:
			return hintKey
		case a.id.Secret == "":
			return hintMTLS
		}
		return hintSecret
	case status == http.StatusForbidden && a.exchange.isJSON:
		return hintForbidden
	case status == http.StatusForbidden, status == http.StatusNotFound:
		return hintPath
	case status == http.StatusTooManyRequests:
		return hintLimit
	case status >= 500:
		return hintFault
	}
	return ""
}

// hintTarget names the resource that is missing in Mosaic.
func (a *attempt) hintTarget() string {
	if a.resource == "" {
		return "the request names no resource: check Resource"
	}
	return fmt.Sprintf("the resource %q has to be configured for the application in Mosaic", redact.Own(a.resource, "", 200))
}
