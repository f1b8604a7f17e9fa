package mosaictest

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// A Fault is what befalls a token request instead of Mosaic's answer, without a
// look at what it asks for: a client assertion in it is not used up.
//
// With a Status, that is the answer, with Header and Body exactly as they are
// given; no Content-Type is added, and the server's own Date only where Header
// has no entry for it (one with no values means no Date at all). A
// Content-Length above the length of Body is an answer that breaks off.
//
// The zero Fault breaks the connection off without an answer.
type Fault struct {
	Status int
	Header http.Header
	Body   string

	// Hang means no answer, nor an end of the connection, until the client
	// gives up or the server is closed. The other fields are then ignored.
	Hang bool
}

func (f Fault) clone() Fault {
	if f.Status != 0 && (f.Status < 200 || f.Status > 999) {
		panic(fmt.Sprintf("mosaictest: a Fault with status %d, which is no answer's", f.Status))
	}
	f.Header = f.Header.Clone()
	return f
}

// Fail makes every token request from now on meet f, until [Server.Heal]. It
// panics if f.Status is neither 0 nor from 200 to 999.
func (s *Server) Fail(f Fault) {
	f = f.clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = &f
}

// FailNext makes the next n token requests meet f, after those of earlier
// calls, and before the Fault of [Server.Fail] has its turn. It panics as Fail
// does.
func (s *Server) FailNext(n int, f Fault) {
	f = f.clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, slices.Repeat([]Fault{f}, max(n, 0))...)
}

// Heal ends all faults. Requests that hang already go on hanging.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.faults = nil, nil
}

// nextFault returns what the token request that has just arrived meets, or nil.
func (s *Server) nextFault() *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return s.fault
	}
	f := s.faults[0]
	s.faults = s.faults[1:]
	return &f
}

// SetLatency sets how long the token endpoint takes to answer: before is the
// time until the answer is made up (a token minted, the Date stamped), after the
// time from then until it is sent. Both are zero at first. A wait ends with the
// request or the server; the connection is then broken off.
func (s *Server) SetLatency(before, after time.Duration) {
	s.set(func(c *settings) { c.before, c.after = before, after })
}

// wait blocks for d. Where ctx, the request's, ends first, no answer is sent.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

// A Request is one that has arrived. Its Header and Body are as they were
// sent, credentials included. They are the server's own, not to be modified.
type Request struct {
	Time        time.Time // of its arrival, by the local clock
	Method      string
	RequestURI  string // path and query, as in http.Request
	Host        string // that it was sent to
	Proto       string // "HTTP/1.1" or "HTTP/2.0"
	Header      http.Header
	Body        []byte
	Form        url.Values        // Body at the token endpoint, as far as it is a form; else nil
	Certificate *x509.Certificate // that the client presented; nil if none
	Status      int               // of the answer; 0 as long as there is none
}

// TokenRequests returns what has arrived at the token endpoint, in order.
func (s *Server) TokenRequests() []Request { return s.requests(&s.tokenRequests) }

// APIRequests returns what has arrived elsewhere, in order: API calls, whether
// they were let in or not, and requests for the signing keys.
func (s *Server) APIRequests() []Request { return s.requests(&s.apiRequests) }

func (s *Server) requests(log *[]*Request) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Request, len(*log))
	for i, r := range *log {
		out[i] = *r
	}
	return out
}

// record notes r in log. The answer's status is noted when it is written to
// what record returns.
func (s *Server) record(log *[]*Request, w http.ResponseWriter, r *http.Request, body []byte, form url.Values) *recorder {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := &Request{
		Time:        time.Now(),
		Method:      r.Method,
		RequestURI:  r.URL.RequestURI(),
		Host:        r.Host,
		Proto:       r.Proto,
		Header:      r.Header.Clone(), // a mounted handler may change its own
		Body:        body,
		Form:        form,
		Certificate: presented(r),
	}
	*log = append(*log, req)
	return &recorder{ResponseWriter: w, s: s, req: req}
}

type recorder struct {
	http.ResponseWriter
	s   *Server
	req *Request
}

// note comes before the status is sent: whoever has an answer finds it noted.
func (w *recorder) note(status int) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.req.Status == 0 && status >= 200 {
		w.req.Status = status
	}
}

func (w *recorder) WriteHeader(status int) {
	w.note(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.note(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// Flush makes a recorder an http.Flusher, as the ResponseWriter in it is.
func (w *recorder) Flush() {
	w.note(http.StatusOK)
	w.ResponseWriter.(http.Flusher).Flush()
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// An answer is one of the token endpoint, made up but not sent yet.
type answer struct {
	status int
	header http.Header
	body   string
}

// answer returns the one that f stands for.
func (f *Fault) answer(ctx context.Context, date string) answer {
	switch {
	case f.Hang:
		<-ctx.Done()
		panic(http.ErrAbortHandler)
	case f.Status == 0:
		panic(http.ErrAbortHandler)
	}
	header := http.Header{"Date": {date}, "Content-Type": nil} // nil: net/http does not guess one
	maps.Copy(header, f.Header)
	return answer{f.Status, header, f.Body}
}

func (a answer) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	w.Write([]byte(a.body))
}
