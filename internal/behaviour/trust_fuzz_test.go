package behaviour_test

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"example.com/mosaic"
)

// trustKnown are the origins that FuzzTrust's client may send its token to, as
// trustOrigin writes them.
var trustKnown = map[string]bool{
	"https://api.eu.transmitsecurity.io:443":               true, // Endpoint's
	"https://api.acme.com:8443":                            true, // Resource's, and from here on those of Hosts
	"https://activities.transmitsecurity.io:443":           true,
	"https://login.acme.com:444":                           true,
	"https://xn--bcher-kva.example:443":                    true,
	"https://192.0.2.7:443":                                true,
	"https://2001:0db8:0000:0000:0000:0000:0000:0001:443":  true,
	"https://2001:0db8:0000:0000:0000:0000:0000:0002:8443": true,
}

var (
	trustURL  = regexp.MustCompile(`^([a-z]+)://([^/?#\\]*)(?:[/?#]|$)`)
	trustHost = regexp.MustCompile(`^(?:([a-z0-9._-]+)|\[([0-9a-f:.]+)\])(?::0*([1-9][0-9]*))?$`)
)

// trustLower is strings.ToLower for ASCII alone: K, the Kelvin sign, is no k.
func trustLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// trustOrigin returns the origin of a URL's scheme and authority, "" for what is
// not written as one. It knows nothing of net/url.
func trustOrigin(scheme, authority string) string {
	m := trustHost.FindStringSubmatch(trustLower(authority))
	if m == nil {
		return ""
	}
	host := m[1]
	if m[2] != "" {
		ip, err := netip.ParseAddr(m[2])
		if err != nil {
			return ""
		}
		host = ip.StringExpanded()
	}
	return scheme + "://" + host + ":" + cmp.Or(m[3], map[string]string{"https": "443", "http": "80"}[scheme])
}

// trustedByText is the oracle: whether a request gets a token, by the text of its
// URL and its Host alone.
func trustedByText(rawURL, host string) bool {
	m := trustURL.FindStringSubmatch(trustLower(rawURL))
	if m == nil {
		return false
	}
	scheme, authority := m[1], strings.TrimSuffix(m[2], ":") // which http.NewRequest drops
	origin := trustOrigin(scheme, authority)
	return trustKnown[origin] && (host == "" || trustLower(host) == authority)
}

// A trustBase answers token requests, and tells what else it has got.
type trustBase struct {
	authorization []string
	host          string // that net/http would connect to
}

func (b *trustBase) RoundTrip(req *http.Request) (*http.Response, error) {
	res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: http.NoBody, Request: req}
	if req.Method == http.MethodPost {
		res.Body = io.NopCloser(strings.NewReader(`{"access_token":"known-origins-only","expires_in":86400}`))
		return res, nil
	}
	b.authorization = req.Header["Authorization"]
	b.host = trustOrigin(req.URL.Scheme, req.URL.Host)
	return res, nil
}

// A token goes to known origins, whatever a URL or a Host looks like. The oracle
// judges the text of both with two regular expressions.
func FuzzTrust(f *testing.F) {
	for _, rawURL := range []string{
		// What is known, in other words.
		"https://api.eu.transmitsecurity.io/cis/v1/users", "https://API.EU.TransmitSecurity.IO:443/risk/v1?q#f",
		"HTTPS://api.eu.transmitsecurity.io:", "https://api.eu.transmitsecurity.io:000443", "https://api.acme.com:8443/x",
		"https://activities.transmitsecurity.io/", "https://login.acme.com:444/", "https://xn--bcher-kva.example/",
		"https://192.0.2.7/", "https://[2001:db8::1]/", "https://[2001:DB8:0::0.0.0.1]:443/", "https://[2001:db8::2]:8443/",
		// Other schemes and ports.
		"http://api.eu.transmitsecurity.io/", "http://api.eu.transmitsecurity.io:443/", "ftp://api.eu.transmitsecurity.io/",
		"wss://api.eu.transmitsecurity.io/", "https:api.eu.transmitsecurity.io/", "//api.eu.transmitsecurity.io/",
		"https://api.eu.transmitsecurity.io:8443/", "https://api.eu.transmitsecurity.io:65979/", "https://api.eu.transmitsecurity.io:0/",
		"https://api.acme.com/", "https://login.acme.com/", "https://login.acme.com:0444/", "https://[2001:db8::2]/",
		// Super- and subdomains, and look-alikes.
		"https://transmitsecurity.io/", "https://x.api.eu.transmitsecurity.io/", "https://api.transmitsecurity.io/",
		"https://api.eu.transmitsecurity.io.evil.com/", "https://api.eu.transmitsecurity.io.", "https://.api.eu.transmitsecurity.io",
		"https://api.eu.transmitsecurity.io.:443/", "https://api-eu.transmitsecurity.io/", "https://evil.com/api.eu.transmitsecurity.io",
		"https://api.eu.transmit\u017fecurity.io/", "https://a\u2024pi.eu.transmitsecurity.io/", "https://\uff41pi.eu.transmitsecurity.io/",
		"https://b\u00fccher.example/", "https://api.eu.transmitsecurity.io%2eevil.com/", "https://api%2eeu.transmitsecurity.io/",
		// User information.
		"https://api.eu.transmitsecurity.io@evil.com/", "https://api.eu.transmitsecurity.io:443@evil.com/", "https://evil.com@api.eu.transmitsecurity.io/",
		"https://@api.eu.transmitsecurity.io/", "https://evil.com\\@api.eu.transmitsecurity.io/", "https://api.eu.transmitsecurity.io\\.evil.com/",
		"https://evil.com#@api.eu.transmitsecurity.io/", "https://evil.com?@api.eu.transmitsecurity.io/", "https://api.eu.transmitsecurity.io#@evil.com/",
		// Addresses.
		"https://[::ffff:192.0.2.7]/", "https://3221225991/", "https://192.0.2.07/", "https://192.2.7/", "https://[2001:db8::1%25eth0]/",
		"https://[2001:db8::1]evil.com/", "https://[api.eu.transmitsecurity.io]/", "https://2001:db8::1/", "https://[2001:db8::3]/",
		// What no URL has.
		"https://api.eu.transmitsecurity.io\t/", " https://api.eu.transmitsecurity.io/", "https:///api.eu.transmitsecurity.io/", "https://", "", "/cis",
	} {
		f.Add(rawURL, "")
	}
	for _, host := range []string{
		"api.eu.transmitsecurity.io", "API.eu.transmitsecurity.io:443", "api.eu.transmitsecurity.io:0443", "api.eu.transmitsecurity.io:",
		"api.eu.transmitsecurity.io:8443", "api.eu.transmitsecurity.io.", "evil.com", "activities.transmitsecurity.io", "login.acme.com:444",
		"evil.com@api.eu.transmitsecurity.io", "api.eu.transmitsecurity.io/", " api.eu.transmitsecurity.io", "x\r\nHost: api.eu.transmitsecurity.io",
	} {
		f.Add("https://api.eu.transmitsecurity.io/cis", host)
		f.Add("https://evil.com/", host)
		f.Add("https://[2001:db8::1]/", host)
	}

	base := new(trustBase)
	conf := &mosaic.Config{
		ClientID:     "fuzz",
		ClientSecret: "a secret that stays here",
		Endpoint:     mosaic.EU,
		Resource:     "https://api.acme.com:8443/v1",
		Hosts: []string{
			"activities.transmitsecurity.io", "Login.Acme.com:444", "xn--bcher-kva.example", "192.0.2.7", "[2001:db8::1]", "[2001:db8:0:0::2]:8443",
		},
	}
	client := conf.Client(context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: base}))

	f.Fuzz(func(t *testing.T, rawURL, host string) {
		req, err := http.NewRequest(http.MethodGet, rawURL, nil)
		if err != nil {
			return // no URL for net/http
		}
		if host != "" {
			req.Host = host
		}
		*base = trustBase{}
		res, err := client.Do(req)
		if err != nil {
			return // no request for it
		}
		res.Body.Close()

		got := len(base.authorization) == 1 && base.authorization[0] == "Bearer known-origins-only"
		if want := trustedByText(rawURL, host); got != want {
			t.Errorf("%q with Host %q: sent a token: %t; want %t", rawURL, host, got, want)
		}
		if got && !trustKnown[base.host] {
			t.Errorf("%q: the token went to %s", rawURL, base.host)
		}
		if _, has := req.Header["Authorization"]; has && got || res.Request.Header.Get("Authorization") != "" && got {
			t.Errorf("%q: the caller's request has got the token", rawURL)
		}
	})
}
