package mosaic

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Resource names the service that a token is for: the "resource" parameter of RFC 8707, an absolute
// URI without a fragment. It is sent unchanged, because servers compare it as a string, and becomes
// the token's audience. The zero value selects the default audience: identity management and
// authentication (/cis).
//
// The constants are Mosaic's own services. A resource of your own, configured for your application
// in Mosaic, is written as Resource("https://…").
type Resource string

// The resources of Mosaic's services, from the page openapi/token of its developer documentation
// and its migration guide.
const (
	IdentityVerification Resource = "https://verify.identity.security" // /verify
	FraudPrevention      Resource = "https://risk.identity.security"   // /risk
	DataValidation       Resource = "https://dv.identity.security"     // /xdv
)

// DetectionAndResponse is the former name of [FraudPrevention].
const DetectionAndResponse = FraudPrevention

// check returns nil if r is empty or conforms to RFC 8707, or else an error that names the field.
func (r Resource) check() error {
	if r == "" {
		return nil
	}
	err := errors.New("is not an absolute URI such as " + string(FraudPrevention))
	switch u, parseErr := url.Parse(string(r)); {
	case parseErr != nil, !u.IsAbs(), u.Host == "" && u.Opaque == "" && u.Path == "",
		strings.ContainsFunc(string(r), func(c rune) bool { return c <= ' ' || c >= 0x7f }):
	case (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() == "":
	case u.User != nil:
		err = errors.New("holds user information")
	case strings.Contains(string(r), "#"):
		err = errors.New("has a fragment")
	default:
		return nil
	}
	return fmt.Errorf("Resource %s %w (RFC 8707 §2)", quoteURL(string(r)), err)
}

// services maps the first path segment of a service's APIs to its resource.
var services = map[string]string{
	"verify": string(IdentityVerification),
	"risk":   string(FraudPrevention),
	"xdv":    string(DataValidation),
}

// segmentOf returns the first non-empty path segment of u.
func segmentOf(u *url.URL) string {
	segment, _, _ := strings.Cut(strings.TrimLeft(u.EscapedPath(), "/"), "/") // an escaped slash does not end a segment
	segment, _ = url.PathUnescape(segment)
	return segment
}
