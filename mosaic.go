// Package mosaic obtains access tokens for Transmit Security's Mosaic, as a
// [golang.org/x/oauth2] TokenSource.
//
// # Getting started
//
// A [Config] takes the place of a [clientcredentials.Config]: client ID, client
// secret, and the region's [Endpoint] instead of a token URL.
//
//	conf := &mosaic.Config{
//		ClientID:     os.Getenv("MOSAIC_CLIENT_ID"),
//		ClientSecret: os.Getenv("MOSAIC_CLIENT_SECRET"),
//		Endpoint:     mosaic.EU,
//	}
//	client := conf.Client(ctx)
//	res, err := client.Get(mosaic.EU.URL("/cis/v1/users"))
//
// [Config.Client] is for calling Mosaic's APIs; [Config.TokenSource] is for code
// that takes an [oauth2.TokenSource], [oauth2.NewClient] included; [Config.Token]
// requests one token. FAPI 2.0 clients set PrivateKey or Certificate in place of
// ClientSecret.
//
// # Choosing a service
//
// A token is for one service, its audience. With Config.Resource set, all tokens
// are for that. Without it, a client of [Config.Client] asks for the service that
// a request's path begins with, and a token source for the default audience, that
// of identity management and authentication (/cis).
//
// # How tokens are renewed
//
// A Mosaic token cannot be refreshed: a new one is requested. A [TokenSource]
// does so in the background when 3/5 to 2/3 of a token's lifetime have passed,
// if the token was used; until the new one is there, calls get the old one. So
// calls do not wait, but for the first and for one after a long idle time, and an
// outage of the token endpoint of 20 minutes goes unnoticed where tokens live for
// an hour. The lifetime is that of the token's exp claim, also where the local
// clock is off.
//
// # Errors
//
// The text of an error is one line that begins with "mosaic: "; from a client,
// net/http puts the method and the URL in front. Where the token
// endpoint refused a request, [errors.As] finds an [oauth2.RetrieveError] in it,
// with the code of RFC 6749 §5.2; where the caller's context ended, [errors.Is]
// finds that context's error.
//
// # Testing
//
// Package mosaictest is a stand-in for Mosaic that a test starts with one call.
//
// # Security
//
// Neither secrets nor keys nor tokens appear in what this package prints, logs
// or returns as an error, even where a server sends them back (a secret of less
// than eight bytes, or one that is sent as an error code, may). Credentials go to
// the token endpoint alone, over TLS, and no redirect is followed with them. A
// client of [Config.Client] sends tokens to known origins only.
package mosaic

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/expiry"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
	"example.com/mosaic/internal/refresh"
)

// Config describes a client of Mosaic and the service that it wants tokens for.
//
// It is copied when a source or a client is made of it: changing it later
// changes nothing. Its methods may be called concurrently.
//
// Printed with any verb of package fmt, logged with log/slog, or encoded as
// JSON, YAML or text, a Config or *Config shows neither its secret nor its key,
// and of EndpointParams the names alone. One thing Go cannot protect: what stands
// in an unexported field of another struct, which fmt prints without asking. Hold
// a *Config there, which %v prints as an address.
//
// A Config can be decoded from JSON or YAML, but not from what it is encoded as.
type Config struct {
	// ClientID is the application's client ID. Required.
	ClientID string

	// ClientSecret is the application's client secret, sent in the form
	// (client_secret_post). One of ClientSecret, PrivateKey and Certificate
	// authenticates the client; ClientSecret and PrivateKey exclude each other.
	ClientSecret string

	// PrivateKey signs a client assertion in place of a secret
	// (private_key_jwt, RFC 7523). Any crypto.Signer serves whose Public method
	// returns an *rsa.PublicKey of 2048 bits or more, an *ecdsa.PublicKey on
	// P-256 or an ed25519.PublicKey, a key in a KMS or HSM included. Its Sign
	// method is called by one goroutine at a time for each Config.
	PrivateKey crypto.Signer

	// Certificate is presented in the TLS handshake (RFC 8705), at the token
	// endpoint and by Client at the APIs. Alone it authenticates the client
	// (tls_client_auth and self_signed_tls_client_auth); beside a secret or a
	// key it only binds the token to the certificate (cnf). Its private key can be
	// any crypto.Signer; it has nine seconds for a signature, and is called by up
	// to four goroutines at a time for each Config. It needs an HTTP client whose
	// transport is an *http.Transport without DialTLS and DialTLSContext. An HTTPS
	// proxy that asks for a client certificate is shown it, too.
	Certificate *tls.Certificate

	// KeyID is the kid of PrivateKey in assertions and in JWKS. Empty: the
	// key's RFC 7638 SHA-256 thumbprint.
	KeyID string

	// SigningAlgorithm is the alg of PrivateKey's assertions: RS256, PS256,
	// ES256 or EdDSA (FAPI 2.0 allows the last three). Empty: RS256 for an RSA
	// key, ES256 for P-256, EdDSA for Ed25519.
	SigningAlgorithm string

	// AssertionAudience is the aud of PrivateKey's assertions. Empty: the URL of
	// the token endpoint, as Mosaic documents it; a FAPI 2.0 server may want its
	// issuer instead.
	AssertionAudience string

	// Endpoint is the environment and region that the credentials belong to.
	// Required.
	Endpoint Endpoint

	// Resource is the service that tokens are for. Empty: the default audience;
	// in Client, the service that a request's path begins with.
	Resource Resource

	// Hosts are further hosts that Client may send tokens to over https, beside
	// those of Endpoint and Resource: host names, each with or without a port.
	Hosts []string

	// Scopes optionally names requested permissions.
	Scopes []string

	// EndpointParams holds further parameters of the token request. It may not
	// set client_id, client_secret, client_assertion, client_assertion_type,
	// grant_type, resource or scope.
	EndpointParams url.Values

	// Logger gets a record at debug for each token obtained and for each request
	// that Client sends without one because of where it goes or comes from, at warn
	// when renewals fail (the first, then one a minute), and at error, with the
	// stack, when foreign code panics; never a secret or a token. Nil logs nothing.
	Logger *slog.Logger
}

// ownParams are the parameters that EndpointParams may not set.
var ownParams = []string{
	"client_assertion", "client_assertion_type", "client_id", "client_secret", "grant_type", "resource", "scope",
}

// Validate returns an error that names everything that is wrong with c, on one
// line and by field, or nil. Token, TokenSource, Client and JWKS call it: to call
// it first is to learn of a mistake at start-up. It makes no request.
func (c *Config) Validate() error {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	if c.ClientID == "" {
		add("ClientID is empty")
	} else if hasControl(c.ClientID) {
		add("ClientID holds a control character (a line end read from a file?)")
	}
	if hasControl(c.ClientSecret) {
		add("ClientSecret holds a control character (a line end read from a file?)")
	}
	switch {
	case c.ClientSecret == "" && c.PrivateKey == nil && c.Certificate == nil:
		add("ClientSecret is empty, and there is neither PrivateKey nor Certificate in its place")
	case c.ClientSecret != "" && c.PrivateKey != nil:
		add("ClientSecret and PrivateKey exclude each other")
	}
	c.checkKey(add)
	if c.Certificate != nil {
		for _, err := range mtls.Problems(c.Certificate) {
			add("Certificate: %v", err)
		}
	}
	if err := c.Endpoint.check(); err != nil {
		add("%v", err)
	}
	if err := c.Resource.check(); err != nil {
		add("%v", err)
	}
	for _, host := range c.Hosts {
		if _, err := canonicalHost("https", host); err != nil {
			add("Hosts: %s %v: want a host name, with a port or without", quoteURL(host), err)
		}
	}
	for _, name := range ownParams {
		if _, ok := c.EndpointParams[name]; ok {
			add("EndpointParams may not set %q", name)
		}
	}
	if len(problems) > 0 {
		return errors.New("mosaic: invalid Config: " + strings.Join(problems, "; "))
	}
	return nil
}

// checkKey adds what is wrong with PrivateKey and the fields that belong to it.
func (c *Config) checkKey(add func(format string, args ...any)) {
	type field struct{ name, value string }
	if c.PrivateKey == nil {
		for _, f := range []field{{"KeyID", c.KeyID}, {"SigningAlgorithm", c.SigningAlgorithm}, {"AssertionAudience", c.AssertionAudience}} {
			if f.value != "" {
				add("%s is set without PrivateKey", f.name)
			}
		}
		return
	}
	pub, err := assertion.PublicKey(c.PrivateKey)
	if err != nil {
		add("%v", err)
	}
	if err == nil || c.SigningAlgorithm != "" && !assertion.Known(c.SigningAlgorithm) {
		if _, err := assertion.Algorithm(pub, c.SigningAlgorithm); err != nil {
			add("%v", err)
		}
	}
	for _, f := range []field{{"ClientID", c.ClientID}, {"KeyID", c.KeyID}, {"AssertionAudience", c.AssertionAudience}} {
		if !utf8.ValidString(f.value) {
			add("%s is not valid UTF-8, which an assertion has to be", f.name)
		}
	}
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// Token requests one new token, which is not cached: most users will use
// [Config.Client] or [Config.TokenSource] instead.
//
// The context carries the HTTP client to use, if it carries one under
// [oauth2.HTTPClient], and its end ends the request. A request has 10 seconds;
// where it fails in a way that may pass (a transport error, 408, 429, 5xx) it is
// made up to three times, within 30 seconds. The token's Expiry is its exp claim,
// moved onto the local clock where that is off.
func (c *Config) Token(ctx context.Context) (*oauth2.Token, error) {
	r, err := c.requester(ctx)
	if err != nil {
		return nil, err
	}
	if r.bound != nil {
		defer r.bound.CloseIdleConnections()
	}
	begun := time.Now()
	tok, err := r.token(ctx, c.Resource, maxAttempts)
	if err != nil {
		return nil, err
	}
	tok.Log(r.logger(c.Resource), time.Since(begun))
	return copyOf(tok), nil
}

// TokenSource returns a source of tokens for c.Resource that caches the current
// one and renews it ahead of its expiry. It composes with [oauth2.NewClient] and
// [oauth2.ReuseTokenSource].
//
// Of the context only the HTTP client is taken, if it carries one under
// [oauth2.HTTPClient]: its end does not end the source. That client's transport
// has to end a request with the request's context, as net/http's does. If c is
// invalid, each call of the source returns what [Config.Validate] does.
func (c *Config) TokenSource(ctx context.Context) *TokenSource {
	r, err := c.requester(ctx)
	if err != nil {
		return &TokenSource{err: err}
	}
	return &TokenSource{source: r.source(c.Resource)}
}

// A TokenSource is an [oauth2.TokenSource] for one service, made by
// [Config.TokenSource]. It is safe for concurrent use and needs no closing: it
// makes no request while nobody uses it.
type TokenSource struct {
	source *refresh.Source // a pointer: fmt does not look behind it
	err    error
}

var errZeroSource = errors.New("mosaic: a TokenSource is made by Config.TokenSource")

// Token returns the current token: a copy, the caller's own. It waits only where
// there is none that is good: for one request of 30 seconds at most, and up to
// ten more where one that began in the last token's closing seconds fails first.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	return s.TokenContext(context.Background())
}

// TokenContext is Token with a wait that ends with ctx; the error is then ctx's.
// The request that it waited for goes on for others. A good token is
// returned whatever the state of ctx.
func (s *TokenSource) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	switch {
	case s.err != nil:
		return nil, s.err
	case s.source == nil:
		return nil, errZeroSource
	}
	tok, err := s.source.Token(ctx)
	if err != nil {
		return nil, err
	}
	return copyOf(tok), nil
}

// Invalidate drops t if it is still the current token, as when an API has
// refused it: the next call of Token requests a new one, or joins a request that
// is under way. So any number of holders of one refused token cause one request.
// A nil t is ignored.
func (s *TokenSource) Invalidate(t *oauth2.Token) {
	if t != nil && s.source != nil {
		s.source.Invalidate(t.AccessToken)
	}
}

// copyOf returns the caller's own copy: oauth2.ReuseTokenSource writes into the
// tokens that it is given.
func copyOf(tok *refresh.Token) *oauth2.Token {
	t := tok.Token
	return &t
}

// Client returns an HTTP client for all of Mosaic. Its transport gives each
// request the token for Resource or, where that is empty, for the service that
// the first segment of the URL's path names (/verify, /risk, /xdv; anything else:
// the default audience).
//
// Tokens, and Certificate, go to known origins alone: Endpoint's, Resource's
// where that is an https URL, and Hosts. A request to another origin, one that a
// redirect by way of another has led to, one whose Host is not its URL's, and one
// that already carries an Authorization header go out without a token of this
// client's. The wait for a token ends with the request's context.
//
// When a server answers 401 to a token at least ten seconds old, the token is
// renewed, at most once in ten seconds if the answer says invalid_token, else
// once a minute. A request that net/http itself would repeat (GET, HEAD, OPTIONS,
// TRACE, or one with an Idempotency-Key), or whose answer says invalid_token, is
// then sent once more, if its body can be had again (GetBody), the 401's has no
// more than 64 KiB, and both that and the new token are there within five seconds;
// any other gets its 401 at once. The client sends a request again only after a
// server has answered 401 to it.
//
// Of the context only the HTTP client is taken, if it carries one under
// [oauth2.HTTPClient]: its transport, which is used and not changed, its
// timeout, jar and redirect policy. If c is invalid, each request returns what
// [Config.Validate] does. The returned client is safe for concurrent use; it and
// its Transport should not be modified.
func (c *Config) Client(ctx context.Context) *http.Client {
	base := contextClient(ctx)
	return &http.Client{
		Transport:     c.transport(ctx, base.Transport),
		CheckRedirect: base.CheckRedirect,
		Jar:           base.Jar,
		Timeout:       base.Timeout,
	}
}

// JWKS returns the public JWK Set (RFC 7517) of PrivateKey and Certificate, to
// be submitted to Mosaic in its Admin Portal. The kid of PrivateKey is the one
// that assertions carry; the key of Certificate comes with the certificate's
// chain (x5c). There is never a private member in it.
func (c *Config) JWKS() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.PrivateKey == nil && c.Certificate == nil {
		return nil, errors.New("mosaic: a Config with a ClientSecret alone has no public key to submit")
	}
	var keys []assertion.JWK
	var public crypto.PublicKey
	if c.PrivateKey != nil {
		key, err := assertion.NewKey(c.PrivateKey, c.SigningAlgorithm, c.KeyID)
		if err != nil {
			return nil, fmt.Errorf("mosaic: %w", err)
		}
		public = key.Public
		keys = append(keys, key.JWK())
	}
	if c.Certificate != nil {
		leaf, err := x509.ParseCertificate(c.Certificate.Certificate[0])
		if err != nil {
			return nil, fmt.Errorf("mosaic: Certificate: %w", err)
		}
		if public == nil || !mtls.SameKey(public, leaf.PublicKey) {
			alg, _ := assertion.Algorithm(leaf.PublicKey, "") // none for P-384 and P-521; the member is optional
			jwk, err := assertion.NewJWK(leaf.PublicKey, alg, "")
			if err != nil {
				return nil, fmt.Errorf("mosaic: Certificate: %w", err)
			}
			keys = append(keys, jwk)
		}
		keys[len(keys)-1].X5C = c.Certificate.Certificate
	}
	return assertion.Set(keys...)
}

// String returns c without its secret and its keys.
func (c Config) String() string {
	var b strings.Builder
	field := func(name, format string, value any) {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, name+": "+format, value)
	}
	text := func(name, value string) {
		if value != "" {
			field(name, "%q", value)
		}
	}
	secret := func(name string, set bool) {
		if set {
			field(name, "%s", redact.Mark)
		}
	}
	list := func(name string, values []string) {
		if len(values) > 0 {
			field(name, "%q", values)
		}
	}
	text("ClientID", c.ClientID)
	secret("ClientSecret", c.ClientSecret != "")
	secret("PrivateKey", c.PrivateKey != nil)
	secret("Certificate", c.Certificate != nil)
	text("KeyID", c.KeyID)
	text("SigningAlgorithm", c.SigningAlgorithm)
	text("AssertionAudience", c.AssertionAudience)
	text("Endpoint", maskUser(string(c.Endpoint)))
	text("Resource", string(c.Resource))
	var hosts []string
	for _, host := range c.Hosts {
		hosts = append(hosts, maskUser(host))
	}
	list("Hosts", hosts)
	list("Scopes", c.Scopes)
	list("EndpointParams", slices.Sorted(maps.Keys(c.EndpointParams)))
	return "mosaic.Config{" + b.String() + "}"
}

// GoString returns [Config.String]: some printers ask for it alone.
func (c Config) GoString() string { return c.String() }

// Format writes [Config.String] for every verb and flag.
func (c Config) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// LogValue returns [Config.String].
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns [Config.String], which is what encoders of JSON and YAML
// write, too. It is not meant to be read back.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Claims are the claims of a Mosaic access token that its documentation names.
type Claims struct {
	jwt.RegisteredClaims // Subject is the client ID; Issuer, Audience, ExpiresAt, IssuedAt and ID are set, too

	Scope         string        `json:"scope,omitempty"` // space-delimited
	ClientID      string        `json:"client_id,omitempty"`
	AppID         string        `json:"app_id,omitempty"`
	AppName       string        `json:"app_name,omitempty"`
	TenantID      string        `json:"tid,omitempty"`
	Role          []string      `json:"role,omitempty"`  // of admin tokens
	Roles         []string      `json:"roles,omitempty"` // the same, as the documentation's example has it
	TSRoles       []string      `json:"ts_roles,omitempty"`
	TSPermissions []string      `json:"ts_permissions,omitempty"`
	Confirmation  *Confirmation `json:"cnf,omitempty"` // nil unless token binding is on
}

// Confirmation names the certificate that a token is bound to (RFC 8705 §3.1).
type Confirmation struct {
	CertificateThumbprint string `json:"x5t#S256,omitempty"` // base64url SHA-256 of the certificate's DER
}

// ParseClaims reads the claims of t, for logs and decisions about one's own
// token. It does not verify the signature: Mosaic is the audience of the token
// and validates it. Never trust, on the strength of ParseClaims, a token that
// somebody else has sent. The error is for a token that is no JWT, or has a claim
// of another type than Mosaic or RFC 7519 documents; it does not hold the token.
func ParseClaims(t *oauth2.Token) (*Claims, error) {
	if t == nil {
		return nil, errors.New("mosaic: cannot read the claims of a nil token")
	}
	claims := new(Claims)
	_, _, err := jwt.NewParser().ParseUnverified(t.AccessToken, claims)
	if err != nil && !errors.Is(err, jwt.ErrTokenUnverifiable) { // an algorithm that the library does not know
		return nil, fmt.Errorf("mosaic: cannot read the token's claims: %s", redact.Quote(err.Error(), maxQuote))
	}
	return claims, nil
}

const (
	attemptTimeout = 10 * time.Second // the token endpoint answers in well under one
	requestTimeout = 30 * time.Second // all attempts: what a caller may have to wait
	maxAttempts    = 3
	firstBackoff   = 500 * time.Millisecond // doubled for each further attempt

	// maxToken bounds an access token: servers commonly refuse a header of more
	// than 8 or 16 KiB, and Mosaic's tokens have about one.
	maxToken = 16 << 10

	// maxSkew is how far the server's clock may seem from the local one before an
	// assertion that was refused is dated by it. A server that takes none older
	// than 15 s refuses one that was dated back by ten where the clocks differ by
	// four: Date and iat are rounded down to the second.
	maxSkew = 3 * time.Second

	// maxHandshakes is how many signatures of Certificate's key are made at once:
	// more than one, for each connection to an API needs its own; few, for that is
	// what a key that hangs may cost for good.
	maxHandshakes = 4

	maxQuote  = 200      // bytes of foreign text in an error's line
	maxField  = 4 << 10  // bytes of foreign text in a field that an error makes reachable
	maxHeader = 16 << 10 // bytes of the header that it makes reachable
)

// A requester makes token requests: what a valid Config becomes when a source or
// a client is made of it. It is safe for concurrent use.
type requester struct {
	of     *Config // not read: whom its signers are called for
	conf   *Config // a deep copy
	key    *assertion.Key
	client *http.Client    // a copy of the context's
	bound  *http.Transport // its transport's clone that presents conf.Certificate; nil without one
	leaf   string          // the x5t#S256 of conf.Certificate
	secret *redact.Redactor
	ahead  atomic.Int64 // how far the server's clock is ahead of the local one, a time.Duration

	handshake atomic.Pointer[signerError] // what crypto/tls last got of Certificate's key, and makes text of
}

func (c *Config) requester(ctx context.Context) (*requester, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	client := *contextClient(ctx)
	r := &requester{of: c, conf: c.clone(), client: &client, secret: redact.New(c.ClientSecret)}
	if c.PrivateKey != nil {
		key, err := assertion.NewKey(c.PrivateKey, c.SigningAlgorithm, c.KeyID)
		if err != nil {
			return nil, fmt.Errorf("mosaic: %w", err)
		}
		r.key = key
	}
	if c.Certificate != nil {
		bound, err := mtls.Bind(client.Transport, r.conf.Certificate, r.signHandshake)
		if err != nil {
			return nil, fmt.Errorf("mosaic: Certificate %w", err)
		}
		r.leaf = mtls.Thumbprint(r.conf.Certificate.Certificate[0])
		r.bound, r.client.Transport = bound, bound
	}
	return r, nil
}

// contextClient returns the HTTP client that ctx carries, or the default one.
func contextClient(ctx context.Context) *http.Client {
	if ctx != nil {
		if client, ok := ctx.Value(oauth2.HTTPClient).(*http.Client); ok && client != nil {
			return client
		}
	}
	return http.DefaultClient
}

// clone returns a deep copy, but for what only foreign code can copy: the
// signers and the logger's handler.
func (c *Config) clone() *Config {
	d := *c
	d.Hosts, d.Scopes = slices.Clone(c.Hosts), slices.Clone(c.Scopes)
	d.EndpointParams = make(url.Values, len(c.EndpointParams))
	for name, values := range c.EndpointParams {
		d.EndpointParams[name] = slices.Clone(values)
	}
	if c.Certificate != nil {
		cert := *c.Certificate
		cert.Certificate = slices.Clone(cert.Certificate)
		for i, der := range cert.Certificate {
			cert.Certificate[i] = bytes.Clone(der)
		}
		cert.SupportedSignatureAlgorithms = slices.Clone(cert.SupportedSignatureAlgorithms)
		cert.OCSPStaple = bytes.Clone(cert.OCSPStaple)
		cert.SignedCertificateTimestamps = slices.Clone(cert.SignedCertificateTimestamps)
		d.Certificate = &cert
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return &d
}

// source returns a cached source of tokens for resource.
func (r *requester) source(resource Resource) *refresh.Source {
	return refresh.New(func(ctx context.Context, once bool) (*refresh.Token, error) {
		attempts := maxAttempts
		if once {
			attempts = 1
		}
		return r.token(ctx, resource, attempts)
	}, r.logger(resource))
}

func (r *requester) logger(resource Resource) *slog.Logger {
	return r.conf.Logger.With("endpoint", string(r.conf.Endpoint), "resource", string(resource))
}

// tokenURL is where the token is requested. Mosaic's guide for mTLS has another
// path than its other guides.
func (r *requester) tokenURL() string {
	if r.conf.Certificate != nil && r.conf.ClientSecret == "" && r.key == nil {
		return r.conf.Endpoint.URL("/cis/oidc/token")
	}
	return r.conf.Endpoint.TokenURL()
}

// token obtains one token, in up to so many attempts.
func (r *requester) token(caller context.Context, resource Resource, attempts int) (*refresh.Token, error) {
	ctx, cancel := context.WithTimeout(caller, requestTimeout)
	defer cancel()
	again := false
	for n := 1; ; n++ {
		tok, failure := r.attempt(ctx, resource)
		if failure == nil {
			return tok, nil
		}
		failure.url, failure.attempts = r.tokenURL(), n
		if err := ended(caller); err != nil {
			return nil, failure.endedBy(err)
		}
		if failure.redated && !again {
			again = true
			n-- // with another date it is another assertion, not another try
			continue
		}
		if !failure.transient || n >= attempts {
			return nil, failure
		}
		backoff := firstBackoff << (n - 1)
		backoff = max(backoff/2+rand.N(backoff/2), failure.retryAfter)
		if deadline, _ := ctx.Deadline(); time.Until(deadline) <= backoff {
			return nil, failure
		}
		select {
		case <-time.After(backoff):
		case <-caller.Done():
			return nil, failure.endedBy(caller.Err())
		}
	}
}

// ended returns the error of a context that has ended. The network's own timers
// are set by its deadline, and may run out a moment before it is noticed.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) && ctx.Err() == nil {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// attempt makes one request through x/oauth2.
func (r *requester) attempt(ctx context.Context, resource Resource) (*refresh.Token, *tokenError) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	cc := clientcredentials.Config{
		ClientID:       r.conf.ClientID,
		ClientSecret:   r.conf.ClientSecret,
		TokenURL:       r.tokenURL(),
		Scopes:         r.conf.Scopes,
		EndpointParams: maps.Clone(r.conf.EndpointParams),
		AuthStyle:      oauth2.AuthStyleInParams,
	}
	if resource != "" {
		cc.EndpointParams.Set("resource", string(resource))
	}
	ahead := time.Duration(r.ahead.Load())
	if r.key != nil {
		signed, failure := r.sign(ctx, ahead)
		if failure != nil {
			return nil, failure
		}
		cc.EndpointParams.Set("client_assertion_type", assertion.Type)
		cc.EndpointParams.Set("client_assertion", signed)
	}

	x := &exchange{base: r.client.Transport}
	client := *r.client
	client.Transport = x
	client.Jar = nil
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	sent := time.Now()
	t, err := cc.Token(context.WithValue(ctx, oauth2.HTTPClient, &client))
	received := time.Now()
	if err != nil {
		failure := r.explain(ctx, x, err)
		if failure.retryAfter = x.retryAfter(); failure.retryAfter > 0 {
			failure.what += "; it asks to wait " + failure.retryAfter.String()
		}
		if r.key != nil {
			r.redate(failure, x, ahead, sent, received)
		}
		return nil, failure
	}
	tok, err := r.accept(t, sent, received, x.date())
	if err != nil {
		return nil, &tokenError{what: "the reply holds no usable token: " + err.Error()}
	}
	return tok, nil
}

// redate looks at the refusal of an assertion that was dated by a clock so far
// ahead of the local one. Where the reply's Date shows that the server's is
// another, the next assertion is dated by that.
func (r *requester) redate(failure *tokenError, x *exchange, assumed time.Duration, sent, received time.Time) {
	date := x.date()
	if date.IsZero() || x.response.StatusCode != http.StatusBadRequest && x.response.StatusCode != http.StatusUnauthorized {
		return
	}
	ahead := date.Sub(received)
	if assumed >= ahead-maxSkew && assumed <= date.Sub(sent)+maxSkew {
		r.ahead.Store(0) // it was not the date; or the Date is wrong, a proxy's
		return
	}
	r.ahead.Store(int64(ahead))
	failure.redated = true
	failure.what += fmt.Sprintf("; the local clock differs from the server's by %s", ahead.Abs().Round(time.Second))
}

// sign returns a new client assertion, dated so far ahead of the local clock.
func (r *requester) sign(ctx context.Context, ahead time.Duration) (string, *tokenError) {
	audience := cmp.Or(r.conf.AssertionAudience, r.tokenURL())
	signed, err := guard.Call(ctx, r.guard("PrivateKey", r.key.Signer, 1), func() (string, error) {
		return r.key.Sign(assertion.Claims{ClientID: r.conf.ClientID, Audience: audience, Now: time.Now().Add(ahead)})
	})
	if err == nil {
		return signed, nil
	}
	if failed := (*guard.Error)(nil); errors.As(err, &failed) && failed.Late {
		return "", &tokenError{what: err.Error(), cause: signerError{err}, transient: true}
	}
	return "", &tokenError{what: "no client assertion: " + r.secret.Quote(err.Error(), maxQuote), cause: signerError{err}}
}

// signHandshake returns what sign does, which calls the key of Certificate. It
// has less time than an attempt, so that there is some left to say what failed:
// net/http ends a handshake by a context of its own. crypto/tls makes text of an
// error in a goroutine where an Error method must not panic.
func (r *requester) signHandshake(sign func() ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout-time.Second)
	defer cancel()
	key, _ := r.conf.Certificate.PrivateKey.(crypto.Signer)
	signature, err := guard.Call(ctx, r.guard("the private key of Certificate", key, maxHandshakes), sign)
	if err != nil {
		r.handshake.Store(&signerError{err})
		return nil, errors.New(fmt.Sprint(err))
	}
	return signature, nil
}

func (r *requester) guard(name string, signer crypto.Signer, atOnce int) guard.Guard {
	return guard.Guard{Of: r.of, Signer: signer, Name: name, AtOnce: atOnce, Log: r.conf.Logger}
}

// A signerError is a signer's error, in which errors.Is finds everything but the
// end of a context: that would pass for the caller's.
type signerError struct{ error }

func (e signerError) As(target any) bool { return errors.As(e.error, target) }
func (e signerError) Is(target error) bool {
	return target != context.Canceled && target != context.DeadlineExceeded && errors.Is(e.error, target)
}

// accept returns the token of a reply, if it can be used.
func (r *requester) accept(t *oauth2.Token, sent, received, date time.Time) (*refresh.Token, error) {
	switch {
	case t.TokenType != "" && !strings.EqualFold(t.TokenType, "Bearer"):
		if tokenType.MatchString(t.TokenType) {
			return nil, fmt.Errorf("its token_type is %q, not Bearer", t.TokenType)
		}
		return nil, errors.New("its token_type is not Bearer")
	case len(t.AccessToken) > maxToken:
		return nil, fmt.Errorf("it has %d bytes, more than any header takes", len(t.AccessToken))
	case !isB64Token(t.AccessToken):
		return nil, errors.New("it holds characters that no Bearer token may have (RFC 6750 §2.1)")
	}
	if err := r.checkBinding(t); err != nil {
		return nil, err
	}
	var expiresIn time.Duration
	if !t.Expiry.IsZero() {
		expiresIn = t.Expiry.Sub(received).Round(time.Second) // x/oauth2 has counted it from when it read the reply
	}
	end, life, err := expiry.Of(expiry.Reply{
		AccessToken: t.AccessToken,
		ExpiresIn:   expiresIn,
		Sent:        sent,
		Received:    received,
		Date:        date,
	})
	if err != nil {
		return nil, err
	}
	t.Expiry = end
	return &refresh.Token{
		Token:         *t,
		Authorization: "Bearer " + t.AccessToken,
		Sent:          sent,
		Lifetime:      life,
	}, nil
}

// tokenType is what a token_type looks like (DPoP, mac, N_A), and no token does.
var tokenType = regexp.MustCompile(`^[A-Za-z_]{1,12}$`)

// isB64Token reports whether s has the syntax of RFC 6750 §2.1.
func isB64Token(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && !strings.ContainsFunc(body, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._~+/", c))
	})
}

// checkBinding refuses a token that is bound to another certificate than ours:
// Mosaic has then seen another one in the handshake.
func (r *requester) checkBinding(t *oauth2.Token) error {
	if r.leaf == "" {
		return nil
	}
	claims := jwt.MapClaims{} // whatever types they have: they are for Mosaic to judge
	_, _, _ = jwt.NewParser().ParseUnverified(t.AccessToken, claims)
	confirmation, _ := claims["cnf"].(map[string]any)
	if thumbprint, _ := confirmation["x5t#S256"].(string); thumbprint != "" && thumbprint != r.leaf {
		return errors.New("it is bound to another certificate than Config.Certificate: something on the way ends the TLS connection")
	}
	return nil
}

// An exchange is one HTTP exchange, of which it notes what x/oauth2 drops.
type exchange struct {
	base     http.RoundTripper // nil: http.DefaultTransport
	response *http.Response    // nil: there was none
	bodyErr  error             // that reading the body ended with, but for io.EOF
}

func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	base := x.base
	if base == nil {
		base = http.DefaultTransport
	}
	res, err := base.RoundTrip(req)
	if err == nil && res != nil {
		x.response = res
		if res.Body != nil { // nil from a RoundTripper that is not net/http's
			res.Body = &notedBody{res.Body, x}
		}
	}
	return res, err
}

type notedBody struct {
	io.ReadCloser
	x *exchange
}

func (b *notedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.x.bodyErr = err
	}
	return n, err
}

// date returns the reply's Date, or zero.
func (x *exchange) date() time.Time {
	if x.response == nil {
		return time.Time{}
	}
	date, _ := http.ParseTime(x.response.Header.Get("Date"))
	return date
}

// retryAfter returns how long the reply asks to wait (RFC 9110 §10.2.3), zero if
// it does not.
func (x *exchange) retryAfter() time.Duration {
	if x.response == nil {
		return 0
	}
	value := x.response.Header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now := x.date() // the server's clock, if it tells
	if now.IsZero() {
		now = time.Now()
	}
	return max(at.Sub(now), 0)
}

// A tokenError says why a token request has failed.
type tokenError struct {
	url      string
	attempts int
	what     string // one bounded line without secrets
	cause    error  // what errors.Is and errors.As find, or nil

	transient  bool          // the request is worth repeating at once
	redated    bool          // and so is one that is dated by the server's clock
	refused    bool          // the endpoint refused it, and will refuse the next
	retryAfter time.Duration // as the endpoint asked
}

func (e *tokenError) Error() string {
	times := ""
	if e.attempts > 1 {
		times = fmt.Sprintf(" (%d attempts)", e.attempts)
	}
	return "mosaic: token request to " + e.url + " failed" + times + ": " + e.what
}

func (e *tokenError) Unwrap() error             { return e.cause }
func (e *tokenError) Timeout() bool             { return errors.Is(e.cause, context.DeadlineExceeded) }
func (e *tokenError) Refused() bool             { return e.refused }
func (e *tokenError) RetryAfter() time.Duration { return e.retryAfter }

// endedBy returns e as the error of a request that its caller's context ended.
func (e *tokenError) endedBy(cause error) *tokenError {
	what := cause.Error()
	if e.cause != nil { // there was a reply, or a signer's error
		what += " (last: " + e.what + ")"
	}
	return &tokenError{url: e.url, attempts: e.attempts, what: what, cause: errors.Join(cause, e.cause)}
}

// explain returns what went wrong with an exchange that x/oauth2 ended with err.
func (r *requester) explain(ctx context.Context, x *exchange, err error) *tokenError {
	var reply *oauth2.RetrieveError
	switch {
	case x.response == nil || x.bodyErr != nil:
		return r.explainTransport(ctx, x, err)
	case errors.As(err, &reply):
		return r.explainReply(x, reply)
	case x.response.StatusCode/100 == 3: // without a Location that net/http can use
		return &tokenError{what: fmt.Sprintf("%s: %s", r.secret.Quote(x.response.Status, maxQuote), redirectHint)}
	}
	what := "is not the JSON of a token response (RFC 6749 §5.1)"
	switch text := err.Error(); {
	case isHTML(x.response):
		what = "is an HTML page: does a proxy or a login page answer in Mosaic's place?"
	case strings.Contains(text, "unexpected end of JSON input"):
		what = "is empty or cut off"
	case strings.Contains(text, "missing access_token"):
		what = "has no access_token"
	case strings.Contains(text, "ParseInt"), strings.Contains(text, "Number"):
		what = "has an expires_in that is no whole number"
	}
	return &tokenError{what: fmt.Sprintf("the reply (%s) %s", r.secret.Quote(x.response.Status, maxQuote), what)}
}

func isHTML(res *http.Response) bool {
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return media == "text/html" || media == "application/xhtml+xml"
}

// explainTransport explains an exchange that brought no whole reply. The cause
// is not made reachable: it is foreign, and may hold the request, or claim to be
// the end of a context that was ours.
func (r *requester) explainTransport(ctx context.Context, x *exchange, err error) *tokenError {
	if x.bodyErr != nil {
		err = x.bodyErr
	}
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err // without the URL, which is told already
	}
	text := r.secret.Quote(fmt.Sprint(err), maxQuote) // Sprint, for a foreign Error method may panic
	var badCertificate *tls.CertificateVerificationError
	var network *net.OpError
	switch {
	case errors.As(err, &badCertificate):
		return &tokenError{what: "the server's certificate does not verify (" + text + "): check Endpoint, the local clock, and whether a proxy ends TLS here", refused: true}
	case ended(ctx) != nil && x.response == nil:
		return &tokenError{what: "no reply in time", transient: true}
	case ended(ctx) != nil:
		return &tokenError{what: "the reply did not end in time", transient: true}
	case x.response != nil:
		return &tokenError{what: "the reply broke off: " + text, transient: true}
	case errors.As(err, &network) && (network.Op == "dial" || network.Op == "proxyconnect"), strings.Contains(text, "HTTP response to HTTPS client"):
		return &tokenError{what: text + ": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)", transient: true}
	case strings.Contains(text, "tls: failed to sign handshake") && r.handshake.Load() != nil:
		return &tokenError{what: text, cause: r.handshake.Load(), transient: true}
	case strings.Contains(text, "remote error: tls:") && strings.Contains(text, "certificate"):
		return &tokenError{what: text + ": check Certificate", transient: true}
	}
	closed := errors.Is(err, io.EOF)
	if closed {
		text = "the connection was closed before a reply came"
	}
	if r.bound != nil && (closed || network != nil && (network.Op == "read" || network.Op == "write")) {
		text += ": the server may have refused Certificate" // in TLS 1.3 what says so may be lost behind the connection's end
	}
	return &tokenError{what: text, transient: true}
}

// explainReply explains a reply of the token endpoint that holds no token.
func (r *requester) explainReply(x *exchange, reply *oauth2.RetrieveError) *tokenError {
	status := x.response.StatusCode
	clean := r.clean(reply)
	e := &tokenError{
		cause:     clean,
		transient: status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500,
		refused:   status/100 == 4 && status != http.StatusRequestTimeout,
	}

	what := []string{redact.Quote(clean.Response.Status, 60)}
	if clean.ErrorCode != "" {
		what = append(what, "error "+redact.Quote(clean.ErrorCode, 60))
	}
	if clean.ErrorDescription != "" {
		what = append(what, redact.Quote(clean.ErrorDescription, maxQuote))
	}
	if clean.ErrorCode == "" && len(clean.Body) > 0 && !isHTML(x.response) {
		what = append(what, "body "+redact.Quote(string(clean.Body), maxQuote))
	}
	e.what = strings.Join(what, ", ")
	if hint := r.hint(status, clean.ErrorCode, isHTML(x.response)); hint != "" {
		e.what += ": " + hint
	}
	return e
}

const redirectHint = "a redirect, which is not followed with credentials: check Endpoint"

// hint returns what a person can do about a reply without a token.
func (r *requester) hint(status int, code string, html bool) string {
	switch {
	case status/100 == 3:
		return redirectHint
	case code == "invalid_target":
		return "check Resource, which has to be configured for the application in Mosaic"
	case code == "invalid_scope":
		return "check Scopes"
	case code == "unauthorized_client", code == "unsupported_grant_type":
		return "the application has to be allowed the grant type client_credentials"
	case html:
		return "an HTML page: does a proxy or a firewall answer in Mosaic's place?"
	case code == "invalid_client" && r.key != nil:
		return "check ClientID, KeyID and SigningAlgorithm, and that the application at this Endpoint has what JWKS returns"
	case code == "invalid_client" && r.conf.ClientSecret == "":
		return "check ClientID, and that the application at this Endpoint has this Certificate"
	case code == "invalid_client", status == http.StatusUnauthorized:
		return "check ClientID and ClientSecret, and that both belong to this Endpoint"
	case status == http.StatusNotFound:
		return "check Endpoint"
	case status == http.StatusTooManyRequests:
		return "Mosaic's rate limit is reached"
	case status >= 500:
		return "a fault on Mosaic's side, or on the way there"
	}
	return ""
}

// errorCode is the form of an RFC 6749 error code in practice. Text of this form
// is not redacted: callers compare it.
var errorCode = regexp.MustCompile(`^[a-z_]{1,64}$`)

// clean returns e without the request, without secrets and bounded. Of a reply
// that claims success only the error code is left: its body may hold a token.
func (r *requester) clean(e *oauth2.RetrieveError) *oauth2.RetrieveError {
	field := func(s string) string { return redact.Cut(r.secret.Text(s), maxField) }
	c := &oauth2.RetrieveError{
		Response: &http.Response{
			Status:        field(e.Response.Status),
			StatusCode:    e.Response.StatusCode,
			Proto:         e.Response.Proto,
			ProtoMajor:    e.Response.ProtoMajor,
			ProtoMinor:    e.Response.ProtoMinor,
			Header:        make(http.Header),
			Body:          http.NoBody,
			ContentLength: e.Response.ContentLength,
		},
		ErrorCode: e.ErrorCode,
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(e.Response.Header)) {
		for _, value := range e.Response.Header[name] {
			if size += len(name) + len(value); size > maxHeader {
				break
			}
			c.Response.Header.Add(field(name), field(value))
		}
	}
	success := e.Response.StatusCode/100 == 2
	switch {
	case errorCode.MatchString(e.ErrorCode):
	case success && e.ErrorCode != "":
		c.ErrorCode = redact.Mark
	default:
		c.ErrorCode = field(e.ErrorCode)
	}
	if !success {
		c.ErrorDescription, c.ErrorURI = field(e.ErrorDescription), field(e.ErrorURI)
		c.Body = []byte(field(string(e.Body)))
	}
	return c
}
