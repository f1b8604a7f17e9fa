package mosaictest

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"time"
)

// A Request is a request received by the server, including its credentials. Header, Body, Form and
// Certificate are shared with the server: do not modify them.
type Request struct {
	Time        time.Time // of arrival, by the local clock
	Method      string
	RequestURI  string // path and query, as in http.Request
	Host        string
	Proto       string // "HTTP/1.1" or "HTTP/2.0"
	Header      http.Header
	Body        []byte
	Form        url.Values        // of a token request's Body; nil: it is no form
	Certificate *x509.Certificate // presented by the client; nil: none
	Status      int               // of the answer; 0: none yet
}

// TokenRequests returns the requests to the token endpoint, in the order of their arrival. A request
// whose body breaks off is not recorded.
func (s *Server) TokenRequests() []Request { return s.requests(&s.tokenRequests) }

// APIRequests returns all other requests, in the order of their arrival: API calls, including
// refused ones, and requests for the signing keys. A request whose body breaks off is not recorded.
func (s *Server) APIRequests() []Request { return s.requests(&s.apiRequests) }

// ForgetRequests removes all requests from [Server.TokenRequests] and [Server.APIRequests].
func (s *Server) ForgetRequests() { s.set(func() { s.tokenRequests, s.apiRequests = nil, nil }) }

func (s *Server) requests(log *[]*Request) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Request, len(*log))
	for i, r := range *log {
		out[i] = *r
	}
	return out
}

// record adds r to log. The recorder notes the answer's status.
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

// note is called before the status is sent: a client with an answer finds its status noted.
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

// Flush makes a recorder an http.Flusher.
func (w *recorder) Flush() {
	w.note(http.StatusOK)
	w.ResponseWriter.(http.Flusher).Flush()
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
