package mosaictest

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"time"
)

// A Request is a request that the server has received. It contains the client's credentials, so take
// care when you log it. Header, Body, Form and Certificate are shared with the server and must not be
// modified.
type Request struct {
	Time        time.Time // when the server had read the request, by the local clock
	Method      string
	RequestURI  string // path and query
	Host        string
	Proto       string // "HTTP/1.1" or "HTTP/2.0"
	Header      http.Header
	Body        []byte
	Form        url.Values        // the parsed Body of a token request; nil for API calls, or if Body is not a form
	Certificate *x509.Certificate // the client's certificate from the TLS handshake, or nil
	Status      int               // the status of the response; 0 if no response has been sent
}

// TokenRequests returns the requests to the token endpoint, in the order in which the server received
// them. A request whose body is incomplete is not recorded.
func (s *Server) TokenRequests() []Request { return s.requests(&s.tokenRequests) }

// APIRequests returns all requests except those to the token endpoint, in the order in which the
// server received them. They are API calls, whether refused or not, and requests for the signing keys.
// A request whose body is incomplete is not recorded.
func (s *Server) APIRequests() []Request { return s.requests(&s.apiRequests) }

// ForgetRequests makes [Server.TokenRequests] and [Server.APIRequests] return only later requests.
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

// record adds r to log. The response must be written to the recorder, which adds its status.
func (s *Server) record(log *[]*Request, w http.ResponseWriter, r *http.Request, body []byte, form url.Values) *recorder {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := &Request{
		Time:        time.Now(),
		Method:      r.Method,
		RequestURI:  r.URL.RequestURI(),
		Host:        r.Host,
		Proto:       r.Proto,
		Header:      r.Header.Clone(), // because the test's handler may change r.Header
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

// note must be called before the status is sent, so that a test that has the response also has its
// status in the record.
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

func (w *recorder) Flush() {
	w.note(http.StatusOK)
	w.ResponseWriter.(http.Flusher).Flush()
}

// Unwrap is called by http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
