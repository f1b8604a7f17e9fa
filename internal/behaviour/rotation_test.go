package behaviour_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
	"golang.org/x/oauth2"
)

// A volume is a directory. Its files are replaced as a whole.
type volume struct {
	t   testing.TB
	dir string
	n   int // versions so far
}

func newVolume(t testing.TB) *volume { return &volume{t: t, dir: t.TempDir()} }

func (v *volume) path(name string) string { return filepath.Join(v.dir, name) }

// rename replaces one file by renaming another onto it.
func (v *volume) rename(name, text string) {
	v.t.Helper()
	tmp := v.path(name + ".new")
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, v.path(name))); err != nil {
		v.t.Fatal(err)
	}
}

// pair replaces the files of a certificate, all at once.
func (v *volume) pair(cert *tls.Certificate) {
	v.t.Helper()
	v.swap(map[string]string{"tls.crt": string(kit.CertificatePEM(cert)), "tls.key": string(kit.KeyPEM(v.t, cert.PrivateKey.(crypto.Signer)))})
}

// swap replaces all files as Kubernetes does: they are symbolic links through ..data, another
// symbolic link, which is replaced.
func (v *volume) swap(files map[string]string) {
	v.t.Helper()
	v.n++
	version := fmt.Sprintf("..version_%d", v.n)
	err := os.Mkdir(v.path(version), 0o700)
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(v.path(filepath.Join(version, name)), []byte(text), 0o600))
	}
	err = errors.Join(err, os.Symlink(version, v.path("..data_tmp")), os.Rename(v.path("..data_tmp"), v.path("..data")))
	for name := range files {
		if _, statErr := os.Lstat(v.path(name)); statErr != nil {
			err = errors.Join(err, os.Symlink(filepath.Join("..data", name), v.path(name)))
		}
	}
	if err != nil {
		v.t.Fatal(err)
	}
}

func TestASecretIsRotatedWithoutARestart(t *testing.T) {
	for name, replace := range map[string]func(v *volume, secret string){
		"by rename": func(v *volume, secret string) { v.rename("secret", secret+"\n") },
		"by the symlink swap of a Kubernetes volume": func(v *volume, secret string) { v.swap(map[string]string{"secret": secret}) },
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				v := newVolume(t)
				first, second := srv.Config().ClientSecret, "the-second-secret-0001"
				replace(v, first)
				var log kit.Log
				conf := &mosaic.Config{
					ClientID:       srv.Config().ClientID,
					Endpoint:       srv.Endpoint(),
					GetCredentials: mosaic.Files{ClientSecret: v.path("secret")}.Credentials,
					Logger:         log.Logger(slog.LevelInfo),
				}
				src := conf.TokenSource(srv.Context(t.Context()))
				kit.Promptly(t, src)
				step, begun := 0, time.Now()
				kit.Every(10*time.Second, 12*time.Hour, func() {
					kit.Promptly(t, src)
					switch since := time.Since(begun); { // Mosaic's own procedure:
					case step == 0 && since >= 3*time.Hour: // generate a second secret,
						srv.AddSecret(second)
						step++
					case step == 1 && since >= 4*time.Hour: // replace the file,
						replace(v, second)
						step++
					case step == 2 && log.Count("mosaic: credentials changed") == 1: // verify,
						srv.RevokeSecret(first) // revoke
						step++
					}
				})
				if step != 3 {
					t.Fatalf("the rotation ended in step %d of 3:\n%s", step, log.String())
				}
				for _, r := range srv.TokenRequests() {
					if r.Status != http.StatusOK {
						t.Errorf("at %s a request was answered %d; want none with a revoked secret", r.Time.Format(time.TimeOnly), r.Status)
					}
				}
				if !strings.Contains(log.String(), "method=client_secret_post\n") || strings.Contains(log.String(), second) {
					t.Errorf("the log does not name the method, and only that:\n%s", log.String())
				}
			})
		})
	}
}

// calling returns a function for calls of APIs, in turn. It ends t if a call is refused or waits.
func calling(t testing.TB, client *http.Client, srv *mosaictest.Server, paths ...string) func() {
	n := 0
	return func() {
		t.Helper()
		begun := time.Now()
		err := kit.Fetch(client, srv.Endpoint().URL(paths[n%len(paths)]), http.StatusOK)
		if n++; err != nil || time.Since(begun) != 0 {
			t.Fatalf("at %s: %v after %s; want no call refused or waiting", begun.Format(time.DateTime), err, time.Since(begun))
		}
	}
}

func TestAKeyIsRotatedWithoutARestart(t *testing.T) {
	for _, beside := range []bool{false, true} {
		t.Run(fmt.Sprint("beside a certificate: ", beside), func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				srv.BindTokens(true)
				v := newVolume(t)
				files := mosaic.Files{PrivateKey: v.path("key.pem")}
				if beside {
					v.pair(kit.Certificate(t, "acme", kit.NewEC(t), nil))
					files.Certificate, files.CertificateKey = v.path("tls.crt"), v.path("tls.key")
				}
				v.rename("key.pem", string(kit.KeyPEM(t, kit.Ed25519())))
				var log kit.Log
				conf := &mosaic.Config{ClientID: "acme", Endpoint: srv.Endpoint(), GetCredentials: files.Credentials, Logger: log.Logger(slog.LevelInfo)}
				set := kit.JWKS(t, conf, mosaic.Credentials{PrivateKey: kit.EC()})
				srv.RegisterKey("acme", set) // both, during the rotation
				client := conf.Client(srv.Context(t.Context()))
				call := calling(t, client, srv, "/cis/v1/users", "/risk/v1/recommendation")
				kit.Every(time.Minute, 3*time.Hour, call)
				v.rename("key.pem", string(kit.KeyPEM(t, kit.EC())))
				kit.Every(time.Minute, 2*time.Hour, call)
				var kids []any
				for _, r := range srv.TokenRequests() {
					if header, _ := kit.Assertion(t, r); !slices.Contains(kids, header["kid"]) {
						kids = append(kids, header["kid"])
					}
					if r.Status != http.StatusOK || (r.Certificate != nil) != beside {
						t.Errorf("at %s a request was answered %d", r.Time.Format(time.TimeOnly), r.Status)
					}
				}
				keys := kit.JWKs(t, set)
				if want := []any{keys[0]["kid"], keys[len(keys)-1]["kid"]}; !slices.Equal(kids, want) {
					t.Errorf("assertions had the kids %v; want the old key's, then the new one's, %v", kids, want)
				}
				if n := log.Count("mosaic: credentials changed"); n != 1 || !strings.Contains(log.String(), fmt.Sprint("method=private_key_jwt kid=", keys[len(keys)-1]["kid"])) {
					t.Errorf("the change is logged %d times; want once, with method and kid:\n%s", n, log.String())
				}
			})
		})
	}
}

// issuer returns a function for certificates of a CA, known to srv as the client acme's.
func issuer(t testing.TB, srv *mosaictest.Server) func(lifetime time.Duration) *tls.Certificate {
	ca := kit.Certificate(t, "acme CA", kit.NewEC(t), nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	srv.RegisterCA("acme", roots, "CN=acme")
	return func(lifetime time.Duration) *tls.Certificate {
		return kit.Certificate(t, "acme", kit.NewEC(t), ca, kit.Lifetime(lifetime))
	}
}

// reusing returns the stand-in's transport, with connections that stay open between calls: a month
// of handshakes would take its time.
func reusing(srv *mosaictest.Server) *http.Transport {
	base := srv.Client().Transport.(*http.Transport).Clone()
	base.IdleConnTimeout = 10 * time.Minute
	return base
}

func TestCertificatesOf24HoursAreReplacedForTwoWeeks(t *testing.T) {
	t.Parallel()
	const token = 4 * time.Hour // to sign those of an hour would take most of the test's time
	replaceFor(t, 14*24*time.Hour, token, 24*time.Hour, 16*time.Hour, 5*time.Minute)
}

func TestCertificatesOf20MinutesAreReplacedForADay(t *testing.T) {
	t.Parallel()
	replaceFor(t, 24*time.Hour, time.Hour, 20*time.Minute, 13*time.Minute, 2*time.Minute)
}

// replaceFor replaces certificates, and calls two APIs through a client, and one by means of a
// source, with a pause between calls.
func replaceFor(t *testing.T, total, token, lifetime, every, pause time.Duration) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.BindTokens(true)
		srv.SetLifetime(token)
		issue, v := issuer(t, srv), newVolume(t)
		issued := make(map[string]*tls.Certificate)
		replace := func() {
			cert := issue(lifetime)
			issued[x5t(cert.Leaf)] = cert
			v.pair(cert)
		}
		replace()
		conf := &mosaic.Config{ClientID: "acme", Endpoint: srv.Endpoint(), GetCredentials: mosaic.Files{Certificate: v.path("tls.crt"), CertificateKey: v.path("tls.key")}.Credentials}
		ctx := kit.Over(t.Context(), reusing(srv))
		before := kit.Goroutines(t)
		call := calling(t, conf.Client(ctx), srv, "/cis/v1/users", "/risk/v1/recommendation")
		src, presents := conf.TokenSource(ctx), ""
		var own *http.Client // of the source's user: presents the certificate named by the token
		bySource := func() {
			tok := kit.Promptly(t, src)
			if named := boundTo(t, tok); named != presents {
				base := reusing(srv)
				base.TLSClientConfig.Certificates = []tls.Certificate{*issued[named]}
				own, presents = &http.Client{Transport: base}, named
			}
			client := &http.Client{Transport: &oauth2.Transport{Source: oauth2.StaticTokenSource(tok), Base: own.Transport}}
			if err := kit.Fetch(client, srv.Endpoint().URL("/cis/v1/users"), http.StatusOK); err != nil {
				t.Fatalf("by the source: %v", err)
			}
		}
		replaced := time.Now()
		kit.Every(pause, total, func() {
			if time.Since(replaced) >= every {
				replaced = time.Now()
				replace()
			}
			call()
			if pause < 5*time.Minute { // else its idle connections are closed, and handshakes take their time
				bySource()
			}
		})
		for _, r := range append(srv.TokenRequests(), srv.APIRequests()...) {
			if r.Status != http.StatusOK || r.Certificate == nil || r.Time.After(r.Certificate.NotAfter) {
				t.Fatalf("at %s %s was answered %d, with a certificate: %t", r.Time.Format(time.DateTime), r.RequestURI, r.Status, r.Certificate != nil)
			}
		}
		time.Sleep(token + time.Hour) // over a renewal, and IdleConnTimeout
		if n := kit.Goroutines(t) - before; n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

func TestFiftyRotationsLeaveNothing(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.BindTokens(true)
		issue := issuer(t, srv)
		v := newVault(mosaic.Credentials{Certificate: issue(2 * time.Hour)})
		base := reusing(srv)
		base.IdleConnTimeout = 24 * time.Hour
		dialed, open := counting(base)
		client := v.config(srv).Client(kit.Over(t.Context(), base))
		before := kit.Goroutines(t)
		call := calling(t, client, srv, "/cis/v1/users")
		call()
		for n := range 50 {
			v.returns(mosaic.Credentials{Certificate: issue(2 * time.Hour)})
			kit.Every(10*time.Minute, 50*time.Minute, call)
			synctest.Wait()
			if got := open.Load(); got != 1 {
				t.Fatalf("after rotation %d, %d connections are open; want those of the certificate before to be closed", n+1, got)
			}
		}
		if got := dialed.Load(); got != 51 {
			t.Errorf("%d connections were made; want one for each certificate", got)
		}
		time.Sleep(25 * time.Hour)
		if n := kit.Goroutines(t) - before; n != 0 || open.Load() != 0 {
			t.Errorf("%d goroutines and %d connections are left", n, open.Load())
		}
	})
}

func TestAReplayInARotationTravelsWithItsToken(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.BindTokens(true)
		issue := issuer(t, srv)
		old, current := issue(24*time.Hour), issue(24*time.Hour)
		v := newVault(mosaic.Credentials{Certificate: old})
		client := v.config(srv).Client(kit.Over(t.Context(), reusing(srv)))
		call := calling(t, client, srv, "/cis/v1/users")
		call()
		time.Sleep(time.Minute)
		v.returns(mosaic.Credentials{Certificate: current})
		srv.Revoke()
		srv.ForgetRequests()
		call()
		requests := srv.APIRequests()
		if got := kit.Statuses(requests); !slices.Equal(got, []int{401, 200}) || !requests[0].Certificate.Equal(old.Leaf) || !requests[1].Certificate.Equal(current.Leaf) {
			t.Errorf("got answers %v; want a 401 to the old certificate, then a replay with the new one", got)
		}
		client.CloseIdleConnections()
	})
}

// Mosaic may check a certificate by OCSP: one that is revoked is refused in the handshake.
func TestACertificateRefusedInTheHandshakeIsReplaced(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				issue := issuer(t, srv)
				current := issue(24 * time.Hour)
				v := newVault(mosaic.Credentials{Certificate: current})
				conf := v.config(srv)
				conf.Hosts = []string{"api.acme.com"}
				api := &strictAPI{certificate: kit.Certificate(t, "api.acme.com", kit.NewEC(t), nil, func(c *x509.Certificate) {
					c.DNSNames, c.ExtKeyUsage = []string{"api.acme.com"}, nil
				}), version: version}
				base := srv.Client().Transport.(*http.Transport).Clone()
				base.TLSClientConfig.RootCAs = base.TLSClientConfig.RootCAs.Clone()
				base.TLSClientConfig.RootCAs.AddCert(api.certificate.Leaf)
				dial := base.DialContext
				base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if addr == "api.acme.com:443" {
						return api.dial(), nil
					}
					return dial(ctx, network, addr)
				}
				client := conf.Client(kit.Over(t.Context(), base))
				call := func() error { return kit.Fetch(client, "https://api.acme.com/x", http.StatusNoContent) }
				if err := call(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				client.CloseIdleConnections()
				api.revoked = current.Leaf
				v.returns(mosaic.Credentials{Certificate: issue(24 * time.Hour)})
				refused := 0
				for err := call(); err != nil; err = call() {
					if refused++; refused > 5 {
						t.Fatalf("it is not replaced: %v", err)
					}
					time.Sleep(time.Second)
				}
				if n := len(srv.TokenRequests()); n != 2 || refused == 0 {
					t.Errorf("%d token requests, and %d calls were refused; want two, for one or more", n, refused)
				}
				client.CloseIdleConnections()
			})
		})
	}
}

// A strictAPI refuses a certificate in the handshake.
type strictAPI struct {
	certificate *tls.Certificate
	version     uint16
	revoked     *x509.Certificate
}

// dial returns a connection to it.
func (a *strictAPI) dial() net.Conn {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		conn := tls.Server(server, &tls.Config{
			Certificates: []tls.Certificate{*a.certificate},
			ClientAuth:   tls.RequireAnyClientCert,
			MaxVersion:   a.version,
			VerifyConnection: func(state tls.ConnectionState) error {
				if state.PeerCertificates[0].Equal(a.revoked) {
					return errors.New("revoked")
				}
				return nil
			},
		})
		requests := bufio.NewReader(conn)
		for {
			if _, err := http.ReadRequest(requests); err != nil {
				return
			}
			io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}()
	return client
}
