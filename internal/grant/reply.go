package grant

import (
	"cmp"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strings"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/redact"
)

const (
	maxText   = 300 // bytes of foreign text in an error
	maxServer = 64  // of them, of the Server header
)

// A reply is what may be shown of a reply without a token.
type reply struct {
	status    int
	isJSON    bool
	isHTML    bool
	code      string // of RFC 6749 §5.2
	text      string // of the peer, under the rule of package redact
	requestID string
	retrieve  *oauth2.RetrieveError // with nothing else than the above
}

// errorCode is the form of the codes of RFC 6749 and its extensions.
var errorCode = regexp.MustCompile(`^[a-z_]{1,64}$`)

// requestIDs are the headers with an ID that a peer's support asks for.
var requestIDs = []string{"X-Request-Id", "X-Correlation-Id", "Cf-Ray", "X-Amzn-Requestid", "X-Azure-Ref", "Traceparent"}

// choose returns what may be shown of a reply, given what x/oauth2 has read.
func choose(e *oauth2.RetrieveError, secret string) *reply {
	peer := func(s string) string { return redact.Peer(s, secret, maxText) }
	media, _, _ := mime.ParseMediaType(e.Response.Header.Get("Content-Type"))
	r := &reply{
		status: e.Response.StatusCode,
		isJSON: json.Valid(e.Body),
		isHTML: isHTML(e.Response),
		code:   e.ErrorCode, // of a form, too
	}
	description := e.ErrorDescription
	var members map[string]json.RawMessage
	if r.isJSON {
		_ = json.Unmarshal(e.Body, &members) // none if it is no object
		r.code, description = text(members["error"]), text(members["error_description"])
	}
	body := make(map[string]any)
	if errorCode.MatchString(r.code) {
		r.text = peer(description)
		body["error"] = r.code
	} else {
		r.code = ""
	}
	if r.text != "" {
		body["error_description"] = r.text
	} else if message, shown := messageOf(members["message"], secret); shown != "" {
		r.text, body["message"] = shown, message
	} else if media == "text/plain" && r.code == "" && !r.isJSON {
		r.text = peer(strings.TrimSpace(string(e.Body)))
	}
	var number int
	if json.Unmarshal(members["error_code"], &number) == nil {
		body["error_code"] = number
	} else if s := peer(text(members["error_code"])); s != "" {
		body["error_code"] = s
	}

	header := make(http.Header)
	show := func(name, value string) {
		if value != "" {
			header.Set(name, value)
		}
	}
	for _, name := range requestIDs {
		id := redact.RequestID(e.Response.Header.Get(name), secret)
		show(name, id)
		r.requestID = cmp.Or(r.requestID, id)
	}
	show("Content-Type", peer(media))
	show("Server", redact.Peer(e.Response.Header.Get("Server"), secret, maxServer))
	for _, name := range []string{"Date", "Retry-After", "Via"} {
		show(name, peer(e.Response.Header.Get(name)))
	}
	encoded, _ := json.Marshal(body) // of strings, lists of them and a number: no error
	r.retrieve = &oauth2.RetrieveError{
		Response: &http.Response{
			Status:     statusText(r.status),
			StatusCode: r.status,
			Header:     header,
			Body:       http.NoBody,
		},
		Body:      encoded,
		ErrorCode: r.code,
	}
	if r.code != "" && body["message"] == nil {
		r.retrieve.ErrorDescription = r.text
	}
	return r
}

// messageOf returns what may be shown of the message member of Mosaic's services, a
// string or an array of strings: in its own type, and as one text.
func messageOf(member json.RawMessage, secret string) (message any, shown string) {
	var list []string
	if json.Unmarshal(member, &list) != nil || list == nil {
		shown = redact.Peer(text(member), secret, maxText)
		return shown, shown
	}
	var parts []string
	rest := maxText
	for _, element := range list {
		part := redact.Peer(element, secret, rest)
		parts = append(parts, part)
		if rest -= len(part) + len("; "); rest <= len("…") {
			break
		}
	}
	return parts, strings.Join(parts, "; ")
}

// text returns the string that member is, or "".
func text(member json.RawMessage) (s string) {
	_ = json.Unmarshal(member, &s)
	return s
}

func isHTML(res *http.Response) bool {
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return media == "text/html" || media == "application/xhtml+xml"
}

// statusText returns a status code with net/http's words, not the server's.
func statusText(code int) string {
	return strings.TrimSpace(fmt.Sprint(code, " ", http.StatusText(code)))
}

// String returns r as the part of an error's line.
func (r *reply) String() string {
	s := statusText(r.status)
	if r.requestID != "" {
		s += ", request ID " + r.requestID
	}
	if server := r.retrieve.Response.Header.Get("Server"); server != "" && !r.isJSON {
		s += ", server " + server
	}
	switch {
	case r.code != "" && r.text != "":
		s += ": " + r.code + `, "` + r.text + `"`
	case r.code != "":
		s += ": " + r.code
	case r.text != "":
		s += `: "` + r.text + `"`
	}
	return s
}
