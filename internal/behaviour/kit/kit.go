// Package kit has what the tests of several packages share, such as bubbles with a stand-in for
// Mosaic, transports that need no network, keys and certificates.
package kit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/fips140"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"golang.org/x/oauth2"

	"example.com/mosaic/mosaictest"
)

// NoFIPS skips the test in FIPS mode. A test that uses cryptography in a bubble must call NoFIPS. In
// FIPS mode, crypto/rand gets entropy from a clock, which stands still in a bubble, so it panics.
func NoFIPS(t testing.TB) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("in FIPS mode crypto/rand panics in a bubble")
	}
}

// Bubble runs test in a synctest bubble with a stand-in, whose responses take no time.
func Bubble(t *testing.T, test func(t *testing.T, srv *mosaictest.Server)) {
	t.Helper()
	NoFIPS(t)
	synctest.Test(t, func(t *testing.T) {
		srv := mosaictest.NewInMemory()
		defer srv.Close()
		test(t, srv)
	})
}

// Every calls f at once and then after each pause, until total has passed.
func Every(pause, total time.Duration, f func()) {
	for end := time.Now().Add(total); time.Now().Before(end); time.Sleep(pause) {
		f()
	}
}

// Promptly returns a token from src. It ends the test if there is an error, or if src takes any time.
// It must be called in a bubble.
func Promptly(t testing.TB, src oauth2.TokenSource) *oauth2.Token {
	t.Helper()
	return Within(t, src, 0)
}

// Reconnecting is the longest time that a request may wait because the request before it has timed
// out.
const Reconnecting = 50 * time.Millisecond

// Within is like [Promptly], but src may take as long as bound.
func Within(t testing.TB, src oauth2.TokenSource, bound time.Duration) *oauth2.Token {
	t.Helper()
	begun := time.Now()
	tok, err := src.Token()
	if err != nil {
		t.Fatalf("at %s a call failed: %v", begun.Format(time.TimeOnly), err)
	}
	if took := time.Since(begun); took > bound {
		t.Fatalf("at %s a call waited for %s; want at most %s", begun.Format(time.TimeOnly), took, bound)
	}
	return tok
}

// Goroutines returns the number of goroutines in the caller's bubble, once all of them are blocked. It
// does not count other goroutines, because those of the runtime and of earlier tests come and go.
func Goroutines(t testing.TB) int {
	t.Helper()
	synctest.Wait()
	buf := make([]byte, 4<<20)
	all := string(buf[:runtime.Stack(buf, true)])
	own, _, _ := strings.Cut(all, "]") // the caller's goroutine comes first
	_, bubble, ok := strings.Cut(own, "synctest bubble ")
	if !ok {
		t.Fatalf("the caller is in no bubble: %s", own)
	}
	return strings.Count(all, "synctest bubble "+bubble+"]")
}

// Collect fails the test if *p is still reachable, other than by the caller's own pointer. The caller
// must not use that pointer afterwards.
func Collect[T any](t testing.TB, p *T) {
	t.Helper()
	ref := weak.Make(p)
	p = nil
	for range 10 {
		runtime.GC()
		if ref.Value() == nil {
			return
		}
	}
	t.Error("it is not collected, though nobody uses it any more")
}

// File returns the path of a new file with this content.
func File[T string | []byte](t testing.TB, data T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A RoundTripper is a function that is used as an http.RoundTripper.
type RoundTripper func(*http.Request) (*http.Response, error)

func (f RoundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Over returns ctx with an HTTP client whose Transport is rt.
func Over(ctx context.Context, rt http.RoundTripper) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: rt})
}

// A Stub is a transport that returns Replies in order, and then the last reply again and again. A reply
// is the whole text that a server would send. If it is empty, the connection breaks.
type Stub struct {
	Replies []string

	mu   sync.Mutex
	sent []Sent
}

// Sent is a request to a [Stub].
type Sent struct {
	Method, URL, Body string
	Header            http.Header
	At                time.Time
}

// Form returns the values of the form in the body.
func (s Sent) Form() url.Values {
	form, _ := url.ParseQuery(s.Body)
	return form
}

// Context returns ctx with an HTTP client whose Transport is s.
func (s *Stub) Context(ctx context.Context) context.Context { return Over(ctx, s) }

// Requests returns all requests so far.
func (s *Stub) Requests() []Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

func (s *Stub) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, Sent{r.Method, r.URL.String(), string(body), r.Header.Clone(), time.Now()})
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Reused: true})
	}
	reply := ""
	if len(s.Replies) > 0 {
		reply = s.Replies[0]
	}
	if len(s.Replies) > 1 {
		s.Replies = s.Replies[1:]
	}
	if reply == "" {
		return nil, io.EOF
	}
	return http.ReadResponse(bufio.NewReader(strings.NewReader(reply)), r)
}

// Reply returns a reply for a [Stub] or for [Wire]. The lines of header must be separated by CRLF.
func Reply(status, header, body string) string {
	if header != "" {
		header += "\r\n"
	}
	return "HTTP/1.1 " + status + "\r\n" + header + "\r\n" + body
}

// TokenReply returns a reply with an access token. If further is not empty, it must be the JSON text
// of more members.
func TokenReply(token, further string) string {
	if further != "" {
		further = "," + further
	}
	return Reply("200 OK", "Content-Type: application/json", `{"access_token":"`+token+`"`+further+`}`)
}

// A Log keeps the text that its loggers write. Its methods may be called concurrently.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Logger returns a logger that writes to l in the format of slog.TextHandler.
func (l *Log) Logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Take returns the text that was written since the last call of Take, and removes it.
func (l *Log) Take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// Count returns the number of records that contain text.
func (l *Log) Count(text string) (n int) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// Wire returns a transport whose connections need no network. Each connection takes one plain HTTP
// request, sends reply and is closed. Like net.Dialer, the transport calls the hooks of httptrace.
func Wire(reply string) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if trace := httptrace.ContextClientTrace(ctx); trace != nil {
			trace.ConnectStart(network, addr)
			trace.ConnectDone(network, addr, nil)
		}
		client, server := net.Pipe()
		go func() {
			_, _ = http.ReadRequest(bufio.NewReader(server))
			io.WriteString(server, reply)
			server.Close()
		}()
		return client, nil
	}}
}

// Proxied returns a transport with a proxy that sends reply when it gets CONNECT. See [Wire].
func Proxied(reply string) *http.Transport {
	rt := Wire(reply)
	rt.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.acme.com:8080"})
	return rt
}
