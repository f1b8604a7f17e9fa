package mosaic

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Resource names the service that a token is for: the "resource" parameter of
// RFC 8707, an absolute URI without a fragment, sent exactly as it is given,
// since servers compare it as a string. It becomes the token's audience. The
// zero value asks for the default audience, with which identity management and
// authentication (/cis) are called.
//
// The constants are Mosaic's own services. A resource of your own, configured
// for your application in Mosaic, is written as Resource("https://…").
type Resource string

// The resources of Mosaic's services, from the page openapi/token of its
// developer documentation and its migration guide.
const (
	IdentityVerification Resource = "https://verify.identity.security" // /verify
	FraudPrevention      Resource = "https://risk.identity.security"   // /risk
	DataValidation       Resource = "https://dv.identity.security"     // /xdv
)

// DetectionAndResponse is the former name of [FraudPrevention].
const DetectionAndResponse = FraudPrevention

// check returns what is wrong with r as a Config's Resource, naming the field.
func (r Resource) check() error {
	if r == "" {
		return nil
	}
	err := errors.New("is not an absolute URI")
	switch u, parseErr := url.Parse(string(r)); {
	case parseErr != nil, !u.IsAbs(), u.Host == "" && u.Opaque == "" && u.Path == "",
		strings.ContainsFunc(string(r), func(c rune) bool { return c <= ' ' || c >= 0x7f }):
	case (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() == "":
	case strings.Contains(string(r), "#"):
		err = errors.New("has a fragment")
	default:
		return nil
	}
	return fmt.Errorf("Resource %s %w (RFC 8707 §2)", quoteURL(string(r)), err)
}

// services has the resource of each service that needs one, by the first segment
// of its APIs' paths.
var services = map[string]Resource{
	"verify": IdentityVerification,
	"risk":   FraudPrevention,
	"xdv":    DataValidation,
}

// resourceOf returns the resource of the service that u's path begins with.
func resourceOf(u *url.URL) Resource {
	segment, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.RawPath != "" { // an escaped slash ends no segment
		segment, _, _ = strings.Cut(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
		segment, _ = url.PathUnescape(segment)
	}
	return services[segment]
}
