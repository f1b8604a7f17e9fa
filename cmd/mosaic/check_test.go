package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// hold runs check, and compares its lines with patterns.
func hold(t *testing.T, env environment, status int, want ...string) {
	t.Helper()
	got, stdout, _ := call(t, env, "", "check")
	if got != status {
		t.Errorf("got status %d; want %d", got, status)
	}
	if !regexp.MustCompile("^" + strings.Join(want, "\n") + "\n$").MatchString(stdout) {
		t.Errorf("got\n%s\nwant\n%s", stdout, strings.Join(want, "\n"))
	}
}

// parts are the lines of a check in which all is well.
var parts = []string{
	`✓ configuration  client pVEZaxjhbdshcudsLe at https://127\.0\.0\.1:\d+`,
	`✓ connection     https://127\.0\.0\.1:\d+ answers over TLS 1\.3`,
	`✓ clock          agrees with the server's`,
	`✓ token          for the default audience, expires in (1h0m\ds|59m\d+s)`,
	`✓ verify         for https://verify\.identity\.security, expires in (1h0m\ds|59m\d+s)`,
	`✓ risk           for https://risk\.identity\.security, expires in (1h0m\ds|59m\d+s)`,
	`✓ xdv            for https://dv\.identity\.security, expires in (1h0m\ds|59m\d+s)`,
	`✓ permissions    roles: reader; permissions: read:user; scope: openid offline_access`,
}

// but returns parts with those replaced that the lines are about. An empty line is none.
func but(lines ...string) []string {
	all := slices.Clone(parts)
	for _, line := range lines {
		name := strings.Fields(line)[1]
		i := slices.IndexFunc(all, func(part string) bool { return strings.Fields(part)[1] == name })
		if i < 0 {
			all = append(all, line)
			continue
		}
		all[i] = line
	}
	return all
}

// unconnected returns the lines of a check without a connection.
func unconnected(reason string) []string {
	return but(`✗ connection     `+reason, `✗ clock          not compared, without a connection`, `✗ token          no token, without a connection`,
		`✗ verify         not tried, .*`, `✗ risk           not tried, .*`, `✗ xdv            not tried, .*`)[:7]
}

func TestCheckTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(srv *mosaictest.Server, env environment)
		status int
		want   []string
	}{
		{"nothing", func(*mosaictest.Server, environment) {}, 0, parts},
		{"no endpoint", func(_ *mosaictest.Server, env environment) { env["MOSAIC_ENDPOINT"] = "" }, 1,
			[]string{`✗ configuration  invalid environment: MOSAIC_ENDPOINT: endpoint "" is empty: .*`}},
		{"a wrong secret", func(srv *mosaictest.Server, _ environment) { srv.SetSecret("another secret") }, 1,
			but(`✗ token          .* 401 .*invalid_client.*: check ClientID and ClientSecret, .*`,
				`✗ verify         not tried, .*`, `✗ risk           not tried, .*`, `✗ xdv            not tried, .*`)[:7]},
		{"no default audience", func(srv *mosaictest.Server, _ environment) {
			srv.FailNext(1, mosaictest.OAuthError(http.StatusBadRequest, "invalid_target", "no such audience"))
		}, 1, but(`✗ token          .*invalid_target.*`)},
		{"services not configured", func(srv *mosaictest.Server, _ environment) {
			srv.RemoveResource(mosaic.IdentityVerification)
			srv.RemoveResource(mosaic.DataValidation)
		}, 0, but(
			`✗ verify         not configured \(invalid_target\): .* https://verify\.identity\.security in Mosaic`,
			`✗ xdv            not configured \(invalid_target\): .* https://dv\.identity\.security in Mosaic`)},
		{"a service refused for another reason", func(srv *mosaictest.Server, _ environment) {
			srv.SetClaims(func(map[string]any) { // of the default audience's token
				srv.SetClaims(nil)
				srv.FailNext(1, mosaictest.OAuthError(http.StatusForbidden, "access_denied", "not today"))
			})
		}, 0, but(`✗ verify         .* 403 Forbidden: access_denied, "not today": .*`)},
		{"a resource of one's own", func(srv *mosaictest.Server, env environment) {
			srv.AddResource("https://orders.acme.com")
			env["MOSAIC_RESOURCE"] = "https://orders.acme.com"
		}, 0, slices.Insert(slices.Clone(parts), 7, `✓ resource       for https://orders\.acme\.com, expires in .*`)},
		{"a service as the resource", func(_ *mosaictest.Server, env environment) {
			env["MOSAIC_RESOURCE"] = string(mosaic.FraudPrevention)
		}, 0, parts},
		{"an unknown authority", func(_ *mosaictest.Server, env environment) { env["SSL_CERT_FILE"] = "" }, 1,
			unconnected(`token request to .*: the server's certificate does not verify .*: check Endpoint, the local clock, .*`)},
		{"another server's reply", func(srv *mosaictest.Server, _ environment) {
			srv.Fail(mosaictest.Fault{Status: http.StatusOK, Body: "{}"})
		}, 1, but(`✗ clock          not compared, because the reply does not show the server's time`,
			`✗ token          .*: the reply \(200 OK\) is not a token response .*`,
			`✗ verify         not tried, .*`, `✗ risk           not tried, .*`, `✗ xdv            not tried, .*`)[:7]},
		{"a wrong secret and a local clock behind", func(srv *mosaictest.Server, _ environment) {
			srv.SetSecret("another secret")
			srv.SetSkew(time.Minute)
		}, 1, but(`✗ clock          (1m0s|5\ds) behind the server's: set the local clock \(NTP\)`,
			`✗ token          .* 401 .*invalid_client.*`,
			`✗ verify         not tried, .*`, `✗ risk           not tried, .*`, `✗ xdv            not tried, .*`)[:7]},
		{"a local clock ahead", func(srv *mosaictest.Server, _ environment) { srv.SetSkew(-time.Minute) }, 0,
			but(`✗ clock          (1m[01]s|5\ds) ahead of the server's: set the local clock \(NTP\)`)},
		{"a local clock behind", func(srv *mosaictest.Server, _ environment) { srv.SetSkew(time.Minute) }, 0,
			but(`✗ clock          (1m0s|5\ds) behind the server's: set the local clock \(NTP\)`)},
		{"clocks that differ by little", func(srv *mosaictest.Server, _ environment) { srv.SetSkew(3 * time.Second) }, 0, parts},
		{"no permissions", func(srv *mosaictest.Server, _ environment) {
			srv.SetClaims(func(claims map[string]any) {
				delete(claims, "ts_roles")
				delete(claims, "ts_permissions")
				claims["role"], claims["scope"] = []string{"admin\x1b[2J"}, srv.Config().ClientSecret
			})
		}, 0, but(`✓ permissions    roles: admin \[2J; permissions: none; scope: \[redacted\]`)},
		{"roles of another type", func(srv *mosaictest.Server, _ environment) {
			srv.SetClaims(func(claims map[string]any) { claims["ts_roles"] = 7 })
		}, 0, but(`✗ permissions    cannot read the token's claims: .*`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := mosaictest.Start(t)
			env := newEnvironment(t, srv)
			tt.change(srv, env)
			hold(t, env, tt.status, tt.want...)
		})
	}
}

// front starts a server that passes requests on to srv once it has seen a client certificate that it
// accepts, and returns env for it.
func front(t *testing.T, env environment, srv *mosaictest.Server, accept func(*tls.Config)) environment {
	t.Helper()
	to, err := url.Parse(string(srv.Endpoint()))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = srv.Client().Transport
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) == 0 { // as nginx answers
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Server", "nginx")
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, "<html><title>400 No required SSL certificate was sent</title></html>")
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	if accept == nil {
		server.Start()
		return env.with("MOSAIC_ENDPOINT", server.URL)
	}
	server.TLS = new(tls.Config)
	accept(server.TLS)
	server.StartTLS()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return env.with("MOSAIC_ENDPOINT", server.URL, "SSL_CERT_FILE", kit.File(t, ca))
}

func TestCheckPresentsTheCertificateAsATokenRequestDoes(t *testing.T) {
	t.Parallel()
	asNginx := func(conf *tls.Config) { conf.ClientAuth = tls.RequestClientCert }
	handshake := func(conf *tls.Config) { conf.ClientAuth = tls.RequireAnyClientCert }
	before13 := func(conf *tls.Config) { conf.ClientAuth, conf.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 }
	fromCA := func(conf *tls.Config) {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	}
	accepted := but(`✓ certificate    CN=client, .*`)
	tests := []struct {
		name   string
		accept func(*tls.Config)
		with   bool // a certificate
		status int
		want   []string
	}{
		{"required by a page, and set", asNginx, true, 0, accepted},
		{"required by a page, and not set", asNginx, false, 1, but(
			`✗ token          .*: 400 Bad Request, server nginx: the server may require a client certificate: set Certificate`,
			`✗ verify         not tried, .*`, `✗ risk           not tried, .*`, `✗ xdv            not tried, .*`)[:7]},
		{"required in the handshake, and set", handshake, true, 0, accepted},
		{"required in the handshake, and not set", handshake, false, 1,
			unconnected(`token request to .* failed \(3 attempts\): ".*": the server may require a client certificate: set Certificate`)},
		{"required in the handshake of TLS 1.2, and set", before13, true, 0, but(`✓ connection     https://127\.0\.0\.1:\d+ answers over TLS 1\.2`, `✓ certificate    CN=client, .*`)},
		{"required in the handshake of TLS 1.2, and not set", before13, false, 1,
			unconnected(`token request to .*: "remote error: tls: .*": the server may require a client certificate: set Certificate`)},
		{"refused in the handshake", fromCA, true, 1, append(
			unconnected(`token request to .* failed \(3 attempts\): ".*": the server may have refused Certificate`), `✓ certificate    CN=client, .*`)},
		{"without TLS", nil, true, 0, but(`✓ configuration  client .* at http://127\.0\.0\.1:\d+`,
			`✓ connection     http://127\.0\.0\.1:\d+ answers without TLS`, `✓ certificate    CN=client, .*`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := mosaictest.Start(t)
			env := front(t, newEnvironment(t, srv), srv, tt.accept)
			if tt.with {
				env = env.withCertificate(t, kit.Certificate(t, "client", kit.EC(), nil))
			}
			hold(t, env, tt.status, tt.want...)
		})
	}
}

func TestCheckShowsWhatKeysAndCertificatesNeed(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	env := newEnvironment(t, srv).with("MOSAIC_CLIENT_SECRET", "")
	lasts := func(before, after time.Duration) func(*x509.Certificate) {
		return func(template *x509.Certificate) {
			template.NotBefore, template.NotAfter = time.Now().Add(-before), time.Now().Add(after+time.Minute)
		}
	}
	const day = 24 * time.Hour
	tests := []struct {
		name          string
		before, after time.Duration
		want          string
	}{
		{"a year with a month left", 335 * day, 30 * day, `✓ certificate    CN=client, 30 days left, until \d{4}-\S+Z`},
		{"a year with a fortnight left", 351 * day, 14 * day, `✓ certificate    CN=client, 14 days left, until \S+`},
		{"a year with less than a fortnight left", 352 * day, 13 * day, `✗ certificate    CN=client, 13 days left, until \S+: replace it, .*`},
		{"a year with a day left", 364 * day, day, `✗ certificate    CN=client, 1 day left, until \S+: replace it, .*`},
		{"two days with a day left", day, day, `✓ certificate    CN=client, 1 day left, until \S+Z`},
		{"a day with a quarter left", 18 * time.Hour, 6 * time.Hour, `✓ certificate    CN=client, 0 days left, .*`},
		{"a day with two hours left", 22 * time.Hour, 2 * time.Hour, `✗ certificate    CN=client, 0 days left, .*: replace it, .*`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cert := kit.Certificate(t, "client", kit.EC(), nil, lasts(tt.before, tt.after))
			srv.RegisterCertificate(tt.name, cert.Leaf)
			hold(t, env.with("MOSAIC_CLIENT_ID", tt.name).withCertificate(t, cert), 0, but(`✓ configuration  client `+tt.name+` at .*`, tt.want)...)
		})
	}

	for want, change := range map[string]func(*x509.Certificate){
		"Certificate has expired: its NotAfter is 2023-11-14T22:13:20Z":       func(c *x509.Certificate) { c.NotAfter = time.Unix(17e8, 0) },
		"Certificate is not valid yet: its NotBefore is 2096-10-02T07:06:40Z": func(c *x509.Certificate) { c.NotBefore = time.Unix(4e9, 0) },
	} {
		hold(t, env.withCertificate(t, kit.Certificate(t, "client", kit.EC(), nil, change)), 1, `✗ configuration  invalid environment: MOSAIC_CERTIFICATE_FILE .*: `+want)
	}

	withKey := env.with("MOSAIC_KEY_ID", "2026", "MOSAIC_PRIVATE_KEY_FILE", kit.File(t, kit.KeyPEM(t, kit.EC())))
	srv.RegisterKey(withKey["MOSAIC_CLIENT_ID"], []byte(succeed(t, withKey, "jwks")))
	hold(t, withKey, 0, but(`✓ key            kid 2026, does not expire; Mosaic needs the output of mosaic jwks`)...)
}

// A proxy as companies have it: what it refuses, and what it lets through.
func TestCheckGoesThroughTheProxy(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer from.Close()
		to, err := net.Dial("tcp", strings.TrimPrefix(string(srv.Endpoint()), "https://"))
		if err != nil {
			panic(err)
		}
		defer to.Close()
		fmt.Fprint(from, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(to, from)
		io.Copy(from, to)
	}))
	t.Cleanup(proxy.Close)

	env := newEnvironment(t, srv).with("MOSAIC_ENDPOINT", "https://example.com", "HTTPS_PROXY", proxy.URL)
	refused := unconnected(`token request to https://example\.com/oidc/token .*: the proxy refused CONNECT: 407 .*: check HTTPS_PROXY and its credentials, and that the proxy allows this host`)
	hold(t, env, 1, append([]string{`✓ configuration  client pVEZaxjhbdshcudsLe at https://example\.com`}, refused[1:]...)...)

	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", env["MOSAIC_CLIENT_SECRET"]) // for call, which looks for it
	env["HTTPS_PROXY"] = u.String()
	hold(t, env, 0, but(`✓ configuration  client pVEZaxjhbdshcudsLe at https://example\.com`,
		`✓ connection     https://example\.com answers over TLS 1\.3, through the proxy `+regexp.QuoteMeta(u.Host))...)
}
