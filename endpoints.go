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
// "https://api.eu.transmitsecurity.io": scheme and host, no path. Credentials belong to one
// environment and region, so the zero value names none and [Config.Validate] refuses it.
//
// The constants are the documented ones. For a custom domain, or a value from a flag, a file or the
// environment, use [ParseEndpoint] or, through [Endpoint.UnmarshalText], whatever decodes text:
// flag.TextVar, encoding/json, YAML, environment loaders.
type Endpoint string

// The base URLs of Mosaic, from the page openapi/token of its developer documentation.
const (
	Sandbox Endpoint = "https://api.sbx.transmitsecurity.io"
	US      Endpoint = "https://api.transmitsecurity.io" // also called global
	EU      Endpoint = "https://api.eu.transmitsecurity.io"
	CA      Endpoint = "https://api.ca.transmitsecurity.io"
	AU      Endpoint = "https://api.au.transmitsecurity.io"
)

var endpointNames = map[string]struct {
	ident string // the constant's
	base  Endpoint
}{
	"sandbox": {"mosaic.Sandbox", Sandbox},
	"sbx":     {"mosaic.Sandbox", Sandbox},
	"us":      {"mosaic.US", US},
	"eu":      {"mosaic.EU", EU},
	"ca":      {"mosaic.CA", CA},
	"au":      {"mosaic.AU", AU},
}

const endpointWanted = `want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"`

// ParseEndpoint returns the Endpoint named by s: a region ("sandbox" or "sbx", "us", "eu", "ca",
// "au", in any case), a base URL ("https://login.acme.com", with or without a slash at its end) or
// a bare custom domain ("login.acme.com"). The result is in lower case and without a default port.
//
// Anything but the base of an https URL is refused, with an error that quotes s: another scheme
// (plain http is for loopback hosts only), user information, a path, a query, a fragment. An
// international domain is given in its "xn--" form.
func ParseEndpoint(s string) (Endpoint, error) {
	e, err := parseEndpoint(s)
	if err != nil {
		return "", fmt.Errorf("mosaic: %w", err)
	}
	return e, nil
}

func parseEndpoint(s string) (Endpoint, error) {
	if named, ok := endpointNames[strings.ToLower(s)]; ok {
		return named.base, nil
	}
	base := s
	if !strings.Contains(s, "://") && strings.Contains(s, ".") {
		base = "https://" + s
	}
	e, err := parseBase(base)
	if err != nil {
		return "", fmt.Errorf("endpoint %s %w: %s", quoteURL(s), err, endpointWanted)
	}
	return e, nil
}

// parseBase returns the canonical form of s, the base of an https URL.
func parseBase(s string) (Endpoint, error) {
	if strings.TrimSpace(s) == "" {
		return "", errors.New("is empty")
	}
	for _, r := range s {
		switch {
		case r < ' ' || r == 0x7f:
			return "", errors.New("holds a control character")
		case r > 0x7f:
			return "", errors.New(`holds a character that is not ASCII (an international domain is given in its "xn--" form)`)
		}
	}
	u, err := url.Parse(s)
	switch {
	case !strings.Contains(s, "://"):
		return "", errors.New("is no known name")
	case err != nil:
		return "", errors.New("is no URL")
	case u.User != nil:
		return "", errors.New("holds user information")
	case strings.ContainsAny(s, "?#"):
		return "", errors.New("has a query or a fragment")
	case u.Path != "" && u.Path != "/":
		return "", errors.New("has a path (give the base URL, without /oidc/token)")
	}
	host, err := canonicalHost(u.Scheme, u.Host)
	switch {
	case err != nil:
		return "", err
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return Endpoint(u.Scheme + "://" + host), nil
	case u.Scheme == "http":
		return "", errors.New("is not https (plain http is for loopback hosts only)")
	}
	return "", errors.New("is not https")
}

// hostPort matches a name or IPv4 address, of labels without a dot at the end, or an IPv6 address
// in brackets, with or without a port.
var hostPort = regexp.MustCompile(`^(?:((?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63})|\[([0-9A-Fa-f:.]+)\])(:.*)?$`)

// canonicalHost returns a URL's host, with or without a port, in lower case and without the
// scheme's default port, so that equal hosts are equal strings.
func canonicalHost(scheme, hostport string) (string, error) {
	m := hostPort.FindStringSubmatch(hostport)
	if m == nil || len(m[1]) > 253 { // RFC 1035 §2.3.4, less the root's length byte and its dot
		return "", errors.New("has a bad host")
	}
	host := strings.ToLower(m[1])
	if m[2] != "" {
		ip, err := netip.ParseAddr(m[2])
		if err != nil || !ip.Is6() {
			return "", errors.New("has a bad host")
		}
		host = "[" + ip.String() + "]"
	}
	if m[3] != "" {
		port, err := strconv.ParseUint(m[3][1:], 10, 16)
		if err != nil || port == 0 {
			return "", errors.New("has a bad port")
		}
		if port != map[string]uint64{"https": 443, "http": 80}[scheme] {
			host += ":" + strconv.FormatUint(port, 10)
		}
	}
	return host, nil
}

// isLoopback reports whether a request to host stays on this machine. A name is not looked up: only
// "localhost" itself counts (RFC 6761 §6.3).
func isLoopback(host string) bool {
	ip, _ := netip.ParseAddr(host) // a name parses to the zero Addr: no loopback
	return strings.EqualFold(host, "localhost") || ip.IsLoopback()
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

// check returns an error that names the field, if e is no base URL.
func (e Endpoint) check() error {
	if e == "" {
		return errors.New("Endpoint is empty: set the region that the credentials belong to, such as mosaic.EU")
	}
	if named, ok := endpointNames[strings.ToLower(string(e))]; ok {
		return fmt.Errorf("Endpoint %q is a name, not a base URL: use %s, or ParseEndpoint for text", string(e), named.ident)
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
// ("/risk/v1/recommendation") and may hold a query. Slashes before it become one; otherwise it is
// unchanged.
func (e Endpoint) URL(path string) string {
	return strings.TrimSuffix(string(e), "/") + "/" + strings.TrimLeft(path, "/")
}

// UnmarshalText sets e to the result of [ParseEndpoint]. After an error e is unchanged.
func (e *Endpoint) UnmarshalText(text []byte) error {
	parsed, err := ParseEndpoint(string(text))
	if err != nil {
		return err
	}
	*e = parsed
	return nil
}

// MarshalText returns the base URL.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e), nil }

// checkHost checks one of a Config's Hosts.
func checkHost(host string) error {
	if strings.Contains(host, "://") {
		return errors.New("is a URL: give the host alone")
	}
	if _, err := canonicalHost("https", host); err != nil {
		return fmt.Errorf("%w: want a host name, with or without a port", err)
	}
	return nil
}

// An origin is a scheme and a canonical host.
type origin struct{ scheme, host string }

// origins may get tokens.
type origins []origin

// origins returns those of Endpoint, of an https Resource, and of Hosts.
func (c *Config) origins() (known origins) {
	know := func(scheme, host string) {
		if host, err := canonicalHost(scheme, host); err == nil {
			known = append(known, origin{scheme, host})
		}
	}
	for _, base := range []string{string(c.Endpoint), string(c.Resource)} {
		if u, err := url.Parse(base); err == nil && (u.Scheme == "https" || base == string(c.Endpoint)) {
			know(u.Scheme, u.Host)
		}
	}
	for _, host := range c.Hosts {
		know("https", host)
	}
	return known
}

// has reports whether u's origin is known.
func (known origins) has(u *url.URL) bool {
	if u.Opaque != "" {
		return false
	}
	if slices.Contains(known, origin{u.Scheme, u.Host}) { // the usual spelling
		return true
	}
	host, err := canonicalHost(u.Scheme, strings.TrimSuffix(u.Host, ":")) // an empty port is the default one (RFC 3986 §6.2.3)
	return err == nil && slices.Contains(known, origin{u.Scheme, host})
}
