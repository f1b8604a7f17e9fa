package behaviour_test

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/oauth2"

	"example.com/mosaic/mosaictest"
)

// A fault is what a token request meets. Without any field set, the connection
// ends when the request has arrived.
type fault struct {
	dial  error                            // instead of a connection
	tls   *tls.Config                      // the server's; nil: there is no handshake
	plain bool                             // the client begins a handshake, the server answers in plain text
	reset bool                             // the connection is reset where it would end
	reply func(conn net.Conn, form string) // to a request with this form
	key   bool                             // the client has a PrivateKey for its secret
}

// faultBytes is a fault that is in the bytes of the reply.
func faultBytes(reply string) fault {
	return fault{reply: func(conn net.Conn, _ string) { io.WriteString(conn, reply) }}
}

// faultReply is a fault that is in the reply's body, or in some lines of its
// header.
func faultReply(status, header, body string) fault {
	return faultBytes(faultHTTP(status, header, body))
}

func faultHTTP(status, header, body string) string {
	if header != "" {
		header += "\r\n"
	}
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s", status, len(body), header, body)
}

const (
	faultJSON = "Content-Type: application/json"
	faultHTML = "Content-Type: text/html; charset=UTF-8"
)

// faultToken is a reply that is good but for what the members are.
func faultToken(members string) fault { return faultReply("200 OK", faultJSON, "{"+members+"}") }

// faultEcho is a reply that has the form in it.
func faultEcho(reply func(form string) string) fault {
	return fault{reply: func(conn net.Conn, form string) { io.WriteString(conn, reply(form)) }}
}

// faultTrickle sends the reply by a byte a second.
func faultTrickle(reply string) fault {
	return fault{reply: func(conn net.Conn, _ string) {
		for i := range len(reply) {
			if _, err := io.WriteString(conn, reply[i:i+1]); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}}
}

// faultEndless sends more of the same until a gigabyte is through, or the client
// has enough.
func faultEndless(head, more string) fault {
	chunk := strings.Repeat(more, 64<<10/len(more))
	return fault{reply: func(conn net.Conn, _ string) {
		_, err := io.WriteString(conn, head)
		for sent := 0; err == nil && sent < 1<<30; sent += len(chunk) {
			_, err = io.WriteString(conn, chunk)
		}
	}}
}

func faultGzip(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, body)
	w.Close()
	return b.String()
}

// faultCertificate is a server's, valid for so long from a year before the
// bubble's time on. RootCAs, of which a server makes no use, is what its client
// trusts.
func faultCertificate(t testing.TB, name string, life time.Duration) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Date(1999, time.January, 1, 0, 0, 0, 0, time.UTC)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: begin, NotAfter: begin.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: roots}
}

// A faultLine leads to a server of mosaictest, and token requests into a fault
// as long as there is one.
type faultLine struct {
	healthy http.RoundTripper

	mu     sync.Mutex
	broken http.RoundTripper // nil: there is no fault
	dials  int               // into a fault; each is for one request
}

// fail begins a fault.
func (l *faultLine) fail(f fault) {
	dial := func(context.Context, string, string) (net.Conn, error) {
		l.mu.Lock()
		l.dials++
		l.mu.Unlock()
		return f.connect()
	}
	broken := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: faultMaxHeader}
	switch {
	case f.tls != nil:
		broken.DialContext = dial
		broken.TLSClientConfig = &tls.Config{RootCAs: f.tls.RootCAs}
	case f.plain:
		broken.DialContext = dial
	default:
		broken.DialTLSContext = dial // net/http takes its connections for ones after the handshake
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = broken
}

// heal ends the fault.
func (l *faultLine) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = nil
}

// count returns how many requests have met a fault.
func (l *faultLine) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dials
}

func (l *faultLine) RoundTrip(req *http.Request) (*http.Response, error) {
	l.mu.Lock()
	broken := l.broken
	l.mu.Unlock()
	if broken != nil && req.URL.Path == "/oidc/token" {
		return broken.RoundTrip(req)
	}
	return l.healthy.RoundTrip(req)
}

// connect returns a connection to a server that has the fault.
func (f fault) connect() (net.Conn, error) {
	if f.dial != nil {
		return nil, f.dial
	}
	client, server := net.Pipe()
	go f.serve(faultDrain(server))
	if f.reset {
		client = faultReset{client}
	}
	return client, nil
}

// serve answers one request.
func (f fault) serve(conn net.Conn) {
	defer conn.Close()
	tcp := conn
	if f.plain {
		conn.Read(make([]byte, 4<<10))
		f.reply(conn, "")
		return
	}
	if f.tls != nil {
		conn = tls.Server(conn, f.tls)
	}
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		io.Copy(io.Discard, tcp) // the client has to read the alert first
		return
	}
	form, err := io.ReadAll(req.Body)
	if err == nil && f.reply != nil {
		f.reply(conn, string(form))
	}
}

// A faultDrained is a connection whose other end never waits in a write, which
// over net.Pipe two ends of TLS would do for each other.
type faultDrained struct {
	net.Conn
	arrived chan []byte
	rest    []byte
}

func faultDrain(conn net.Conn) net.Conn {
	c := &faultDrained{Conn: conn, arrived: make(chan []byte, 100)}
	go func() {
		defer close(c.arrived)
		for {
			p := make([]byte, 4<<10)
			n, err := conn.Read(p)
			if err != nil {
				return
			}
			c.arrived <- p[:n]
		}
	}()
	return c
}

func (c *faultDrained) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		rest, ok := <-c.arrived
		if !ok {
			return 0, io.EOF
		}
		c.rest = rest
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

type faultReset struct{ net.Conn }

func (c faultReset) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	}
	return n, err
}

const (
	faultSecret = "s3cr&t/ +%\"<é>'=0123456789"
	faultOpaque = "0paque-access-token-0123456789"

	faultAtOnce  = 0
	faultRetried = 1500 * time.Millisecond // three attempts, and pauses of half a second and a second at most
	faultOverall = 30 * time.Second

	// What a token request may allocate in all, three attempts and the stand-in's
	// share included, in MiB. Of a reply's body x/oauth2 reads one, growing its
	// buffer on the way there.
	faultSmall = 2
	faultLarge = 40

	// faultMaxHeader is a tenth of net/http's own limit for the header, to keep the
	// test quick.
	faultMaxHeader = 1 << 20
)

// faultJWT is a token as Mosaic's are, good for an hour from the beginning of the
// bubble's time.
var faultJWT = func() string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"RS256"}`) + "." + part(`{"iat":946684800,"exp":946688400}`) + "." + part("signature")
}()

// faultLeaks are what no error and no log may have in it: pieces of the secret
// and of opaque tokens, and what each JWT begins with, an assertion too.
var faultLeaks = []string{"s3cr", "0paque", "0123456789", "eyJ"}

// A faultRow is a fault and what the one who meets it gets.
type faultRow struct {
	name     string
	fault    fault
	requests int
	within   time.Duration // and not in less than half of it
	memory   int
	status   int           // of the RetrieveError; 0: there is none
	pause    time.Duration // for which the reply asks to be left alone, a minute at most
	want     string        // what the error says, * being anything; "": no error, the token is good
}

// No fault of the token endpoint, or of the way to it, is without bounds in
// time, requests or memory; none leaks what is secret; each tells the person who
// reads of it what happened. None is noticed while there is a good token, and
// none outlives its cause.
func TestFaultsAreBoundedAndExplainedAndHeal(t *testing.T) {
	server := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: server, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	timedOut := &net.OpError{Op: "dial", Net: "tcp", Addr: server, Err: context.DeadlineExceeded} // of some dialer's own context
	unknownName := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "example.com", IsNotFound: true}}
	good := `"access_token":"` + faultOpaque + `"`
	cutOff := `the reply ("200 OK") is empty or cut off`
	notJSON := `the reply ("200 OK") is not the JSON of a token response (RFC 6749 §5.1)`
	headerTooLong := `"net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 1048576 bytes; aborted"`
	theirFault := "a fault on Mosaic's side, or on the way there"
	rateLimit := `"429 Too Many Requests": Mosaic's rate limit is reached`
	badToken := "the reply holds no usable token: it holds characters that no Bearer token may have (RFC 6750 §2.1)"
	noEnd := "the reply holds no usable token: the token has no usable exp claim, and the reply no usable expires_in"
	fields := make([]string, 100_000)
	for i := range fields {
		fields[i] = fmt.Sprintf("%x: 1", i)
	}
	year := 365 * 24 * time.Hour
	unknownAuthority := faultCertificate(t, "example.com", 2*year)
	unknownAuthority.RootCAs = x509.NewCertPool()
	wantsCertificate := faultCertificate(t, "example.com", 2*year)
	wantsCertificate.ClientAuth = tls.RequireAnyClientCert

	const unreachable = `: check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`
	rows := []faultRow{
		{"connection refused", fault{dial: refused}, 3, faultRetried, faultSmall, 0, 0, `"dial tcp 192.0.2.1:443: connect: connection refused"` + unreachable},
		{"connection timed out", fault{dial: timedOut}, 3, faultRetried, faultSmall, 0, 0, `"dial tcp 192.0.2.1:443: context deadline exceeded"` + unreachable},
		{"unknown name", fault{dial: unknownName}, 3, faultRetried, faultSmall, 0, 0, `"dial tcp: lookup example.com: no such host"` + unreachable},
		{"closed before the reply", fault{}, 3, faultRetried, faultSmall, 0, 0, `the connection was closed before a reply came`},
		{"reset before the reply", fault{reset: true}, 3, faultRetried, faultSmall, 0, 0, `"*read tcp: read: connection reset by peer"`},
		{"closed in the reply's header", faultBytes("HTTP/1.1 200 OK\r\nContent-Le"), 3, faultRetried, faultSmall, 0, 0, `"net/http: HTTP/1.x transport connection broken: malformed MIME header: missing colon: \"Content-Le\""`},
		{"closed in the reply's body", faultBytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{" + good), 3, faultRetried, faultSmall, 0, 0, `the reply broke off: "unexpected EOF"`},
		{"reset in the reply's body", fault{reset: true, reply: faultBytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{" + good).reply}, 3, faultRetried, faultSmall, 0, 0, `the reply broke off: "read tcp: read: connection reset by peer"`},
		{"closed in the body of a refusal", faultBytes("HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{"), 3, faultRetried, faultSmall, 0, 0, `the reply broke off: "unexpected EOF"`},

		{"TLS: alert", fault{tls: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("no") }}}, 3, faultRetried, faultSmall, 0, 0, `"*remote error: tls: internal error"`},
		{"TLS: version too old", fault{tls: &tls.Config{MaxVersion: tls.VersionTLS11}}, 3, faultRetried, faultSmall, 0, 0, `"*remote error: tls: protocol version not supported"`},
		{"TLS: plain HTTP", fault{plain: true, reply: faultReply("400 Bad Request", "", "").reply}, 3, faultRetried, faultSmall, 0, 0, `"http: server gave HTTP response to HTTPS client"` + unreachable},
		{"TLS: nothing after the ClientHello", fault{plain: true, reply: func(net.Conn, string) {}}, 3, faultRetried, faultSmall, 0, 0, `the connection was closed before a reply came`},
		{"TLS: certificate for another name", fault{tls: faultCertificate(t, "login.acme.com", 2*year)}, 1, faultAtOnce, faultSmall, 0, 0, `the server's certificate does not verify ("tls: failed to verify certificate: x509: certificate is valid for login.acme.com, not example.com"): check Endpoint, the local clock, and whether a proxy ends TLS here`},
		{"TLS: certificate of an unknown authority", fault{tls: unknownAuthority}, 1, faultAtOnce, faultSmall, 0, 0, `the server's certificate does not verify ("tls: failed to verify certificate: x509: certificate signed by unknown authority"): check Endpoint, the local clock, and whether a proxy ends TLS here`},
		{"TLS: certificate expired", fault{tls: faultCertificate(t, "example.com", year/2)}, 1, faultAtOnce, faultSmall, 0, 0, `the server's certificate does not verify ("tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2000-01-01T00:00:00Z is after 1999-07-02T12:00:00Z"): check Endpoint, the local clock, and whether a proxy ends TLS here`},
		{"TLS: wants a certificate", fault{tls: wantsCertificate}, 3, faultRetried, faultSmall, 0, 0, `"*remote error: tls: certificate required": check Certificate`},

		{"no reply", fault{reply: func(conn net.Conn, _ string) { io.Copy(io.Discard, conn) }}, 3, faultOverall, faultSmall, 0, 0, `no reply in time`},
		{"a byte a second, from the header on", faultTrickle(faultHTTP("200 OK", faultJSON, "{"+good+"}")), 3, faultOverall, faultSmall, 0, 0, `no reply in time`},
		{"a byte a second, from the body on", fault{reply: func(conn net.Conn, form string) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
			faultTrickle("{"+good).reply(conn, form)
		}}, 3, faultOverall, faultSmall, 0, 0, `the reply did not end in time`},
		{"endless header", faultEndless("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"), 3, faultRetried, faultLarge, 0, 0, headerTooLong},
		{"endless line of a header", faultEndless("HTTP/1.1 200 OK\r\nX-More: ", "and more "), 3, faultRetried, faultLarge, 0, 0, headerTooLong},
		{"100,000 header fields", faultReply("400 Bad Request", strings.Join(fields, "\r\n"), ""), 1, faultAtOnce, faultLarge, 400, 0, `"400 Bad Request"`},
		{"endless informational replies", faultEndless("", "HTTP/1.1 103 Early Hints\r\n\r\n"), 3, faultRetried, faultLarge, 0, 0, headerTooLong},
		{"a gigabyte", faultEndless("HTTP/1.1 200 OK\r\n\r\n", "x"), 1, faultAtOnce, faultLarge, 0, 0, notJSON},
		{"a gigabyte of a token", faultEndless("HTTP/1.1 200 OK\r\n"+faultJSON+"\r\n\r\n{"+`"access_token":"`, "x"), 1, faultAtOnce, faultLarge, 0, 0, cutOff},
		{"a gigabyte of an error", faultEndless("HTTP/1.1 500 Internal Server Error\r\n\r\n", "x"), 3, faultRetried, faultLarge, 500, 0, `"500 Internal Server Error", body "*: ` + theirFault},
		{"a gigabyte of a description", faultEndless("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nerror=invalid_client&error_description=", "x"), 1, faultAtOnce, faultLarge, 400, 0, `"400 Bad Request", error "invalid_client", "*: check ClientID and ClientSecret, and that both belong to this Endpoint`},
		{"gzip", faultReply("200 OK", faultJSON+"\r\nContent-Encoding: gzip", faultGzip("{"+good+`,"expires_in":3600}`)), 1, faultAtOnce, faultSmall, 0, 0, ``},
		{"gzip: a gigabyte", faultReply("200 OK", faultJSON+"\r\nContent-Encoding: gzip", strings.Repeat(faultGzip(strings.Repeat(" ", 1<<20)), 1<<10)), 1, faultAtOnce, faultLarge, 0, 0, cutOff},
		{"gzip: is none", faultReply("200 OK", faultJSON+"\r\nContent-Encoding: gzip", "{"+good+"}"), 3, faultRetried, faultSmall, 0, 0, `the reply broke off: "gzip: invalid header"`},
		{"gzip: nobody unpacks it", faultReply("200 OK", faultJSON, faultGzip("{"+good+"}")), 1, faultAtOnce, faultSmall, 0, 0, notJSON},

		{"no HTTP", faultBytes("SSH-2.0-OpenSSH_9.9\r\n"), 3, faultRetried, faultSmall, 0, 0, `"net/http: HTTP/1.x transport connection broken: malformed HTTP response \"SSH-2.0-OpenSSH_9.9\""`},
		{"no HTTP, but the form", faultEcho(func(form string) string { return form + "\r\n" }), 3, faultRetried, faultSmall, 0, 0, `"net/http: HTTP/1.x transport connection broken: malformed HTTP response \"client_id=pVEZaxjhbdshcudsLe&client_secret=[redacted]&grant_type=client_credentials\""`},
		{"no HTTP header, but the form", faultEcho(func(form string) string { return "HTTP/1.1 200 OK\r\n" + form + "\r\n\r\n" }), 3, faultRetried, faultSmall, 0, 0, `"net/http: HTTP/1.x transport connection broken: malformed MIME header: missing colon: \"client_id=pVEZaxjhbdshcudsLe&client_secret=[redacted]&grant_type=client_credentials\""`},
		{"HTTP/2 unasked", faultBytes("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03"), 3, faultRetried, faultSmall, 0, 0, `"net/http: HTTP/1.x transport connection broken: malformed HTTP response \"\\x00\\x00\\x12\\x04\\x00\\x00\\x00\\x00\\x00\\x00\\x03\""`},
		{"101", faultBytes("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), 1, faultAtOnce, faultSmall, 101, 0, `"101 Switching Protocols"`},
		{"204", faultBytes("HTTP/1.1 204 No Content\r\n\r\n"), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("204 No Content") is empty or cut off`},
		{"empty 200", faultReply("200 OK", "", ""), 1, faultAtOnce, faultSmall, 0, 0, cutOff},
		{"HTML with 200", faultReply("200 OK", faultHTML, "<html>Sign in to the network"), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") is an HTML page: does a proxy or a login page answer in Mosaic's place?`},
		{"HTML with 403", faultReply("403 Forbidden", faultHTML, "<html>Attention Required! | Cloudflare"), 1, faultAtOnce, faultSmall, 403, 0, `"403 Forbidden": an HTML page: does a proxy or a firewall answer in Mosaic's place?`},
		{"HTML with 503", faultReply("503 Service Unavailable", faultHTML, "<html>"), 3, faultRetried, faultSmall, 503, 0, `"503 Service Unavailable": an HTML page: does a proxy or a firewall answer in Mosaic's place?`},
		{"302", faultReply("302 Found", "Location: https://login.acme.com/", ""), 1, faultAtOnce, faultSmall, 302, 0, `"302 Found": a redirect, which is not followed with credentials: check Endpoint`},
		{"302 to nowhere", faultReply("302 Found", "", ""), 1, faultAtOnce, faultSmall, 302, 0, `"302 Found": a redirect, which is not followed with credentials: check Endpoint`},
		{"307", faultReply("307 Temporary Redirect", "Location: /oidc/token", ""), 1, faultAtOnce, faultSmall, 307, 0, `"307 Temporary Redirect": a redirect, which is not followed with credentials: check Endpoint`},
		{"308 to no URL", faultReply("308 Permanent Redirect", "Location: http://[", ""), 1, faultAtOnce, faultSmall, 0, 0, `"308 Permanent Redirect": a redirect, which is not followed with credentials: check Endpoint`},

		{"JSON: cut off", faultReply("200 OK", faultJSON, "{"+good+`,"expires_in":36`), 1, faultAtOnce, faultSmall, 0, 0, cutOff},
		{"JSON: cut off within a string", faultReply("200 OK", faultJSON, `{"access_token":"`+faultOpaque), 1, faultAtOnce, faultSmall, 0, 0, cutOff},
		{"JSON: an array", faultReply("200 OK", faultJSON, "[{"+good+"}]"), 1, faultAtOnce, faultSmall, 0, 0, notJSON},
		{"JSON: null", faultReply("200 OK", faultJSON, "null"), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has no access_token`},
		{"JSON: a string", faultReply("200 OK", faultJSON, `"`+faultOpaque+`"`), 1, faultAtOnce, faultSmall, 0, 0, notJSON},
		{"JSON: an empty object", faultToken(""), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has no access_token`},
		{"JSON: 10,000 deep", faultReply("200 OK", faultJSON, strings.Repeat("[", 10000)+strings.Repeat("]", 10000)), 1, faultAtOnce, faultSmall, 0, 0, notJSON},
		{"JSON: a mebibyte deep", faultReply("200 OK", faultJSON, strings.Repeat("[", 1<<20)), 1, faultAtOnce, faultLarge, 0, 0, notJSON},
		{"JSON: 9,000 deep beside a token", faultToken(good + `,"expires_in":3600,"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000)), 1, faultAtOnce, faultSmall, 0, 0, ``},
		{"JSON: two objects", faultReply("200 OK", faultJSON, "{"+good+"}{"+good+"}"), 1, faultAtOnce, faultSmall, 0, 0, notJSON},

		{"access_token null", faultToken(`"access_token":null,"expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has no access_token`},
		{"access_token a number", faultToken(`"access_token":12345678901234567890,"expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, notJSON},
		{"access_token with a line end", faultToken(`"access_token":"` + faultOpaque + `\r\nX-Admin: 1","expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, badToken},
		{"access_token with a control character", faultToken(`"access_token":"` + faultOpaque + `\u0000","expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, badToken},
		{"access_token with a space", faultToken(`"access_token":"` + faultOpaque + ` x","expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, badToken},
		{"access_token not ASCII", faultToken(`"access_token":"` + faultOpaque + `é","expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, badToken},
		{"access_token of 16 KiB", faultToken(`"access_token":"` + strings.Repeat("x", 16<<10) + `","expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, ``},
		{"access_token of 16 KiB and a byte", faultToken(`"access_token":"` + strings.Repeat("x", 16<<10+1) + `","expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, `the reply holds no usable token: it has 16385 bytes, more than any header takes`},
		{"access_token of a mebibyte less the rest", faultToken(`"access_token":"` + strings.Repeat("x", 1<<20-100) + `","expires_in":3600`), 1, faultAtOnce, faultLarge, 0, 0, `the reply holds no usable token: it has 1048476 bytes, more than any header takes`},
		{"access_token of a mebibyte", faultToken(`"access_token":"` + strings.Repeat("x", 1<<20) + `","expires_in":3600`), 1, faultAtOnce, faultLarge, 0, 0, cutOff},

		{"token_type missing", faultToken(good + `,"expires_in":3600`), 1, faultAtOnce, faultSmall, 0, 0, ``},
		{"token_type bEARER", faultToken(good + `,"expires_in":3600,"token_type":"bEARER"`), 1, faultAtOnce, faultSmall, 0, 0, ``},
		{"token_type DPoP", faultToken(good + `,"expires_in":3600,"token_type":"DPoP"`), 1, faultAtOnce, faultSmall, 0, 0, `the reply holds no usable token: its token_type is "DPoP", not Bearer`},
		{"token_type with a line end", faultToken(good + `,"expires_in":3600,"token_type":"Bearer\r\nX-Admin: 1"`), 1, faultAtOnce, faultSmall, 0, 0, `the reply holds no usable token: its token_type is not Bearer`},
		{"token_type a token", faultToken(good + `,"expires_in":3600,"token_type":"` + faultJWT + `"`), 1, faultAtOnce, faultSmall, 0, 0, `the reply holds no usable token: its token_type is not Bearer`},
		{"token_type endless", faultToken(good + `,"expires_in":3600,"token_type":"` + strings.Repeat("x", 1<<19) + `"`), 1, faultAtOnce, faultLarge, 0, 0, `the reply holds no usable token: its token_type is not Bearer`},
		{"token_type a number", faultToken(good + `,"expires_in":3600,"token_type":1`), 1, faultAtOnce, faultSmall, 0, 0, notJSON},

		{"expires_in a string", faultToken(good + `,"expires_in":"3600"`), 1, faultAtOnce, faultSmall, 0, 0, ``},
		{"expires_in no number", faultToken(good + `,"expires_in":"soon"`), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has an expires_in that is no whole number`},
		{"expires_in true", faultToken(good + `,"expires_in":true`), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has an expires_in that is no whole number`},
		{"expires_in a fraction", faultToken(good + `,"expires_in":3600.5`), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has an expires_in that is no whole number`},
		{"expires_in 3.6e3", faultToken(good + `,"expires_in":3.6e3`), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has an expires_in that is no whole number`},
		{"expires_in negative", faultToken(good + `,"expires_in":-3600`), 1, faultAtOnce, faultSmall, 0, 0, noEnd},
		{"expires_in negative, but a JWT", faultToken(`"access_token":"` + faultJWT + `","expires_in":-3600`), 1, faultAtOnce, faultSmall, 0, 0, ``},
		{"expires_in zero", faultToken(good + `,"expires_in":0`), 1, faultAtOnce, faultSmall, 0, 0, noEnd},
		{"expires_in missing", faultToken(good), 1, faultAtOnce, faultSmall, 0, 0, noEnd},
		{"expires_in a year and more", faultToken(good + `,"expires_in":31708800`), 1, faultAtOnce, faultSmall, 0, 0, `the reply holds no usable token: the token would end 8808h0m0s after it was asked for, in a reply that took 0s: no such lifetime can be true`},
		{"expires_in huge", faultToken(good + `,"expires_in":9223372036854775807`), 1, faultAtOnce, faultSmall, 0, 0, `the reply holds no usable token: the token would end 596523h14m7s after it was asked for, in a reply that took 0s: no such lifetime can be true`},
		{"expires_in beyond numbers", faultToken(good + `,"expires_in":99999999999999999999`), 1, faultAtOnce, faultSmall, 0, 0, `the reply ("200 OK") has an expires_in that is no whole number`},

		{"error with 200", faultToken(good + `,"error":"invalid_client","error_description":"` + faultJWT + `"`), 1, faultAtOnce, faultSmall, 200, 0, `"200 OK", error "invalid_client": check ClientID and ClientSecret, and that both belong to this Endpoint`},
		{"a token with 403", faultReply("403 Forbidden", faultJSON, `{"access_token":"`+faultJWT+`"}`), 1, faultAtOnce, faultSmall, 403, 0, `"403 Forbidden", body "{\"access_token\":\"[redacted]\"}"`},
		{"an opaque token with 403", faultReply("403 Forbidden", faultJSON, "{"+good+"}"), 1, faultAtOnce, faultSmall, 403, 0, `"403 Forbidden", body "{\"access_token\":\"[redacted]\"}"`},
		{"control characters", faultReply("400 Bad\x1b[31mRequest", faultJSON, `{"error":"a\u0000b","error_description":"c\r\nd\u2028e\u001b[0mf"}`), 1, faultAtOnce, faultSmall, 400, 0, `"400 Bad\x1b[31mRequest", error "a\x00b", "c\r\nd\u2028e\x1b[0mf"`},
		{"not UTF-8", faultReply("400 Bad Request", "Content-Type: application/octet-stream", "\xff\xfe\x00\n"), 1, faultAtOnce, faultSmall, 400, 0, `"400 Bad Request", body "\xff\xfe\x00\n"`},
		{"the form in a description", faultEcho(func(form string) string {
			raw, _ := url.QueryUnescape(form)
			b, _ := json.Marshal(map[string]string{"error": "invalid_request", "error_description": "bad form: " + form + " or " + raw, "error_uri": "https://acme.com/?" + form})
			return faultHTTP("400 Bad Request", faultJSON+"\r\nX-Form: "+form, string(b))
		}), 1, faultAtOnce, faultSmall, 400, 0, `"400 Bad Request", error "invalid_request", "bad form: client_id=pVEZaxjhbdshcudsLe&client_secret=[redacted]&grant_type=client_credentials or client_id=pVEZaxjhbdshcudsLe&client_secret=[redacted]&grant_type=client_credentials"`},
		{"the form as the body", faultEcho(func(form string) string {
			return faultHTTP("400 Bad Request", "Content-Type: application/x-www-form-urlencoded", form)
		}), 1, faultAtOnce, faultSmall, 400, 0, `"400 Bad Request", body "client_id=pVEZaxjhbdshcudsLe&client_secret=[redacted]&grant_type=client_credentials"`},
		{"the form in a page", faultEcho(func(form string) string {
			raw, _ := url.QueryUnescape(form)
			return faultHTTP("500 "+form, faultHTML, "<html>"+html.EscapeString(raw))
		}), 3, faultRetried, faultSmall, 500, 0, `"500 client_id=pVEZaxjhbdshcudsLe&client_secret=[redacted]&gr"…: an HTML page: does a proxy or a firewall answer in Mosaic's place?`},
		{"the form with an assertion", fault{key: true, reply: faultEcho(func(form string) string {
			return faultHTTP("400 Bad Request", faultJSON, form)
		}).reply}, 1, faultAtOnce, faultSmall, 400, 0, `"400 Bad Request", body "client_assertion=[redacted]&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_id=pVEZaxjhbdshcudsLe&grant_type=client_credentials"`},
		{"the secret where the text is cut", faultEcho(func(form string) string {
			values, _ := url.ParseQuery(form)
			return faultHTTP("400 Bad Request", "Content-Type: application/octet-stream", strings.Repeat("x", 190)+values.Get("client_secret")+strings.Repeat("x", 4096-200-len(faultSecret))+values.Get("client_secret"))
		}), 1, faultAtOnce, faultSmall, 400, 0, `"400 Bad Request", body "*x[redacted]"…`},
		{"the secret as the error", faultEcho(func(form string) string {
			values, _ := url.ParseQuery(form)
			b, _ := json.Marshal(map[string]string{"error": values.Get("client_secret")})
			return faultHTTP("400 Bad Request", faultJSON, string(b))
		}), 1, faultAtOnce, faultSmall, 400, 0, `"400 Bad Request", error "[redacted]"`},

		{"Retry-After: 2", faultReply("429 Too Many Requests", "Retry-After: 2", ""), 3, 4 * time.Second, faultSmall, 429, 2 * time.Second, rateLimit + "; it asks to wait 2s"},
		{"Retry-After: 20", faultReply("503 Service Unavailable", "Retry-After: 20", ""), 2, 20 * time.Second, faultSmall, 503, 20 * time.Second, `"503 Service Unavailable": ` + theirFault + "; it asks to wait 20s"},
		{"Retry-After: 30", faultReply("503 Service Unavailable", "Retry-After: 30", ""), 1, faultAtOnce, faultSmall, 503, 30 * time.Second, `"503 Service Unavailable": ` + theirFault + "; it asks to wait 30s"},
		{"Retry-After: 86400", faultReply("429 Too Many Requests", "Retry-After: 86400", ""), 1, faultAtOnce, faultSmall, 429, time.Minute, rateLimit + "; it asks to wait 24h0m0s"},
		{"Retry-After: 99999999999", faultReply("429 Too Many Requests", "Retry-After: 99999999999", ""), 1, faultAtOnce, faultSmall, 429, time.Minute, rateLimit},
		{"Retry-After: -5", faultReply("429 Too Many Requests", "Retry-After: -5", ""), 3, faultRetried, faultSmall, 429, 0, rateLimit},
		{"Retry-After: soon", faultReply("429 Too Many Requests", "Retry-After: soon", ""), 3, faultRetried, faultSmall, 429, 0, rateLimit},
		{"Retry-After: a date on the server's clock", faultReply("429 Too Many Requests", "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nRetry-After: Thu, 01 Jan 2026 00:00:03 GMT", ""), 3, 6 * time.Second, faultSmall, 429, 3 * time.Second, rateLimit + "; it asks to wait 3s"},
		{"Retry-After: a date on the local clock", fault{reply: func(conn net.Conn, _ string) {
			at := time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat)
			io.WriteString(conn, faultHTTP("429 Too Many Requests", "Retry-After: "+at, ""))
		}}, 2, 20 * time.Second, faultSmall, 429, 20 * time.Second, rateLimit + "; it asks to wait *s"},
		{"Retry-After: a date long past", faultReply("429 Too Many Requests", "Retry-After: Fri, 31 Dec 1999 00:00:00 GMT", ""), 3, faultRetried, faultSmall, 429, 0, rateLimit},
		{"Retry-After with 400", faultReply("400 Bad Request", "Retry-After: 3", ""), 1, faultAtOnce, faultSmall, 400, 3 * time.Second, `"400 Bad Request"; it asks to wait 3s`},
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	run := func(row faultRow, life time.Duration) {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { faultRun(t, row, life, key) })
		})
	}
	for _, row := range rows {
		life := time.Minute
		if row.memory == faultLarge { // and takes its time, whenever it is met
			life = 5 * time.Second
		}
		run(row, life)
	}
	for status := 400; status <= 599; status++ {
		row := faultRow{
			name:     fmt.Sprint("every status: ", status),
			fault:    faultReply(fmt.Sprint(status, " X"), faultJSON, `{"message":["no"]}`),
			requests: 1, within: faultAtOnce, memory: faultSmall, status: status,
			want: fmt.Sprintf(`"%d X", body "{\"message\":[\"no\"]}"`, status),
		}
		if status >= 500 || status == 408 || status == 429 {
			row.requests, row.within = 3, faultRetried
		}
		switch {
		case status == 401:
			row.want += ": check ClientID and ClientSecret, and that both belong to this Endpoint"
		case status == 404:
			row.want += ": check Endpoint"
		case status == 429:
			row.want += ": Mosaic's rate limit is reached"
		case status >= 500:
			row.want += ": " + theirFault
		}
		run(row, 0) // they are many
	}
}

// faultRun meets a fault without a token, then, unless life is zero, with one that
// lives so long, in a bubble.
func faultRun(t *testing.T, row faultRow, life time.Duration, key crypto.Signer) {
	s := mosaictest.NewInMemory()
	defer s.Close()
	defer time.Sleep(time.Minute) // every fault has noticed by then that its client is gone
	s.SetSecret(faultSecret)
	s.SetLifetime(cmp.Or(life, time.Hour))
	line := &faultLine{healthy: s.Client().Transport}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: line})
	logged := new(faultLog)
	conf := s.Config()
	conf.Logger = slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if row.fault.key {
		conf.ClientSecret, conf.PrivateKey = "", key
		jwks, err := conf.JWKS()
		if err != nil {
			t.Fatal(err)
		}
		s.RegisterKey(conf.ClientID, jwks)
	}
	source := conf.TokenSource(ctx)
	defer func() {
		for _, leak := range faultLeaks {
			if strings.Contains(logged.String(), leak) {
				t.Error("the log holds a piece of a secret or a token")
			}
		}
	}()

	// A call of an API ends with the token's error, and is not sent.
	line.fail(row.fault)
	if row.want != "" {
		body := &faultBodyRead{Reader: strings.NewReader("{}")}
		_, err := conf.Client(ctx).Post(s.Endpoint().URL("/cis/v1/users"), "application/json", body)
		faultCheck(t, row, errors.Unwrap(err)) // it comes in a url.Error
		if n := len(s.APIRequests()); n != 0 || !body.closed.Load() {
			t.Errorf("without a token %d requests reached the API, and the request's body was closed: %t", n, body.closed.Load())
		}
	}

	// So does a call of a source, within its bounds.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	met, start := line.count(), time.Now()
	_, err := source.Token()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if got := line.count() - met; got != row.requests {
		t.Errorf("%d requests; want %d", got, row.requests)
	}
	if took > row.within || took < row.within/2 {
		t.Errorf("took %v; want %v at most", took, row.within)
	}
	if got := int((after.TotalAlloc - before.TotalAlloc) >> 20); got >= row.memory {
		t.Errorf("allocated %d MiB; want less than %d", got, row.memory)
	}
	if row.want == "" && err == nil {
		return
	}
	faultCheck(t, row, err)

	// Its end is the end of the failures.
	line.heal()
	if row.pause > 0 {
		time.Sleep(time.Until(start.Add(took + row.pause - time.Nanosecond)))
		if _, err := source.Token(); err == nil || len(s.TokenRequests()) != 0 {
			t.Errorf("before the %v are over: got %v and %d requests; want the error, and none", row.pause, err, len(s.TokenRequests()))
		}
		time.Sleep(time.Nanosecond)
	}
	warm := func(when string) {
		t.Helper()
		start := time.Now()
		if _, err := source.Token(); err != nil {
			t.Fatalf("%s: there is no token", when)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("%s: waited %v for a token", when, waited)
		}
	}
	warm("after the fault")

	// Who has a token does not notice anything, to its last second.
	if life == 0 {
		return
	}
	line.fail(row.fault)
	met = line.count()
	for lived := time.Duration(0); lived < life; lived += time.Second {
		warm(fmt.Sprintf("%v into a token's life of %v", lived, life))
		time.Sleep(time.Second)
	}
	if n := line.count() - met; n < 1 || n > 15 {
		t.Errorf("%d renewals were tried beside a good token; want 1 to 15", n)
	}
	line.heal()
	time.Sleep(time.Minute)
	warm("after the second time")

	if n := len(s.TokenRequests()); n != 2 {
		t.Errorf("%d good token requests; want 2", n)
	}
}

// faultCheck checks the error of a token request.
func faultCheck(t testing.TB, row faultRow, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("there is no error")
	}
	reachable := ""
	for e := err; e != nil; e = errors.Unwrap(e) {
		reachable += fmt.Sprintf("%v\n%+v\n%#v\n", e, e, e)
	}
	status := 0
	if reply := (*oauth2.RetrieveError)(nil); errors.As(err, &reply) {
		status = reply.Response.StatusCode
		reachable += fmt.Sprintf("%s\n%s\n%s\n%s\n%s\n%v", reply.Body, reply.ErrorCode, reply.ErrorDescription, reply.ErrorURI, reply.Response.Status, reply.Response.Header)
		if rest, _ := io.ReadAll(reply.Response.Body); len(rest) > 0 || reply.Response.Request != nil || reply.Response.TLS != nil {
			t.Error("the RetrieveError still holds the request, or more of the reply than its Body")
		}
		size := 0
		for name, values := range reply.Response.Header {
			for _, value := range values {
				size += len(name) + len(value)
			}
		}
		if size > 16<<10 {
			t.Errorf("the RetrieveError holds a header of %d bytes; want 16 KiB at most", size)
		}
		if len(reply.Body) > 4<<10 || len(reply.ErrorDescription) > 4<<10 {
			t.Errorf("the RetrieveError holds a body of %d bytes and a description of %d; want 4 KiB at most", len(reply.Body), len(reply.ErrorDescription))
		}
	}
	for _, leak := range faultLeaks {
		if strings.Contains(reachable, leak) {
			t.Fatal("a piece of a secret or a token can be reached through the error") // which is not printed, then
		}
	}

	got := err.Error()
	if row.requests > 1 != strings.Contains(got, fmt.Sprintf("failed (%d attempts): ", row.requests)) {
		t.Errorf("got %s; want %d attempts told", got, row.requests)
	}
	if status != row.status {
		t.Errorf("the status in the RetrieveError is %d; want %d", status, row.status)
	}
	if len(got) >= 2<<10 || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("the error is no short printable line: %d bytes, %q", len(got), got)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Error("the error says that the caller's context has ended")
	}
}

// A faultBodyRead is a request's body that knows whether it was closed.
type faultBodyRead struct {
	io.Reader
	closed atomic.Bool
}

func (b *faultBodyRead) Close() error {
	b.closed.Store(true)
	return nil
}

// A faultLog is a bytes.Buffer for many goroutines.
type faultLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *faultLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *faultLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
