package grant

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"example.com/mosaic/internal/redact"
	"golang.org/x/oauth2"
)

// A Error says why a token request has failed.
type Error struct {
	url      string
	attempts int
	what     string // one bounded line without secrets
	cause    error  // what errors.Is and errors.As find, or nil

	transient  bool          // the request is worth repeating at once
	redated    bool          // and so is one that is dated by the server's clock
	refused    bool          // the endpoint refused it, and will refuse the next
	retryAfter time.Duration // as the endpoint asked
}

func (e *Error) Error() string {
	times := ""
	if e.attempts > 1 {
		times = fmt.Sprintf(" (%d attempts)", e.attempts)
	}
	return "mosaic: token request to " + e.url + " failed" + times + ": " + e.what
}

func (e *Error) Unwrap() error             { return e.cause }
func (e *Error) Timeout() bool             { return errors.Is(e.cause, context.DeadlineExceeded) }
func (e *Error) Refused() bool             { return e.refused }
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// endedBy returns e as the error of a request that its caller's context ended.
func (e *Error) endedBy(cause error) *Error {
	what := cause.Error()
	if e.cause != nil { // there was a reply, or a signer's error
		what += " (last: " + e.what + ")"
	}
	return &Error{url: e.url, attempts: e.attempts, what: what, cause: errors.Join(cause, e.cause)}
}

// explain returns what went wrong with an exchange that x/oauth2 ended with err.
func (c *Client) explain(ctx context.Context, x *exchange, err error) *Error {
	var reply *oauth2.RetrieveError
	switch {
	case x.response == nil || x.broken:
		return c.explainTransport(ctx, x, err)
	case errors.As(err, &reply):
		return c.explainReply(x, reply)
	case x.response.StatusCode/100 == 3: // without a Location that net/http can use
		return &Error{what: fmt.Sprintf("%s: %s", c.secret.Quote(x.response.Status, maxQuote), redirectHint)}
	}
	what := "is not the JSON of a token response (RFC 6749 §5.1)"
	switch text := err.Error(); {
	case isHTML(x.response):
		what = "is an HTML page: does a proxy or a login page answer in Mosaic's place?"
	case strings.Contains(text, "unexpected end of JSON input"):
		what = "is empty or cut off"
	case strings.Contains(text, "missing access_token"):
		what = "has no access_token"
	case strings.Contains(text, "ParseInt"), strings.Contains(text, "Number"):
		what = "has an expires_in that is no whole number"
	}
	return &Error{what: fmt.Sprintf("the reply (%s) %s", c.secret.Quote(x.response.Status, maxQuote), what)}
}

func isHTML(res *http.Response) bool {
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return media == "text/html" || media == "application/xhtml+xml"
}

// explainTransport explains an exchange that brought no whole reply. The cause
// is not made reachable: it is foreign, and may hold the request, or claim to be
// the end of a context that was ours.
func (c *Client) explainTransport(ctx context.Context, x *exchange, err error) *Error {
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err // without the URL, which is told already
	}
	text := c.secret.Quote(fmt.Sprint(err), maxQuote) // Sprint, for a foreign Error method may panic
	var badCertificate *tls.CertificateVerificationError
	var network *net.OpError
	switch {
	case errors.As(err, &badCertificate):
		return &Error{what: "the server's certificate does not verify (" + text + "): check Endpoint, the local clock, and whether a proxy ends TLS here", refused: true}
	case ended(ctx) != nil && x.response == nil:
		return &Error{what: "no reply in time", transient: true}
	case ended(ctx) != nil:
		return &Error{what: "the reply did not end in time", transient: true}
	case x.response != nil:
		return &Error{what: "the reply broke off: " + text, transient: true}
	case errors.As(err, &network) && (network.Op == "dial" || network.Op == "proxyconnect"), strings.Contains(text, "HTTP response to HTTPS client"):
		return &Error{what: text + ": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)", transient: true}
	case strings.Contains(text, "tls: failed to sign handshake") && c.handshake.Load() != nil:
		return &Error{what: text, cause: c.handshake.Load(), transient: true}
	case strings.Contains(text, "remote error: tls:") && strings.Contains(text, "certificate"):
		return &Error{what: text + ": check Certificate", transient: true}
	}
	closed := errors.Is(err, io.EOF)
	if closed {
		text = "the connection was closed before a reply came"
	}
	if c.bound != nil && (closed || network != nil && (network.Op == "read" || network.Op == "write")) {
		text += ": the server may have refused Certificate" // in TLS 1.3 what says so may be lost behind the connection's end
	}
	return &Error{what: text, transient: true}
}

// explainReply explains a reply of the token endpoint that holds no token.
func (c *Client) explainReply(x *exchange, reply *oauth2.RetrieveError) *Error {
	status := x.response.StatusCode
	clean := c.clean(reply)
	e := &Error{
		cause:     clean,
		transient: status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500,
		refused:   status/100 == 4 && status != http.StatusRequestTimeout,
	}

	what := []string{redact.Quote(clean.Response.Status, 60)}
	if clean.ErrorCode != "" {
		what = append(what, "error "+redact.Quote(clean.ErrorCode, 60))
	}
	if clean.ErrorDescription != "" {
		what = append(what, redact.Quote(clean.ErrorDescription, maxQuote))
	}
	if clean.ErrorCode == "" && len(clean.Body) > 0 && !isHTML(x.response) {
		what = append(what, "body "+redact.Quote(string(clean.Body), maxQuote))
	}
	e.what = strings.Join(what, ", ")
	if hint := c.hint(status, clean.ErrorCode, isHTML(x.response)); hint != "" {
		e.what += ": " + hint
	}
	return e
}

const redirectHint = "a redirect, which is not followed with credentials: check Endpoint"

// hint returns what a person can do about a reply without a token.
func (c *Client) hint(status int, code string, html bool) string {
	switch {
	case status/100 == 3:
		return redirectHint
	case code == "invalid_target":
		return "check Resource, which has to be configured for the application in Mosaic"
	case code == "invalid_scope":
		return "check Scopes"
	case code == "unauthorized_client", code == "unsupported_grant_type":
		return "the application has to be allowed the grant type client_credentials"
	case html:
		return "an HTML page: does a proxy or a firewall answer in Mosaic's place?"
	case code == "invalid_client" && c.Key != nil:
		return "check ClientID, KeyID and SigningAlgorithm, and that the application at this Endpoint has what JWKS returns"
	case code == "invalid_client" && c.ClientSecret == "":
		return "check ClientID, and that the application at this Endpoint has this Certificate"
	case code == "invalid_client", status == http.StatusUnauthorized:
		return "check ClientID and ClientSecret, and that both belong to this Endpoint"
	case status == http.StatusNotFound:
		return "check Endpoint"
	case status == http.StatusTooManyRequests:
		return "Mosaic's rate limit is reached"
	case status >= 500:
		return "a fault on Mosaic's side, or on the way there"
	}
	return ""
}

// errorCode is the form of an RFC 6749 error code in practice. Text of this form
// is not redacted: callers compare it.
var errorCode = regexp.MustCompile(`^[a-z_]{1,64}$`)

// clean returns e without the request, without secrets and bounded. Of a reply
// that claims success only the error code is left: its body may hold a token.
func (c *Client) clean(e *oauth2.RetrieveError) *oauth2.RetrieveError {
	field := func(s string) string { return redact.Cut(c.secret.Text(s), maxField) }
	out := &oauth2.RetrieveError{
		Response: &http.Response{
			Status:        field(e.Response.Status),
			StatusCode:    e.Response.StatusCode,
			Proto:         e.Response.Proto,
			ProtoMajor:    e.Response.ProtoMajor,
			ProtoMinor:    e.Response.ProtoMinor,
			Header:        make(http.Header),
			Body:          http.NoBody,
			ContentLength: e.Response.ContentLength,
		},
		ErrorCode: e.ErrorCode,
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(e.Response.Header)) {
		for _, value := range e.Response.Header[name] {
			if size += len(name) + len(value); size > maxHeader {
				break
			}
			out.Response.Header.Add(field(name), field(value))
		}
	}
	success := e.Response.StatusCode/100 == 2
	switch {
	case errorCode.MatchString(e.ErrorCode):
	case success && e.ErrorCode != "":
		out.ErrorCode = redact.Mark
	default:
		out.ErrorCode = field(e.ErrorCode)
	}
	if !success {
		out.ErrorDescription, out.ErrorURI = field(e.ErrorDescription), field(e.ErrorURI)
		out.Body = []byte(field(string(e.Body)))
	}
	return out
}
