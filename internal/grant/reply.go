package grant

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/redact"
)

// maxReply bounds the body of a reply. A token response has about two KiB.
const maxReply = 1 << 20

// An exchange is the RoundTripper of one attempt. It reads the whole reply: a body broken off is a
// transport error like any other.
type exchange struct {
	send   func(*http.Request) (*http.Response, error)
	err    error // of the transport; the rest is of the reply, if one began
	status int
	header http.Header
	media  string // its media type
	isJSON bool
}

func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := x.send(req)
	if err == nil && res == nil {
		err = errors.New("the RoundTripper returned nothing")
	}
	if err == nil {
		x.status, x.header = res.StatusCode, res.Header
		x.media, _, _ = mime.ParseMediaType(res.Header.Get("Content-Type"))
		var body []byte
		switch {
		case res.Body == nil: // of another RoundTripper than net/http's
		case res.StatusCode == http.StatusSwitchingProtocols: // its body is the connection; no context ends it
			res.Body.Close()
		default:
			body, err = io.ReadAll(io.LimitReader(res.Body, maxReply))
			res.Body.Close()
		}
		x.isJSON = json.Valid(body)
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	if x.err = err; err != nil {
		return nil, err
	}
	return res, nil
}

func (x *exchange) isHTML() bool { return x.media == "text/html" || x.media == "application/xhtml+xml" }

// date returns the reply's Date, or zero.
func (x *exchange) date() time.Time {
	date, _ := http.ParseTime(x.header.Get("Date"))
	return date
}

const maxRetryAfter = 366 * 24 * time.Hour

// retryAfter returns the wait requested by the reply (RFC 9110 §10.2.3), or zero.
func (x *exchange) retryAfter() time.Duration {
	value := x.header.Get("Retry-After")
	seconds, err := strconv.Atoi(value)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return min(time.Duration(max(seconds, 0)), maxRetryAfter/time.Second) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now := x.date() // the server's clock, if it tells
	if now.IsZero() {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

const (
	maxText   = 300 // bytes of foreign text in an error
	maxServer = 64  // of them, of the Server header
)

// errorCode is the form of the codes of RFC 6749 and its extensions.
var errorCode = regexp.MustCompile(`^[a-z_]{1,64}$`)

// requestIDs are the headers with an ID for a peer's support.
var requestIDs = []string{"X-Request-Id", "X-Correlation-Id", "Cf-Ray", "X-Amzn-Requestid", "X-Azure-Ref", "Traceparent"}

// A refusal has the members of an error reply for show: those of RFC 6749 and those of Mosaic's
// services.
type refusal struct {
	Code        string `json:"error,omitempty"`
	Description string `json:"error_description,omitempty"`
	Message     any    `json:"message,omitempty"`    // a string or an array of strings
	Number      any    `json:"error_code,omitempty"` // or a string
}

// show returns a line for an error, and a RetrieveError. Both hold only text chosen for show.
func (x *exchange) show(e *oauth2.RetrieveError, secret string) (line string, shown *oauth2.RetrieveError) {
	peer := func(s string) string { return redact.Peer(s, secret, maxText) }
	said := refusal{Code: e.ErrorCode, Description: e.ErrorDescription} // as x/oauth2 reads a form
	_ = json.Unmarshal(e.Body, &said)                                   // members of another type stay empty
	var may refusal
	text := ""
	if errorCode.MatchString(said.Code) && said.Code != secret {
		may.Code, may.Description = said.Code, peer(said.Description)
		text = may.Description
	}
	if text == "" {
		text, may.Message = message(said.Message, secret)
	}
	if text == "" && may.Code == "" && x.media == "text/plain" && !x.isJSON {
		text = peer(strings.TrimSpace(string(e.Body)))
	}
	switch v := said.Number.(type) {
	case float64:
		if digits := strconv.FormatFloat(v, 'f', -1, 64); peer(digits) == digits {
			may.Number = v
		}
	case string:
		may.Number = peer(v)
	}
	shown = &oauth2.RetrieveError{ErrorCode: may.Code, ErrorDescription: may.Description}
	shown.Body, _ = json.Marshal(may) // of numbers, strings and lists of them: no error

	line, header := x.head(secret)
	shown.Response = &http.Response{Status: statusText(x.status), StatusCode: x.status, Header: header, Body: http.NoBody}
	separator := ": "
	if may.Code != "" {
		line += separator + may.Code
		separator = ", "
	}
	if text != "" {
		line += separator + `"` + text + `"`
	}
	return line, shown
}

// head returns the status, the request ID and, unless the reply is JSON, the Server as one line,
// and the header chosen for show.
func (x *exchange) head(secret string) (line string, shown http.Header) {
	shown = make(http.Header)
	set := func(name, value string) string {
		if value != "" {
			shown.Set(name, value)
		}
		return value
	}
	for _, name := range []string{"Date", "Retry-After", "Via"} {
		set(name, redact.Peer(x.header.Get(name), secret, maxText))
	}
	set("Content-Type", redact.Peer(x.media, secret, maxText))
	line = statusText(x.status)
	requestID := ""
	for _, name := range requestIDs {
		requestID = cmp.Or(requestID, set(name, redact.RequestID(x.header.Get(name), secret)))
	}
	if requestID != "" {
		line += ", request ID " + requestID
	}
	if server := set("Server", redact.Peer(x.header.Get("Server"), secret, maxServer)); server != "" && !x.isJSON {
		line += ", server " + server
	}
	return line, shown
}

// message returns the presentable part of a message, as one text and in its own type.
func message(member any, secret string) (shown string, own any) {
	if s, ok := member.(string); ok {
		shown = redact.Peer(s, secret, maxText)
		return shown, shown
	}
	var list []string
	elements, _ := member.([]any)
	for rest := maxText; len(elements) > 0 && rest > len("…"); elements = elements[1:] {
		if s, _ := elements[0].(string); s != "" {
			s = redact.Peer(s, secret, rest)
			list = append(list, s)
			rest -= len(s) + len("; ")
		}
	}
	if list == nil {
		return "", nil
	}
	return strings.Join(list, "; "), list
}

// statusText returns a status code with net/http's words, not the server's.
func statusText(code int) string {
	return strings.TrimSpace(fmt.Sprint(code, " ", http.StatusText(code)))
}
