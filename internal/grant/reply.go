package grant

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/redact"
)

// maxReply bounds the size of a reply's body. A token response is about 2 KiB.
const maxReply = 1 << 20

// An exchange is the RoundTripper of one attempt. It reads the whole reply, so that a truncated body
// is a transport error like any other.
type exchange struct {
	send    func(*http.Request) (*http.Response, error)
	request *http.Request // for a RetrieveError; only the method and URL, because the body contains the secret
	err     error         // from the transport; the fields below describe the reply, if one began
	status  int
	header  http.Header
	media   string // the media type of the body
	isJSON  bool   // the body parses as JSON, whatever the media type
	isText  bool   // the body is UTF-8, and all its control characters are white space
}

func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	x.request = &http.Request{Method: req.Method, URL: req.URL}
	res, err := x.send(req)
	if err == nil && res == nil {
		err = errors.New("the RoundTripper returned nothing")
	}
	if err == nil {
		x.status, x.header = res.StatusCode, res.Header
		x.media, _, _ = mime.ParseMediaType(res.Header.Get("Content-Type"))
		var body []byte
		switch {
		case res.Body == nil: // only with a RoundTripper other than net/http's
		case res.StatusCode == http.StatusSwitchingProtocols: // its Body is the connection itself, and canceling the request does not end a read
			res.Body.Close()
		default:
			body, err = io.ReadAll(io.LimitReader(res.Body, maxReply))
			res.Body.Close()
		}
		x.isText = utf8.Valid(body) && !bytes.ContainsFunc(body, isControl)
		if x.isJSON = json.Valid(body); x.isJSON {
			res.Header = http.Header{"Content-Type": {"application/json"}} // x/oauth2 reads no other header
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	if x.err = err; err != nil {
		return nil, err
	}
	return res, nil
}

func isControl(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) }

// isPage reports whether the reply is an HTML page that explains more than its status does. A page
// with status 429 or 5xx explains nothing more.
func (x *exchange) isPage() bool {
	html := x.media == "text/html" || x.media == "application/xhtml+xml"
	return html && !x.isJSON && x.status != http.StatusTooManyRequests && x.status < 500
}

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
	at, _ := http.ParseTime(value)      // the year 1 if value is not a time
	now := cmp.Or(x.date(), time.Now()) // by the server's clock, if the reply has a Date
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

const (
	maxText   = 300 // bytes of a peer's text in an error
	maxServer = 64  // bytes of the Server header
)

// errorCode matches the error codes of RFC 6749 and its extensions.
var errorCode = regexp.MustCompile(`^[a-z_]{1,64}$`)

// requestIDs are the headers with an ID that a server operator's support team will ask for.
var requestIDs = []string{"X-Request-Id", "X-Correlation-Id", "Cf-Ray", "X-Amzn-Requestid", "X-Azure-Ref", "Traceparent"}

// A refusal contains the parts of an error reply's body that may be shown: the code and the
// description of RFC 6749 §5.2, or any other text as Message.
type refusal struct {
	Code        string `json:"error,omitempty"`
	Description string `json:"error_description,omitempty"`
	Message     string `json:"message,omitempty"`
}

// show returns a redacted line for the error message, and a redacted RetrieveError.
func (x *exchange) show(e *oauth2.RetrieveError, secret string) (line string, shown *oauth2.RetrieveError) {
	peer := func(s string) string { return redact.Peer(s, secret, maxText) }
	said := refusal{Code: e.ErrorCode, Description: e.ErrorDescription} // x/oauth2 also reads form-encoded bodies
	_ = json.Unmarshal(e.Body, &said)                                   // members of an unexpected type stay empty
	if !errorCode.MatchString(said.Code) || peer(said.Code) != said.Code {
		said.Code = ""
	}
	said.Description, said.Message = peer(said.Description), ""
	if said.Description == "" {
		said.Message = message(e.Body, peer)
	}
	if said == (refusal{}) && x.media == "text/plain" && x.isText && !x.isJSON {
		said.Message = peer(string(e.Body))
	}
	line, header := x.head(secret)
	shown = &oauth2.RetrieveError{ErrorCode: said.Code, ErrorDescription: said.Description}
	shown.Body, _ = json.Marshal(said) // cannot fail, because said has only strings
	shown.Response = &http.Response{Status: statusText(x.status), StatusCode: x.status, Header: header, Body: http.NoBody, Request: x.request}
	separator := ": "
	if said.Code != "" {
		line += separator + said.Code
		separator = ", "
	}
	if text := cmp.Or(said.Description, said.Message); text != "" {
		line += separator + `"` + text + `"`
	}
	return line, shown
}

// message returns the redacted text of a JSON error body that does not follow RFC 6749, or "".
func message(body []byte, peer func(string) string) string {
	var said struct {
		Message       any    // from Mosaic's services: a string or an array of strings
		Detail, Title string // RFC 9457
		Error         struct{ Message string }
		Errors        []struct{ Message string }
	}
	_ = json.Unmarshal(body, &said) // members of an unexpected type stay empty
	list, isList := said.Message.([]any)
	if !isList {
		list = []any{said.Message}
	}
	text := ""
	for _, element := range list {
		if s, _ := element.(string); strings.TrimSpace(s) != "" && len(text) <= maxText {
			text = strings.TrimPrefix(text+"; "+peer(s), "; ")
		}
	}
	other := cmp.Or(peer(said.Detail), peer(said.Title), peer(said.Error.Message))
	for _, e := range said.Errors {
		other = cmp.Or(other, peer(e.Message))
	}
	return cmp.Or(redact.Cut(text, maxText), other)
}

// head returns a line with the status, the request ID and, unless the reply is JSON, the Server. If
// the body is not text, the line says so. head also returns the headers that may be shown.
func (x *exchange) head(secret string) (line string, shown http.Header) {
	server := redact.Peer(x.header.Get("Server"), secret, maxServer)
	shown = http.Header{"Content-Type": {redact.Peer(x.media, secret, maxText)}, "Server": {server}}
	for _, name := range []string{"Date", "Retry-After", "Via"} {
		shown.Set(name, redact.Peer(x.header.Get(name), secret, maxText))
	}
	requestID := ""
	for _, name := range requestIDs {
		shown.Set(name, redact.RequestID(x.header.Get(name), secret))
		requestID = cmp.Or(requestID, shown.Get(name))
	}
	maps.DeleteFunc(shown, func(_ string, values []string) bool { return values[0] == "" })
	line = statusText(x.status)
	if requestID != "" {
		line += ", request ID " + requestID
	}
	if server != "" && !x.isJSON {
		line += ", server " + server
	}
	if !x.isText {
		line += ", a body that is not text in UTF-8" // perhaps it is compressed
		if encoding := redact.Peer(x.header.Get("Content-Encoding"), secret, maxServer); encoding != "" {
			line += ", Content-Encoding " + encoding
		}
	}
	return line, shown
}

// statusText returns a status code with net/http's reason phrase, not the server's.
func statusText(code int) string {
	return strings.TrimSpace(fmt.Sprint(code, " ", http.StatusText(code)))
}
