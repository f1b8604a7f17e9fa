package mosaic

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.com/mosaic/internal/redact"
)

// Endpoint is the base URL of one Mosaic environment and region, such as
// "https://api.eu.transmitsecurity.io": a scheme and a host, without a path. Credentials belong to
// one environment and region, so there is no default, and [Config.Validate] refuses the zero value.
//
// Most users will use a constant. For a custom domain, or if the value comes from a flag, a file or
// the environment, use [ParseEndpoint], or anything that calls [Endpoint.UnmarshalText], such as
// flag.TextVar, encoding/json, or a YAML decoder.
type Endpoint string

// The base URLs of Mosaic, from the page openapi/token of its developer documentation.
const (
	Sandbox Endpoint = "https://api.sbx.transmitsecurity.io"
	US      Endpoint = "https://api.transmitsecurity.io" // also called global
	EU      Endpoint = "https://api.eu.transmitsecurity.io"
	CA      Endpoint = "https://api.ca.transmitsecurity.io"
	AU      Endpoint = "https://api.au.transmitsecurity.io"
)

var endpointNames = map[string]Endpoint{"sandbox": Sandbox, "sbx": Sandbox, "us": US, "eu": EU, "ca": CA, "au": AU}

const endpointWanted = `want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"`

// ParseEndpoint returns the Endpoint named by s: a region ("sandbox" or "sbx", "us", "eu", "ca",
// "au", in any case), a base URL ("https://login.acme.com", with or without a trailing slash) or
// a bare custom domain ("login.acme.com"). The result is in lower case and without a default port.
//
// If s is anything else, the error quotes s, with any password masked. A URL must be https, unless
// its host is a loopback host, and must not have user information, a path, a query or a fragment. An
// international domain must be in its "xn--" form.
func ParseEndpoint(s string) (Endpoint, error) {
	if e, ok := endpointNames[strings.ToLower(s)]; ok {
		return e, nil
	}
	base := s
	if !strings.Contains(s, "://") && strings.Contains(s, ".") {
		base = "https://" + s
	}
	e, err := parseBase(base)
	if err != nil {
		err = fmt.Errorf("endpoint %s %w: %s", quoteURL(s), err, endpointWanted)
		return "", fmt.Errorf("mosaic: %w", err)
	}
	return e, nil
}

// parseBase returns the base of an https URL in lower case and without a default port.
func parseBase(s string) (Endpoint, error) {
	u, err := url.Parse(s)
	switch {
	case strings.TrimSpace(s) == "":
		return "", errors.New("is empty")
	case strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }):
		return "", errors.New(`has a character that is not ASCII (write an international domain in its "xn--" form)`)
	case err != nil, !strings.Contains(s, "://"):
		return "", errors.New("is not a URL")
	case u.User != nil:
		return "", errors.New("holds user information")
	case strings.ContainsAny(s, "?#"):
		return "", errors.New("has a query or a fragment")
	case u.Path != "" && u.Path != "/":
		return "", errors.New("has a path (give the base URL, without /oidc/token)")
	}
	u.Host = strings.ToLower(u.Host)
	switch {
	case !isHostPort(u.Host):
		return "", errors.New("has a bad host or port")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return "", errors.New("is not https (plain http is for loopback hosts only)")
	}
	o := originOf(u)
	return Endpoint(o.scheme + "://" + o.host), nil
}

// hostPort matches a name or an IPv4 address without a trailing dot, or an IPv6 address in brackets.
// A port may follow.
var hostPort = regexp.MustCompile(`^((?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}|\[[0-9A-Fa-f:.]+\])(?::([1-9][0-9]{0,4}))?$`)

// isHostPort reports whether s is a host with or without a port, written as in a URL.
func isHostPort(s string) bool {
	m := hostPort.FindStringSubmatch(s)
	if m == nil || len(m[1]) > 253 { // RFC 1035 §2.3.4: 255 bytes, of which two are not in the text
		return false
	}
	ip, _ := netip.ParseAddr(strings.Trim(m[1], "[]"))
	port, _ := strconv.Atoi(m[2]) // 0 if there is none
	return (m[1][0] != '[' || ip.Is6()) && port < 1<<16
}

// isLoopback reports whether a request to host stays on this machine. The host must be in lower case.
// No name is looked up, so the only name that counts is "localhost" (RFC 6761 §6.3).
func isLoopback(host string) bool {
	ip, _ := netip.ParseAddr(host) // a name gives the zero Addr, which is not loopback
	return host == "localhost" || ip.IsLoopback()
}

var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// quoteURL quotes s, a URL or a host, for an error. A password is masked.
func quoteURL(s string) string { return strconv.Quote(redact.Cut(maskUser(s), 64)) }

func maskUser(s string) string {
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		return scheme.FindString(s[:at]) + redact.Mark + s[at:]
	}
	return s
}

// check returns nil if e is a base URL. Otherwise it returns an error that names the field.
func (e Endpoint) check() error {
	if e == "" {
		return errors.New("Endpoint is empty: set the region that the credentials belong to, such as mosaic.EU")
	}
	if _, err := parseBase(string(e)); err != nil {
		return fmt.Errorf("Endpoint %s %w: use a constant such as mosaic.EU, or ParseEndpoint for text", quoteURL(string(e)), err)
	}
	return nil
}

// TokenURL returns the URL of the token endpoint, {base}/oidc/token. With only a certificate, a
// [Config] uses {base}/cis/oidc/token instead.
func (e Endpoint) TokenURL() string { return e.URL("/oidc/token") }

// URL returns the URL of an API, {base}/path. The path begins with the service
// ("/risk/v1/recommendation") and may have a query. Leading slashes become a single slash.
func (e Endpoint) URL(path string) string {
	return strings.TrimSuffix(string(e), "/") + "/" + strings.TrimLeft(path, "/")
}

// UnmarshalText sets e to the result of [ParseEndpoint]. If there is an error, e is unchanged.
func (e *Endpoint) UnmarshalText(text []byte) error {
	parsed, err := ParseEndpoint(string(text))
	if err == nil {
		*e = parsed
	}
	return err
}

// MarshalText returns the base URL.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e), nil }

// An origin is a scheme and a host, with the port unless it is the scheme's default port.
type origin struct{ scheme, host string }

var defaultPorts = map[string]string{"https": ":443", "http": ":80"}

func originOf(u *url.URL) origin {
	return origin{u.Scheme, strings.TrimSuffix(u.Host, defaultPorts[u.Scheme])}
}

// origins are the origins to which tokens may be sent.
type origins []origin

// origins returns the origins of Endpoint, Hosts, and a Resource that is an https URL.
func (c *Config) origins() (known origins) {
	for _, base := range []string{string(c.Endpoint), string(c.Resource)} {
		u, err := url.Parse(base)
		if err == nil && (u.Scheme == "https" || base == string(c.Endpoint)) && isHostPort(u.Host) {
			known = append(known, originOf(u))
		}
	}
	for _, host := range c.Hosts {
		known = append(known, originOf(&url.URL{Scheme: "https", Host: host}))
	}
	return known
}

// has reports whether u's origin is known. Only the case of ASCII letters may differ. EqualFold also
// folds K, the Kelvin sign, to k, so the lengths are compared, too.
func (known origins) has(u *url.URL) bool {
	of := originOf(u)
	return u.Opaque == "" && slices.ContainsFunc(known, func(o origin) bool {
		return o.scheme == of.scheme && len(o.host) == len(of.host) && strings.EqualFold(o.host, of.host)
	})
}
