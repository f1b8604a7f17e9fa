package network

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/interop/provider"
	"example.com/mosaic/mosaictest"
)

// A front is a program that ends TLS in front of an authorization server and its APIs.
type front struct {
	*program
	name      string
	endpoint  mosaic.Endpoint
	transport *http.Transport // trusts the front
}

// frontSettings are what tests vary.
type frontSettings struct {
	http2             bool
	clientCA          *tls.Certificate // of the certificate that each client must present; nil: none need
	keepaliveRequests int              // on a connection of nginx; 0: its default
	limitStatus       int              // of token requests beyond one a second; 0: no limit
	retryAfter        int              // beside limitStatus, in seconds
}

// onFronts runs test with nginx and with HAProxy, over HTTP/1.1 and over HTTP/2.
func onFronts(t *testing.T, settings frontSettings, test func(t *testing.T, name string, settings frontSettings)) {
	for _, name := range []string{"nginx", "haproxy"} {
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
			settings := settings
			settings.http2 = protocol == "HTTP/2"
			t.Run(name+" over "+protocol, func(t *testing.T) {
				t.Parallel()
				test(t, name, settings)
			})
		}
	}
}

func startFront(t testing.TB, name string, upstream mosaic.Endpoint, s frontSettings) *front {
	t.Helper()
	key := kit.NewEC(t)
	cert := provider.ServerCertificate(t, key)
	files := map[string][]byte{"cert.pem": kit.CertificatePEM(cert), "key.pem": kit.KeyPEM(t, key)}
	files["both.pem"] = slices.Concat(files["cert.pem"], files["key.pem"])
	if s.clientCA != nil {
		files["clients.pem"] = kit.CertificatePEM(s.clientCA)
	}
	address, err := url.Parse(string(upstream))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]any{
		"Upstream":          string(upstream),
		"UpstreamAddress":   address.Host,
		"HTTP2":             s.http2,
		"ClientCA":          s.clientCA != nil,
		"KeepaliveRequests": s.keepaliveRequests,
		"LimitStatus":       s.limitStatus,
		"RetryAfter":        s.retryAfter,
	}
	f := &front{name: name, transport: provider.Trusting(t, cert)}
	switch name {
	case "nginx":
		f.program = start(t, name, "nginx.conf", "-p . -c nginx.conf -e stderr", files, settings)
	case "haproxy":
		f.program = start(t, name, "haproxy.cfg", "-W -db -f haproxy.cfg", files, settings)
	}
	if f.endpoint, err = mosaic.ParseEndpoint("https://" + f.address()); err != nil {
		t.Fatal(err)
	}
	return f
}

// reload makes the program read its configuration again. Its old workers end after their requests.
func (f *front) reload(t testing.TB) {
	t.Helper()
	signal := map[string]syscall.Signal{"nginx": syscall.SIGHUP, "haproxy": syscall.SIGUSR2}[f.name]
	if err := f.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func (f *front) context(t testing.TB) context.Context { return kit.Over(t.Context(), f.transport) }

// config returns the Config of srv's client for f.
func (f *front) config(srv *mosaictest.Server) *mosaic.Config {
	conf := srv.Config()
	conf.Endpoint = f.endpoint
	return conf
}

func TestAFrontThatRequiresACertificateGetsIt(t *testing.T) {
	t.Parallel()
	ca := kit.Certificate(t, "clients' CA", kit.NewEC(t), nil)
	onFronts(t, frontSettings{clientCA: ca}, func(t *testing.T, name string, settings frontSettings) {
		srv := mosaictest.Start(t)
		f := startFront(t, name, srv.Endpoint(), settings)
		conf := f.config(srv)
		conf.Certificate = kit.Certificate(t, "client", kit.NewEC(t), ca)
		res, err := conf.Client(f.context(t)).Get(f.endpoint.URL("/cis/v1/users"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK || (res.ProtoMajor == 2) != settings.http2 {
			t.Errorf("got %s over %s; want 200 OK, over HTTP/2: %t", res.Status, res.Proto, settings.http2)
		}
	})
}

func TestAFrontRefusesOtherCertificates(t *testing.T) {
	t.Parallel()
	ca, otherCA := kit.Certificate(t, "clients' CA", kit.NewEC(t), nil), kit.Certificate(t, "other CA", kit.NewEC(t), nil)
	expired := kit.Certificate(t, "client", kit.NewEC(t), ca, kit.Lifetime(-time.Hour))
	onFronts(t, frontSettings{clientCA: ca}, func(t *testing.T, name string, settings frontSettings) {
		srv := mosaictest.Start(t)
		f := startFront(t, name, srv.Endpoint(), settings)
		for what, change := range map[string]func(conf *mosaic.Config, transport *http.Transport){
			"no certificate": func(*mosaic.Config, *http.Transport) {},
			"a certificate of another CA": func(conf *mosaic.Config, _ *http.Transport) {
				conf.Certificate = kit.Certificate(t, "client", kit.NewEC(t), otherCA)
			},
			"the HTTP client's, with none": func(conf *mosaic.Config, _ *http.Transport) { conf.ClientSecret, conf.TLSClientAuth = "", true },
			"the HTTP client's, which expired": func(conf *mosaic.Config, transport *http.Transport) {
				conf.ClientSecret, conf.TLSClientAuth = "", true
				transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return expired, nil }
			},
		} {
			conf, transport := f.config(srv), f.transport.Clone()
			defer transport.CloseIdleConnections()
			change(conf, transport)
			if _, err := conf.Token(kit.Over(t.Context(), transport)); !kit.IsLine(err) {
				t.Errorf("with %s got %v; want an error of one line", what, err)
			}
		}
		if n := len(srv.TokenRequests()); n != 0 {
			t.Errorf("%d token requests went through; want none", n)
		}
	})
}

func TestACertificateThatExpiresWhileInUseIsNamed(t *testing.T) {
	t.Parallel()
	ca := kit.Certificate(t, "clients' CA", kit.NewEC(t), nil)
	onFronts(t, frontSettings{clientCA: ca}, func(t *testing.T, name string, settings frontSettings) {
		srv := mosaictest.Start(t)
		f := startFront(t, name, srv.Endpoint(), settings)
		conf := f.config(srv)
		conf.Certificate = kit.Certificate(t, "client", kit.NewEC(t), ca, kit.Lifetime(8*time.Second))
		src := conf.TokenSource(f.context(t))
		if _, err := src.Token(); err != nil {
			t.Fatal(err)
		}
		end := conf.Certificate.Leaf.NotAfter
		time.Sleep(time.Until(end.Add(time.Second)))
		if _, err := src.Token(); !kit.IsLine(err) || !strings.Contains(err.Error(), end.Format(time.RFC3339)) {
			t.Errorf("got %v; want an error that names %s", err, end.Format(time.RFC3339))
		}
	})
}

func TestACertificateIsRotatedBehindAFront(t *testing.T) {
	t.Parallel()
	ca := kit.Certificate(t, "clients' CA", kit.NewEC(t), nil)
	p := provider.Start(t, ca, 8*time.Second)
	onFronts(t, frontSettings{clientCA: ca}, func(t *testing.T, name string, settings frontSettings) {
		old, next := kit.Certificate(t, "client", kit.NewEC(t), ca), kit.Certificate(t, "client", kit.NewEC(t), ca)
		p.Register(t, map[string]any{
			"client_id":                                  t.Name(),
			"token_endpoint_auth_method":                 "tls_client_auth",
			"tls_client_auth_subject_dn":                 old.Leaf.Subject.String(),
			"tls_client_certificate_bound_access_tokens": true,
			"grant_types":                                []string{"client_credentials"},
			"redirect_uris":                              []string{},
			"response_types":                             []string{},
		})
		f := startFront(t, name, p.Endpoint, settings)
		var log kit.Log
		var current atomic.Pointer[tls.Certificate]
		current.Store(old)
		conf := &mosaic.Config{
			ClientID: t.Name(),
			Endpoint: f.endpoint,
			GetCredentials: func(context.Context) (mosaic.Credentials, error) {
				return mosaic.Credentials{Certificate: current.Load()}, nil
			},
			Logger: log.Logger(slog.LevelInfo),
		}
		api := conf.Client(f.context(t))
		call := func() error { return kit.Fetch(api, f.endpoint.URL("/cis/v1/users"), http.StatusOK) }
		if err := call(); err != nil {
			t.Fatal(err)
		}
		underLoad(t, call, func() {
			for _, cert := range []*tls.Certificate{next, old} {
				current.Store(cert)
				n := log.Count("mosaic: credentials changed")
				for range 400 {
					if log.Count("mosaic: credentials changed") > n {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
		if n := log.Count("mosaic: credentials changed"); n != 2 {
			t.Errorf("the credentials changed %d times; want 2", n)
		}
	})
}

func TestNoCallFailsWhileAFrontReloads(t *testing.T) {
	t.Parallel()
	onFronts(t, frontSettings{}, func(t *testing.T, name string, settings frontSettings) {
		srv := mosaictest.Start(t)
		srv.SetLifetime(9 * time.Second) // renewed within the test, with time for a request on a busy machine
		f := startFront(t, name, srv.Endpoint(), settings)
		api := f.config(srv).Client(f.context(t))
		call := func() error {
			err := kit.Fetch(api, f.endpoint.URL("/cis/v1/users"), http.StatusOK)
			if err != nil && strings.Contains(err.Error(), "http2: client conn could not be established") {
				// An old worker ended just after it had accepted. With no client does net/http try again.
				err = kit.Fetch(api, f.endpoint.URL("/cis/v1/users"), http.StatusOK)
			}
			return err
		}
		underLoad(t, call, func() {
			for range 5 {
				time.Sleep(time.Second)
				f.reload(t)
			}
			time.Sleep(time.Second)
		})
	})
}

func TestNoCallFailsWhereAConnectionIsGoodForThreeRequests(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2: %t", http2), func(t *testing.T) {
			t.Parallel()
			srv := mosaictest.Start(t)
			srv.SetLifetime(9 * time.Second) // renewed within the test, with time for a request on a busy machine
			f := startFront(t, "nginx", srv.Endpoint(), frontSettings{http2: http2, keepaliveRequests: 3})
			api := f.config(srv).Client(f.context(t))
			underLoad(t, func() error { return kit.Fetch(api, f.endpoint.URL("/cis/v1/users"), http.StatusOK) }, func() {
				time.Sleep(5 * time.Second)
			})
		})
	}
}

func TestATokenComesAfterTheLimitsRetryAfter(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			onFronts(t, frontSettings{limitStatus: status, retryAfter: 2}, func(t *testing.T, name string, settings frontSettings) {
				srv := mosaictest.Start(t)
				f := startFront(t, name, srv.Endpoint(), settings)
				for range 2 {
					if _, err := f.config(srv).Token(f.context(t)); err != nil {
						t.Error(err)
					}
				}
				if n := len(srv.TokenRequests()); n != 2 {
					t.Errorf("%d token requests went through; want 2", n)
				}
			})
		})
	}
}

func TestAnUpstreamThatIsDownIsNamedByItsStatus(t *testing.T) {
	t.Parallel()
	onFronts(t, frontSettings{}, func(t *testing.T, name string, settings frontSettings) {
		srv := mosaictest.Start(t)
		f := startFront(t, name, srv.Endpoint(), settings)
		srv.Fail(mosaictest.Fault{Hang: true})
		checkStatus(t, f, srv, http.StatusGatewayTimeout)
		srv.Close()
		checkStatus(t, f, srv, map[string]int{"nginx": http.StatusBadGateway, "haproxy": http.StatusServiceUnavailable}[name])
	})
}

// checkStatus requests a token, and fails t unless the error names status.
func checkStatus(t *testing.T, f *front, srv *mosaictest.Server, status int) {
	t.Helper()
	_, err := f.config(srv).Token(f.context(t))
	if retrieve := new(oauth2.RetrieveError); !kit.IsLine(err) || !errors.As(err, &retrieve) || retrieve.Response.StatusCode != status {
		t.Errorf("got %v; want the status %d", err, status)
	}
}

func TestTheErrorSaysThatAFrontRequiresOrRefusesACertificate(t *testing.T) {
	t.Parallel()
	ca, otherCA := kit.Certificate(t, "clients' CA", kit.NewEC(t), nil), kit.Certificate(t, "other CA", kit.NewEC(t), nil)
	onFronts(t, frontSettings{clientCA: ca}, func(t *testing.T, name string, settings frontSettings) {
		srv := mosaictest.Start(t)
		f := startFront(t, name, srv.Endpoint(), settings)
		for hint, cert := range map[string]*tls.Certificate{
			"set Certificate":                         nil,
			"the server may have refused Certificate": kit.Certificate(t, "client", kit.NewEC(t), otherCA),
		} {
			conf := f.config(srv)
			conf.Certificate = cert
			if _, err := conf.Token(f.context(t)); !kit.IsLine(err) || !strings.Contains(err.Error(), hint) {
				t.Errorf("got %v; want the hint %q", err, hint)
			}
		}
	})
}

func TestAFrontsPageHasTheHintOfItsStatus(t *testing.T) {
	t.Parallel()
	t.Run("429", func(t *testing.T) {
		onFronts(t, frontSettings{limitStatus: http.StatusTooManyRequests, retryAfter: 60}, func(t *testing.T, name string, settings frontSettings) {
			srv := mosaictest.Start(t)
			f := startFront(t, name, srv.Endpoint(), settings)
			var err error
			for range 2 {
				_, err = f.config(srv).Token(f.context(t))
			}
			checkHint(t, err, "rate limit")
		})
	})
	t.Run("504 and 502 or 503", func(t *testing.T) {
		onFronts(t, frontSettings{}, func(t *testing.T, name string, settings frontSettings) {
			srv := mosaictest.Start(t)
			f := startFront(t, name, srv.Endpoint(), settings)
			srv.Fail(mosaictest.Fault{Hang: true})
			_, err := f.config(srv).Token(f.context(t))
			checkHint(t, err, "a fault on Mosaic's side")
			srv.Close()
			_, err = f.config(srv).Token(f.context(t))
			checkHint(t, err, "a fault on Mosaic's side")
		})
	})
}

func checkHint(t *testing.T, err error, hint string) {
	t.Helper()
	if !kit.IsLine(err) || !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), "HTML") {
		t.Errorf("got %v; want the hint %q, and none for pages", err, hint)
	}
}
