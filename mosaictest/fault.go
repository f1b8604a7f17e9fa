package mosaictest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// A Fault is a response that the test chooses, such as an error, a broken connection or no response
// at all. It is copied when it is set, so a later change has no effect.
//
// [Server.Fail] and [Server.FailNext] use a Fault for token requests. The server then does not check
// the request, so a client assertion in it can still be used. [Server.Handle] uses a Fault for API
// calls that have a valid token.
//
// The zero Fault breaks the connection without a response.
type Fault struct {
	// Status is the status code of the response, from 200 to 999. If it is zero, the connection is
	// broken without a response.
	Status int

	// Header and Body are sent as they are. The server does not add a Content-Type, and it adds a
	// Date only if Header has none. To send no Date, set Header["Date"] to nil. If Header has a
	// Content-Length greater than the length of Body, the connection breaks after Body.
	Header http.Header
	Body   string

	// Hang makes the server send nothing until the client gives up or the server is closed. The
	// other fields are then ignored.
	Hang bool
}

// OAuthError returns an error response of the token endpoint (RFC 6749 §5.2). The code is, for
// example, "invalid_client". If description is empty, the response has no error_description.
func OAuthError(status int, code, description string) Fault {
	body := map[string]any{"error": code}
	if description != "" {
		body["error_description"] = description
	}
	return tokenReply(status, body)
}

// MessageError returns an error response of Mosaic's APIs, which is a JSON object with the members
// message and error_code (the status). Mosaic documents the same object for the token endpoint. The
// message is a string on some pages of the documentation and an array of strings on others.
func MessageError[M string | []string](status int, message M) Fault {
	return jsonReply(status, map[string]any{"message": message, "error_code": status})
}

// tokenReply returns a response of the token endpoint.
func tokenReply(status int, body map[string]any) Fault {
	reply := jsonReply(status, body)
	reply.Header.Set("Cache-Control", "no-store") // RFC 6749 §5.1
	return reply
}

func jsonReply(status int, body any) Fault {
	return Fault{Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: string(must(json.Marshal(body)))}
}

// ServeHTTP responds to r with f. It panics with [http.ErrAbortHandler] if there is no response.
func (f Fault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f = f.checked()
	if f.Hang {
		<-r.Context().Done()
	}
	if f.Hang || f.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header()["Content-Type"] = nil // so that net/http does not guess it
	maps.Copy(w.Header(), f.Header)
	w.WriteHeader(f.Status)
	w.Write([]byte(f.Body))
}

// checked returns a copy of f, or panics if its Status is invalid.
func (f Fault) checked() Fault {
	if f.Status != 0 && (f.Status < 200 || f.Status > 999) {
		panic(fmt.Sprintf("mosaictest: Fault: Status %d is neither zero nor from 200 to 999", f.Status))
	}
	f.Header = f.Header.Clone()
	return f
}

// Fail makes all token requests fail with f until [Server.Heal] is called. To make API calls fail,
// see [Server.Handle]. Fail panics if f has an invalid Status.
func (s *Server) Fail(f Fault) {
	f = f.checked()
	s.set(func() { s.fault = f })
}

// FailNext makes the next n token requests fail with f. If Faults from earlier calls to FailNext are
// left, the server uses those up first. FailNext takes precedence over [Server.Fail]. If n is zero or
// less, FailNext does nothing. FailNext panics if f has an invalid Status.
func (s *Server) FailNext(n int, f Fault) {
	f = f.checked()
	s.set(func() { s.faults = append(s.faults, slices.Repeat([]http.Handler{f}, max(n, 0))...) })
}

// Heal removes all Faults set by [Server.Fail] and [Server.FailNext]. Requests that already hang keep
// hanging.
func (s *Server) Heal() { s.set(func() { s.fault, s.faults = nil, nil }) }

// nextFault returns the Fault for the next token request, or nil.
func (s *Server) nextFault() http.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return s.fault
	}
	next := s.faults[0]
	s.faults = s.faults[1:]
	return next
}

// SetLatency delays the responses to token requests, including Faults. The server waits, makes the
// token and the Date header, and waits again. The arguments are the durations of the two waits, which
// are zero by default. If the client gives up or the server is closed during a wait, there is no
// response.
//
// API calls are not delayed. To delay them, see [Server.Handle].
func (s *Server) SetLatency(before, after time.Duration) {
	s.set(func() { s.before, s.after = before, after })
}

// wait blocks for d. If ctx is done before that, wait ends the request without a response.
func wait(ctx context.Context, d time.Duration) {
	timer, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-timer.Done()
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
}
