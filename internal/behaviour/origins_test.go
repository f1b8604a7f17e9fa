package behaviour_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
)

const (
	eu         = string(mosaic.EU)
	activities = "https://activities.transmitsecurity.io"
)

// A spy is a transport to every host, under a client of mosaic.EU and activities. It answers token
// requests with one token and notes all others.
type spy struct {
	client *http.Client
	answer http.HandlerFunc // for the others
	log    kit.Log

	mu   sync.Mutex
	seen []string // such as "GET https://host token"
}

func newSpy(answer http.HandlerFunc, change ...func(*mosaic.Config)) *spy {
	s := &spy{answer: answer}
	conf := &mosaic.Config{
		ClientID: "id", ClientSecret: "s3cr3t!!", Endpoint: mosaic.EU, Hosts: []string{strings.TrimPrefix(activities, "https://")},
		Logger: s.log.Logger(slog.LevelDebug),
	}
	for _, f := range change {
		f(conf)
	}
	s.client = conf.Client(kit.Over(context.Background(), s))
	return s
}

func (s *spy) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == "POST" && req.URL.Path == "/oidc/token" {
		return served(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			io.WriteString(rw, `{"access_token":"known-origins-only","expires_in":86400}`)
		})(req)
	}
	seen := req.Method + " " + req.URL.Scheme + "://" + req.URL.Host
	if req.Header.Get("Authorization") == "Bearer known-origins-only" {
		seen += " token"
	}
	s.mu.Lock()
	s.seen = append(s.seen, seen)
	s.mu.Unlock()
	res, err := served(s.answer)(req)
	res.Request = req.Clone(req.Context()) // some transports build requests of their own
	res.Request.Response = nil
	return res, err
}

// take returns the requests since the last call.
func (s *spy) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.seen = nil }()
	return s.seen
}

func nothing(http.ResponseWriter, *http.Request) {}

// wantToken fails t unless req is sent once, with a token or without.
func (s *spy) wantToken(t testing.TB, req *http.Request, want bool) {
	t.Helper()
	s.take()
	_, err := s.client.Do(req)
	if seen := s.take(); err != nil || len(seen) != 1 || strings.HasSuffix(seen[0], " token") != want {
		t.Errorf("%s with Host %q: sent %q, error %v; want it sent once, with a token: %t", req.URL, req.Host, seen, err, want)
	}
}

// FuzzTrust has further Hosts, and all spellings.
func TestTokensGoToKnownOriginsOnly(t *testing.T) {
	for _, tt := range []struct {
		change       func(*mosaic.Config)
		known, other string
	}{
		{func(*mosaic.Config) {}, eu + " " + activities, "https://verify.identity.security https://risk.identity.security https://dv.identity.security"},
		{func(c *mosaic.Config) { c.Resource = "https://Orders.Acme.com:8443/v1?x" },
			"https://orders.acme.com:8443/ " + eu, "https://orders.acme.com/v1 http://orders.acme.com:8443/v1"},
		{func(c *mosaic.Config) { c.Resource = "http://orders.acme.com" }, eu, "http://orders.acme.com/ https://orders.acme.com/"},
		{func(c *mosaic.Config) { c.Resource = "urn:orders.acme.com" }, eu, "urn://orders.acme.com/ https://orders.acme.com/"},
		{func(c *mosaic.Config) { c.Resource = "https://a%C5%BFs.acme.com" }, eu, "https://a\u017fs.acme.com/ https://as\u017f.acme.com/"},
		{func(c *mosaic.Config) { c.Endpoint, c.Hosts = "http://localhost:8080", []string{"127.0.0.1"} },
			"http://localhost:8080/cis http://LOCALHOST:8080/cis https://127.0.0.1/",
			"http://localhost/cis https://localhost:8080/cis http://127.0.0.1/ http://127.0.0.1:8080/"},
	} {
		s := newSpy(nothing, tt.change)
		for _, target := range strings.Fields(tt.known) {
			s.wantToken(t, request("GET", target, nil), true)
		}
		for _, target := range strings.Fields(tt.other) {
			s.wantToken(t, request("GET", target, nil), false)
		}
	}
}

func TestHostsAreNamesWithAPortOrWithout(t *testing.T) {
	for i, host := range []string{
		"acme.com", "ACME.com", "localhost", "acme.com:8443", "192.0.2.1:443", "[2001:db8::1]", "[2001:db8::1]:443", "xn--bcher-kva.example",
		// From here on, wrong ones.
		"", "*.acme.com", "https://acme.com", "acme.com/x", "acme.com:443/x", "acme.com?x", "acme.com#x", "u:p4ssw0rd@acme.com", "acme.com.",
		".acme.com", "acme..com", "acme.com:", "acme.com:0", "acme.com:65536", "acme.com:https", "acme.com ", "acme.com,evil.com",
		"bücher.example", "2001:db8::1", "[2001:db8::1", "[2001:db8::1%eth0]", ":443",
	} {
		err := (&mosaic.Config{ClientID: "id", ClientSecret: "s3cr3t!!", Endpoint: mosaic.EU, Hosts: []string{"fine.acme.com", host}}).Validate()
		want := fmt.Sprintf("mosaic: invalid Config: Hosts: %q ", strings.Replace(host, "u:p4ssw0rd", "[redacted]", 1))
		if i < 8 && err != nil || i >= 8 && (err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "fine.")) {
			t.Errorf("Hosts %q: got %v; want an error if it is wrong, and of this one", host, err)
		}
	}
}

// A foreign page must not make the client send a token with DELETE /cis/….
func TestARedirectGetsATokenOnlyIfAllBeforeItWentToKnownOrigins(t *testing.T) {
	const target, before = "its origin is not known", "it was redirected by an origin"
	for _, tt := range []struct {
		name   string
		route  []string
		known  int    // the first requests of the route, with a token
		reason string // logged for the last without one
	}{
		{"within the origin", []string{eu, eu, eu}, 3, ""},
		{"to the default port", []string{eu, eu + ":443"}, 2, ""},
		{"to an empty port", []string{eu, eu + ":"}, 1, target},
		{"to another known origin and back", []string{eu, activities, eu}, 3, ""},
		{"out", []string{eu, "https://evil.com"}, 1, target},
		{"to another port", []string{eu, eu + ":8443"}, 1, target},
		{"to plain http", []string{eu, "http://api.eu.transmitsecurity.io"}, 1, target},
		{"in", []string{"https://evil.com", eu}, 0, before},
		{"in from plain http", []string{"http://api.eu.transmitsecurity.io", eu}, 0, before},
		{"out and back in", []string{eu, "https://evil.com", eu}, 1, before},
		{"far out and back in", []string{eu, activities, "https://evil.com", "https://evil.org", "http://evil.net", eu}, 2, before},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSpy(func(rw http.ResponseWriter, r *http.Request) {
					if to := r.URL.Query().Get("to"); to != "" {
						http.Redirect(rw, r, to, http.StatusTemporaryRedirect)
					}
				})
				target, want := "", []string(nil)
				for _, origin := range slices.Backward(tt.route) {
					target = origin + "/cis/users?" + url.Values{"to": {target}, "login": {"alice"}}.Encode()
				}
				for i, origin := range tt.route {
					want = append(want, "DELETE "+origin+map[bool]string{true: " token"}[i < tt.known])
				}
				_, err := s.client.Do(request("DELETE", target, nil))
				if got := s.take(); err != nil || !slices.Equal(got, want) {
					t.Errorf("sent\n\t%s\nerror %v; want\n\t%s", strings.Join(got, "\n\t"), err, strings.Join(want, "\n\t"))
				}
				wantWithout(t, &s.log, len(tt.route)-tt.known, "level=WARN")
				if tt.reason != "" && s.log.Count(tt.reason) == 0 {
					t.Errorf("want %q in %s", tt.reason, &s.log)
				}
			})
		})
	}
}

func TestEveryRequestBeforeARedirectCounts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		craft func(r, before *http.Request)
		want  bool
	}{
		{"to a known origin", func(_, before *http.Request) {}, true},
		{"with an Authorization", func(_, before *http.Request) { before.Header.Set("Authorization", "Basic dTpw") }, false},
		{"with one in lower case", func(_, before *http.Request) { before.Header["authorization"] = []string{"Basic dTpw"} }, false},
		{"with an empty one", func(_, before *http.Request) { before.Header["Authorization"] = []string{""} }, false},
		{"with one of the URL", func(_, before *http.Request) { before.URL.User = url.UserPassword("u", "p") }, false},
		{"for another Host", func(_, before *http.Request) { before.Host = "evil.com" }, false},
		{"without a URL", func(_, before *http.Request) { before.URL = nil }, false},
		{"an unknown one", func(r, _ *http.Request) { r.Response.Request = nil }, false},
		{"the request itself", func(r, _ *http.Request) { r.Response.Request = r }, false},
		{"none, to an opaque URL", func(r, _ *http.Request) { r.Response, r.URL.Opaque = nil, "/cis" }, false},
		{"none, to an opaque URL of another host", func(r, _ *http.Request) { r.Response, r.URL.Opaque = nil, "//evil.com/cis" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, before := request("GET", eu+"/cis", nil), request("GET", activities, nil)
			req.Response = &http.Response{Request: before}
			tt.craft(req, before)
			newSpy(nothing).wantToken(t, req, tt.want)
		})
	}
}

func TestAReverseProxyNeedsRewriteWithSetURL(t *testing.T) {
	rewrite := func(target *url.URL) *httputil.ReverseProxy {
		return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	}
	for _, tt := range []struct {
		name   string
		proxy  func(*url.URL) *httputil.ReverseProxy
		own    string // Authorization, inbound
		status int
		logged int // once
		texts  []string
	}{
		{"NewSingleHostReverseProxy", httputil.NewSingleHostReverseProxy, "", 401, 1, []string{"level=WARN", "use Rewrite with SetURL"}},
		{"Rewrite with SetURL", rewrite, "", 200, 0, nil},
		{"an inbound Authorization", rewrite, "Bearer theirs", 401, 1, []string{"level=DEBUG", "it has its own Authorization header"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				target, _ := url.Parse(string(w.conf.Endpoint))
				proxy := tt.proxy(target)
				proxy.Transport = w.client().Transport
				for range 3 {
					req, rec := httptest.NewRequest("GET", "https://shop.acme.com/cis/x?login=alice", nil), httptest.NewRecorder()
					if tt.own != "" {
						req.Header.Set("Authorization", tt.own)
					}
					if proxy.ServeHTTP(rec, req); rec.Code != tt.status {
						t.Errorf("got status %d; want %d", rec.Code, tt.status)
					}
				}
				for _, r := range w.arrived("/cis/x?login=alice", 3) {
					if got := r.Header.Get("Authorization"); tt.status != 200 && got != tt.own {
						t.Errorf("arrived with Authorization %q; want %q", got, tt.own)
					}
				}
				wantWithout(t, &w.log, tt.logged, tt.texts...)
			})
		})
	}
}

// wantWithout fails t unless log has n records of requests without a token, each with these texts,
// the documented keys and nothing of a path or query.
func wantWithout(t testing.TB, log *kit.Log, n int, texts ...string) {
	t.Helper()
	synctest.Wait()
	got := 0
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, `msg="mosaic: request sent without a token"`) {
			continue
		}
		got++
		keys := regexp.MustCompile(` \w+=`).FindAllString(line, -1)
		if !slices.Equal(keys, []string{" level=", " msg=", " client_id=", " endpoint=", " host=", " reason="}) || strings.Contains(line, "/cis") || strings.Contains(line, "alice") {
			t.Errorf("got %swant client_id, endpoint, host and reason", line)
		}
		for _, text := range texts {
			if !strings.Contains(line, text) {
				t.Errorf("got %swant %q in it", line, text)
			}
		}
	}
	if got != n {
		t.Errorf("got %d records of requests without a token; want %d", got, n)
	}
}

func TestAURLOfAnotherRegionIsLoggedOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.ServeAs("api.eu.transmitsecurity.io", "api.transmitsecurity.io")
		w.conf.Endpoint = mosaic.EU
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { w.get(mosaic.US.URL("/cis/v1/users?login=alice")).want(0, 401) })
		}
		wg.Wait()
		w.wantTokenRequests(0)
		wantWithout(t, &w.log, 1, "level=WARN", "client_id="+w.conf.ClientID, "endpoint="+eu, "host=api.transmitsecurity.io",
			`reason="its origin is not known: check Endpoint, Resource and Hosts`)
		w.get(eu+"/cis/v1/users").want(0, 200)
	})
}

func TestThirtyTwoHostsAreLoggedAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpy(nothing)
		for i := range 100 {
			host := fmt.Sprintf("https://host%d.acme.com/cis", i%50)
			s.wantToken(t, request("GET", host, nil), false)
			s.wantToken(t, own(request("GET", host, nil)), false)
			req := request("GET", eu+"/cis", nil)
			req.Host = "another.acme.com" // one further reason
			s.wantToken(t, req, false)
		}
		wantWithout(t, &s.log, 32)
		if warnings, debug := s.log.Count("level=WARN"), s.log.Count("level=DEBUG"); warnings != 17 || debug != 15 {
			t.Errorf("got %d records at warn and %d at debug; want 17 and 15", warnings, debug)
		}
		if n := s.log.Count("its Host is not that of its URL"); n != 1 {
			t.Errorf("one host with one reason was logged %d times; want once", n)
		}
	})
}

// own gives a request an Authorization of its own.
func own(req *http.Request) *http.Request {
	req.Header.Set("Authorization", "Bearer mine")
	return req
}

func TestARequestWithAnAuthorizationOfItsOwnIsSentAsItIs(t *testing.T) {
	for _, tt := range []struct {
		set  func(*http.Request)
		want string // arrives
	}{
		{func(r *http.Request) { own(r) }, "Bearer mine"},
		{func(r *http.Request) { r.SetBasicAuth("u", "p") }, "Basic dTpw"},
		{func(r *http.Request) { r.URL.User = url.UserPassword("u", "p") }, "Basic dTpw"},
		{func(r *http.Request) { r.Header["authorization"] = []string{"Bearer lower"} }, "Bearer lower"},
		{func(r *http.Request) { r.Header["Authorization"] = []string{""} }, ""},
	} {
		inWorld(t, func(t *testing.T, w *world) {
			for range 2 {
				req := request("GET", "/cis", nil)
				tt.set(req)
				w.send(req).want(0, 401)
			}
			for _, r := range w.arrived("/cis", 2) {
				if got := r.Header["Authorization"]; !slices.Equal(got, []string{tt.want}) {
					t.Errorf("arrived with Authorization %q; want %q", got, tt.want)
				}
			}
			w.wantTokenRequests(0)
			wantWithout(t, &w.log, 1, "level=DEBUG", "it has its own Authorization header")
		})
	}
}

func TestARequestWithAnAuthorizationOfItsOwnPresentsTheNewestCertificate(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		first, second := kit.Certificate(t, "first", kit.EC(), nil), kit.Certificate(t, "second", kit.EC(), nil)
		creds := mosaic.Credentials{ClientSecret: w.conf.ClientSecret, Certificate: first}
		var asked atomic.Int32
		w.conf.ClientSecret = ""
		w.conf.GetCredentials = func(context.Context) (mosaic.Credentials, error) {
			asked.Add(1)
			return creds, nil
		}
		want := func(req *http.Request, status int, cert *tls.Certificate, wantAsked int32) {
			t.Helper()
			w.send(req).want(0, status)
			arrived := w.APIRequests()
			got := arrived[len(arrived)-1].Certificate
			if cert == nil && got != nil || cert != nil && (got == nil || !got.Equal(cert.Leaf)) || asked.Load() != wantAsked {
				t.Errorf("%s: another certificate arrived, or GetCredentials was called %d times; want %d", req.URL, asked.Load(), wantAsked)
			}
		}
		foreign := func() *http.Request { return request("GET", "https://www.example.com/cis", nil) }
		known := func() *http.Request { return request("GET", "/cis", nil) }
		want(own(foreign()), 401, nil, 0)
		want(own(known()), 401, nil, 0) // there is no certificate yet
		risk := func() *http.Request { return request("GET", "/risk", nil) }
		want(risk(), 200, first, 1) // obtains a token
		creds.Certificate = second
		want(own(known()), 401, first, 1)
		want(known(), 200, second, 2) // obtains another
		want(own(known()), 401, second, 2)
		want(risk(), 200, first, 2)
		want(foreign(), 401, nil, 2)

		w.Handle("/cis/moved", http.RedirectHandler("/cis", http.StatusTemporaryRedirect))
		moved := request("GET", "/cis/moved", nil)
		w.BindTokens(true)
		tok, err := w.conf.Token(kit.Over(t.Context(), w.base))
		if err != nil {
			t.Fatal(err)
		}
		moved.Header.Set("Authorization", "Bearer "+tok.AccessToken)
		want(moved, 200, second, 3)
		synctest.Wait()
		if got := w.log.Count("level=WARN"); got != 1 {
			t.Errorf("%d warnings; want one, of the request to another origin without an Authorization", got)
		}

		// The idle connections of the caller and of the newest certificate are closed.
		dials := w.dials.Load()
		w.client().CloseIdleConnections()
		want(own(known()), 401, second, 3)
		want(risk(), 200, first, 3)
		want(foreign(), 401, nil, 3)
		if got := w.dials.Load() - dials; got != 2 {
			t.Errorf("after CloseIdleConnections, there were %d dials; want 2", got)
		}
	})
}

// knownOrigins are those of FuzzTrust's client, as originOf writes them.
var knownOrigins = map[string]bool{
	"https://api.eu.transmitsecurity.io:443":     true, // Endpoint's
	"https://api.acme.com:8443":                  true, // Resource's, followed by those of Hosts
	"https://activities.transmitsecurity.io:443": true,
	"https://login.acme.com:444":                 true,
	"https://xn--bcher-kva.example:443":          true,
	"https://192.0.2.7:443":                      true,
	"https://[2001:db8::1]:443":                  true,
	"https://[2001:db8:0:0::2]:8443":             true,
}

var (
	originURL  = regexp.MustCompile(`^([a-z]+)://([^/?#\\]*)(?:[/?#]|$)`)
	originHost = regexp.MustCompile(`^([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?$`)
)

// lowerASCII is strings.ToLower for ASCII only: K, the Kelvin sign, is no k.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// originOf returns the origin of a scheme and an authority, with its port, or "" if they are not
// written as an origin. It knows nothing of net/url.
func originOf(scheme, authority string) string {
	m := originHost.FindStringSubmatch(lowerASCII(authority))
	if m == nil {
		return ""
	}
	return scheme + "://" + m[1] + cmp.Or(m[2], map[string]string{"https": ":443", "http": ":80"}[scheme])
}

// isTrusted is the oracle: it judges the text of a URL and of a Host.
func isTrusted(rawURL, host string) bool {
	m := originURL.FindStringSubmatch(lowerASCII(rawURL))
	if m == nil {
		return false
	}
	scheme, authority := m[1], strings.TrimSuffix(m[2], ":") // http.NewRequest drops it
	return knownOrigins[originOf(scheme, authority)] && (host == "" || lowerASCII(host) == authority)
}

// FuzzTrust: a token goes to known origins, however a URL or a Host is written.
func FuzzTrust(f *testing.F) {
	for _, rawURL := range []string{
		// Known origins, with letters in another case or with the default port.
		eu + "/cis/v1/users", "https://API.EU.TransmitSecurity.IO:443/risk/v1?q#f", "HTTPS://api.eu.transmitsecurity.io:",
		"https://api.acme.com:8443/x", activities + "/", "https://login.acme.com:444/", "https://XN--BCHER-KVA.example/", "https://192.0.2.7/",
		"https://[2001:db8::1]/", "https://[2001:DB8::1]:443/", "https://[2001:db8:0:0::2]:8443/", eu + "/https://evil.com/",
		// Other spellings of known origins.
		eu + ":000443", "https://login.acme.com:0444/", "https://[2001:db8:0::1]/", "https://[2001:DB8:0::0.0.0.1]:443/", "https://[2001:db8::2]:8443/",
		// Other schemes and ports.
		"http://api.eu.transmitsecurity.io/", "http://api.eu.transmitsecurity.io:443/", "wss://api.eu.transmitsecurity.io/",
		"https:api.eu.transmitsecurity.io/", "//api.eu.transmitsecurity.io/", eu + ":8443/", eu + ":80/", eu + ":65979/", eu + ":0/",
		"https://api.acme.com/", "https://login.acme.com/", "https://[2001:db8::2]/",
		// Super- and subdomains, and look-alikes.
		"https://transmitsecurity.io/", "https://x.api.eu.transmitsecurity.io/", "https://api.transmitsecurity.io/", "https://io/",
		eu + ".evil.com/", eu + ".", "https://.api.eu.transmitsecurity.io", eu + ".:443/", "https://api-eu.transmitsecurity.io/",
		"https://evil.com/api.eu.transmitsecurity.io", "https://evil-api.eu.transmitsecurity.io/", eu + "-evil.com/", eu + "%2eevil.com/",
		"https://api.eu.transmit\u017fecurity.io/", "https://xn--bcher-\u212ava.example/", "https://a\u2024pi.eu.transmitsecurity.io/", "https://\uff41pi.eu.transmitsecurity.io/",
		"https://api.eu.transmitsecurity.\u0456o/", "https://api\u3002eu\u3002transmitsecurity\u3002io/", "https://b\u00fccher.example/",
		// User information.
		eu + "@evil.com/", eu + ":443@evil.com/", "https://evil.com@api.eu.transmitsecurity.io/", "https://user:api.eu.transmitsecurity.io@evil.com/",
		"https://@api.eu.transmitsecurity.io/", "https://evil.com\\@api.eu.transmitsecurity.io/", eu + "\\.evil.com/",
		"https://evil.com#@api.eu.transmitsecurity.io/", "https://evil.com?@api.eu.transmitsecurity.io/", eu + "#@evil.com/",
		// Addresses.
		"https://[::ffff:192.0.2.7]/", "https://3221225991/", "https://192.0.2.07/", "https://192.2.7/", "https://192.0.2.7./",
		"https://[2001:db8::1%25eth0]/", "https://[2001:db8::1]evil.com/", "https://[api.eu.transmitsecurity.io]/", "https://2001:db8::1/",
		// No URLs.
		eu + "\t/", " https://api.eu.transmitsecurity.io/", "https:///api.eu.transmitsecurity.io/", "https://", "", "/cis",
	} {
		f.Add(rawURL, "")
	}
	for _, host := range []string{
		"api.eu.transmitsecurity.io", "API.eu.transmitsecurity.io", "API.eu.transmitsecurity.io:443", "api.eu.transmitsecurity.io:0443", "api.eu.transmitsecurity.io:",
		"api.eu.transmitsecurity.io:8443", "api.eu.transmitsecurity.io.", "evil.com", "activities.transmitsecurity.io", "login.acme.com:444",
		"evil.com@api.eu.transmitsecurity.io", "api.eu.transmitsecurity.io/", " api.eu.transmitsecurity.io", "x\r\nHost: api.eu.transmitsecurity.io",
		"api.eu.transmit\u017fecurity.io",
	} {
		f.Add(eu+"/cis", host)
		f.Add("https://evil.com/", host)
		f.Add("https://[2001:db8::1]/", host)
	}

	s := newSpy(nothing, func(c *mosaic.Config) {
		c.Resource = "https://api.acme.com:8443/v1"
		c.Hosts = []string{
			"activities.transmitsecurity.io", "Login.Acme.com:444", "xn--bcher-kva.example", "192.0.2.7", "[2001:db8::1]", "[2001:db8:0:0::2]:8443",
		}
		c.Logger = nil
	})
	f.Fuzz(func(t *testing.T, rawURL, host string) {
		req, err := http.NewRequest(http.MethodGet, rawURL, nil)
		if err != nil {
			return // no URL for net/http
		}
		if host != "" {
			req.Host = host
		}
		s.take()
		res, err := s.client.Do(req)
		if err != nil {
			return // no request for it
		}
		seen := s.take()[0]
		got := strings.HasSuffix(seen, " token")
		if want := isTrusted(rawURL, host); got != want {
			t.Errorf("%q with Host %q: sent with a token: %t; want %t", rawURL, host, got, want)
		}
		if to := strings.SplitN(strings.Fields(seen)[1], "://", 2); got && !knownOrigins[originOf(to[0], to[1])] {
			t.Errorf("%q: the token went to %s", rawURL, seen)
		}
		if got && len(req.Header["Authorization"])+len(res.Request.Header["Authorization"]) > 0 {
			t.Errorf("%q: the caller's request has got the token", rawURL)
		}
	})
}
