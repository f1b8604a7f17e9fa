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

// A Fault is an answer chosen by the test. [Server.Fail] and [Server.FailNext] answer token
// requests with it, and never API calls. The requests are not checked: no client assertion is used
// up. [Server.Handle] answers API calls with it, after the check of the token.
//
// The zero Fault breaks the connection off without an answer.
type Fault struct {
	// Status is the status code of the answer, from 200 to 999. Zero: no answer.
	Status int

	// Header and Body are sent as they are, without a guessed Content-Type. The server adds a Date,
	// unless Header has one; a nil Date sends none. With a Content-Length greater than the length
	// of Body the answer breaks off.
	Header http.Header
	Body   string

	// Hang gives no answer until the client gives up or the server is closed. It overrides the
	// other fields.
	Hang bool
}

// OAuthError returns an error of the token endpoint, with a code such as "invalid_client" (RFC 6749
// §5.2). An empty description is left out.
func OAuthError(status int, code, description string) Fault {
	body := map[string]any{"error": code}
	if description != "" {
		body["error_description"] = description
	}
	return tokenReply(status, body)
}

// MessageError returns an error of Mosaic's services: a JSON object with message and error_code,
// the status. Mosaic's documentation shows it for the token endpoint, too. The message is a string
// on some of its pages, and an array of strings on others.
func MessageError[M string | []string](status int, message M) Fault {
	return jsonReply(status, map[string]any{"message": message, "error_code": status})
}

// tokenReply returns an answer of the token endpoint.
func tokenReply(status int, body map[string]any) Fault {
	reply := jsonReply(status, body)
	reply.Header.Set("Cache-Control", "no-store") // RFC 6749 §5.1
	return reply
}

func jsonReply(status int, body any) Fault {
	return Fault{Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: string(must(json.Marshal(body)))}
}

// ServeHTTP answers r with f.
func (f Fault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f = f.checked()
	if f.Hang {
		<-r.Context().Done()
	}
	if f.Hang || f.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header()["Content-Type"] = nil // net/http guesses none
	maps.Copy(w.Header(), f.Header)
	w.WriteHeader(f.Status)
	w.Write([]byte(f.Body))
}

// checked returns a copy of f.
func (f Fault) checked() Fault {
	if f.Status != 0 && (f.Status < 200 || f.Status > 999) {
		panic(fmt.Sprintf("mosaictest: Fault: no answer has status %d", f.Status))
	}
	f.Header = f.Header.Clone()
	return f
}

// Fail answers all token requests with f until [Server.Heal]. For APIs see [Server.Handle].
func (s *Server) Fail(f Fault) {
	f = f.checked()
	s.set(func() { s.fault = f })
}

// FailNext answers the next n token requests with f. Faults of earlier FailNext calls come first,
// the one of [Server.Fail] last.
func (s *Server) FailNext(n int, f Fault) {
	f = f.checked()
	s.set(func() { s.faults = append(s.faults, slices.Repeat([]http.Handler{f}, max(n, 0))...) })
}

// Heal removes all faults of the token endpoint. Hanging requests go on hanging.
func (s *Server) Heal() { s.set(func() { s.fault, s.faults = nil, nil }) }

// nextFault returns the fault of the next token request, or nil.
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

// SetLatency delays the answers to token requests, including faults. The endpoint waits for before,
// makes the token and the Date, and waits for after. The default is zero for both. API calls are
// not delayed. If the client gives up or the server is closed during a wait, there is no answer.
func (s *Server) SetLatency(before, after time.Duration) {
	s.set(func() { s.before, s.after = before, after })
}

// wait blocks for d. If ctx, the request's, ends first, there is no answer.
func wait(ctx context.Context, d time.Duration) {
	timer, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-timer.Done()
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
}
