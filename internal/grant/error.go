package grant

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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
	what     string // bounded, on one line, without secrets
	cause    error  // for errors.Is and errors.As; nil: none

	timeout    bool
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
	return "mosaic: token request to " + e.url + " for client " + redact.Own(e.clientID, "", 64) + " failed" + attempts + ": " + e.what
}

func (e *Error) Unwrap() error             { return e.cause }
func (e *Error) Timeout() bool             { return e.timeout || errors.Is(e.cause, context.DeadlineExceeded) }
func (e *Error) Refused() bool             { return e.refused }
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// endedBy makes e the error of a request ended by the caller's context, whose error is cause.
func (e *Error) endedBy(cause error) *Error {
	last := ""
	if e.cause != nil { // a reply's, or foreign code's
		last = " (last: " + e.what + ")"
	}
	e.what, e.cause, e.timeout = cause.Error()+last, errors.Join(cause, e.cause), false
	return e
}

// ownError returns the error of foreign code on the caller's side.
func ownError(what string, err error, secret string) *Error {
	own := redact.NewForeign(what, err, secret)
	return &Error{what: own.Error(), cause: own, timeout: errors.Is(err, guard.ErrLate), transient: true}
}

// explain returns the Error for x/oauth2's.
func (a *attempt) explain(ctx context.Context, err error) *Error {
	x := &a.exchange
	if x.err != nil {
		return a.explainTransport(ctx)
	}
	head, _ := x.head(a.Secret)
	e := &Error{
		what:    head, // or a redirect without a usable Location
		refused: x.status/100 == 4 && x.status != http.StatusRequestTimeout || x.status/100 == 2,
	}
	code := ""
	if retrieve := (*oauth2.RetrieveError)(nil); errors.As(err, &retrieve) {
		line, shown := x.show(retrieve, a.Secret)
		e.what, e.cause, code = line, shown, shown.ErrorCode
		e.transient = x.status == http.StatusRequestTimeout || x.status == http.StatusTooManyRequests || x.status >= 500
	} else if x.status/100 == 2 {
		e.what = "the reply (" + e.what + ") is not a token response (RFC 6749 §5.1)"
		if !x.isPage() {
			e.what += `: "` + redact.Peer(err.Error(), a.Secret, maxText) + `"`
		}
	}
	if hint := a.hint(code); hint != "" {
		e.what += ": " + hint
	}
	return e
}

// explainTransport explains an exchange without a whole reply. The cause is not reachable: it is
// foreign, may have the request in it, and may claim to be the end of a context.
func (a *attempt) explainTransport(ctx context.Context) *Error {
	err := a.exchange.err
	raw := fmt.Sprint(err) // err.Error() may panic
	text := `"` + redact.Peer(raw, a.Secret, maxText) + `"`
	e := &Error{what: text, transient: true}
	var badCertificate *tls.CertificateVerificationError
	network := new(net.OpError) // without an Op, unless err has one
	_ = errors.As(err, &network)
	switch closed, connect := errors.Is(err, io.EOF), refusedConnect(raw); {
	case errors.As(err, &badCertificate):
		e.what = "the server's certificate does not verify (" + text + "): " + hintVerify
		e.transient, e.refused = false, true
	case ended(ctx) != nil:
		e.what, e.timeout = "no reply in time", true
		if own := a.timeout(requestTimeout); own < requestTimeout && time.Since(a.sent) < attemptTimeout {
			e.what += ": the Timeout of the HTTP client is " + own.String()
		}
	case a.exchange.status != 0:
		e.what = "the reply broke off: " + text
	case connect == http.StatusProxyAuthRequired:
		e.what = "the proxy refused CONNECT: " + statusText(connect) + ": " + hintProxyAuth
	case connect != 0:
		e.what = "the proxy refused CONNECT: " + statusText(connect) + ": " + hintProxy
	case network.Op == "dial", network.Op == "proxyconnect", strings.Contains(raw, "HTTP response to HTTPS client"):
		e.what = text + ": " + hintReach
	case a.via != nil && strings.Contains(raw, "tls: failed to sign handshake") && a.via.SignErr() != nil:
		return ownError("no TLS handshake: ", a.via.SignErr(), a.Secret)
	case a.via != nil && a.Certificate.Expired() != nil:
		e.what = text + ": " + a.Certificate.Expired().Error()
	case a.via != nil && (closed || network.Op == "remote error" || network.Op == "read" || network.Op == "write"): // in TLS 1.3 the alert may be lost
		e.what = text + ": " + hintRefused
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

// explainClock compares the Date of a refused assertion's reply with the clock assumed for the
// assertion. If they differ, the next one is dated by the server's clock.
func (a *attempt) explainClock(failure *Error, assumed time.Duration) {
	date, status := a.exchange.date(), a.exchange.status
	if a.Key == nil || date.IsZero() || status != http.StatusBadRequest && status != http.StatusUnauthorized {
		return
	}
	skew := date.Sub(a.received)
	if assumed >= skew-minSkew && assumed <= date.Sub(a.sent)+minSkew {
		a.skew.Store(0) // it was not the date; or the Date is a proxy's
		return
	}
	failure.what += fmt.Sprintf("; the local clock differs from the server's by %s", skew.Abs().Round(time.Second))
	if failure.redated = skew.Abs() <= maxSkew; failure.redated {
		a.skew.Store(int64(skew))
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
	case a.exchange.isPage():
		return hintHTML
	case code == "invalid_client", status == http.StatusUnauthorized:
		switch {
		case a.Key != nil:
			return hintKey
		case a.Secret == "":
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

// hintTarget names the resource missing in Mosaic, and the Config's field or the path asking for
// it.
func (a *attempt) hintTarget() string {
	const configured = "has to be configured for the application in Mosaic"
	if a.resource == "" {
		return "the request names no resource: check Resource"
	}
	for segment, resource := range a.Services {
		if resource == a.resource {
			return fmt.Sprintf("the path's first segment, %q, needs the resource %q, which %s", segment, resource, configured)
		}
	}
	return fmt.Sprintf("check Resource: %q %s", redact.Own(a.resource, "", 200), configured)
}
