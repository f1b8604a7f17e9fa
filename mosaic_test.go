package mosaic_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// Endpoint

func TestParseEndpointAcceptsNamesURLsAndDomains(t *testing.T) {
	for _, tt := range []struct {
		text string
		want mosaic.Endpoint
	}{
		{"eu", "https://api.eu.transmitsecurity.io"},
		{"EU", mosaic.EU},
		{"https://AZ-09_az.Zz.aA", "https://az-09_az.zz.aa"},
		{"Us", mosaic.US},
		{"us", "https://api.transmitsecurity.io"},
		{"ca", "https://api.ca.transmitsecurity.io"},
		{"CA", mosaic.CA},
		{"au", "https://api.au.transmitsecurity.io"},
		{"AU", mosaic.AU},
		{"sandbox", "https://api.sbx.transmitsecurity.io"},
		{"SBX", mosaic.Sandbox},
		{"https://api.eu.transmitsecurity.io", mosaic.EU},
		{"https://api.eu.transmitsecurity.io/", mosaic.EU},
		{"HTTPS://API.EU.TransmitSecurity.IO/", mosaic.EU},
		{"api.eu.transmitsecurity.io", mosaic.EU},
		{"login.acme.com", "https://login.acme.com"},
		{"Login.Acme.com/", "https://login.acme.com"},
		{"login.acme.com:8443", "https://login.acme.com:8443"},
		{"https://login.acme.com:443", "https://login.acme.com"},
		{"https://login.acme.com:0443", "https://login.acme.com"},
		{"https://login.acme.com:80", "https://login.acme.com:80"},
		{"https://login.acme.com:1", "https://login.acme.com:1"},
		{"https://login.acme.com:65535", "https://login.acme.com:65535"},
		{"https://xn--mller-kva.example", "https://xn--mller-kva.example"},
		{"https://my_host-1", "https://my_host-1"},
		{"https://" + strings.Repeat("a", 63) + ".com", mosaic.Endpoint("https://" + strings.Repeat("a", 63) + ".com")},
		{strings.Repeat("a.", 126) + "a", mosaic.Endpoint("https://" + strings.Repeat("a.", 126) + "a")},
		{"10.0.0.1", "https://10.0.0.1"},
		{"https://[2001:DB8:0::1]:443", "https://[2001:db8::1]"},
		{"http://localhost:8080", "http://localhost:8080"},
		{"http://LOCALHOST:80/", "http://localhost"},
		{"http://127.8.9.1:8080", "http://127.8.9.1:8080"},
		{"http://[::1]:8080", "http://[::1]:8080"},
	} {
		got, err := mosaic.ParseEndpoint(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("%q: got %q, error %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

const wanted = `: want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"`

func TestParseEndpointRefuses(t *testing.T) {
	const (
		empty   = "is empty"
		name    = "is no known name"
		noURL   = "is no URL"
		http    = "is not https (plain http is for loopback hosts alone)"
		scheme  = "is not https"
		user    = "holds user information"
		path    = "has a path (give the base URL, without /oidc/token)"
		query   = "has a query or a fragment"
		port    = "has a bad port"
		host    = "has a bad host"
		control = "holds a control character"
		ascii   = `holds a character that is not ASCII (an international domain is given in its "xn--" form)`
	)
	for _, tt := range []struct{ text, why string }{
		{"", empty}, {" ", empty}, {"\t\n", empty},
		{"mars", name}, {" eu", name}, {"eu ", name}, {"localhost", name}, {"localhost:8080", name},
		{"http://api.acme.com", http}, {"http://localhost.acme.com", http}, {"http://127.0.0.1.acme.com", http}, {"http://10.0.0.1", http}, {"http://[::2]", http},
		{"ftp://api.acme.com", scheme}, {"ws://localhost", scheme},
		{"https://user@api.acme.com", user}, {"https://@api.acme.com", user},
		{"https://api.acme.com/oidc/token", path}, {"api.acme.com/oidc/token", path}, {"https://api.acme.com//", path},
		{"https://api.acme.com?", query}, {"https://api.acme.com/?a=b", query}, {"https://api.acme.com#", query}, {"api.acme.com#a", query},
		{"https://api.acme.com:0", port}, {"https://api.acme.com:65536", port}, {"https://api.acme.com:", port}, {"http://localhost:00", port},
		{"https://api.acme.com:+1", noURL}, {"https://api.acme.com:x", noURL}, {"https:api.acme.com", noURL}, {"https:/api.acme.com", path}, {"https://[::1", noURL}, {"https://a b.com", noURL},
		{"https://", host}, {"https://:443", host}, {"https://api.acme.com.", host}, {"https://api..acme.com", host}, {"https://.acme.com", host},
		{"https://*.acme.com", host}, {"https://" + strings.Repeat("a", 64), host}, {"https://" + strings.Repeat("a.", 126) + "aa", host},
		{"https://[::1%25eth0]", host}, {"https://[fe80::1]1", noURL},
		{"https://api.acme.com\n", control}, {"eu\n", control}, {"https://api\x00.acme.com", control}, {"api.acme.com\x7f", control},
		{"https://bücher.example", ascii}, {"https://api.acme.com\u00a0", ascii}, {"\u212a.com", ascii},
	} {
		got, err := mosaic.ParseEndpoint(tt.text)
		if err == nil {
			t.Errorf("%q: got %q; want an error", tt.text, got)
			continue
		}
		if want := " " + tt.why + wanted; got != "" || !strings.HasPrefix(err.Error(), `mosaic: endpoint "`) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: got %q, error %q; want an error that ends in %q", tt.text, got, err, want)
		}
		if len(tt.text) <= 64 && !strings.Contains(err.Error(), fmt.Sprintf("%q", tt.text)) && tt.why != user {
			t.Errorf("%q: got error %q; want the value quoted", tt.text, err)
		}
	}
}

func TestParseEndpointQuotes64BytesAndNoPassword(t *testing.T) {
	long := strings.Repeat("a", 60)
	for text, want := range map[string]string{
		"mars":                                        `mosaic: endpoint "mars" is no known name` + wanted,
		"https://" + long[:56] + "/":                  "",
		"https://" + long + "/x":                      `mosaic: endpoint "https://` + long[:53] + `…" has a path (give the base URL, without /oidc/token)` + wanted,
		"https://" + long[:55] + "\u00fc":             `mosaic: endpoint "https://` + long[:53] + `…" holds a character that is not ASCII (an international domain is given in its "xn--" form)` + wanted,
		"https://user:hunter2@acme.com":               `mosaic: endpoint "https://[redacted]@acme.com" holds user information` + wanted,
		"https://user:hun@ter/2@acme.com":             `mosaic: endpoint "https://[redacted]@acme.com" holds user information` + wanted,
		"user:hun://ter2@acme.com":                    `mosaic: endpoint "[redacted]@acme.com" has a bad host` + wanted,
		"user:hunter2@acme.com":                       `mosaic: endpoint "[redacted]@acme.com" holds user information` + wanted,
		"https://user:hunter2" + long + "@acme.com/x": `mosaic: endpoint "https://[redacted]@acme.com/x" holds user information` + wanted,
	} {
		_, err := mosaic.ParseEndpoint(text)
		if got := fmt.Sprint(err); want != "" && got != want || want == "" && err != nil {
			t.Errorf("%q:\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestEndpointIsReadFromFlagsAndJSON(t *testing.T) {
	var e mosaic.Endpoint
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.TextVar(&e, "endpoint", mosaic.EU, "")
	if err := flags.Parse(nil); err != nil || e != mosaic.EU {
		t.Errorf("got %q, error %v; want the default", e, err)
	}
	if err := flags.Parse([]string{"-endpoint=AU"}); err != nil || e != mosaic.AU {
		t.Errorf("got %q, error %v; want %q", e, err, mosaic.AU)
	}
	if err := flags.Parse([]string{"-endpoint=mars"}); err == nil || e != mosaic.AU {
		t.Errorf("got %q, error %v; want an error, and the former value", e, err)
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
	for _, tt := range []struct{ got, want string }{
		{mosaic.EU.TokenURL(), "https://api.eu.transmitsecurity.io/oidc/token"},
		{mosaic.Endpoint("https://acme.com/").TokenURL(), "https://acme.com/oidc/token"},
		{mosaic.US.URL("/risk/v1/recommendation?a=b#c"), "https://api.transmitsecurity.io/risk/v1/recommendation?a=b#c"},
		{mosaic.US.URL("cis/v1/users/"), "https://api.transmitsecurity.io/cis/v1/users/"},
		{mosaic.US.URL("//evil.example/x"), "https://api.transmitsecurity.io/evil.example/x"},
		{mosaic.US.URL("@evil.example"), "https://api.transmitsecurity.io/@evil.example"},
		{mosaic.US.URL(""), "https://api.transmitsecurity.io/"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q; want %q", tt.got, tt.want)
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
			wantOneLine(t, err, 600)
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

// Config

// conf returns a valid Config.
func conf() *mosaic.Config {
	return &mosaic.Config{ClientID: "acme", ClientSecret: secret, Endpoint: mosaic.EU}
}

// secret is special in a form, in JSON and in HTML.
const secret = `s3cret&="<'+/>% ü`

func TestValidateNamesEachField(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*mosaic.Config)
		want   string // "": valid
	}{
		{"nothing", func(c *mosaic.Config) {}, ""},
		{"everything", func(c *mosaic.Config) {
			c.Resource, c.Scopes, c.Hosts = mosaic.FraudPrevention, []string{"a"}, []string{"api.acme.com", "API.acme.com:8443", "[::1]:1"}
			c.EndpointParams = url.Values{"audience": {"x"}}
		}, ""},
		{"no ClientID", func(c *mosaic.Config) { c.ClientID = "" }, "ClientID is empty"},
		{"ClientID with a line end", func(c *mosaic.Config) { c.ClientID = "acme\n" }, "ClientID holds a control character (a line end read from a file?)"},
		{"ClientID with a DEL", func(c *mosaic.Config) { c.ClientID = "ac\x7fme" }, "ClientID holds a control character (a line end read from a file?)"},
		{"no ClientSecret", func(c *mosaic.Config) { c.ClientSecret = "" }, "ClientSecret is empty, and there is neither PrivateKey nor Certificate in its place"},
		{"ClientSecret with a line end", func(c *mosaic.Config) { c.ClientSecret += "\r\n" }, "ClientSecret holds a control character (a line end read from a file?)"},
		{"KeyID alone", func(c *mosaic.Config) { c.KeyID = "k" }, "KeyID is set without PrivateKey"},
		{"SigningAlgorithm alone", func(c *mosaic.Config) { c.SigningAlgorithm = "RS256" }, "SigningAlgorithm is set without PrivateKey"},
		{"AssertionAudience alone", func(c *mosaic.Config) { c.AssertionAudience = "x" }, "AssertionAudience is set without PrivateKey"},
		{"no Endpoint", func(c *mosaic.Config) { c.Endpoint = "" }, "Endpoint is empty: set the region that the credentials belong to, such as mosaic.EU"},
		{"a name as Endpoint", func(c *mosaic.Config) { c.Endpoint = "eu" }, `Endpoint "eu" is a name, not a base URL: use mosaic.EU, or ParseEndpoint for text`},
		{"another name", func(c *mosaic.Config) { c.Endpoint = "SBX" }, `Endpoint "SBX" is a name, not a base URL: use mosaic.Sandbox, or ParseEndpoint for text`},
		{"a domain as Endpoint", func(c *mosaic.Config) { c.Endpoint = "acme.com" }, `Endpoint "acme.com" is no known name: use a constant such as mosaic.EU, or ParseEndpoint for text`},
		{"a password in Endpoint", func(c *mosaic.Config) { c.Endpoint = "https://a:hunter2@acme.com" }, `Endpoint "https://[redacted]@acme.com" holds user information: use a constant such as mosaic.EU, or ParseEndpoint for text`},
		{"no URI as Resource", func(c *mosaic.Config) { c.Resource = "risk" }, `Resource "risk" is not an absolute URI (RFC 8707 §2)`},
		{"a URL as Hosts", func(c *mosaic.Config) { c.Hosts = []string{"a.com", "https://b.com"} }, `Hosts: "https://b.com" has a bad port: want a host name, with a port or without`},
		{"no hosts", func(c *mosaic.Config) { c.Hosts = []string{"", "[127.0.0.1]", "a.com:+1"} }, `Hosts: "" has a bad host: want a host name, with a port or without; ` +
			`Hosts: "[127.0.0.1]" has a bad host: want a host name, with a port or without; Hosts: "a.com:+1" has a bad port: want a host name, with a port or without`},
		{"own parameters", func(c *mosaic.Config) {
			c.EndpointParams = url.Values{"scope": {"x"}, "resource": nil, "audience": {"y"}}
		}, `EndpointParams may not set "resource"; EndpointParams may not set "scope"`},
		{"all at once", func(c *mosaic.Config) {
			*c = mosaic.Config{Resource: "#", Hosts: []string{"a b"}, EndpointParams: url.Values{"client_secret": {secret}}}
		}, `ClientID is empty; ` +
			`ClientSecret is empty, and there is neither PrivateKey nor Certificate in its place; ` +
			`Endpoint is empty: set the region that the credentials belong to, such as mosaic.EU; ` +
			`Resource "#" is not an absolute URI (RFC 8707 §2); ` +
			`Hosts: "a b" has a bad host: want a host name, with a port or without; ` +
			`EndpointParams may not set "client_secret"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := conf()
			tt.change(c)
			err := c.Validate()
			if tt.want == "" {
				if err != nil {
					t.Errorf("got error %q; want none", err)
				}
				return
			}
			want := "mosaic: invalid Config: " + tt.want
			if err == nil || err.Error() != want {
				t.Fatalf("got  %v\nwant %s", err, want)
			}

			// Whatever is made of it says the same, and sends nothing.
			s := new(stub)
			ctx := s.context(t)
			_, tokenErr := c.Token(ctx)
			_, sourceErr := c.TokenSource(ctx).TokenContext(ctx)
			_, clientErr := c.Client(ctx).Post("https://api.acme.com", "", strings.NewReader("x"))
			for _, err := range []error{tokenErr, sourceErr, errors.Unwrap(clientErr)} {
				if err == nil || err.Error() != want {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
			if n := len(s.requests()); n != 0 {
				t.Errorf("got %d requests; want none", n)
			}
		})
	}
}

func TestEndpointParamsMayNotSetOwnParameters(t *testing.T) {
	for _, name := range []string{"client_assertion", "client_assertion_type", "client_id", "client_secret", "grant_type", "resource", "scope"} {
		c := conf()
		c.EndpointParams = url.Values{name: {"x"}}
		if err, want := c.Validate(), fmt.Sprintf("mosaic: invalid Config: EndpointParams may not set %q", name); err == nil || err.Error() != want {
			t.Errorf("got %v; want %s", err, want)
		}
	}
}

func TestResourceIsAnAbsoluteURISentAsItIs(t *testing.T) {
	for _, r := range []mosaic.Resource{
		"https://verify.identity.security", "https://risk.identity.security", "https://dv.identity.security",
		"HTTPS://API.Acme.com:443/a/../b/", "https://acme.com?x=%41&y=z+", "urn:example:api", "custom:", "http://acme.com", "spiffe:///x", "//",
		"https://", "https:", "https:/x", "https://:443", "risk", "/risk", "", "https://acme.com#", "urn:a#b", "https://acme.com/a b", " https://acme.com", "https://acme.com\n", "https://bücher.example", "https://acme.com/%zz", "https://a:hunter2@acme.com#x",
	} {
		c := conf()
		c.Resource = r
		s := &stub{replies: []string{ok("opaque", `"expires_in":60`)}}
		_, err := c.Token(s.context(t))
		valid := slices.Index([]mosaic.Resource{mosaic.IdentityVerification, mosaic.FraudPrevention, mosaic.DataValidation, mosaic.DetectionAndResponse,
			"HTTPS://API.Acme.com:443/a/../b/", "https://acme.com?x=%41&y=z+", "urn:example:api", "http://acme.com", "spiffe:///x", ""}, r) >= 0
		switch sent := s.requests(); {
		case valid && err != nil:
			t.Errorf("%q: got error %q; want none", r, err)
		case valid && (len(sent) != 1 || sent[0].form().Get("resource") != string(r) || sent[0].form().Has("resource") != (r != "")):
			t.Errorf("%q: got form %q; want it exactly as it was given", r, sent[0].form()["resource"])
		case !valid && (err == nil || len(sent) != 0 || !strings.HasSuffix(err.Error(), "(RFC 8707 §2)") || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%q: got error %v, %d requests; want an error that names RFC 8707, and none", r, err, len(sent))
		}
	}
}

// The token request

func TestTheFormOnTheWire(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*mosaic.Config)
		want   string
	}{
		{"a secret alone", func(c *mosaic.Config) {},
			"client_id=acme&client_secret=s3cret%26%3D%22%3C%27%2B%2F%3E%25+%C3%BC&grant_type=client_credentials"},
		{"a resource", func(c *mosaic.Config) { c.Resource = mosaic.FraudPrevention },
			"client_id=acme&client_secret=s3cret%26%3D%22%3C%27%2B%2F%3E%25+%C3%BC&grant_type=client_credentials&resource=https%3A%2F%2Frisk.identity.security"},
		{"scopes", func(c *mosaic.Config) { c.Scopes = []string{"a", "b:c"} },
			"client_id=acme&client_secret=s3cret%26%3D%22%3C%27%2B%2F%3E%25+%C3%BC&grant_type=client_credentials&scope=a+b%3Ac"},
		{"further parameters", func(c *mosaic.Config) {
			c.Resource, c.Scopes, c.EndpointParams = "urn:x", []string{"s"}, url.Values{"audience": {"1", "2"}, "z": {""}}
		}, "audience=1&audience=2&client_id=acme&client_secret=s3cret%26%3D%22%3C%27%2B%2F%3E%25+%C3%BC&grant_type=client_credentials&resource=urn%3Ax&scope=s&z="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := conf()
			tt.change(c)
			s := &stub{replies: []string{ok("opaque", `"expires_in":60`)}}
			if _, err := c.Token(s.context(t)); err != nil {
				t.Fatal(err)
			}
			sent := s.requests()
			if len(sent) != 1 {
				t.Fatalf("got %d requests; want one", len(sent))
			}
			r := sent[0]
			if r.method != "POST" || r.url != "https://api.eu.transmitsecurity.io/oidc/token" {
				t.Errorf("got %s %s; want POST to TokenURL", r.method, r.url)
			}
			if r.body != tt.want {
				t.Errorf("got another form than %s", tt.want)
			}
			if want := (http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}); !reflect.DeepEqual(r.header, want) {
				t.Errorf("got header fields %v; want Content-Type alone", slices.Sorted(maps.Keys(r.header)))
			}
		})
	}
}

func TestMosaicGetsOneRequestForOneToken(t *testing.T) {
	srv := mosaictest.NewServer()
	defer srv.Close()
	c := srv.Config()
	c.Resource, c.Scopes = mosaic.IdentityVerification, []string{"x"}
	tok, err := c.Token(srv.Context(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	claims, err := mosaic.ParseClaims(tok)
	if err != nil || !slices.Equal(claims.Audience, []string{"https://verify.identity.security"}) || claims.Subject != c.ClientID {
		t.Errorf("got a token for another client or service, error %v", err)
	}
	if !tok.Valid() || tok.Type() != "Bearer" || tok.Extra("scope") != "x" || !tok.Expiry.Equal(claims.ExpiresAt.Time) {
		t.Errorf("got type %s, scope %v, end %v; want a valid Bearer token for scope x, to the end of its exp %v", tok.Type(), tok.Extra("scope"), tok.Expiry, claims.ExpiresAt)
	}
	if n := len(srv.TokenRequests()); n != 1 {
		t.Errorf("got %d requests; want one", n)
	}
}

func TestAConfigIsCopiedWhenASourceIsMade(t *testing.T) {
	s := &stub{replies: []string{ok(jwtOf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix()), "")}}
	ctx := s.context(t)
	var logged syncBuffer
	c := &mosaic.Config{
		ClientID: "acme", ClientSecret: secret, Endpoint: mosaic.EU, Resource: "urn:x",
		Hosts: []string{"api.acme.com"}, Scopes: []string{"s"}, EndpointParams: url.Values{"p": {"1"}},
		Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	source, client := c.TokenSource(ctx), c.Client(ctx)
	c.Hosts[0], c.Scopes[0], c.EndpointParams["p"][0] = "evil.example", "changed", "changed"
	c.EndpointParams.Set("q", "changed")
	*c = mosaic.Config{ClientID: "changed", ClientSecret: "changed!", Endpoint: "https://evil.example", Resource: "urn:changed"}

	if _, err := source.Token(); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"https://api.acme.com/x", "https://evil.example/x"} {
		if res, err := client.Get(url); err != nil {
			t.Error(err)
		} else {
			res.Body.Close()
		}
	}
	const form = "client_id=acme&client_secret=s3cret%26%3D%22%3C%27%2B%2F%3E%25+%C3%BC&grant_type=client_credentials&p=1&resource=urn%3Ax&scope=s"
	for i, r := range s.requests() {
		want := []string{mosaic.EU.TokenURL(), mosaic.EU.TokenURL(), "https://api.acme.com/x", "https://evil.example/x"}[i]
		if r.url != want {
			t.Errorf("request %d: got %s; want %s", i, r.url, want)
		}
		if i < 2 && r.body != form {
			t.Errorf("request %d: got another form than that of the Config as it was", i)
		}
		if i >= 2 && (r.header.Get("Authorization") != "") != (i == 2) {
			t.Errorf("%s: got a token %t; want it for the Hosts as they were", r.url, i != 2)
		}
	}
	if n := strings.Count(logged.String(), "token obtained"); n != 2 {
		t.Errorf("got %d records; want both in the Logger as it was", n)
	}
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
	sent := srv.TokenRequests()
	if len(sent) != 2 {
		t.Fatalf("got %d requests; want two", len(sent))
	}
	for i, r := range sent {
		if r.Header["Cookie"] != nil {
			t.Errorf("request %d: got a cookie; want none", i+1)
		}
	}
	if n := len(jar.Cookies(base)); n != 1 {
		t.Errorf("got %d cookies in the caller's jar; want its own one", n)
	}
	if !reflect.DeepEqual(own, before) {
		t.Error("got the caller's client changed; want it as it was")
	}
}

func TestWithoutAClientInTheContextTheDefaultOneIsUsed(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"opaque","expires_in":60}`)
	}))
	defer srv.Close()
	endpoint, err := mosaic.ParseEndpoint(srv.URL) // plain HTTP to a loopback host
	if err != nil {
		t.Fatal(err)
	}
	c := conf()
	c.Endpoint = endpoint
	if _, err := c.Token(t.Context()); err != nil || asked.Load() != 1 {
		t.Errorf("got error %v, %d requests; want one", err, asked.Load())
	}
}

// Retries

func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	const three = 3
	for _, tt := range []struct {
		name, reply string
		want        int // attempts
	}{
		{"a transport error", "", three},
		{"a body that breaks off", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", three},
		{"a refusal that breaks off", "HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{", three},
		{"408", answer("408 Request Timeout", "", ""), three},
		{"429", answer("429 Too Many Requests", "", ""), three},
		{"500", answer("500 Internal Server Error", "", ""), three},
		{"503, an error code with it", answer("503 Service Unavailable", "application/json", `{"error":"temporarily_unavailable"}`), three},
		{"599", answer("599 Odd", "", ""), three},
		{"301", answer("301 Moved Permanently", "", ""), 1},
		{"400", answer("400 Bad Request", "", ""), 1},
		{"401", answer("401 Unauthorized", "", ""), 1},
		{"403", answer("403 Forbidden", "", ""), 1},
		{"404", answer("404 Not Found", "", ""), 1},
		{"499", answer("499 Odd", "", ""), 1},
		{"an error with status 200", answer("200 OK", "application/json", `{"error":"server_error"}`), 1},
		{"HTML with status 200", answer("200 OK", "text/html", "<html>"), 1},
		{"a token that cannot be used", ok("a b", ""), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stub{replies: []string{tt.reply}}
				_, err := conf().Token(s.context(t))
				if got := len(s.requests()); err == nil || got != tt.want {
					t.Errorf("got error %v after %d attempts; want one after %d", err, got, tt.want)
				}
				if told := strings.Contains(fmt.Sprint(err), "failed (3 attempts): "); told != (tt.want == three) {
					t.Errorf("got %q; want the number of attempts told: %t", err, tt.want == three)
				}

				s = &stub{replies: []string{tt.reply, tt.reply, ok("opaque", `"expires_in":60`)}}
				if _, err = conf().Token(s.context(t)); (err == nil) != (tt.want == three) {
					t.Errorf("an endpoint that recovers: got error %v; want one: %t", err, tt.want == 1)
				}
			})
		})
	}
}

func TestAttemptsBackOffWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[time.Duration]bool)
		for range 20 {
			s := new(stub)
			conf().Token(s.context(t))
			sent := s.requests()
			first, second := sent[1].at.Sub(sent[0].at), sent[2].at.Sub(sent[1].at)
			if first < 250*time.Millisecond || first >= 500*time.Millisecond || second < 500*time.Millisecond || second >= time.Second {
				t.Errorf("got pauses of %s and %s; want 0.25 to 0.5 s and 0.5 to 1 s", first, second)
			}
			seen[first], seen[second] = true, true
		}
		if len(seen) < 30 {
			t.Errorf("got %d different pauses of 40; want them drawn", len(seen))
		}
	})
}

func TestRetryAfterIsMindedAsFarAsItFits(t *testing.T) {
	const second, jitter = time.Second, 0
	for _, tt := range []struct {
		name, header string
		want         []time.Duration // the pauses
	}{
		{"seconds", "Retry-After: 3", []time.Duration{3 * second, 3 * second}},
		{"it fits once", "Retry-After: 29", []time.Duration{29 * second}},
		{"it does not fit", "Retry-After: 30", nil},
		{"a day", "Retry-After: 86400", nil},
		{"zero", "Retry-After: 0", []time.Duration{jitter, jitter}},
		{"negative", "Retry-After: -5", []time.Duration{jitter, jitter}},
		{"overflowing 32 bits", "Retry-After: 2147483648", nil},
		{"overflowing", "Retry-After: 99999999999999999999", nil},
		{"overflowing, negative", "Retry-After: -99999999999999999999", []time.Duration{jitter, jitter}},
		{"nonsense", "Retry-After: soon", []time.Duration{jitter, jitter}},
		// A bubble's clock begins with the year 2000.
		{"a date", "Retry-After: Sat, 01 Jan 2000 00:00:20 GMT", []time.Duration{20 * second, jitter}},
		{"a date that does not fit", "Retry-After: Sat, 01 Jan 2000 00:01:00 GMT", nil},
		{"a date that is over", "Retry-After: Fri, 31 Dec 1999 23:00:00 GMT", []time.Duration{jitter, jitter}},
		{"a date by the server's clock", "Date: Sat, 01 Jan 2000 07:00:00 GMT\r\nRetry-After: Sat, 01 Jan 2000 07:00:04 GMT", []time.Duration{4 * second, 4 * second}},
	} {
		for name, body := range map[string]string{"": "\r\n\r\n", " before a body that breaks off": "\r\nContent-Length: 9\r\n\r\n<"} {
			t.Run(tt.name+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &stub{replies: []string{"HTTP/1.1 503 Service Unavailable\r\n" + tt.header + body}}
					_, err := conf().Token(s.context(t))
					sent := s.requests()
					if err == nil || len(sent) != len(tt.want)+1 {
						t.Fatalf("got error %v, %d attempts; want %d", err, len(sent), len(tt.want)+1)
					}
					for i, want := range tt.want {
						got := sent[i+1].at.Sub(sent[i].at)
						if got != want && (want != jitter || got <= 0 || got >= second) {
							t.Errorf("got pause %s; want %s", got, want)
						}
					}
					if took := time.Since(sent[len(sent)-1].at); took != 0 {
						t.Errorf("the error came %s after the last attempt; want it at once", took)
					}
				})
			})
		}
	}
}

func TestAnAttemptHas10SecondsAndAllHave30(t *testing.T) {
	for _, tt := range []struct {
		name string
		hang roundTrip
		want string
	}{
		{"no reply", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, ` (3 attempts): no reply in time`},
		{"a body without an end", func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: hangingBody{r.Context()}}, nil
		}, ` (3 attempts): the reply did not end in time`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				var attempts []time.Duration
				ctx := withTransport(t, roundTrip(func(r *http.Request) (*http.Response, error) {
					deadline, _ := r.Context().Deadline()
					attempts = append(attempts, time.Until(deadline))
					return tt.hang(r)
				}))
				_, err := conf().Token(ctx)
				if err == nil || err.Error() != failed+tt.want {
					t.Errorf("got  %v\nwant %s%s", err, failed, tt.want)
				}
				if took := time.Since(begun); took != 30*time.Second {
					t.Errorf("all attempts took %s; want 30 s", took)
				}
				if len(attempts) != 3 || attempts[0] != 10*time.Second || attempts[1] != 10*time.Second || attempts[2] >= 10*time.Second {
					t.Errorf("got attempts of %v; want 10 s, 10 s and the rest", attempts)
				}
				if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
					t.Error("got an error that claims that the caller's context ended")
				}
			})
		})
	}
}

type hangingBody struct{ context.Context }

func (b hangingBody) Read([]byte) (int, error) { <-b.Done(); return 0, b.Err() }
func (b hangingBody) Close() error             { return nil }

func TestErrorsIsFindsTheCallersContextAndOnlyThat(t *testing.T) {
	hang := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, errors.New("went away")
	})
	unavailable := roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{Status: "503 Service Unavailable", StatusCode: 503, Header: http.Header{"Retry-After": {"5"}}, Body: http.NoBody}, nil
	})
	late := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return unavailable(r)
	})
	const unavailableText = `503 Service Unavailable: a fault on Mosaic's side, or on the way there; retry after 5s`
	for _, tt := range []struct {
		name      string
		transport roundTrip
		end       func(context.Context) (context.Context, context.CancelFunc)
		want      error
		text      string
	}{
		{"cancelled while the reply came", late, cancelAfter(3 * time.Second), context.Canceled, `: context canceled (last: ` + unavailableText + ")"},
		{"a deadline that passes while the reply comes", late, deadlineAfter(3 * time.Second), context.DeadlineExceeded, `: context deadline exceeded (last: ` + unavailableText + ")"},
		{"cancelled during an attempt", hang, cancelAfter(3 * time.Second), context.Canceled, ": context canceled"},
		{"cancelled between attempts", unavailable, cancelAfter(3 * time.Second), context.Canceled, `: context canceled (last: ` + unavailableText + ")"},
		{"a deadline during an attempt", hang, deadlineAfter(3 * time.Second), context.DeadlineExceeded, ": context deadline exceeded"},
		{"a deadline that a pause does not fit into", unavailable, deadlineAfter(3 * time.Second), nil, ": " + unavailableText},
		{"a deadline in the second attempt", hang, deadlineAfter(15 * time.Second), context.DeadlineExceeded, " (2 attempts): context deadline exceeded"},
		{"a deadline that is never reached", unavailable, deadlineAfter(time.Hour), nil, " (3 attempts): " + unavailableText},
		{"a transport that says so", func(*http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("a pool of its own: %w, %w", context.Canceled, context.DeadlineExceeded)
		}, deadlineAfter(time.Hour), nil, ` (3 attempts): "a pool of its own: context canceled, context deadline exceeded"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := tt.end(withTransport(t, tt.transport))
				defer cancel()
				_, err := conf().Token(ctx)
				if err == nil || err.Error() != failed+tt.text {
					t.Errorf("got  %v\nwant %s%s", err, failed, tt.text)
				}
				for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
					if got := errors.Is(err, end); got != (tt.want == end) {
						t.Errorf("errors.Is %v: got %t; want %t", end, got, !got)
					}
				}
				var timeout interface{ Timeout() bool }
				if !errors.As(err, &timeout) || timeout.Timeout() != (tt.want == context.DeadlineExceeded) {
					t.Errorf("got a timeout: %t; want it where the caller's deadline has passed", tt.want != context.DeadlineExceeded)
				}
				var reply *oauth2.RetrieveError
				if found, want := errors.As(err, &reply), strings.Contains(tt.text, unavailableText); found != want {
					t.Errorf("errors.As finds the last reply: got %t; want %t", found, want)
				} else if found && reply.Response.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("errors.As finds a reply of status %d; want that of the last", reply.Response.StatusCode)
				}
				if ctx.Err() != tt.want {
					t.Errorf("the call ended when its context had %v; want %v", ctx.Err(), tt.want)
				}
			})
		})
	}
}

// The network's timers are set by the context's deadline, too, and may be the
// first to run out.
func TestADeadlineThatTheNetworkNoticesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := unnoticed{withTransport(t, roundTrip(func(*http.Request) (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return nil, errors.New("i/o timeout")
		})), time.Now().Add(3 * time.Second)}
		_, err := conf().Token(ctx)
		if want := failed + ": context deadline exceeded"; !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

// unnoticed is a context whose deadline has no effect yet.
type unnoticed struct {
	context.Context
	deadline time.Time
}

func (u unnoticed) Deadline() (time.Time, bool) { return u.deadline, true }

func cancelAfter(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(d, cancel)
		return ctx, cancel
	}
}

func deadlineAfter(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
}

// Where the credentials go

func TestRedirectsAreRefused(t *testing.T) {
	for status := 301; status <= 308; status++ {
		for _, location := range []string{"https://evil.example/oidc/token", "/elsewhere", "https://evil.example/%zz", ""} {
			s := &stub{replies: []string{fmt.Sprintf("HTTP/1.1 %d Elsewhere\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", status, location)}}
			_, err := conf().Token(s.context(t))
			if sent := s.requests(); len(sent) != 1 || sent[0].url != mosaic.EU.TokenURL() {
				t.Errorf("%d to %q: got %d requests; want one, to the token endpoint", status, location, len(sent))
			}
			wantText := strings.TrimSpace(fmt.Sprintf(`%s: %d %s`, failed, status, http.StatusText(status))) + ": a redirect, which is not followed with credentials: check Endpoint"
			if got := fmt.Sprint(err); got != wantText {
				t.Errorf("%d to %q:\ngot  %v\nwant %s", status, location, err, wantText)
			}
		}
	}
}

func TestACertificateThatDoesNotVerifyIsNotTriedAgain(t *testing.T) {
	srv := mosaictest.NewServer()
	defer srv.Close()
	strict := srv.Client().Transport.(*http.Transport).Clone()
	defer strict.CloseIdleConnections()
	strict.TLSClientConfig.RootCAs = x509.NewCertPool()
	var attempts int
	_, err := srv.Config().Token(withTransport(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		attempts++
		return strict.RoundTrip(r)
	})))
	want := `mosaic: token request to ` + srv.Endpoint().TokenURL() + ` failed: the server's certificate does not verify (` +
		`"tls: failed to verify certificate: x509: certificate signed by unknown authority"): check Endpoint, the local clock, and whether a proxy terminates TLS here`
	if err == nil || err.Error() != want || attempts != 1 {
		t.Errorf("got  %v, after %d attempts\nwant %s, after one", err, attempts, want)
	}
}

// Errors

const failed = "mosaic: token request to https://api.eu.transmitsecurity.io/oidc/token failed"

func TestErrorsSayWhatHappenedAndWhatToDo(t *testing.T) {
	const jsonType = "application/json"
	const checkCredentials = ": check ClientID and ClientSecret, and that both belong to this Endpoint"
	big := strings.Repeat("<p>Access denied</p>\n", 3300) // 64 KiB
	for _, tt := range []struct {
		name, reply string
		want        string
		reachable   *oauth2.RetrieveError // without Response
	}{
		{"invalid_client", answer("401 Unauthorized", jsonType, `{"error":"invalid_client","error_description":"no such client","error_uri":"https://x/y"}`),
			`: 401 Unauthorized: invalid_client, "no such client"` + checkCredentials,
			&oauth2.RetrieveError{ErrorCode: "invalid_client", ErrorDescription: "no such client"}},
		{"invalid_client, as 400 in a form", answer("400 Bad Request", "application/x-www-form-urlencoded", `error=invalid_client`),
			`: 400 Bad Request: invalid_client` + checkCredentials, &oauth2.RetrieveError{ErrorCode: "invalid_client"}},
		{"401 in Mosaic's other form", answer("401 Unauthorized", jsonType, `{"message":["no"],"error_code":401}`),
			`: 401 Unauthorized: "no"` + checkCredentials, &oauth2.RetrieveError{}},
		{"invalid_target", answer("400 Bad Request", jsonType, `{"error":"invalid_target"}`),
			`: 400 Bad Request: invalid_target: check Resource, which has to be configured for the application in Mosaic`, &oauth2.RetrieveError{ErrorCode: "invalid_target"}},
		{"invalid_scope", answer("400 Bad Request", jsonType, `{"error":"invalid_scope"}`),
			`: 400 Bad Request: invalid_scope: check Scopes`, &oauth2.RetrieveError{ErrorCode: "invalid_scope"}},
		{"unauthorized_client", answer("400 Bad Request", jsonType, `{"error":"unauthorized_client"}`),
			`: 400 Bad Request: unauthorized_client: the application has to be allowed the grant type client_credentials`, &oauth2.RetrieveError{ErrorCode: "unauthorized_client"}},
		{"unsupported_grant_type", answer("400 Bad Request", jsonType, `{"error":"unsupported_grant_type"}`),
			`: 400 Bad Request: unsupported_grant_type: the application has to be allowed the grant type client_credentials`, &oauth2.RetrieveError{ErrorCode: "unsupported_grant_type"}},
		{"another error", answer("400 Bad Request", jsonType, `{"error":"Odd\u0007 Error","error_description":"a\nb"}`),
			`: 400 Bad Request`, &oauth2.RetrieveError{}},
		{"an error with status 200", answer("200 OK", jsonType, `{"error":"invalid_request","error_description":"d"}`),
			`: 200 OK: invalid_request, "d"`, &oauth2.RetrieveError{ErrorCode: "invalid_request", ErrorDescription: "d"}},
		{"server_error with status 200", answer("200 OK", jsonType, `{"error":"server_error"}`),
			`: 200 OK: server_error`, &oauth2.RetrieveError{ErrorCode: "server_error"}},
		{"words in an error's place with status 200", answer("200 OK", jsonType, `{"error":"some text with blanks"}`),
			`: 200 OK`, &oauth2.RetrieveError{}},
		{"a firewall's page", answer("403 Forbidden", "text/html; charset=utf-8", "<html>no</html>"),
			`: 403 Forbidden: an HTML page: does a proxy or a firewall answer in Mosaic's place?`, &oauth2.RetrieveError{}},
		{"64 KiB of HTML", answer("403 Forbidden", "text/html", big),
			`: 403 Forbidden: an HTML page: does a proxy or a firewall answer in Mosaic's place?`, &oauth2.RetrieveError{}},
		{"64 KiB of HTML without a type", answer("403 Forbidden", "", big),
			`: 403 Forbidden`, &oauth2.RetrieveError{}},
		{"404", answer("404 Not Found", "", ""), `: 404 Not Found: check Endpoint`, &oauth2.RetrieveError{}},
		{"307", answer("307 Temporary Redirect", "", "x"), `: 307 Temporary Redirect: a redirect, which is not followed with credentials: check Endpoint`, &oauth2.RetrieveError{}},
		{"429", answer("429 Too Many Requests", "", ""), ` (3 attempts): 429 Too Many Requests: Mosaic's rate limit is reached`, &oauth2.RetrieveError{}},
		{"429 with Retry-After", "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\n\r\n", `: 429 Too Many Requests: Mosaic's rate limit is reached; retry after 1m0s`, &oauth2.RetrieveError{}},
		{"500", answer("500 Internal Server Error", jsonType, `{"message":"oops"}`),
			` (3 attempts): 500 Internal Server Error: "oops": a fault on Mosaic's side, or on the way there`, &oauth2.RetrieveError{}},
		{"a long status", answer("500 "+strings.Repeat("x", 5000), "", ""), ` (3 attempts): 500 Internal Server Error: a fault on Mosaic's side, or on the way there`, &oauth2.RetrieveError{}},

		{"HTML with status 200", answer("200 OK", "text/html", "<html>"), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): an HTML page: does a proxy or a firewall answer in Mosaic's place?`, nil},
		{"XHTML", answer("200 OK", "application/xhtml+xml", "<html>"), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): an HTML page: does a proxy or a firewall answer in Mosaic's place?`, nil},
		{"garbage", answer("200 OK", jsonType, "garbage"), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "oauth2: cannot parse json: invalid character 'g' looking for beginning of value"`, nil},
		{"a form that is none", answer("200 OK", "text/plain", "%zz"), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "[withheld]"`, nil},
		{"nothing", answer("204 No Content", "", ""), `: the reply (204 No Content) is not a token response (RFC 6749 §5.1): "oauth2: cannot parse json: unexpected end of JSON input"`, nil},
		{"half a reply", answer("200 OK", jsonType, `{"access_token":"opaque"`), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "oauth2: cannot parse json: unexpected end of JSON input"`, nil},
		{"no access_token", answer("200 OK", jsonType, `{"token_type":"Bearer"}`), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "oauth2: server response missing access_token"`, nil},
		{"expires_in a word", ok("opaque", `"expires_in":"soon"`), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "[withheld]"`, nil},
		{"expires_in a fraction", ok("opaque", `"expires_in":3600.5`), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "oauth2: cannot parse json: strconv.ParseInt: parsing "3600.5": invalid syntax"`, nil},
		{"expires_in a truth value", ok("opaque", `"expires_in":true`), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "oauth2: cannot parse json: json: cannot unmarshal bool into Go struct field tokenJSON.expires_in of type json.Number"`, nil},
		{"an end that is not known", ok("opaque", ""), `: the reply holds no usable token: the token has no usable exp claim, and the reply no usable expires_in`, nil},
		{"an end that has been", ok("opaque", `"expires_in":-60`), `: the reply holds no usable token: the token has no usable exp claim, and the reply no usable expires_in`, nil},
		{"an end in a thousand years", ok("opaque", `"expires_in":2147483647`), `: the reply holds no usable token: the token would end 596523h14m7s after it was asked for, in a reply that took 0s: no such lifetime can be true`, nil},
		{"DPoP", ok("opaque", `"expires_in":60,"token_type":"DPoP"`), `: the reply holds no usable token: its token_type is "DPoP", not Bearer`, nil},
		{"N_A", ok("opaque", `"expires_in":60,"token_type":"N_A"`), `: the reply holds no usable token: its token_type is "N_A", not Bearer`, nil},
		{"a token_type of more than a word", ok("opaque", `"expires_in":60,"token_type":"Bearer token"`), `: the reply holds no usable token: its token_type is not Bearer`, nil},
		{"a token_type with digits", ok("opaque", `"expires_in":60,"token_type":"s3cr3t"`), `: the reply holds no usable token: its token_type is not Bearer`, nil},
		{"a token_type of 13 letters", ok("opaque", `"expires_in":60,"token_type":"abcdefghijklm"`), `: the reply holds no usable token: its token_type is not Bearer`, nil},
		{"a line end in the token", ok(`a\n`, `"expires_in":60`), `: the reply holds no usable token: it holds characters that no Bearer token may have (RFC 6750 §2.1)`, nil},
		{"an equals sign within the token", ok(`a=b`, `"expires_in":60`), `: the reply holds no usable token: it holds characters that no Bearer token may have (RFC 6750 §2.1)`, nil},
		{"a token of 16 KiB and a byte", ok(strings.Repeat("a", 16385), `"expires_in":60`), `: the reply holds no usable token: it has 16385 bytes, more than any header takes`, nil},

		{"no reply", "", ` (3 attempts): "unexpected EOF"`, nil},
		{"a reply that breaks off", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", ` (3 attempts): the reply broke off: "unexpected EOF"`, nil},
		{"no HTTP", "SSH-2.0-\x1b[31m", ` (3 attempts): "[withheld]"`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stub{replies: []string{tt.reply}}
				_, err := conf().Token(s.context(t))
				if err == nil || err.Error() != failed+tt.want {
					t.Errorf("got  %v\nwant %s%s", err, failed, tt.want)
				}
				wantOneLine(t, err, 1500)

				var reply *oauth2.RetrieveError
				if found := errors.As(err, &reply); found != (tt.reachable != nil) {
					t.Fatalf("errors.As finds an oauth2.RetrieveError: got %t; want %t", found, !found)
				}
				if reply == nil {
					return
				}
				if res := reply.Response; res.Request != nil || res.TLS != nil || len(reply.Body) > 700 || !json.Valid(reply.Body) {
					t.Errorf("got Body %q, header %v; want JSON, and no request", reply.Body, res.Header)
				}
				if rest, err := io.ReadAll(reply.Response.Body); len(rest) != 0 || err != nil {
					t.Errorf("got a body of %d bytes, error %v; want an empty one", len(rest), err)
				}
				fields := *reply
				fields.Response, fields.Body = nil, nil
				if !reflect.DeepEqual(&fields, tt.reachable) {
					t.Errorf("got code %q, description %q, URI %q; want %q, %q, %q", reply.ErrorCode, reply.ErrorDescription, reply.ErrorURI, tt.reachable.ErrorCode, tt.reachable.ErrorDescription, tt.reachable.ErrorURI)
				}
			})
		})
	}
}

func TestARoundTripperMayGiveNoBodyOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			res  *http.Response
			err  error
			want string
		}{
			{&http.Response{Status: "404 Not Found", StatusCode: 404}, nil, `: 404 Not Found: check Endpoint`},
			{nil, io.EOF, ` (3 attempts): the connection was closed before a reply came`},
		} {
			_, err := conf().Token(withTransport(t, roundTrip(func(*http.Request) (*http.Response, error) { return tt.res, tt.err })))
			if err == nil || err.Error() != failed+tt.want {
				t.Errorf("got  %v\nwant %s%s", err, failed, tt.want)
			}
		}
	})
}

// A transport may use x/oauth2 itself, for a proxy that wants a token.
func TestATransportMayFailWithARetrieveErrorOfItsOwn(t *testing.T) {
	for _, tt := range []struct {
		name string
		own  *oauth2.RetrieveError
		want string
	}{
		{"with a response", &oauth2.RetrieveError{Response: &http.Response{Status: "401 Unauthorized", StatusCode: 401}}, `"[withheld]"`},
		{"without one", &oauth2.RetrieveError{ErrorCode: "invalid_grant", ErrorDescription: "the proxy's"}, `"oauth2: "invalid_grant" "the proxy's""`},
	} {
		for _, reply := range []struct {
			name, want string
			rt         roundTrip
		}{
			{"of the request", "", func(*http.Request) (*http.Response, error) { return nil, tt.own }},
			{"of the body", "the reply broke off: ", func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(tt.own))}, nil
			}},
		} {
			t.Run(tt.name+" "+reply.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, err := conf().Token(withTransport(t, reply.rt))
					if want := failed + " (3 attempts): " + reply.want + tt.want; err == nil || err.Error() != want {
						t.Errorf("got  %v\nwant %s", err, want)
					}
					var found *oauth2.RetrieveError
					if errors.As(err, &found) {
						t.Error("errors.As finds it; want none, for it is not the token endpoint's")
					}
				})
			})
		}
	}
}

func TestTokensThatAreAccepted(t *testing.T) {
	for _, tt := range []struct{ name, token, further string }{
		{"every character of a b64token", "aZ09-._~+/==", `"expires_in":60`},
		{"16 KiB", strings.Repeat("a", 16384), `"expires_in":60`},
		{"bearer in lower case", "opaque", `"expires_in":60,"token_type":"bearer"`},
		{"no type", "opaque", `"expires_in":60,"token_type":""`},
		{"expires_in as a string", "opaque", `"expires_in":"60"`},
	} {
		s := &stub{replies: []string{ok(tt.token, tt.further)}}
		if tok, err := conf().Token(s.context(t)); err != nil || tok.AccessToken != tt.token || tok.Type() != "Bearer" || !tok.Valid() {
			t.Errorf("%s: got error %v; want the token, valid", tt.name, err)
		}
	}
}

// Secrets

func TestNoErrorHoldsWhatTheServerEchoes(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhY21lIiwiZXhwIjoxNzAwMDAwMDAwfQ.c2lnbmF0dXJl0123456789"
	for i, secret := range []string{
		secret, "plain-secret_0123456789", `a&b=c+d e%f;g`, `"quoted" 'too' <tag/> C:\new`, "geheimschlüssel日本", "8letters",
	} {
		form := url.Values{"client_id": {"acme"}, "client_secret": {secret}}.Encode()
		for _, spelling := range []struct{ name, text string }{
			{"form", form + "&t=" + token},
			{"text", "secret: " + secret + " token: " + token},
			{"HTML", "<input value='" + html.EscapeString(secret) + "'><pre>" + html.EscapeString(form) + "</pre><p>" + token},
			{"JSON", toJSON(map[string]string{"client_secret": secret, "form": form, "token": token})},
		} {
			for _, place := range []struct{ name, reply string }{
				{"body", answer("400 Bad Request", "text/html", spelling.text)},
				{"body without a type", answer("400 Bad Request", "", spelling.text)},
				{"body, far behind", answer("500 Oops", "text/html", strings.Repeat(".", 4090-len(secret)/2)+spelling.text)},
				{"JSON", answer("400 Bad Request", "application/json", toJSON(map[string]string{"error": "invalid_request", "error_description": spelling.text, "error_uri": "https://x?" + spelling.text}))},
				{"error", answer("400 Bad Request", "application/json", toJSON(map[string]string{"error": spelling.text}))},
				{"error in a form", answer("400 Bad Request", "text/plain", url.Values{"error": {spelling.text}, "error_description": {spelling.text}, "error_uri": {spelling.text}}.Encode())},
				{"error with status 200", answer("200 OK", "application/json", toJSON(map[string]string{"error": spelling.text, "error_description": spelling.text, "access_token": token}))},
				{"header", "HTTP/1.1 400 Bad Request\r\nX-Echo: " + spelling.text + "\r\nX-Echo: 2\r\n\r\n"},
				{"trailer", "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\n\r\n0\r\nX-Echo: " + spelling.text + "\r\n\r\n"},
				{"status line", answer("400 "+spelling.text, "", "")},
				{"status line of a redirect", "HTTP/1.1 302 " + spelling.text + "\r\nLocation: %zz\r\n\r\n"},
				{"Location", "HTTP/1.1 302 Found\r\nLocation: https://" + spelling.text + "\r\n\r\n"},
				{"status line of garbage", answer("200 "+spelling.text, "", spelling.text)},
				{"token_type", ok("opaque", `"expires_in":60,"token_type":`+toJSON(spelling.text))},
				{"no HTTP", spelling.text},
			} {
				t.Run(fmt.Sprintf("%d/%s/%s", i, spelling.name, place.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := &stub{replies: []string{place.reply}}
						c := conf()
						c.ClientSecret = secret
						ctx := s.context(t)
						_, err := c.Token(ctx)
						_, sourceErr := c.TokenSource(ctx).Token()
						_, clientErr := c.Client(ctx).Get(mosaic.EU.URL("/cis/x"))
						for _, err := range []error{err, sourceErr, clientErr} {
							if err == nil {
								t.Fatal("got no error")
							}
							wantNoSecret(t, err, secret, token, "c2lnbmF0dXJl", "eyJzdWIi", toJSON(secret), url.QueryEscape(secret), html.EscapeString(secret))
							wantOneLine(t, err, 1500)
						}
					})
				})
			}
		}
	}
}

func TestNoErrorHoldsWhatATransportSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := conf().Token(withTransport(t, roundTrip(func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			return nil, fmt.Errorf("proxy refused %s with\n%w", body, &net.OpError{Op: "dial", Err: errors.New(secret)})
		})))
		wantNoSecret(t, err, secret, url.QueryEscape(secret))
		wantOneLine(t, err, 1500)
		if want := failed + ` (3 attempts): "[withheld]": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`; err.Error() != want {
			t.Errorf("got another text than %s", want)
		}
	})
}

func TestAProxyThatCannotBeReachedIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := conf().Token(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: &http.Transport{
			Proxy: func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.acme.com:8080") },
			DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New(addr + ": connection refused")}
			},
		}}))
		want := failed + ` (3 attempts): "proxyconnect tcp: dial tcp: proxy.acme.com:8080: connection refused": ` +
			"check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)"
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

func TestAShortSecretDoesNotShredErrors(t *testing.T) {
	c := conf()
	c.ClientSecret = "invalid"
	s := &stub{replies: []string{answer("400 Bad Request", "application/json", `{"error":"invalid_scope","error_description":"invalid scope"}`)}}
	_, err := c.Token(s.context(t))
	if want := failed + `: 400 Bad Request: invalid_scope, "invalid scope": check Scopes`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestAnErrorCodeIsKept(t *testing.T) {
	c := conf()
	c.ClientSecret = "invalid_scope" // whoever chooses that
	s := &stub{replies: []string{answer("400 Bad Request", "application/json", `{"error":"invalid_scope","error_description":"invalid_scope"}`)}}
	_, err := c.Token(s.context(t))
	var reply *oauth2.RetrieveError
	if !errors.As(err, &reply) || reply.ErrorCode != "invalid_scope" || reply.ErrorDescription != "[redacted]" {
		t.Errorf("got %v; want the code kept, the description redacted", err)
	}
}

func TestNoErrorHoldsTheBodyOfASuccess(t *testing.T) {
	const body = "0nly1nTheBodyOfASuccess"
	for _, reply := range []string{
		answer("200 OK", "text/html", body),
		answer("200 OK", "application/json", body),
		answer("200 OK", "application/json", `{"token_type":"`+body+`"}`),
		answer("200 OK", "application/json", `{"access_token":"opaque","expires_in":60,"token_type":"`+body+`"}`),
		answer("200 OK", "application/json", `{"access_token":"`+body+`"}`),
		answer("200 OK", "application/json", `{"access_token":"`+body+` ","expires_in":60}`),
		answer("200 OK", "application/json", `{"access_token":"`+body+`","expires_in":"`+body+`"}`),
		answer("201 Created", "application/json", `{"error":"e","error_description":"`+body+`","error_uri":"`+body+`"}`),
		answer("200 OK", "application/json", `{"error":"words and `+body+`"}`),
		answer("200 OK", "text/plain", "error="+body),
		answer("200 OK", "text/plain", "x=%zz"+body),
	} {
		s := &stub{replies: []string{reply}}
		_, err := conf().Token(s.context(t))
		if err == nil {
			t.Errorf("got no error for %q", reply)
			continue
		}
		wantNoSecret(t, err, body)
	}
}

// wantNoSecret fails t if a text that is reachable from err, or that printing it
// gives, holds one of secrets. It tells which, by its number.
func wantNoSecret(t testing.TB, err error, secrets ...string) {
	t.Helper()
	for i, secret := range secrets {
		secret = strings.Trim(secret, `"`) // of JSON
		seek := func(where, s string) {
			if strings.Contains(s, secret) {
				t.Errorf("[found] secret %d in %s", i, where)
			}
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s"} {
			seek(verb, fmt.Sprintf(verb, err))
		}
		reachable(reflect.ValueOf(err), "", make(map[uintptr]bool), seek)
	}
}

// reachable calls visit with each text that is reachable from v, through
// unexported fields too, and with where it is.
func reachable(v reflect.Value, where string, seen map[uintptr]bool, visit func(where, text string)) {
	switch v.Kind() {
	case reflect.String:
		visit(where, v.String())
	case reflect.Pointer:
		if !v.IsNil() && !seen[v.Pointer()] {
			seen[v.Pointer()] = true
			reachable(v.Elem(), where, seen, visit)
		}
	case reflect.Interface:
		if !v.IsNil() {
			reachable(v.Elem(), where, seen, visit)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			reachable(v.Field(i), where+"."+v.Type().Field(i).Name, seen, visit)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			reachable(key, where+"[key]", seen, visit)
			reachable(v.MapIndex(key), where+"[value]", seen, visit)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			visit(where, string(v.Bytes()))
			return
		}
		for i := range v.Len() {
			reachable(v.Index(i), where+"[]", seen, visit)
		}
	}
}

// wantOneLine fails t unless err is one line, bounded and of this package.
func wantOneLine(t testing.TB, err error, most int) {
	t.Helper()
	text := err.Error()
	if at := strings.Index(text, "mosaic: "); at != 0 && !strings.HasPrefix(text, `Get "https://`) { // net/http's own words come first in a client's error
		t.Errorf("got an error that begins otherwise: %.20q", text)
	}
	if len(text) > most {
		t.Errorf("got an error of %d bytes; want %d at most", len(text), most)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 || r == 0x2028 || r == 0x202e }) {
		t.Errorf("got control characters in %q", text)
	}
}

func TestNothingPrintedShowsASecret(t *testing.T) {
	const secret = "Zq8secret-Zq8" // nothing else looks like it
	c := conf()
	c.ClientSecret, c.Resource, c.Scopes, c.Hosts = secret, mosaic.FraudPrevention, []string{"a"}, []string{"api.acme.com"}
	c.EndpointParams = url.Values{"b": {secret}, "a": {"1"}}
	const want = `mosaic.Config{ClientID: "acme", ClientSecret: [redacted], Endpoint: "https://api.eu.transmitsecurity.io", ` +
		`Resource: "https://risk.identity.security", Hosts: ["api.acme.com"], Scopes: ["a"], EndpointParams: ["a" "b"]}`
	if c.String() != want {
		t.Errorf("got another String than %s", want)
	}
	mistaken := mosaic.Config{Endpoint: "https://acme:" + secret + "@acme.com", Hosts: []string{"acme:" + secret + "@acme.com"}}
	if got, want := mistaken.String(), `mosaic.Config{Endpoint: "https://[redacted]@acme.com", Hosts: ["[redacted]@acme.com"]}`; got != want {
		t.Errorf("with passwords where none may be: got another String than %s", want)
	}

	s := &stub{replies: []string{ok(secret, `"expires_in":60`)}} // so that one hunt does for the token, too
	ctx := s.context(t)
	source, client := c.TokenSource(ctx), c.Client(ctx)
	if _, err := source.Token(); err != nil {
		t.Fatal(err)
	}
	if res, err := client.Get(mosaic.EU.URL("/risk")); err != nil {
		t.Fatal(err)
	} else if res.Body.Close(); res.Request.Header["Authorization"] != nil {
		t.Error("[found] the token in the response's request")
	}
	s.replies = []string{answer("400 "+secret, "", secret)}
	_, err := c.Token(ctx)
	type holder struct {
		Exported *mosaic.Config
		source   *mosaic.TokenSource
	}
	values := []any{c, *c, source, *source, client, *client, client.Transport, holder{c, source}, &holder{c, source}, []*mosaic.Config{c}, map[string]mosaic.Config{"c": *c}, err, c.Validate}

	seek := func(where, text string) {
		t.Helper()
		for _, spelled := range []string{"secret", fmt.Sprintf("%x", "secret"), fmt.Sprintf("%X", "secret"), fmt.Sprintf("% x", "secret"), fmt.Sprintf("% X", "secret"),
			fmt.Sprintf("%# x", "secret"), "115 101 99 114 101 116", "c2VjcmV0"} {
			if strings.Contains(strings.ReplaceAll(text, "ClientSecret", ""), spelled) {
				t.Errorf("[found] by %s", where)
			}
		}
	}
	for verb := 'A'; verb <= 'z'; verb++ {
		if strings.ContainsRune("[\\]^_`Tpw", verb) { // %T, %p and %w are fmt's own, and ask nobody; go vet knows the last two
			continue
		}
		for _, flags := range []string{"", "+", "-", "#", " ", "0", "+#", "30.3", "# 0"} {
			format := "%" + flags + string(verb)
			for _, v := range values {
				seek(fmt.Sprintf("%s of %T", format, v), fmt.Sprintf(format, v))
			}
			for _, v := range []any{c, *c} {
				if got := fmt.Sprintf(format, v); got != want {
					t.Errorf("%s of %T: got another text than String's", format, v)
				}
			}
		}
	}

	var logged bytes.Buffer
	level := &slog.HandlerOptions{Level: slog.LevelDebug}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, level), slog.NewJSONHandler(&logged, level)} {
		for _, v := range values {
			logged.Reset()
			slog.New(handler).With("with", v).Info("message", "value", v, slog.Group("g", "v", v))
			seek(fmt.Sprintf("%T of %T", handler, v), logged.String())
		}
		logged.Reset()
		slog.New(handler).Info("message", "config", c)
		if !strings.Contains(strings.ReplaceAll(logged.String(), `\"`, `"`), "mosaic.Config{ClientID:") {
			t.Errorf("%T: got %s; want String's text", handler, logged.String())
		}
	}
	for _, v := range []any{c, *c} {
		if got := slog.AnyValue(v).Resolve(); got.Kind() != slog.KindString || got.String() != want {
			t.Errorf("a log handler of one's own gets %s of %T; want String's text", got.Kind(), v)
		}
	}
	for _, v := range values {
		for name, marshal := range map[string]func(any) ([]byte, error){"json": json.Marshal, "xml": xml.Marshal} {
			b, err := marshal(v)
			seek(fmt.Sprintf("%s of %T", name, v), fmt.Sprint(string(b), err))
		}
	}
	text, err := c.MarshalText()
	if err != nil || string(text) != want {
		t.Errorf("MarshalText: got another text than String's, error %v", err)
	}
	if b, err := json.Marshal(c); err != nil || string(b) != toJSON(want) {
		t.Errorf("JSON: got another text than String's, error %v", err)
	}
}

func TestAnEmptyConfigPrints(t *testing.T) {
	if got := fmt.Sprint(mosaic.Config{}); got != "mosaic.Config{}" {
		t.Errorf("got %s; want mosaic.Config{}", got)
	}
}

func TestAConfigIsLoadedFromJSON(t *testing.T) {
	var got mosaic.Config
	err := json.Unmarshal([]byte(`{"ClientID":"acme","ClientSecret":"s","KeyID":"k","Endpoint":"eu","Resource":"urn:x","Hosts":["h"],"Scopes":["a"],"EndpointParams":{"p":["1"]},"PrivateKey":null}`), &got)
	want := mosaic.Config{ClientID: "acme", ClientSecret: "s", KeyID: "k", Endpoint: mosaic.EU, Resource: "urn:x", Hosts: []string{"h"}, Scopes: []string{"a"}, EndpointParams: url.Values{"p": {"1"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got another Config, error %v", err)
	}
	if err := json.Unmarshal([]byte(`{"Endpoint":"mars"}`), &got); err == nil || err.Error() != `mosaic: endpoint "mars" is no known name`+wanted {
		t.Errorf("got error %v; want ParseEndpoint's", err)
	}
}

func TestLogsTellWhatHappensAndNoSecret(t *testing.T) {
	for _, format := range []string{"text", "JSON"} {
		t.Run(format, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const token = "opaque-token"
				s := &stub{replies: []string{
					ok(token, `"expires_in":60`), // Config.Token's
					answer("400 "+url.QueryEscape(secret), "text/plain", "secret="+url.QueryEscape(secret)), // the source's first
					answer("500 Oops", "", secret), answer("500 Oops", "", secret), answer("500 Oops", "", secret),
					ok(token, `"expires_in":60`),
				}}
				var logged syncBuffer
				level := &slog.HandlerOptions{Level: slog.LevelDebug - 10, AddSource: true}
				c := conf()
				c.Resource = mosaic.FraudPrevention
				c.Logger = slog.New(slog.NewTextHandler(&logged, level))
				if format == "JSON" {
					c.Logger = slog.New(slog.NewJSONHandler(&logged, level))
				}
				ctx := s.context(t)
				c.Token(ctx)
				source := c.TokenSource(ctx)
				for range 3 {
					source.Token()
					time.Sleep(5 * time.Second)
				}
				got := logged.String()
				for _, secret := range []string{secret, url.QueryEscape(secret), strings.Trim(toJSON(secret), `"`), token} {
					if strings.Contains(got, secret) {
						t.Error("[found] a secret or a token in the log")
					}
				}
				for text, want := range map[string]int{
					"mosaic: token obtained": 2, "mosaic: token renewal failed": 1, "DEBUG": 2, "WARN": 1,
					"https://risk.identity.security": 3, "lifetime": 2, "took": 2, "retry_in": 1, "400 Bad Request": 1,
				} {
					if n := strings.Count(got, text); n != want {
						t.Errorf("got %q %d times; want %d", text, n, want)
					}
				}
			})
		})
	}
}

// A syncBuffer is what a log handler may write to while a test reads it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Expiry

func TestATokenEndsWithItsExpOnTheLocalClock(t *testing.T) {
	for _, skew := range []time.Duration{0, 3 * time.Second, -3 * time.Second, 9 * time.Second, -9 * time.Second, time.Hour, -time.Hour, 25 * time.Hour, -25 * time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := mosaictest.NewInMemory()
				defer srv.Close()
				srv.SetSkew(skew)
				srv.SetLatency(2*time.Second, time.Second)
				begun := time.Now()
				tok, err := srv.Config().Token(srv.Context(t.Context()))
				if err != nil {
					t.Fatal(err)
				}
				// The server mints it two seconds after it was asked, and a clock that
				// is off is corrected by no more than is known.
				want := begun.Add(2*time.Second + time.Hour)
				switch {
				case skew.Abs() > 5*time.Second:
					want = begun.Add(time.Hour)
				case skew != 0:
					want = want.Add(skew) // too little to tell
				}
				if !tok.Expiry.Equal(want) {
					t.Errorf("got an end %s after asking; want %s", tok.Expiry.Sub(begun), want.Sub(begun))
				}
				if tok.Expiry != tok.Expiry.Round(0) {
					t.Error("got a monotonic reading; want none")
				}
			})
		})
	}
}

func TestAnOpaqueTokenLivesExpiresIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for reply, want := range map[string]time.Duration{
			ok("opaque", `"expires_in":120`): 2 * time.Minute,
			answer("200 OK", "application/x-www-form-urlencoded", "access_token=opaque&expires_in=60"): time.Minute,
			ok(jwtOf(`{"exp":%d}`, now.Add(time.Minute).Unix()), `"expires_in":3600`):                  time.Minute,
			ok(jwtOf(`{"exp":%d}`, now.Add(time.Hour).Unix()), ""):                                     time.Hour,
		} {
			s := &stub{replies: []string{reply}}
			tok, err := conf().Token(s.context(t))
			if err != nil {
				t.Error(err)
			} else if got := tok.Expiry.Sub(now); got != want || tok.Expiry != tok.Expiry.Round(0) {
				t.Errorf("got an end in %s; want %s, without a monotonic reading", got, want)
			}
		}
	})
}

// Claims

func TestParseClaims(t *testing.T) {
	for _, tt := range []struct {
		name, token string
		want        *mosaic.Claims
	}{
		{"Mosaic's documented example", jwtOf(`{"tid":"6oi3tjkijshdfgekwjfwey9","app_name":"Acme","app_id":"zl2trg3sanjsd63qs7se","roles":[],"jti":"ABCSrjsReaYKk-FSHHZU","sub":"u6jkjhsdf87efbwv57u","iat":1675590719,"exp":1675594319,"scope":"openid offline_access","client_id":"pVEZaxjhbdshcudsLe","iss":"https://userid.security","aud":"userid-api","ts_roles":["reader"],"ts_permissions":["read:user"]}`),
			&mosaic.Claims{
				RegisteredClaims: jwt.RegisteredClaims{
					Issuer: "https://userid.security", Subject: "u6jkjhsdf87efbwv57u", Audience: jwt.ClaimStrings{"userid-api"}, ID: "ABCSrjsReaYKk-FSHHZU",
					IssuedAt: jwt.NewNumericDate(time.Unix(1675590719, 0)), ExpiresAt: jwt.NewNumericDate(time.Unix(1675594319, 0)),
				},
				Scope: "openid offline_access", ClientID: "pVEZaxjhbdshcudsLe", AppID: "zl2trg3sanjsd63qs7se", AppName: "Acme", TenantID: "6oi3tjkijshdfgekwjfwey9",
				Roles: []string{}, TSRoles: []string{"reader"}, TSPermissions: []string{"read:user"},
			}},
		{"an admin token, for two services, bound", jwtOf(`{"role":["admin"],"roles":["a","b"],"aud":["x","y"],"cnf":{"x5t#S256":"abc"},"further":1}`),
			&mosaic.Claims{
				RegisteredClaims: jwt.RegisteredClaims{Audience: jwt.ClaimStrings{"x", "y"}},
				Role:             []string{"admin"}, Roles: []string{"a", "b"}, Confirmation: &mosaic.Confirmation{CertificateThumbprint: "abc"},
			}},
		{"an algorithm that nobody knows", "eyJhbGciOiJYWTk5OSJ9.eyJzdWIiOiJhY21lIn0.c2ln", &mosaic.Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "acme"}}},
		{"no algorithm", "e30.eyJzdWIiOiJhY21lIn0.", &mosaic.Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "acme"}}},
	} {
		got, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: tt.token})
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\ngot  %+v, error %v\nwant %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestParseClaimsErrorsDoNotHoldTheToken(t *testing.T) {
	for _, tt := range []struct{ token, want string }{
		{"", "token is malformed: token contains an invalid number of segments"},
		{"opaque-token", "token is malformed: token contains an invalid number of segments"},
		{"opa!que.papaya.x", "token is malformed: could not base64 decode header"},
		{jwtOf("") + ".d.e", "token is malformed: token contains an invalid number of segments"},
		{jwtOf(`{"scope":["openid"]}`), "token is malformed: could not JSON decode claim: json: cannot unmarshal array into Go struct field"},
		{jwtOf(`"%s"`, strings.Repeat("payload", 100)), "token is malformed: could not JSON decode claim"},
		{jwtOf(`{"exp":"%s"}`, strings.Repeat("payload\\n", 100)), "[withheld]"},
	} {
		claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: tt.token})
		if err == nil || claims != nil || !strings.HasPrefix(err.Error(), `mosaic: cannot read the token's claims: `+tt.want) {
			t.Errorf("got %v; want %s", err, tt.want)
			continue
		}
		wantOneLine(t, err, 600)
		for _, part := range strings.Split(tt.token, ".") {
			if len(part) > 3 && strings.Contains(err.Error(), part) {
				t.Error("[found] the token, or a part of it, in the error")
			}
		}
	}
	if _, err := mosaic.ParseClaims(nil); err == nil || err.Error() != "mosaic: cannot read the claims of a nil token" {
		t.Errorf("got %v; want an error for a nil token", err)
	}
}

func FuzzParseClaims(f *testing.F) {
	for _, token := range []string{
		"", "opaque", "a.b.c", "e30.e30.", jwtOf(`{}`), jwtOf(`{"exp":1e300,"aud":7}`), jwtOf(`{"aud":["a",1]}`), jwtOf(`{"cnf":null,"roles":null}`),
		jwtOf(`{"exp":"\u0000\n"}`), jwtOf(`[]`), "bnVsbA.bnVsbA.", "eyJhbGciOjF9.e30.", "eyJhIjoxfQ.e30.e30.e30.e30",
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: token})
		if err != nil {
			wantOneLine(t, err, 1200)
		}
		if (err == nil) != (claims != nil) {
			t.Errorf("got claims: %t, error %v; want one of them", claims != nil, err)
		}
	})
}

// TokenSource

var _ oauth2.TokenSource = (*mosaic.TokenSource)(nil)

func TestAZeroTokenSourceSaysWhereItsLikesAreMade(t *testing.T) {
	s := new(mosaic.TokenSource)
	s.Invalidate(nil)
	s.Invalidate(&oauth2.Token{AccessToken: "opaque"})
	if _, err := s.Token(); err == nil || err.Error() != "mosaic: a TokenSource is made by Config.TokenSource" {
		t.Errorf("got %v; want an error that names Config.TokenSource", err)
	}
}

func TestATokenSourceCachesAndHandsOutCopies(t *testing.T) {
	s := &stub{replies: []string{ok("t1", `"expires_in":3600`), ok("t2", `"expires_in":3600`)}}
	source := conf().TokenSource(s.context(t))
	first, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	kept := *first
	first.AccessToken, first.Expiry = "changed", time.Time{}
	if second, err := source.Token(); err != nil || !reflect.DeepEqual(*second, kept) || len(s.requests()) != 1 {
		t.Errorf("got error %v, %d requests; want the same token again, from the first", err, len(s.requests()))
	}

	source.Invalidate(nil)
	source.Invalidate(&oauth2.Token{AccessToken: "another"})
	if tok, _ := source.Token(); tok.AccessToken != "t1" {
		t.Error("got another token after somebody else's was invalidated")
	}
	for range 50 {
		source.Invalidate(&kept)
	}
	if tok, err := source.Token(); err != nil || tok.AccessToken != "t2" || len(s.requests()) != 2 {
		t.Errorf("got error %v, %d requests; want the next token from the second", err, len(s.requests()))
	}
}

func TestTokenContextEndsTheWaitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := mosaictest.NewInMemory()
		defer srv.Close()
		srv.SetLatency(5*time.Second, 0)
		ctx, cancel := context.WithCancel(srv.Context(t.Context()))
		source := srv.Config().TokenSource(ctx)
		cancel() // which ends nothing

		begun := time.Now()
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := source.TokenContext(short)
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != time.Second || err.Error() != "mosaic: waiting for a token: context deadline exceeded" {
			t.Errorf("got %v after %s; want the deadline's error after a second", err, took)
		}
		if _, err := source.Token(); err != nil || time.Since(begun) != 5*time.Second || len(srv.TokenRequests()) != 1 {
			t.Errorf("got %v after %s; want the token of the request that was under way", err, time.Since(begun))
		}
		if _, err := source.TokenContext(short); err != nil {
			t.Errorf("got %v; want the token that is there, whatever the context", err)
		}
	})
}

// A whole reply, however hostile

func FuzzTokenResponse(f *testing.F) {
	const year = 366 * 24 * time.Hour
	b64token := regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)
	for _, reply := range []string{
		"", ok("opaque", `"expires_in":3600`), ok(jwtOf(`{"exp":946688400}`), ""), ok(jwtOf(`{"exp":946688400,"iat":946684800}`), `"expires_in":1`),
		ok(jwtOf(`{"exp":1e300}`), `"expires_in":99999999999`), ok("a\\n", `"expires_in":60`), ok("opaque", `"expires_in":1e3`), ok("", ""),
		answer("200 OK", "text/plain", "access_token=a&expires_in=18446744075"), answer("200 OK", "text/html", "<html>"),
		answer("200 "+secret, "", secret), answer("400 Bad", "application/json", toJSON(map[string]string{"error": secret, "error_description": secret})),
		answer("401 Unauthorized", "", url.QueryEscape(secret)), answer("500 \x1b[31m", "text/html", html.EscapeString(secret)),
		"HTTP/1.1 302 Found\r\nLocation: " + secret + "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "HTTP/1.0 503 x\r\nRetry-After: 5\r\nDate: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nDate: Sat, 01 Jan 2000 05:00:00 GMT\r\n\r\n" + `{"access_token":"` + jwtOf(`{"exp":946706400,"iat":946702800}`) + `"}`,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"err\r\n0\r\n\r\n", secret,
	} {
		f.Add(reply)
	}
	f.Fuzz(func(t *testing.T, reply string) {
		synctest.Test(t, func(t *testing.T) { // backoffs take no time, and the year is always 2000
			s := &stub{replies: []string{reply}}
			tok, err := conf().Token(s.context(t))
			if err != nil {
				wantOneLine(t, err, 1500)
				wantNoSecret(t, err, secret, url.QueryEscape(secret), html.EscapeString(secret))
				return
			}
			if left := time.Until(tok.Expiry); left <= 0 || left > year || !b64token.MatchString(tok.AccessToken) || len(tok.AccessToken) > 16384 || tok.Type() != "Bearer" {
				t.Errorf("got a token of type %q that ends in %s; want a Bearer token that is valid now, for no more than 366 days", tok.Type(), left)
			}
		})
	})
}

// Helpers

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// withTransport returns t's context with an HTTP client that has this transport.
func withTransport(t testing.TB, rt http.RoundTripper) context.Context {
	return context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: rt})
}

// A stub answers with whole replies as they stand on the wire, one after the
// other and the last again and again; "" is a connection that breaks off.
type stub struct {
	replies []string

	mu   sync.Mutex
	sent []sentRequest
}

type sentRequest struct {
	method, url, body string
	header            http.Header
	at                time.Time
}

func (r sentRequest) form() url.Values {
	form, _ := url.ParseQuery(r.body)
	return form
}

func (s *stub) context(t testing.TB) context.Context { return withTransport(t, roundTrip(s.RoundTrip)) }

func (s *stub) requests() []sentRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

func (s *stub) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, sentRequest{r.Method, r.URL.String(), string(body), r.Header.Clone(), time.Now()})
	reply := ""
	if len(s.replies) > 0 {
		reply = s.replies[0]
	}
	if len(s.replies) > 1 {
		s.replies = s.replies[1:]
	}
	return http.ReadResponse(bufio.NewReader(strings.NewReader(reply)), r)
}

// answer returns a reply of the token endpoint.
func answer(status, contentType, body string) string {
	header := ""
	if contentType != "" {
		header = "Content-Type: " + contentType + "\r\n"
	}
	return "HTTP/1.1 " + status + "\r\n" + header + "\r\n" + body
}

// ok returns a reply that holds a token, and further members if there are any.
func ok(token, further string) string {
	if further != "" {
		further = "," + further
	}
	return answer("200 OK", "application/json", `{"access_token":"`+token+`"`+further+`}`)
}

// jwtOf returns a token with this payload.
func jwtOf(format string, args ...any) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(fmt.Appendf(nil, format, args...)) + ".c2ln"
}

func toJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
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
			ctx := withTransport(b, roundTrip(func(r *http.Request) (*http.Response, error) {
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

// BenchmarkWarmRequest is what a client's transport costs a request when there is
// a token: beside oauth2.Transport over the same source that x/oauth2 would use,
// and beside the bare base transport, whose time is to be taken off both.
func BenchmarkWarmRequest(b *testing.B) {
	base := idle{http.Response{StatusCode: http.StatusOK, Body: http.NoBody}}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: base})
	conf := &mosaic.Config{ClientID: "id", ClientSecret: "s3cr3t!!", Endpoint: mosaic.EU}
	theirs := &clientcredentials.Config{ClientID: "id", ClientSecret: "s3cr3t!!", TokenURL: mosaic.EU.TokenURL()}
	for _, transport := range []struct {
		name string
		http.RoundTripper
	}{
		{"base", base},
		{"mosaic", conf.Client(ctx).Transport},
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
