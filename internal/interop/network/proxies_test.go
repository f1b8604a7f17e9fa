package network

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// proxySettings are what tests vary.
type proxySettings struct {
	password string   // of the user acme; empty: nobody needs one
	ports    []string // to which CONNECT is allowed; nil: to all
	filter   string   // of hosts that tinyproxy refuses; empty: none
}

var proxies = []string{"squid", "tinyproxy"}

func startProxy(t testing.TB, name string, s proxySettings) *program {
	t.Helper()
	settings := map[string]any{"Password": s.password, "Ports": s.ports, "Filter": s.filter != ""}
	switch name {
	case "squid":
		const authenticate = `while read -r user password; do [ "$user $password" = "acme $1" ] && echo OK || echo ERR; done`
		return start(t, name, "squid.conf", "-N -n mosaicPORT -f squid.conf", map[string][]byte{"authenticate": []byte(authenticate)}, settings)
	default:
		return start(t, name, "tinyproxy.conf", "-d -c tinyproxy.conf", map[string][]byte{"filter": []byte(s.filter)}, settings)
	}
}

// through makes transport send through p, as user unless it is nil, and counts p's replies to
// CONNECT.
func through(p *program, user *url.Userinfo, transport *http.Transport) (replies *atomic.Int64) {
	replies = new(atomic.Int64)
	transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: p.address(), User: user})
	transport.OnProxyConnectResponse = func(context.Context, *url.URL, *http.Request, *http.Response) error {
		replies.Add(1)
		return nil
	}
	return replies
}

func TestTokensAndCallsGoThroughAProxy(t *testing.T) {
	t.Parallel()
	for _, name := range proxies {
		for what, user := range map[string]*url.Userinfo{"": nil, " with credentials": url.UserPassword("acme", "correct")} {
			t.Run(name+what, func(t *testing.T) {
				t.Parallel()
				srv := mosaictest.Start(t)
				settings := proxySettings{}
				if user != nil {
					settings.password, _ = user.Password()
				}
				p := startProxy(t, name, settings)
				for method, conf := range map[string]*mosaic.Config{
					"a secret":      srv.Config(),
					"a certificate": kit.CertificateClient(t, srv, "acme"),
				} {
					for version := range versions {
						transport := speaking(t, version, srv)
						tunnels := through(p, user, transport)
						res, err := conf.Client(kit.Over(t.Context(), transport)).Get(srv.Endpoint().URL("/cis/v1/users"))
						if err != nil {
							t.Errorf("with %s over %s: %v", method, version, err)
							continue
						}
						res.Body.Close()
						if n := tunnels.Load(); res.StatusCode != http.StatusOK || n == 0 || !strings.HasPrefix(res.Proto, version) {
							t.Errorf("with %s over %s got %s over %s through %d tunnels; want 200 OK through a tunnel", method, version, res.Status, res.Proto, n)
						}
					}
				}
			})
		}
	}
}

// refusals are what makes a proxy refuse CONNECT, and how often a token request asks it.
var refusals = map[string]struct {
	proxy    string
	settings proxySettings
	user     *url.Userinfo
	attempts int64
}{
	"squid without credentials":         {"squid", proxySettings{password: "correct"}, nil, 1},                                   // 407
	"squid with wrong credentials":      {"squid", proxySettings{password: "correct"}, url.UserPassword("acme", "wrong"), 1},     // 407
	"squid to a port that is forbidden": {"squid", proxySettings{ports: []string{"443"}}, nil, 1},                                // 403 Forbidden
	"tinyproxy without credentials":     {"tinyproxy", proxySettings{password: "correct"}, nil, 1},                               // 407
	"tinyproxy with wrong credentials":  {"tinyproxy", proxySettings{password: "correct"}, url.UserPassword("acme", "wrong"), 1}, // 401 Unauthorized
	"tinyproxy to a forbidden port":     {"tinyproxy", proxySettings{ports: []string{"443"}}, nil, 3},                            // 403 Access violation
	"tinyproxy to a filtered host":      {"tinyproxy", proxySettings{filter: "127"}, nil, 3},                                     // 403 Filtered
}

func TestTheErrorSaysThatTheProxyRefusedCONNECT(t *testing.T) {
	t.Parallel()
	for name, tt := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := mosaictest.Start(t)
			transport := speaking(t, "HTTP/2", srv)
			replies := through(startProxy(t, tt.proxy, tt.settings), tt.user, transport)
			_, err := srv.Config().Token(kit.Over(t.Context(), transport))
			checkProxyRefusal(t, err)
			if n := replies.Load(); n != tt.attempts {
				t.Errorf("the proxy was asked %d times; want %d", n, tt.attempts)
			}
		})
	}
	for _, name := range proxies {
		t.Run(name+" cannot reach the endpoint", func(t *testing.T) {
			t.Parallel()
			srv := mosaictest.Start(t)
			transport := speaking(t, "HTTP/2", srv)
			replies := through(startProxy(t, name, proxySettings{}), nil, transport)
			srv.Close()
			_, err := srv.Config().Token(kit.Over(t.Context(), transport))
			checkProxyRefusal(t, err) // 503, and 500 Unable to connect
			if n := replies.Load(); n != 3 {
				t.Errorf("the proxy was asked %d times; want 3", n)
			}
		})
	}
}

func checkProxyRefusal(t *testing.T, err error) {
	t.Helper()
	if !kit.IsLine(err) || !strings.Contains(err.Error(), "the proxy refused CONNECT") {
		t.Errorf("got %v; want that the proxy refused CONNECT", err)
	}
}

func TestAProxyThatRefusesIsAskedSeldom(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"squid with wrong credentials", "squid to a port that is forbidden", "tinyproxy with wrong credentials"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, tt := mosaictest.Start(t), refusals[name]
			transport := speaking(t, "HTTP/2", srv)
			replies := through(startProxy(t, tt.proxy, tt.settings), tt.user, transport)
			src := srv.Config().TokenSource(kit.Over(t.Context(), transport))
			kit.Every(50*time.Millisecond, 40*time.Second, func() {
				if _, err := src.Token(); err == nil {
					t.Error("there is a token")
				}
			})
			// Without jitter the pauses end after 0, 1, 3, 7, 15 and 31 seconds.
			if n := replies.Load(); n > 10 {
				t.Errorf("the proxy was asked %d times in 40 s; want 10 times at most", n)
			}
		})
	}
}
