package behaviour_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
)

const required = "the server may require a client certificate: set Certificate"

// wantError fails t unless err says want.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v; want %q", err, want)
	}
}

func TestADirectHandshakeIsNotTakenForAProxys(t *testing.T) {
	for name, tt := range map[string]struct {
		takes time.Duration
		err   error
		want  string
	}{
		"silent":  {time.Minute, os.ErrDeadlineExceeded, "no TLS handshake in time: "},
		"refused": {0, &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}, required},
		"closed":  {0, io.EOF, "the connection was closed before a reply came: "},
		"no TLS":  {0, tls.RecordHeaderError{Msg: "not TLS"}, `"tls: not TLS": check Endpoint, and whether a firewall or a proxy on the way interferes with TLS`},
	} {
		kit.Run(t, name, func(t *testing.T) {
			rt := &http.Transport{DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) { // as tls.Dialer
				trace := httptrace.ContextClientTrace(ctx)
				trace.ConnectStart(network, addr)
				trace.ConnectDone(network, addr, nil)
				time.Sleep(tt.takes)
				return nil, tt.err
			}}
			wantError(t, transport(unchanged, rt)(t), tt.want)
			time.Sleep(tt.takes) // net/http does not end a dial with its request
		})
	}
}

// A fragile connection breaks when it is told to.
type fragile struct {
	net.Conn
	broken *atomic.Bool
}

func (f fragile) Write(p []byte) (int, error) {
	if f.broken.Load() {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return f.Conn.Write(p)
}

func TestAConnectionThatBreaksRightAfterItsHandshakeMayLackACertificate(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(nil)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	var broken atomic.Bool
	rt := srv.Client().Transport.(*http.Transport)
	rt.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		broken.Store(false)
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return fragile{conn, &broken}, err
	}
	ctx := httptrace.WithClientTrace(kit.Over(t.Context(), rt), &httptrace.ClientTrace{
		TLSHandshakeDone: func(tls.ConnectionState, error) { broken.Store(true) }, // before HTTP/2 begins
	})
	_, err := with(func(c *mosaic.Config) { c.Endpoint = mosaic.Endpoint(srv.URL) }).Token(ctx)
	wantError(t, err, required)

	for reused, want := range map[bool]string{false: required, true: "a fault on Mosaic's side, or on the way there"} {
		later := func(r *http.Request) (*http.Response, error) { // net/http's error if the connection breaks a moment later
			httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{Reused: reused})
			return nil, errors.New("http2: client conn could not be established")
		}
		wantError(t, transport(unchanged, kit.RoundTripper(later))(t), want)
	}
}

func TestWithoutTLSNobodyRequiresACertificate(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0) // so that Close resets the connection
		conn.Close()
	}))
	defer srv.Close()
	plain := func(url string, rt http.RoundTripper) error {
		_, err := with(func(c *mosaic.Config) { c.Endpoint = mosaic.Endpoint(url) }).Token(kit.Over(t.Context(), rt))
		return err
	}
	wantError(t, plain(srv.URL, srv.Client().Transport), `connection reset by peer": a fault on Mosaic's side, or on the way there`)
	page := &kit.Stub{Replies: []string{kit.Reply("400 Bad Request", "Content-Type: text/html\r\nServer: squid", "<html>")}}
	wantError(t, plain("http://localhost", page), "400 Bad Request, server squid: an HTML page: does a proxy or a firewall answer in Mosaic's place?")
}

func TestAfterAHandshakeWithAnHTTPSProxyItsReplyIsMissing(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer proxy.Close()
	rt := proxy.Client().Transport.(*http.Transport)
	rt.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	client := &http.Client{Transport: rt, Timeout: 2 * time.Second}
	_, err := with(unchanged).Token(context.WithValue(t.Context(), oauth2.HTTPClient, client))
	wantError(t, err, ": no reply of the proxy in time: the Timeout of the HTTP client is 2s")
}

func TestASOCKSProxyThatRefusesIsNamed(t *testing.T) {
	t.Parallel()
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	go func() {
		for {
			conn, err := proxy.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, make([]byte, 3))
			conn.Write([]byte{5, 0}) // no authentication
			conn.Read(make([]byte, 300))
			conn.Write([]byte{5, 2, 0, 1, 0, 0, 0, 0, 0, 0}) // not allowed (RFC 1928 §6)
			conn.Close()
		}
	}()
	rt := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: proxy.Addr().String()})}
	wantError(t, transport(unchanged, rt)(t), `the proxy refused CONNECT: "socks connect tcp `)
}

func TestATimeoutOfTheTransportIsATimeout(t *testing.T) {
	silent := func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go io.Copy(io.Discard, server)
		return client, nil
	}
	for name, rt := range map[string]http.RoundTripper{
		"of a dial":      failing(&net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}),
		"of a handshake": &http.Transport{DialContext: silent, TLSHandshakeTimeout: time.Second},
	} {
		kit.Run(t, name, func(t *testing.T) {
			err := transport(unchanged, rt)(t)
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("got %v, which is no timeout", err)
			}
		})
	}
}

func TestTheTimeoutOfTheClientIsNotBlamedForTheCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: kit.RoundTripper(noReply), Timeout: 5 * time.Second}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), oauth2.HTTPClient, client), time.Second)
		defer cancel()
		_, err := with(unchanged).Token(ctx)
		if err == nil || strings.Contains(err.Error(), "Timeout") {
			t.Errorf("got %v; want the caller's deadline alone", err)
		}
	})
}

func TestMaxConnsPerHostOfTheDefaultTransportIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := http.DefaultTransport
		defer func() { http.DefaultTransport = before }()
		http.DefaultTransport = &http.Transport{MaxConnsPerHost: 1, DialContext: func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(time.Minute)
			return nil, os.ErrDeadlineExceeded
		}}
		wantError(t, transport(unchanged, nil)(t), "no free connection in time: ")
		time.Sleep(time.Minute)
	})
}

func TestAFailedTokenRequestIsANetErrorThatKeepsWhatItWraps(t *testing.T) {
	open := errors.New("the circuit breaker is open") // a sentinel of the caller's RoundTripper
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for name, tt := range map[string]struct {
		reply     http.RoundTripper
		wraps     error // nil if it is not the caller's to find
		temporary bool
	}{
		"a refused connection":   {failing(refused), syscall.ECONNREFUSED, true},
		"an open circuit":        {failing(open), open, true},
		"a 503":                  {&kit.Stub{Replies: []string{kit.Reply("503 Service Unavailable", "", "")}}, nil, true},
		"a wrong secret":         {&kit.Stub{Replies: []string{kit.Reply("401 Unauthorized", jsonType, `{"error":"invalid_client"}`)}}, nil, false},
		"another end of context": {failing(context.Canceled), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, err := with(unchanged).Token(kit.Over(t.Context(), tt.reply))
				var network net.Error
				//lint:ignore SA1019 deprecated, and asked for
				if !errors.As(err, &network) || network.Timeout() || network.Temporary() != tt.temporary {
					t.Errorf("got %v; want a net.Error without a timeout, temporary: %t", err, tt.temporary)
				}
				if tt.wraps != nil && !errors.Is(err, tt.wraps) || errors.Is(err, context.Canceled) {
					t.Errorf("errors.Is does not find %v, or finds the end of a context, in %v", tt.wraps, err)
				}
				if dial := (*net.OpError)(nil); errors.As(err, &dial) {
					t.Errorf("errors.As finds %v, whose text may hold a secret", dial)
				}
			})
		})
	}
}

func TestARefusalOfTheHTTPClientsOwnCertificateIsNamed(t *testing.T) {
	alert := failing(&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")})
	conf := with(func(c *mosaic.Config) { c.ClientSecret, c.TLSClientAuth = "", true })
	synctest.Test(t, func(t *testing.T) {
		_, err := conf.Token(kit.Over(t.Context(), alert))
		wantError(t, err, "the server may have refused the certificate of the HTTP client")
	})
}
