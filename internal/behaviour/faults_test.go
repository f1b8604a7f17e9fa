package behaviour_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// A fault befalls the connection of a token request. The zero fault closes it when the request has
// arrived.
type fault struct {
	dial  error                            // instead of a connection
	tls   func(*tls.Config)                // of the client, whose handshake then fails
	plain bool                             // the client begins a handshake, and the server does not
	reply func(conn net.Conn, form string) // to a request with this form
	key   bool                             // the client has a PrivateKey instead of its secret
}

// bytesOf replies with text as it stands on the wire.
func bytesOf(text string) fault {
	return fault{reply: func(conn net.Conn, _ string) { io.WriteString(conn, text) }}
}

func replying(status, header, body string) fault { return bytesOf(kit.Reply(status, header, body)) }

const isJSON, isHTML = "Content-Type: application/json", "Content-Type: text/html; charset=UTF-8"

// members replies with JSON.
func members(text string) fault { return replying("200 OK", isJSON, "{"+text+"}") }

// echo replies with text made of the form.
func echo(reply func(form string) string) fault {
	return fault{reply: func(conn net.Conn, form string) { io.WriteString(conn, reply(form)) }}
}

// trickle replies with head, and then with a byte a second.
func trickle(head, rest string) fault {
	return fault{reply: func(conn net.Conn, _ string) {
		_, err := io.WriteString(conn, head)
		for i := 0; i < len(rest) && err == nil; i++ {
			_, err = io.WriteString(conn, rest[i:i+1])
			time.Sleep(time.Second)
		}
	}}
}

// endless replies with a gigabyte, or less if the client has enough.
func endless(head, more string) fault {
	chunk := strings.Repeat(more, 64<<10/len(more))
	return fault{reply: func(conn net.Conn, _ string) {
		_, err := io.WriteString(conn, head)
		for sent := 0; err == nil && sent < 1<<30; sent += len(chunk) {
			_, err = io.WriteString(conn, chunk)
		}
	}}
}

func zipped(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, body)
	w.Close()
	return b.String()
}

// connect returns a connection to a server with the fault.
func (f fault) connect(context.Context, string, string) (net.Conn, error) {
	if f.dial != nil {
		return nil, f.dial
	}
	client, server := net.Pipe()
	go f.serve(server)
	return client, nil
}

// serve answers one request.
func (f fault) serve(conn net.Conn) {
	defer conn.Close()
	if f.plain {
		conn.Read(make([]byte, 4<<10))
		f.reply(conn, "")
		return
	}
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	form, err := io.ReadAll(req.Body)
	if err == nil && f.reply != nil {
		f.reply(conn, string(form))
	}
}

// A faulty transport is that of a mosaictest.Server, except while there is a fault.
type faulty struct {
	healthy *http.Transport

	mu     sync.Mutex
	broken http.RoundTripper // nil: there is no fault
	met    int               // requests
}

func (f *faulty) fail(with fault) {
	// A tenth of net/http's own limit for the header keeps the test quick.
	broken := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 1 << 20, DialContext: with.connect}
	switch {
	case with.tls != nil:
		broken = f.healthy.Clone()
		with.tls(broken.TLSClientConfig)
	case !with.plain:
		broken.DialTLSContext = with.connect // net/http takes its connections for ones after the handshake
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken, f.met = broken, 0
}

// heal ends the fault, and returns how many requests it met.
func (f *faulty) heal() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = nil
	return f.met
}

func (f *faulty) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	rt := http.RoundTripper(f.healthy)
	if f.broken != nil {
		rt = f.broken
		f.met++
	}
	f.mu.Unlock()
	return rt.RoundTrip(req)
}

const (
	cryptic = "s3cr&t/ +%\"<é>'=0123456789" // a secret
	opaque  = "0paque-access-token-0123456789"

	good = 1 // the status in a row without an error

	retried = 1500 * time.Millisecond // three attempts, and pauses of half a second and a second at most
	overall = 30 * time.Second

	// What a token request may allocate in all, in MiB, with three attempts and the stand-in's share.
	// Of a body one is read, through a growing buffer.
	small = 2
	large = 40
)

// encoded is a token as Mosaic's are, valid for an hour from the beginning of the bubble's time.
var encoded = kit.JWT(`{"iat":946684800,"exp":946688400}`)

// leaks are in no error and no log: pieces of the secret and of opaque tokens, and the begin of
// each JWT, an assertion's too.
var leaks = []string{"s3cr", "0paque", "0123456789", "eyJ"}

type faultRow struct {
	name             string
	fault            fault
	requests, status int // the RetrieveError's; 0: there is none
	bounds
}

type bounds struct {
	within time.Duration // and not in less than half of it; 0: by the number of requests
	memory int           // 0: small
	pause  time.Duration // the reply asks for it, of a minute at most
}

// No fault of the token endpoint, or on the way to it, is without bounds in time, requests or
// memory. None leaks a secret, is noticed beside a good token, or outlives its cause.
func TestFaultsAreBoundedAndHeal(t *testing.T) {
	server := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: server, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	timedOut := &net.OpError{Op: "dial", Net: "tcp", Addr: server, Err: context.DeadlineExceeded} // of some dialer's own context
	head := "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
	token := `"access_token":"` + opaque + `"`
	hour := `,"expires_in":3600`
	rows := []faultRow{
		{"connection refused", fault{dial: refused}, 3, 0, bounds{}},
		{"connection timed out", fault{dial: timedOut}, 3, 0, bounds{}},
		{"closed before the reply", fault{}, 3, 0, bounds{}},
		{"closed in the reply's header", bytesOf("HTTP/1.1 200 OK\r\nContent-Le"), 3, 0, bounds{}},
		{"closed in the reply's body", bytesOf(head + "{" + token), 3, 0, bounds{}},
		{"closed in the body of a refusal", bytesOf("HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{"), 3, 0, bounds{}},

		{"TLS: alert", fault{tls: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }}, 3, 0, bounds{}},
		{"TLS: plain HTTP", fault{plain: true, reply: replying("400 Bad Request", "", "").reply}, 3, 0, bounds{}},
		{"TLS: nothing after the ClientHello", fault{plain: true, reply: func(net.Conn, string) {}}, 3, 0, bounds{}},
		{"TLS: certificate for another name", fault{tls: func(c *tls.Config) { c.ServerName = "login.acme.com" }}, 1, 0, bounds{}},

		{"no reply", fault{reply: func(conn net.Conn, _ string) { io.Copy(io.Discard, conn) }}, 3, 0, bounds{within: overall}},
		{"a byte a second, from the header on", trickle("", kit.Reply("200 OK", isJSON, "{"+token+"}")), 3, 0, bounds{within: overall}},
		{"a byte a second, from the body on", trickle(head, "{"+token), 3, 0, bounds{within: overall}},
		{"endless line of a header", endless("HTTP/1.1 200 OK\r\nX-More: ", "and more "), 3, 0, bounds{memory: large}},
		{"a gigabyte", endless("HTTP/1.1 200 OK\r\n\r\n", "x"), 1, 0, bounds{memory: large}},
		{"a gigabyte of an error", endless("HTTP/1.1 500 Internal Server Error\r\n\r\n", "x"), 3, 500, bounds{memory: large}},
		{"gzip", replying("200 OK", isJSON+"\r\nContent-Encoding: gzip", zipped("{"+token+hour+"}")), 1, good, bounds{}},
		{"gzip: a gigabyte", replying("200 OK", isJSON+"\r\nContent-Encoding: gzip", strings.Repeat(zipped(strings.Repeat(" ", 1<<20)), 1<<10)), 1, 0, bounds{memory: large}},
		{"gzip: is none", replying("200 OK", isJSON+"\r\nContent-Encoding: gzip", "{"+token+"}"), 3, 0, bounds{}},

		{"no HTTP", bytesOf("SSH-2.0-OpenSSH_9.9\r\n"), 3, 0, bounds{}},
		{"no HTTP, but the form", echo(func(form string) string { return form + "\r\n" }), 3, 0, bounds{}},
		{"101", bytesOf("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), 1, 101, bounds{}},
		{"204", bytesOf("HTTP/1.1 204 No Content\r\n\r\n"), 1, 0, bounds{}},
		{"HTML with 200", replying("200 OK", isHTML, "<html>Sign in to the network"), 1, 0, bounds{}},
		{"HTML with 503", replying("503 Service Unavailable", isHTML, "<html>"), 3, 503, bounds{}},

		{"JSON: cut off", replying("200 OK", isJSON, `{"access_token":"`+opaque), 1, 0, bounds{}},
		{"JSON: null", replying("200 OK", isJSON, "null"), 1, 0, bounds{}},
		{"JSON: a mebibyte deep", replying("200 OK", isJSON, strings.Repeat("[", 1<<20)), 1, 0, bounds{memory: large}},

		{"access_token null", members(`"access_token":null` + hour), 1, 0, bounds{}},
		{"token_type with a line end", members(token + hour + `,"token_type":"Bearer\r\nX-Admin: 1"`), 1, 0, bounds{}},
		{"token_type a token", members(token + hour + `,"token_type":"` + encoded + `"`), 1, 0, bounds{}},
		{"expires_in negative, but a JWT", members(`"access_token":"` + encoded + `","expires_in":-3600`), 1, good, bounds{}},

		{"error with 200", members(token + `,"error":"invalid_client","error_description":"` + encoded + `"`), 1, 200, bounds{}},
		{"a token with 403", replying("403 Forbidden", isJSON, `{"access_token":"`+encoded+`"}`), 1, 403, bounds{}},
		{"control characters", replying("400 Bad\x1b[31mRequest", isJSON, `{"error":"a\u0000b","error_description":"c\r\nd\u2028e\u001b[0mf"}`), 1, 400, bounds{}},
		{"not UTF-8", replying("400 Bad Request", "Content-Type: text/plain", "\xff\xfe\x00\n"), 1, 400, bounds{}},
		{"the form with an assertion", fault{key: true, reply: echo(func(form string) string {
			return kit.Reply("400 Bad Request", "Content-Type: text/plain", form)
		}).reply}, 1, 400, bounds{}},

		{"Retry-After: 20", replying("503 Service Unavailable", "Retry-After: 20", ""), 2, 503, bounds{within: 20 * time.Second, pause: 20 * time.Second}},
		{"Retry-After: 86400", replying("429 Too Many Requests", "Retry-After: 86400", ""), 1, 429, bounds{pause: time.Minute}},
		{"Retry-After with 400", replying("400 Bad Request", "Retry-After: 3", ""), 1, 400, bounds{pause: 3 * time.Second}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) { kit.Bubble(t, row.run) })
	}
}

// run meets the fault without a token, and then with a good one.
func (row faultRow) run(t *testing.T, srv *mosaictest.Server) {
	if row.within == 0 && row.requests > 1 {
		row.within = retried
	}
	life := time.Minute
	if row.memory == large { // and takes its time, whenever it is met
		life = 5 * time.Second
	}
	defer time.Sleep(time.Minute) // every fault has noticed by then that its client is gone
	srv.SetSecret(cryptic)
	srv.SetLifetime(life)
	network := &faulty{healthy: srv.Client().Transport.(*http.Transport)}
	var log kit.Log
	conf := srv.Config()
	conf.Logger = log.Logger(slog.LevelDebug)
	if row.fault.key {
		conf.ClientSecret, conf.PrivateKey = "", kit.EC()
		srv.RegisterKey(conf.ClientID, kit.JWKS(t, conf))
	}
	src := conf.TokenSource(kit.Over(t.Context(), network))
	defer func() {
		synctest.Wait()
		for _, leak := range leaks {
			if strings.Contains(log.String(), leak) {
				t.Error("the log holds a piece of a secret or a token")
			}
		}
	}()

	network.fail(row.fault)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := time.Now()
	_, err := src.Token()
	took := time.Since(begun)
	runtime.ReadMemStats(&after)
	if n := network.heal(); n != row.requests {
		t.Errorf("%d requests; want %d", n, row.requests)
	}
	if took > row.within || took < row.within/2 {
		t.Errorf("took %v; want %v at most", took, row.within)
	}
	if got := int((after.TotalAlloc - before.TotalAlloc) >> 20); got >= max(row.memory, small) {
		t.Errorf("allocated %d MiB; want less than %d", got, max(row.memory, small))
	}
	if row.status == good {
		if err != nil {
			t.Errorf("got error %v; want a token", err)
		}
		return
	}
	row.check(t, err)

	// The end of the fault is the end of the failures.
	if row.pause > 0 {
		time.Sleep(time.Until(begun.Add(took + row.pause - time.Nanosecond)))
		if _, err := src.Token(); err == nil || len(srv.TokenRequests()) != 0 {
			t.Errorf("in the pause of %v: got %v and %d requests; want the error, and none", row.pause, err, len(srv.TokenRequests()))
		}
		time.Sleep(time.Nanosecond)
	}
	kit.Within(t, src, kit.Reconnecting)

	// Nobody with a token notices anything, to its last second.
	network.fail(row.fault)
	kit.Every(time.Second, life, func() { kit.Promptly(t, src) })
	least := 2
	if row.pause >= 20*time.Second {
		least = 1
	}
	if n := network.heal(); n < least || n > 15 {
		t.Errorf("%d renewals were tried beside a good token; want %d to 15", n, least)
	}
	time.Sleep(time.Minute)
	kit.Promptly(t, src)
	wantRequests(t, srv, 2, 2)
}

// check checks the error of a token request.
func (row faultRow) check(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("there is no error")
	}
	reachable, status := "", 0
	for e := err; e != nil; e = errors.Unwrap(e) {
		reachable += fmt.Sprintf("%v\n%+v\n%#v\n", e, e, e)
	}
	if reply := (*oauth2.RetrieveError)(nil); errors.As(err, &reply) {
		status = reply.Response.StatusCode
		all := fmt.Sprintf("%s\n%s\n%s\n%s\n%s\n%v", reply.Body, reply.ErrorCode, reply.ErrorDescription, reply.ErrorURI, reply.Response.Status, reply.Response.Header)
		if rest, _ := io.ReadAll(reply.Response.Body); len(rest) > 0 || len(all) > 4<<10 || reply.Response.Request.Body != nil || reply.Response.TLS != nil {
			t.Errorf("the RetrieveError has %d bytes, and %d of the reply's body; want 4 KiB at most, none, and no request's body", len(all), len(rest))
		}
		reachable += all
	}
	for _, leak := range leaks {
		if strings.Contains(reachable, leak) {
			t.Fatal("a piece of a secret or a token can be reached through the error") // so it is not printed
		}
	}
	if status != row.status {
		t.Errorf("the status in the RetrieveError is %d; want %d", status, row.status)
	}
	got := err.Error()
	if row.requests > 1 != strings.Contains(got, fmt.Sprintf("failed (%d attempts): ", row.requests)) {
		t.Errorf("got %s; want %d attempts told", got, row.requests)
	}
	kit.OneLine(t, err, 1<<10)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Error("the error says that the caller's context has ended")
	}
}

// No context ends the body of a 101: it is the connection.
func TestASwitchOfProtocolsHangsNobody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { conn.Close() })
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	}))
	defer srv.Close()
	conf := &mosaic.Config{ClientID: "acme", ClientSecret: secret, Endpoint: mosaic.Endpoint(srv.URL)}
	done := make(chan error, 1)
	go func() { _, err := conf.Token(t.Context()); done <- err }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("got a token")
		}
	case <-time.After(time.Minute):
		t.Error("it hangs")
	}
}
