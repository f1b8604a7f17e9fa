package network

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

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
						if n := tunnels.Load(); res.StatusCode != http.StatusOK || n != 1 || !strings.HasPrefix(res.Proto, version) {
							t.Errorf("with %s over %s got %s over %s through %d tunnels; want 200 OK through one", method, version, res.Status, res.Proto, n)
						}
					}
				}
			})
		}
	}
}
