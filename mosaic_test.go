package mosaic_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// Endpoint and Resource

func TestParseEndpointTakesNamesURLsAndDomains(t *testing.T) {
	long := strings.Repeat("a.", 126) + "a" // 253 bytes
	for text, want := range map[string]mosaic.Endpoint{
		"us": mosaic.US, "Us": "https://api.transmitsecurity.io", "eu": mosaic.EU, "EU": "https://api.eu.transmitsecurity.io",
		"ca": mosaic.CA, "CA": "https://api.ca.transmitsecurity.io", "au": mosaic.AU, "AU": "https://api.au.transmitsecurity.io",
		"sandbox": mosaic.Sandbox, "SBX": "https://api.sbx.transmitsecurity.io",
		"HTTPS://API.EU.TransmitSecurity.IO/": mosaic.EU,
		"api.eu.transmitsecurity.io":          mosaic.EU,
		"Login.Acme.com/":                     "https://login.acme.com",
		"login.acme.com:8443":                 "https://login.acme.com:8443",
		"https://login.acme.com:443":          "https://login.acme.com",
		"https://login.acme.com:80":           "https://login.acme.com:80",
		"https://login.acme.com:65535":        "https://login.acme.com:65535",
		"https://xn--mller-kva.example":       "https://xn--mller-kva.example",
		"https://AZ-09_az.Zz.aA":              "https://az-09_az.zz.aa",
		"https://" + long[:63]:                mosaic.Endpoint("https://" + long[:63]),
		long:                                  mosaic.Endpoint("https://" + long),
		"10.0.0.1":                            "https://10.0.0.1",
		"https://[2001:DB8:0::1]:443":         "https://[2001:db8:0::1]",
		"http://LOCALHOST:80/":                "http://localhost",
		"http://127.8.9.1:8080":               "http://127.8.9.1:8080",
		"http://[::1]:8080":                   "http://[::1]:8080",
	} {
		if got, err := mosaic.ParseEndpoint(text); err != nil || got != want {
			t.Errorf("%q: got %q, error %v; want %q", text, got, err, want)
		}
	}
}

func TestParseEndpointSaysWhyNot(t *testing.T) {
	for why, texts := range map[string][]string{
		"is empty":                  {"", " ", "\t\n"},
		"is not a URL":              {"mars", " eu", "eu\n", "localhost", "localhost:8080", "https://acme.com\n", "acme.com\x7f", "https://acme.com:x", "https:acme.com", "https://[::1", "https://a b.com", "https://[fe80::1]1"},
		"is not https (plain http":  {"http://acme.com", "http://localhost.acme.com", "http://127.0.0.1.acme.com", "http://10.0.0.1", "http://[::2]"},
		"is not https":              {"ftp://acme.com", "ws://localhost"},
		"holds user information":    {"https://user@acme.com", "https://@acme.com", "user:hunter2@acme.com", "https://user:hun@ter/2@acme.com"},
		"has a path":                {"https://acme.com/oidc/token", "acme.com/oidc/token", "https://acme.com//", "https:/acme.com"},
		"has a query or a fragment": {"https://acme.com?", "https://acme.com/?a=b", "acme.com#a"},
		"has a bad host or port": {"https://acme.com:0", "https://acme.com:65536", "https://acme.com:", "https://acme.com:0443", "http://localhost:00",
			"https://", "https://:443", "https://acme.com.", "https://acme..com", "https://*.acme.com", "https://" + strings.Repeat("a", 64), "https://" + strings.Repeat("a.", 127) + "a", "https://[::1%25eth0]"},
		"has a character that is not ASCII": {"https://bücher.example", "https://acme.com\u00a0", "\u212a.com"},
	} {
		for _, text := range texts {
			got, err := mosaic.ParseEndpoint(text)
			if err == nil || got != "" || !strings.Contains(err.Error(), `" `+why) || strings.Contains(err.Error(), "ter2") {
				t.Errorf("%q: got %q, error %v; want an error that says %q", text, got, err, why)
				continue
			}
			kit.OneLine(t, err, 400)
			if quoted := fmt.Sprintf("%q", text); len(text) < 64 && !strings.Contains(text, "@") && !strings.Contains(err.Error(), quoted) {
				t.Errorf("got error %q; want %s quoted", err, quoted)
			}
		}
	}
}

func TestEndpointIsReadFromFlagsAndJSON(t *testing.T) {
	var e mosaic.Endpoint
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.TextVar(&e, "endpoint", mosaic.EU, "")
	for _, tt := range []struct {
		args []string
		want mosaic.Endpoint
		ok   bool
	}{{nil, mosaic.EU, true}, {[]string{"-endpoint=AU"}, mosaic.AU, true}, {[]string{"-endpoint=mars"}, mosaic.AU, false}} {
		if err := flags.Parse(tt.args); (err == nil) != tt.ok || e != tt.want {
			t.Errorf("%v: got %q, error %v; want %q", tt.args, e, err, tt.want)
		}
	}
	var v struct{ Endpoint mosaic.Endpoint }
	if err := json.Unmarshal([]byte(`{"Endpoint":"sbx"}`), &v); err != nil || v.Endpoint != mosaic.Sandbox {
		t.Errorf("got %q, error %v; want %q", v.Endpoint, err, mosaic.Sandbox)
	}
	if b, err := json.Marshal(v); err != nil || string(b) != `{"Endpoint":"https://api.sbx.transmitsecurity.io"}` {
		t.Errorf("got %s, error %v; want the base URL", b, err)
	}
}

func TestEndpointURLs(t *testing.T) {
	for got, want := range map[string]string{
		mosaic.EU.TokenURL():                            "https://api.eu.transmitsecurity.io/oidc/token",
		mosaic.Endpoint("https://acme.com/").TokenURL(): "https://acme.com/oidc/token",
		mosaic.US.URL("/risk/v1/recommendation?a=b#c"):  "https://api.transmitsecurity.io/risk/v1/recommendation?a=b#c",
		mosaic.US.URL("cis/v1/users/"):                  "https://api.transmitsecurity.io/cis/v1/users/",
		mosaic.US.URL("//evil.example/x"):               "https://api.transmitsecurity.io/evil.example/x",
		mosaic.US.URL("@evil.example"):                  "https://api.transmitsecurity.io/@evil.example",
		mosaic.US.URL(""):                               "https://api.transmitsecurity.io/",
	} {
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{
		"", "eu", "SBX", "login.acme.com", "https://login.acme.com:443/", "http://localhost:8080", "http://[::1]", "https://[::ffff:1.2.3.4]",
		"https://u:p@acme.com", "https://acme.com/oidc/token", "https://acme.com.", "https://a_b-c:65535", "http://127.1", "https://%61.com", "//x.y", "https://a\\b.c",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := mosaic.ParseEndpoint(s)
		if err != nil {
			kit.OneLine(t, err, 600)
			return
		}
		u, err := url.Parse(e.TokenURL())
		if err != nil {
			t.Fatalf("%q: got %q, whose TokenURL does not parse: %v", s, e, err)
		}
		loopback := u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
		if u.Scheme != "https" && !(u.Scheme == "http" && loopback) || u.Hostname() == "" || u.User != nil || u.Path != "/oidc/token" || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q: got %q; want the base of an https URL", s, e)
		}
		if base := u.Scheme + "://" + u.Host; base != string(e) || strings.ToLower(base) != base {
			t.Errorf("%q: got %q; want scheme and host alone, in lower case: %q", s, e, base)
		}
		if again, err := mosaic.ParseEndpoint(string(e)); err != nil || again != e {
			t.Errorf("%q: got %q, and of that %q, error %v; want the same again", s, e, again, err)
		}
	})
}

func TestResourceIsAnAbsoluteURISentAsItIs(t *testing.T) {
	for valid, resources := range map[bool][]mosaic.Resource{
		true: {
			"https://verify.identity.security", mosaic.FraudPrevention, mosaic.DetectionAndResponse, mosaic.DataValidation, "",
			"HTTPS://API.Acme.com:443/a/../b/", "https://acme.com?x=%41&y=z+", "urn:example:api", "http://acme.com", "spiffe:///x",
		},
		false: {
			"custom:", "//", "https://", "https:", "https:/x", "https://:443", "risk", "/risk", "https://acme.com#", "urn:a#b", "https://acme.com/a b", " https://acme.com",
			"https://acme.com\n", "https://bücher.example", "https://acme.com/%zz", "https://a:hunter2@acme.com#x",
		},
	} {
		for _, r := range resources {
			c := conf()
			c.Resource = r
			stub := &kit.Stub{Replies: []string{opaque}}
			_, err := c.Token(stub.Context(t.Context()))
			switch sent := stub.Requests(); {
			case valid && (err != nil || len(sent) != 1 || sent[0].Form().Get("resource") != string(r) || sent[0].Form().Has("resource") != (r != "")):
				t.Errorf("%q: got error %v; want it sent exactly as it is", r, err)
			case !valid && (err == nil || len(sent) != 0 || !strings.Contains(err.Error(), "RFC 8707 §2") || strings.Contains(err.Error(), "hunter2")):
				t.Errorf("%q: got error %v, %d requests; want an error that names RFC 8707", r, err, len(sent))
			}
		}
	}
}

// Config

// conf returns a valid Config.
func conf() *mosaic.Config {
	return &mosaic.Config{ClientID: "acme", ClientSecret: secret, Endpoint: mosaic.EU}
}

// secret is special in a form, in JSON and in HTML.
const secret = `s3cret&="<'+/>% ü`

var opaque = kit.TokenReply("opaque", `"expires_in":3600`)

// form is the form of conf.
var form = "client_id=acme&client_secret=" + url.QueryEscape(secret) + "&grant_type=client_credentials"

func TestValidateNamesEachField(t *testing.T) {
	get := func(context.Context) (mosaic.Credentials, error) { panic("Validate calls GetCredentials") }
	good := kit.Certificate(t, "acme", kit.EC(), nil)
	mismatched, expired := *good, kit.Certificate(t, "acme", kit.EC(), nil, kit.Lifetime(-time.Minute))
	mismatched.PrivateKey = kit.RSA()
	chained, public := *good, *good
	chained.Certificate = [][]byte{good.Certificate[0], {1}}
	public.PrivateKey = kit.Ed25519().Public()
	for _, tt := range []struct {
		name   string
		change func(*mosaic.Config)
		want   []string // none: it is valid
	}{
		{"a secret", func(c *mosaic.Config) {}, nil},
		{"all else", func(c *mosaic.Config) {
			c.Resource, c.Scopes, c.Hosts = mosaic.FraudPrevention, []string{"a"}, []string{"api.acme.com", "API.acme.com:8443", "[::1]:1"}
			c.Certificate, c.EndpointParams = good, url.Values{"audience": {"x"}}
		}, nil},
		{"GetCredentials", func(c *mosaic.Config) {
			c.ClientSecret, c.GetCredentials, c.SigningAlgorithm, c.AssertionAudience = "", get, "PS256", "https://acme.com"
		}, nil},
		{"TLSClientAuth", func(c *mosaic.Config) { c.ClientSecret, c.TLSClientAuth = "", true }, nil},
		{"no ClientID", func(c *mosaic.Config) { c.ClientID = "" }, []string{"ClientID is empty"}},
		{"a line end", func(c *mosaic.Config) { c.ClientID += "\n" }, []string{"ClientID holds a control character (a line end"}},
		{"a DEL", func(c *mosaic.Config) { c.ClientSecret += "\x7f" }, []string{"ClientSecret holds a control character"}},
		{"a quoted ClientID", func(c *mosaic.Config) { c.ClientID = `"acme"` }, []string{"ClientID begins or ends with white space or a quote"}},
		{"a quote at the end", func(c *mosaic.Config) { c.ClientSecret += "'" }, []string{"ClientSecret begins or ends with"}},
		{"a space in front", func(c *mosaic.Config) { c.ClientSecret = " " + secret }, []string{"ClientSecret begins or ends with"}},
		{"a no-break space", func(c *mosaic.Config) { c.ClientSecret += "\u00a0" }, []string{"ClientSecret begins or ends with"}},
		{"a quoted KeyID", func(c *mosaic.Config) { c.ClientSecret, c.PrivateKey, c.KeyID = "", kit.EC(), "'k'" }, []string{"KeyID begins or ends with"}},
		{"a KeyID that is not UTF-8", func(c *mosaic.Config) { c.ClientSecret, c.PrivateKey, c.KeyID = "", kit.EC(), "k\xff" }, []string{"KeyID is not valid UTF-8"}},
		{"no UTF-8", func(c *mosaic.Config) { c.ClientID = "\xff" }, []string{"ClientID is not valid UTF-8"}},
		{"no credentials", func(c *mosaic.Config) { c.ClientSecret = "" }, []string{"set ClientSecret, PrivateKey or Certificate"}},
		{"two", func(c *mosaic.Config) { c.PrivateKey = kit.EC() }, []string{"ClientSecret and PrivateKey exclude each other"}},
		{"GetCredentials and a secret", func(c *mosaic.Config) { c.GetCredentials = get }, []string{"GetCredentials excludes ClientSecret"}},
		{"GetCredentials and KeyID", func(c *mosaic.Config) { c.ClientSecret, c.KeyID, c.GetCredentials = "", "k", get }, []string{"GetCredentials excludes"}},
		{"GetCredentials and TLSClientAuth", func(c *mosaic.Config) { c.ClientSecret, c.TLSClientAuth, c.GetCredentials = "", true, get }, []string{"GetCredentials excludes"}},
		{"TLSClientAuth and a secret", func(c *mosaic.Config) { c.TLSClientAuth = true }, []string{"TLSClientAuth excludes ClientSecret"}},
		{"GetCredentials and a Certificate", func(c *mosaic.Config) { c.ClientSecret, c.Certificate, c.GetCredentials = "", good, get }, []string{"GetCredentials excludes"}},
		{"TLSClientAuth and a key", func(c *mosaic.Config) { c.ClientSecret, c.PrivateKey, c.TLSClientAuth = "", kit.EC(), true }, []string{"TLSClientAuth excludes"}},
		{"what a key needs", func(c *mosaic.Config) { c.KeyID, c.SigningAlgorithm, c.AssertionAudience = "k", "RS256", "x" },
			[]string{"KeyID is set without PrivateKey", "SigningAlgorithm is set without PrivateKey", "AssertionAudience is set without PrivateKey"}},
		{"another algorithm", func(c *mosaic.Config) { c.ClientSecret, c.PrivateKey, c.SigningAlgorithm = "", kit.EC(), "RS256" }, []string{"SigningAlgorithm", "ES256"}},
		{"an empty Certificate", func(c *mosaic.Config) { c.Certificate = new(tls.Certificate) }, []string{"Certificate is empty"}},
		{"a mismatched Certificate", func(c *mosaic.Config) { c.Certificate = &mismatched }, []string{"Certificate: the private key does not match it"}},
		{"noise as a Certificate", func(c *mosaic.Config) {
			c.Certificate = &tls.Certificate{Certificate: [][]byte{{1}}, PrivateKey: kit.EC()}
		}, []string{"Certificate: number 1 of the chain cannot be parsed"}},
		{"noise in the chain", func(c *mosaic.Config) { c.Certificate = &chained }, []string{"Certificate: number 2 of the chain cannot be parsed"}},
		{"a Certificate with a public key", func(c *mosaic.Config) { c.Certificate = &public }, []string{"Certificate has no usable private key (ed25519.PublicKey)"}},
		{"an expired Certificate", func(c *mosaic.Config) { c.Certificate = expired }, []string{"Certificate has expired"}},
		{"no Endpoint", func(c *mosaic.Config) { c.Endpoint = "" }, []string{"Endpoint is empty"}},
		{"a name as Endpoint", func(c *mosaic.Config) { c.Endpoint = "SBX" }, []string{`Endpoint "SBX" is not a URL: use a constant such as mosaic.EU`}},
		{"a domain as Endpoint", func(c *mosaic.Config) { c.Endpoint = "acme.com" }, []string{`Endpoint "acme.com"`, "ParseEndpoint"}},
		{"a password in Endpoint", func(c *mosaic.Config) { c.Endpoint = "https://a:" + mosaic.Endpoint(secret) + "@acme.com" }, []string{`Endpoint "https://[redacted]@acme.com"`}},
		{"no URI as Resource", func(c *mosaic.Config) { c.Resource = "risk" }, []string{`Resource "risk" is not an absolute URI`}},
		{"a URL in Hosts", func(c *mosaic.Config) { c.Hosts = []string{"a.com", "https://b.com"} }, []string{`Hosts: "https://b.com" is not a host`}},
		{"no hosts", func(c *mosaic.Config) { c.Hosts = []string{"", "[127.0.0.1]", "a.com:+1"} }, []string{`Hosts: ""`, `Hosts: "[127.0.0.1]"`, `Hosts: "a.com:+1"`}},
		{"own parameters", func(c *mosaic.Config) {
			c.EndpointParams = url.Values{"client_assertion": nil, "client_assertion_type": nil, "client_id": nil, "client_secret": nil, "grant_type": nil, "resource": nil, "scope": {secret}}
		}, []string{
			"EndpointParams may not set client_id: set ClientID", "EndpointParams may not set client_secret: set ClientSecret",
			"EndpointParams may not set client_assertion: set PrivateKey", "EndpointParams may not set client_assertion_type: set PrivateKey",
			"EndpointParams may not set grant_type: it is always client_credentials",
			"EndpointParams may not set resource: set Resource", "EndpointParams may not set scope: set Scopes",
		}},
		{"all at once", func(c *mosaic.Config) {
			*c = mosaic.Config{Resource: "#", Hosts: []string{"a b"}, EndpointParams: url.Values{"scope": nil}}
		},
			[]string{"ClientID", "ClientSecret", "Endpoint", "Resource", "Hosts", "EndpointParams"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := conf()
			tt.change(c)
			err := c.Validate()
			if len(tt.want) == 0 && err == nil {
				return
			}
			if len(tt.want) == 0 || err == nil || !strings.HasPrefix(err.Error(), "mosaic: invalid Config: ") {
				t.Fatalf("got error %v; want %q", err, tt.want)
			}
			kit.OneLine(t, err, 1000)
			kit.NoSecret(t, err, secret)
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v; want %s in it", err, want)
				}
			}
			stub := new(kit.Stub) // all that c makes says the same, and sends nothing
			ctx := stub.Context(t.Context())
			_, tokenErr := c.Token(ctx)
			_, sourceErr := c.TokenSource(ctx).TokenContext(ctx)
			_, clientErr := c.Client(ctx).Post("https://api.acme.com", "", strings.NewReader("x"))
			_, jwksErr := c.JWKS()
			for _, other := range []error{tokenErr, sourceErr, errors.Unwrap(clientErr), jwksErr} {
				if other == nil || other.Error() != err.Error() {
					t.Errorf("got  %v\nwant %v", other, err)
				}
			}
			if n := len(stub.Requests()); n != 0 {
				t.Errorf("got %d requests; want none", n)
			}
		})
	}
}

func TestAConfigIsCopiedWhenASourceIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub := &kit.Stub{Replies: []string{opaque}}
		var log kit.Log
		c := conf()
		c.Resource, c.Scopes, c.Hosts, c.EndpointParams, c.Logger = "urn:x", []string{"s"}, []string{"api.acme.com"}, url.Values{"p": {"1", "2"}}, log.Logger(slog.LevelDebug)
		source, client := c.TokenSource(stub.Context(t.Context())), c.Client(stub.Context(t.Context()))
		c.Hosts[0], c.Scopes[0], c.EndpointParams["p"][0] = "evil.example", "changed", "changed"
		c.EndpointParams.Set("q", "changed")
		*c = mosaic.Config{ClientID: "changed", ClientSecret: "changed!", Endpoint: "https://evil.example", Resource: "urn:changed"}
		if _, err := source.Token(); err != nil {
			t.Fatal(err)
		}
		for _, url := range []string{"https://api.acme.com/x", "https://evil.example/x"} {
			if _, err := client.Get(url); err != nil {
				t.Error(err)
			}
		}
		sent := stub.Requests()
		for i, want := range []string{mosaic.EU.TokenURL(), mosaic.EU.TokenURL(), "https://api.acme.com/x", "https://evil.example/x"} {
			if r := sent[i]; r.URL != want || i < 2 && r.Body != form+"&p=1&p=2&resource=urn%3Ax&scope=s" || (r.Header.Get("Authorization") != "") != (i == 2) {
				t.Errorf("request %d: got %s, with a token: %t; want %s, by the Config as it was", i, r.URL, r.Header.Get("Authorization") != "", want)
			}
		}
		// A token request is one POST that has this header.
		if want := (http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}); sent[0].Method != "POST" || !reflect.DeepEqual(sent[0].Header, want) || len(sent) != 4 {
			t.Errorf("got %s with header %v, and %d requests; want POST with %v, and four", sent[0].Method, sent[0].Header, len(sent), want)
		}
		synctest.Wait()
		if n := log.Count("token obtained"); n != 2 {
			t.Errorf("got %d records; want both in the Logger as it was", n)
		}
	})
}

func TestTheContextsClientIsCopiedAndItsJarLeftAlone(t *testing.T) {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.FailNext(1, mosaictest.Fault{Status: 503, Header: http.Header{"Set-Cookie": {"edge=1; Path=/"}}})
	jar, _ := cookiejar.New(nil)
	own := *srv.Client()
	own.Jar, own.Timeout = jar, time.Minute
	before := own
	base, _ := url.Parse(string(srv.Endpoint()))
	jar.SetCookies(base, []*http.Cookie{{Name: "session", Value: "1"}})
	if _, err := srv.Config().Token(context.WithValue(t.Context(), oauth2.HTTPClient, &own)); err != nil {
		t.Fatal(err)
	}
	for i, r := range srv.TokenRequests() {
		if r.Header["Cookie"] != nil {
			t.Errorf("request %d: got a cookie; want none", i+1)
		}
	}
	if n := len(srv.TokenRequests()); n != 2 || len(jar.Cookies(base)) != 1 || !reflect.DeepEqual(own, before) {
		t.Errorf("got %d requests, %d cookies in the jar; want two, its own one, and the client as it was", n, len(jar.Cookies(base)))
	}
}

func TestWithoutAClientInTheContextTheDefaultOneIsUsed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"opaque","expires_in":60}`)
	}))
	defer srv.Close()
	c := conf()
	c.Endpoint = mosaic.Endpoint(srv.URL) // plain HTTP to a loopback host
	for _, ctx := range []context.Context{nil, t.Context(), context.WithValue(t.Context(), oauth2.HTTPClient, (*http.Client)(nil))} {
		if _, err := c.TokenSource(ctx).Token(); err != nil {
			t.Error(err)
		}
	}
}

func TestATokenEndsWithItsExpOnTheLocalClock(t *testing.T) {
	for _, skew := range []time.Duration{0, 3 * time.Second, -3 * time.Second, 9 * time.Second, -9 * time.Second, time.Hour, -time.Hour, 25 * time.Hour, -25 * time.Hour} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			srv.SetSkew(skew)
			srv.SetLatency(2*time.Second, time.Second)
			begun := time.Now()
			tok, err := srv.Config().Token(srv.Context(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			want := begun.Add(time.Hour) // a clock that is off is corrected by no more than is known
			if skew.Abs() <= 5*time.Second {
				want = want.Add(2*time.Second + skew) // too little to tell
			}
			if !tok.Expiry.Equal(want) || tok.Expiry != tok.Expiry.Round(0) {
				t.Errorf("%s: got an end %s after asking; want %s, without a monotonic reading", skew, tok.Expiry.Sub(begun), want.Sub(begun))
			}
		})
	}
}

// Credentials

func TestFilesAreReadAtEachCall(t *testing.T) {
	cert := kit.Certificate(t, "acme", kit.EC(), nil)
	f := mosaic.Files{
		ClientSecret: kit.File(t, secret+"\n"), PrivateKey: kit.File(t, kit.KeyPEM(t, kit.Ed25519())), KeyID: "k",
		Certificate: kit.File(t, kit.CertificatePEM(cert)), CertificateKey: kit.File(t, kit.KeyPEM(t, kit.EC())),
	}
	for _, want := range []string{secret, "replaced"} {
		c, err := f.Credentials(t.Context())
		if err != nil || c.ClientSecret != want || c.KeyID != "k" || !kit.Ed25519().(ed25519.PrivateKey).Equal(c.PrivateKey) || !bytes.Equal(c.Certificate.Certificate[0], cert.Leaf.Raw) {
			t.Errorf("got error %v; want what is in the files", err)
		}
		if err := os.WriteFile(f.ClientSecret, []byte("replaced"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := (mosaic.Files{KeyID: "k"}).Credentials(t.Context()); err != nil || c != (mosaic.Credentials{KeyID: "k"}) {
		t.Errorf("without a file: got error %v; want nothing else", err)
	}
	absent := filepath.Join(t.TempDir(), "absent")
	for _, f := range []mosaic.Files{{ClientSecret: absent}, {PrivateKey: absent}, {Certificate: absent, CertificateKey: absent}, {Certificate: f.Certificate, CertificateKey: absent}} {
		if c, err := f.Credentials(t.Context()); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "mosaic: ") || !strings.Contains(err.Error(), absent) || c != (mosaic.Credentials{}) {
			t.Errorf("%v: got error %v; want one that names the file", f, err)
		}
	}
	if got := fmt.Sprintf("%+v", f); !strings.Contains(got, f.PrivateKey) || strings.Contains(got, secret) {
		t.Error("Files printed show something else than paths")
	}
}

func TestFromEnv(t *testing.T) {
	cert := kit.Certificate(t, "acme", kit.EC(), nil)
	secretFile, keyFile := kit.File(t, secret+"\n"), kit.File(t, kit.KeyPEM(t, kit.Ed25519()))
	certFile, certKey := kit.File(t, kit.CertificatePEM(cert)), kit.File(t, kit.KeyPEM(t, kit.EC()))
	odd, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	oddCert, oddKey := kit.File(t, kit.CertificatePEM(kit.Certificate(t, "acme", odd, nil))), kit.File(t, kit.KeyPEM(t, odd))
	absent := filepath.Join(t.TempDir(), "absent")
	pem := string(kit.KeyPEM(t, kit.RSA()))
	type env = map[string]string
	for _, tt := range []struct {
		name string
		env  env      // beside CLIENT_ID and ENDPOINT, without MOSAIC_
		want string   // the Config printed, after the endpoint
		errs []string // or what the error says
	}{
		{"a secret", env{"CLIENT_SECRET": secret}, ``, nil},
		{"all else", env{"CLIENT_SECRET": secret, "RESOURCE": "urn:x", "SCOPES": " a  b", "HOSTS": "a.com b.com:1"}, `, Resource: "urn:x", Hosts: ["a.com" "b.com:1"], Scopes: ["a" "b"]`, nil},
		{"a secret, the others empty", env{"CLIENT_SECRET": secret, "CLIENT_SECRET_FILE": "", "PRIVATE_KEY_FILE": "", "CERTIFICATE_FILE": "", "KEY_ID": "", "SCOPES": " "}, ``, nil},
		{"a secret's file", env{"CLIENT_SECRET_FILE": secretFile}, ``, nil},
		{"a key", env{"PRIVATE_KEY_FILE": keyFile, "KEY_ID": "k", "SIGNING_ALGORITHM": "EdDSA", "ASSERTION_AUDIENCE": "urn:aud"}, ``, nil},
		{"a certificate", env{"CERTIFICATE_FILE": certFile, "CERTIFICATE_KEY_FILE": certKey}, ``, nil},
		{"a certificate beside a secret", env{"CLIENT_SECRET": secret, "CERTIFICATE_FILE": certFile, "CERTIFICATE_KEY_FILE": certKey}, ``, nil},
		{"a certificate beside a key", env{"PRIVATE_KEY_FILE": keyFile, "CERTIFICATE_FILE": certFile, "CERTIFICATE_KEY_FILE": certKey}, ``, nil},

		{"nothing", env{"CLIENT_ID": "", "ENDPOINT": ""}, "", []string{"MOSAIC_CLIENT_ID: ClientID is empty", `MOSAIC_ENDPOINT: endpoint "" is empty: want "sandbox"`,
			"MOSAIC_CLIENT_SECRET, MOSAIC_CLIENT_SECRET_FILE, MOSAIC_PRIVATE_KEY_FILE or MOSAIC_CERTIFICATE_FILE: set ClientSecret, PrivateKey or Certificate"}},
		{"mistakes everywhere", env{"CLIENT_SECRET": secret + "\n", "ENDPOINT": "mars", "RESOURCE": "x", "HOSTS": "https://a.com"}, "",
			[]string{"MOSAIC_CLIENT_SECRET or MOSAIC_CLIENT_SECRET_FILE: ClientSecret holds a control character", `MOSAIC_ENDPOINT: endpoint "mars"`, `MOSAIC_RESOURCE: Resource "x"`, `MOSAIC_HOSTS: Hosts: "https://a.com" is not a host`}},
		{"two secrets", env{"CLIENT_SECRET": secret, "CLIENT_SECRET_FILE": secretFile}, "", []string{"MOSAIC_CLIENT_SECRET or MOSAIC_CLIENT_SECRET_FILE: set only one of the two variables"}},
		{"a secret and a key", env{"CLIENT_SECRET": secret, "PRIVATE_KEY_FILE": keyFile}, "", []string{"MOSAIC_CLIENT_SECRET, MOSAIC_CLIENT_SECRET_FILE, MOSAIC_PRIVATE_KEY_FILE or MOSAIC_CERTIFICATE_FILE: ClientSecret and PrivateKey exclude"}},
		{"a quoted secret", env{"CLIENT_SECRET": "'" + secret + "'"}, "", []string{"MOSAIC_CLIENT_SECRET or MOSAIC_CLIENT_SECRET_FILE: ClientSecret begins or ends with"}},
		{"what a key needs", env{"CLIENT_SECRET": secret, "SIGNING_ALGORITHM": "RS256", "ASSERTION_AUDIENCE": "x"}, "", []string{"MOSAIC_SIGNING_ALGORITHM or MOSAIC_PRIVATE_KEY_FILE: SigningAlgorithm is set without", "MOSAIC_ASSERTION_AUDIENCE: AssertionAudience is set without"}},
		{"the same beside a file", env{"CLIENT_SECRET_FILE": secretFile, "KEY_ID": "k", "SIGNING_ALGORITHM": "RS256"}, "", []string{"MOSAIC_SIGNING_ALGORITHM or MOSAIC_PRIVATE_KEY_FILE: SigningAlgorithm is set without", "MOSAIC_KEY_ID: KeyID is set without PrivateKey"}},
		{"another algorithm", env{"PRIVATE_KEY_FILE": keyFile, "SIGNING_ALGORITHM": "RS256"}, "", []string{`MOSAIC_SIGNING_ALGORITHM or MOSAIC_PRIVATE_KEY_FILE: SigningAlgorithm "RS256" does not fit`}},
		{"no files", env{"CLIENT_SECRET_FILE": absent, "PRIVATE_KEY_FILE": absent}, "", []string{"MOSAIC_CLIENT_SECRET_FILE: ClientSecret \""}},
		{"no key file", env{"PRIVATE_KEY_FILE": absent}, "", []string{"MOSAIC_PRIVATE_KEY_FILE: PrivateKey \"", "no such file"}},
		{"a key itself", env{"PRIVATE_KEY_FILE": pem}, "", []string{"MOSAIC_PRIVATE_KEY_FILE: "}},
		{"a secret itself", env{"CLIENT_SECRET_FILE": secret}, "", []string{"MOSAIC_CLIENT_SECRET_FILE: "}},
		{"a secret as a key", env{"PRIVATE_KEY_FILE": secretFile}, "", []string{"MOSAIC_PRIVATE_KEY_FILE: PrivateKey \"", "not PEM"}},
		{"no key file of the certificate", env{"CERTIFICATE_FILE": certFile, "CERTIFICATE_KEY_FILE": absent}, "", []string{"MOSAIC_CERTIFICATE_FILE or MOSAIC_CERTIFICATE_KEY_FILE: CertificateKey \"", "no such file"}},
		{"a missing file, and mistakes elsewhere", env{"CLIENT_ID": "", "PRIVATE_KEY_FILE": absent, "KEY_ID": "k", "ASSERTION_AUDIENCE": "x", "RESOURCE": "x"}, "",
			[]string{"MOSAIC_CLIENT_ID: ", "MOSAIC_PRIVATE_KEY_FILE: ", "MOSAIC_RESOURCE: "}},
		{"no certificate file", env{"CERTIFICATE_FILE": absent, "CERTIFICATE_KEY_FILE": certKey}, "", []string{"MOSAIC_CERTIFICATE_FILE or MOSAIC_CERTIFICATE_KEY_FILE: Certificate \"", "no such file"}},
		{"no key of the certificate", env{"CERTIFICATE_FILE": certFile}, "", []string{"MOSAIC_CERTIFICATE_FILE or MOSAIC_CERTIFICATE_KEY_FILE: set both"}},
		{"another key of the certificate", env{"CERTIFICATE_FILE": certFile, "CERTIFICATE_KEY_FILE": keyFile}, "", []string{"MOSAIC_CERTIFICATE_FILE or MOSAIC_CERTIFICATE_KEY_FILE: Certificate \"", "private key "}},
		{"an odd key of the certificate", env{"CERTIFICATE_FILE": oddCert, "CERTIFICATE_KEY_FILE": oddKey}, "", []string{"MOSAIC_CERTIFICATE_FILE or MOSAIC_CERTIFICATE_KEY_FILE: Certificate has a private key that is not a valid ECDSA key"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := mosaic.FromEnv(func(name string) string { // as with a prefix
				name, known := strings.CutPrefix(name, "MOSAIC_")
				if value, ok := tt.env[name]; ok || !known {
					return value
				}
				return env{"CLIENT_ID": "acme", "ENDPOINT": "EU"}[name]
			})
			if tt.errs != nil {
				if err == nil || c != nil || !strings.HasPrefix(err.Error(), "mosaic: invalid environment: ") {
					t.Fatalf("got error %v; want %q", err, tt.errs)
				}
				kit.OneLine(t, err, 1000)
				kit.NoSecret(t, err, secret, pem[30:60])
				for _, want := range tt.errs {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("got %v; want %s in it", err, want)
					}
				}
				mistakes := strings.Split(strings.TrimPrefix(err.Error(), "mosaic: invalid environment: "), "; ")
				if slices.ContainsFunc(mistakes, func(text string) bool { return !strings.HasPrefix(text, "MOSAIC_") }) {
					t.Errorf("got %v; want a variable in front of each mistake", err)
				}
				return
			}
			if err != nil || c.Validate() != nil {
				t.Fatalf("got error %v, and %v of Validate", err, c.Validate())
			}
			got := mosaic.Credentials{ClientSecret: c.ClientSecret}
			if c.GetCredentials != nil {
				if got, err = c.GetCredentials(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			has := func(names ...string) bool {
				return slices.ContainsFunc(names, func(name string) bool { return tt.env[name] != "" })
			}
			if (got.ClientSecret == secret) != has("CLIENT_SECRET", "CLIENT_SECRET_FILE") || (got.PrivateKey != nil) != has("PRIVATE_KEY_FILE") || (got.Certificate != nil) != has("CERTIFICATE_FILE") ||
				got.KeyID != tt.env["KEY_ID"] || c.SigningAlgorithm != tt.env["SIGNING_ALGORITHM"] || c.AssertionAudience != tt.env["ASSERTION_AUDIENCE"] {
				t.Error("got other credentials than the variables name")
			}
			if text := c.String(); !strings.HasPrefix(text, `mosaic.Config{ClientID: "acme", `) || !strings.HasSuffix(text, `Endpoint: "https://api.eu.transmitsecurity.io"`+tt.want+"}") {
				t.Errorf("got %s; want %s at the end", text, tt.want)
			}
		})
	}
}

func TestNothingPrintedShowsASecret(t *testing.T) {
	const secret = "Zq8secret-Zq8" // nothing else looks like it
	key := ed25519.NewKeyFromSeed([]byte("secretsecretsecretsecretsecretsec")[:32])
	c := conf()
	c.ClientSecret, c.Resource, c.Scopes, c.Hosts, c.TLSClientAuth = secret, mosaic.FraudPrevention, []string{"a"}, []string{"api.acme.com"}, true
	c.PrivateKey, c.KeyID, c.SigningAlgorithm, c.AssertionAudience = key, "k", "EdDSA", "urn:aud"
	c.Certificate = &tls.Certificate{PrivateKey: key}
	c.EndpointParams = url.Values{"b": {secret}, "a": {"1"}}
	c.GetCredentials = func(context.Context) (mosaic.Credentials, error) {
		return mosaic.Credentials{ClientSecret: secret}, nil
	}
	creds := &mosaic.Credentials{ClientSecret: secret, PrivateKey: key, KeyID: "k", SigningAlgorithm: "EdDSA", Certificate: c.Certificate}
	const fields = `ClientSecret: [redacted], PrivateKey: [redacted], Certificate: [redacted], KeyID: "k", SigningAlgorithm: "EdDSA"`
	const wantConfig = `mosaic.Config{ClientID: "acme", ` + fields + `, AssertionAudience: "urn:aud", GetCredentials: set, TLSClientAuth: true, Endpoint: "https://api.eu.transmitsecurity.io", ` +
		`Resource: "https://risk.identity.security", Hosts: ["api.acme.com"], Scopes: ["a"], EndpointParams: ["a" "b"]}`
	const wantCreds = `mosaic.Credentials{` + fields + `}`
	for _, tt := range []struct {
		value interface {
			fmt.Stringer
			MarshalText() ([]byte, error)
		}
		want string
	}{
		{mosaic.Config{}, "mosaic.Config{}"}, {mosaic.Credentials{}, "mosaic.Credentials{}"},
		{mosaic.Config{Endpoint: "https://acme:" + secret + "@acme.com", Hosts: []string{"acme:" + secret + "@acme.com"}, Resource: "https://a:" + secret + "@acme.com"},
			`mosaic.Config{Endpoint: "https://[redacted]@acme.com", Resource: "https://[redacted]@acme.com", Hosts: ["[redacted]@acme.com"]}`},
		{c, wantConfig}, {*c, wantConfig}, {creds, wantCreds}, {*creds, wantCreds},
	} {
		text, _ := tt.value.MarshalText()
		encoded, _ := json.Marshal(tt.value)
		decoded := ""
		if err := json.Unmarshal(encoded, &decoded); tt.value.String() != tt.want || string(text) != tt.want || decoded != tt.want || err != nil {
			t.Errorf("%T: got another text than %s", tt.value, tt.want)
		}
		if got := slog.AnyValue(tt.value).Resolve(); got.Kind() != slog.KindString || got.String() != tt.want {
			t.Errorf("%T: a log handler gets another text than %s", tt.value, tt.want)
		}
		everyFormat(func(format string) {
			if got := fmt.Sprintf(format, tt.value); got != tt.want {
				t.Errorf("%s of %T: got another text than %s", format, tt.value, tt.want)
			}
		})
	}

	live := conf()
	live.ClientSecret = secret
	stub := &kit.Stub{Replies: []string{kit.TokenReply(secret, `"expires_in":60`)}} // so that one hunt does for the token, too
	ctx := kit.Over(t.Context(), kit.RoundTripper(stub.RoundTrip))                  // whose replies fmt does not see
	source, client := live.TokenSource(ctx), live.Client(ctx)
	if _, err := source.Token(); err != nil {
		t.Fatal(err)
	}
	if res, err := client.Get(mosaic.EU.URL("/risk")); err != nil || res.Request.Header["Authorization"] != nil {
		t.Errorf("got error %v, or [found] the token in the response's request", err)
	}
	stub.Replies = []string{kit.Reply("400 "+secret, "Content-Type: text/plain", secret)}
	_, err := live.Token(ctx)
	type holder struct {
		Config *mosaic.Config
		Creds  mosaic.Credentials
		source *mosaic.TokenSource
	}
	values := []any{source, *source, client, *client, client.Transport, holder{c, *creds, source}, &holder{c, *creds, source}, []*mosaic.Config{c}, map[string]mosaic.Credentials{"c": *creds}, err, live.Validate}
	spellings := []string{"secret", "115 101 99 114 101 116", "c2VjcmV0"}
	for _, format := range []string{"%x", "%X", "% x", "% X", "%# x"} {
		spellings = append(spellings, fmt.Sprintf(format, "secret"))
	}
	var logged bytes.Buffer
	for _, v := range values {
		seek := func(where, text string) {
			for _, spelled := range spellings {
				if strings.Contains(text, spelled) {
					t.Errorf("[found] by %s of %T", where, v)
				}
			}
		}
		everyFormat(func(format string) { seek(format, fmt.Sprintf(format, v)) })
		encoded, _ := json.Marshal(v)
		seek("json", string(encoded))
		for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
			logged.Reset()
			slog.New(handler).With("with", v).Info("message", "value", v, slog.Group("g", "v", v))
			seek(fmt.Sprintf("%T", handler), logged.String())
		}
	}
}

// everyFormat calls f with every verb and flag of fmt, except for %T, %p and %w, which do not format.
func everyFormat(f func(format string)) {
	for verb := 'A'; verb <= 'z'; verb++ {
		if !strings.ContainsRune("[\\]^_`Tpw", verb) {
			for _, flags := range []string{"", "+", "-", "#", " ", "0", "+#", "30.3", "# 0"} {
				f("%" + flags + string(verb))
			}
		}
	}
}

func TestAConfigIsLoadedFromJSON(t *testing.T) {
	var got mosaic.Config
	err := json.Unmarshal([]byte(`{"ClientID":"acme","ClientSecret":"s","KeyID":"k","Endpoint":"eu","Resource":"urn:x","Hosts":["h"],"Scopes":["a"],"EndpointParams":{"p":["1"]},"PrivateKey":null,"TLSClientAuth":true}`), &got)
	want := mosaic.Config{ClientID: "acme", ClientSecret: "s", KeyID: "k", Endpoint: mosaic.EU, Resource: "urn:x", Hosts: []string{"h"}, Scopes: []string{"a"}, EndpointParams: url.Values{"p": {"1"}}, TLSClientAuth: true}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got another Config, error %v", err)
	}
	if err := json.Unmarshal([]byte(`{"Endpoint":"mars"}`), &got); err == nil || !strings.Contains(err.Error(), `"mars" is not a URL`) {
		t.Errorf("got error %v; want ParseEndpoint's", err)
	}
}

// Claims

func TestParseClaims(t *testing.T) {
	registered := func(subject string) *mosaic.Claims {
		return &mosaic.Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: subject}}
	}
	for _, tt := range []struct {
		name, token string
		want        *mosaic.Claims
	}{
		{"Mosaic's documented example", kit.JWT(`{"tid":"6oi3tjkijshdfgekwjfwey9","app_name":"Acme","app_id":"zl2trg3sanjsd63qs7se","roles":[],"jti":"ABCSrjsReaYKk-FSHHZU","sub":"u6jkjhsdf87efbwv57u","iat":1675590719,"exp":1675594319,"scope":"openid offline_access","client_id":"pVEZaxjhbdshcudsLe","iss":"https://userid.security","aud":"userid-api","ts_roles":["reader"],"ts_permissions":["read:user"]}`),
			&mosaic.Claims{
				RegisteredClaims: jwt.RegisteredClaims{
					Issuer: "https://userid.security", Subject: "u6jkjhsdf87efbwv57u", Audience: jwt.ClaimStrings{"userid-api"}, ID: "ABCSrjsReaYKk-FSHHZU",
					IssuedAt: jwt.NewNumericDate(time.Unix(1675590719, 0)), ExpiresAt: jwt.NewNumericDate(time.Unix(1675594319, 0)),
				},
				Scope: "openid offline_access", ClientID: "pVEZaxjhbdshcudsLe", AppID: "zl2trg3sanjsd63qs7se", AppName: "Acme", TenantID: "6oi3tjkijshdfgekwjfwey9",
				Roles: []string{}, TSRoles: []string{"reader"}, TSPermissions: []string{"read:user"},
			}},
		{"an admin token, for two services, bound", kit.JWT(`{"role":["admin"],"roles":["a","b"],"aud":["x","y"],"cnf":{"x5t#S256":"abc"},"further":1}`),
			&mosaic.Claims{
				RegisteredClaims: jwt.RegisteredClaims{Audience: jwt.ClaimStrings{"x", "y"}},
				Role:             []string{"admin"}, Roles: []string{"a", "b"}, Confirmation: &mosaic.Confirmation{CertificateThumbprint: "abc"},
			}},
		{"an algorithm that nobody knows", "eyJhbGciOiJYWTk5OSJ9.eyJzdWIiOiJhY21lIn0.c2ln", registered("acme")},
		{"no algorithm", "e30.eyJzdWIiOiJhY21lIn0.", registered("acme")},
		{"nothing", "", nil},
		{"an opaque token", "opaque-token", nil},
		{"no base64", "opa!que.papaya.xyzzy", nil},
		{"five parts", kit.JWT("") + ".abcd.efgh", nil},
		{"a scope that is a list", kit.JWT(`{"scope":["openid"]}`), nil},
		{"no object", kit.JWT(`"%s"`, strings.Repeat("payload", 100)), nil},
		{"an exp that is a text", kit.JWT(`{"exp":"%s"}`, strings.Repeat("payload\\n", 100)), nil},
	} {
		got, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: tt.token})
		if (err == nil) != (tt.want != nil) || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\ngot  %+v, error %v\nwant %+v", tt.name, got, err, tt.want)
		}
		if err != nil {
			kit.OneLine(t, err, 400)
			for _, part := range strings.Split(tt.token, ".") {
				if len(part) > 3 && (strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "payload")) {
					t.Errorf("%s: [found] the token, or a part of it, in the error", tt.name)
				}
			}
		}
	}
	if _, err := mosaic.ParseClaims(nil); err == nil || !strings.Contains(err.Error(), "nil token") {
		t.Errorf("got %v; want an error for a nil token", err)
	}
}

func FuzzParseClaims(f *testing.F) {
	for _, token := range []string{
		"", "opaque", "a.b.c", "e30.e30.", kit.JWT(`{}`), kit.JWT(`{"exp":1e300,"aud":7}`), kit.JWT(`{"aud":["a",1]}`), kit.JWT(`{"cnf":null,"roles":null}`),
		kit.JWT(`{"exp":"\u0000\n"}`), kit.JWT(`[]`), "bnVsbA.bnVsbA.", "eyJhbGciOjF9.e30.", "eyJhIjoxfQ.e30.e30.e30.e30",
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: token})
		if err != nil {
			kit.OneLine(t, err, 400)
		}
		if (err == nil) != (claims != nil) {
			t.Errorf("got claims: %t, error %v; want one of them", claims != nil, err)
		}
	})
}

// TokenSource

func TestAZeroTokenSourceSaysWhereItsLikesAreMade(t *testing.T) {
	s := new(mosaic.TokenSource)
	s.Invalidate(nil)
	s.Invalidate(&oauth2.Token{AccessToken: "opaque"})
	if _, err := s.Token(); err == nil || !strings.Contains(err.Error(), "Config.TokenSource") {
		t.Errorf("got %v; want an error that names Config.TokenSource", err)
	}
}

// Benchmarks, beside the token source of clientcredentials

// contenders returns both token sources anew, over the same server.
func contenders(srv *mosaictest.Server) []contender {
	return []contender{
		{"mosaic", func(ctx context.Context) oauth2.TokenSource { return srv.Config().TokenSource(ctx) }},
		{"clientcredentials", func(ctx context.Context) oauth2.TokenSource {
			c := srv.Config()
			return (&clientcredentials.Config{
				ClientID: c.ClientID, ClientSecret: c.ClientSecret, TokenURL: c.Endpoint.TokenURL(), AuthStyle: oauth2.AuthStyleInParams,
			}).TokenSource(ctx)
		}},
	}
}

type contender struct {
	name   string
	source func(context.Context) oauth2.TokenSource
}

// BenchmarkToken is a call that finds a token, by so many goroutines at a time.
func BenchmarkToken(b *testing.B) {
	srv := mosaictest.NewServer()
	defer srv.Close()
	for _, goroutines := range []int{1, 10, 100, 1000} {
		for _, c := range contenders(srv) {
			b.Run(fmt.Sprintf("goroutines=%d/%s", goroutines, c.name), func(b *testing.B) {
				source := c.source(srv.Context(b.Context()))
				if _, err := source.Token(); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for i := range goroutines {
					calls := b.N / goroutines
					if i < b.N%goroutines {
						calls++
					}
					wg.Go(func() {
						for range calls {
							source.Token()
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkTokenColdHerd is a thousand goroutines that want the first token.
func BenchmarkTokenColdHerd(b *testing.B) {
	srv := mosaictest.NewServer()
	defer srv.Close()
	for _, c := range contenders(srv) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				source := c.source(srv.Context(b.Context()))
				var wg sync.WaitGroup
				for range 1000 {
					wg.Go(func() {
						if _, err := source.Token(); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
		})
	}
}

// BenchmarkTokenDuringRenewal is a call while a renewal is under way, at an
// endpoint that takes 50 ms. Its ns/op are those of one such call; it meets a
// renewal about once a second.
func BenchmarkTokenDuringRenewal(b *testing.B) {
	const latency = 50 * time.Millisecond
	srv := mosaictest.NewServer()
	defer srv.Close()
	for _, c := range contenders(srv) {
		b.Run(c.name, func(b *testing.B) {
			srv.SetLifetime(2 * time.Second)
			if c.name != "mosaic" {
				srv.SetLifetime(11 * time.Second) // ten seconds before its end x/oauth2 renews it
			}
			var renewing atomic.Bool
			begun := make(chan struct{}, 1)
			ctx := kit.Over(b.Context(), kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
				renewing.Store(true)
				defer renewing.Store(false)
				select {
				case begun <- struct{}{}:
				default: // the benchmark is over
				}
				time.Sleep(latency)
				return srv.Client().Transport.RoundTrip(r)
			}))
			source := c.source(ctx)
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { // whose calls have the token renewed
				for {
					select {
					case <-done:
						return
					case <-time.After(time.Millisecond):
						source.Token()
					}
				}
			})
			<-begun
			source.Token()

			var calls int
			var took time.Duration
			for b.Loop() {
				<-begun
				for start := time.Now(); ; {
					source.Token()
					calls++
					if !renewing.Load() {
						took += time.Since(start)
						break
					}
				}
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(calls), "ns/op")
			close(done)
			wg.Wait()
		})
	}
}

// idle is a transport that hands out one token of 900 bytes and does nothing else.
type idle struct{ res http.Response }

func (b idle) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/oidc/token" {
		res := b.res // the caller's own
		return &res, nil
	}
	rec := httptest.NewRecorder()
	rec.Header().Set("Content-Type", "application/json")
	io.WriteString(rec, `{"access_token":"`+strings.Repeat("a", 900)+`","token_type":"Bearer","expires_in":86400}`)
	return rec.Result(), nil
}

// BenchmarkTokenCold is one token request, with fixed credentials and with GetCredentials.
func BenchmarkTokenCold(b *testing.B) {
	ctx := kit.Over(context.Background(), idle{})
	fixed := conf()
	getting := &mosaic.Config{ClientID: fixed.ClientID, Endpoint: fixed.Endpoint, GetCredentials: func(context.Context) (mosaic.Credentials, error) {
		return mosaic.Credentials{ClientSecret: secret}, nil
	}}
	for _, c := range []struct {
		name string
		*mosaic.Config
	}{{"fixed", fixed}, {"GetCredentials", getting}} {
		for name, token := range map[string]func() (*oauth2.Token, error){
			"Config":      func() (*oauth2.Token, error) { return c.Token(ctx) },
			"TokenSource": func() (*oauth2.Token, error) { return c.TokenSource(ctx).Token() },
		} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := token(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkWarmRequest is what a client's transport costs a request when there is
// a token: beside oauth2.Transport over the same source that x/oauth2 would use,
// and beside the bare base transport, whose time is to be taken off both.
func BenchmarkWarmRequest(b *testing.B) {
	base := idle{http.Response{StatusCode: http.StatusOK, Body: http.NoBody}}
	ctx := kit.Over(context.Background(), base)
	theirs := &clientcredentials.Config{ClientID: "acme", ClientSecret: secret, TokenURL: mosaic.EU.TokenURL()}
	for _, transport := range []struct {
		name string
		http.RoundTripper
	}{
		{"base", base},
		{"mosaic", conf().Client(ctx).Transport},
		{"oauth2", theirs.Client(ctx).Transport},
	} {
		request := func() *http.Request {
			req, err := http.NewRequest("GET", mosaic.EU.URL("/risk/v1/recommendation"), nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Accept", "application/json")
			req.Header.Set("User-Agent", "bench")
			if _, err := transport.RoundTrip(req); err != nil { // the first gets the token
				b.Fatal(err)
			}
			return req
		}
		b.Run(transport.name+"/serial", func(b *testing.B) {
			req := request()
			b.ReportAllocs()
			for b.Loop() {
				transport.RoundTrip(req)
			}
		})
		b.Run(transport.name+"/parallel", func(b *testing.B) {
			request()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				req := request()
				for pb.Next() {
					transport.RoundTrip(req)
				}
			})
		})
	}
}
