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
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/bearer"
	"example.com/mosaic/internal/grant"
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
	if r.Bound() != nil {
		defer r.Bound().CloseIdleConnections()
	}
	begun := time.Now()
	tok, err := r.Token(ctx, string(c.Resource), refresh.Attempts)
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
		return nil, fmt.Errorf("mosaic: cannot read the token's claims: %s", redact.Peer(err.Error(), "", 300))
	}
	return claims, nil
}

// A requester makes token requests: what a valid Config becomes when a source or
// a client is made of it. It is safe for concurrent use.
type requester struct {
	*grant.Client
	conf *Config // a deep copy
}

func (c *Config) requester(ctx context.Context) (*requester, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	client := *contextClient(ctx)
	d := c.clone()
	r := &requester{
		conf: d,
		Client: &grant.Client{
			ClientID:     d.ClientID,
			ClientSecret: d.ClientSecret,
			Certificate:  d.Certificate,
			TokenURL:     d.tokenURL(),
			Audience:     d.AssertionAudience,
			Scopes:       d.Scopes,
			Params:       d.EndpointParams,
			HTTP:         &client,
			Log:          d.Logger,
		},
	}
	if c.PrivateKey != nil {
		key, err := assertion.NewKey(c.PrivateKey, c.SigningAlgorithm, c.KeyID)
		if err != nil {
			return nil, fmt.Errorf("mosaic: %w", err)
		}
		r.Key = key
	}
	if err := r.Bind(); err != nil {
		return nil, fmt.Errorf("mosaic: Certificate %w", err)
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
	d.Logger = slog.New(slog.DiscardHandler)
	if c.Logger != nil {
		d.Logger = slog.New(guard.Handler{Handler: c.Logger.Handler()})
	}
	return &d
}

// source returns a cached source of tokens for resource.
func (r *requester) source(resource Resource) *refresh.Source {
	return refresh.New(func(ctx context.Context, attempts int) (*refresh.Token, error) {
		return r.Token(ctx, string(resource), attempts)
	}, r.logger(resource))
}

func (r *requester) logger(resource Resource) *slog.Logger {
	return r.conf.Logger.With("endpoint", string(r.conf.Endpoint), "resource", string(resource))
}

// tokenURL is where the token is requested. Mosaic's guide for mTLS has another
// path than its other guides.
func (c *Config) tokenURL() string {
	if c.Certificate != nil && c.ClientSecret == "" && c.PrivateKey == nil {
		return c.Endpoint.URL("/cis/oidc/token")
	}
	return c.Endpoint.TokenURL()
}

// transport returns the RoundTripper of c's client over the caller's own.
func (c *Config) transport(ctx context.Context, own http.RoundTripper) http.RoundTripper {
	r, err := c.requester(ctx)
	if err != nil {
		return invalid{err}
	}
	if own == nil {
		own = http.DefaultTransport
	}
	t := &bearer.Transport{Plain: own, Knows: r.conf.origins().has, Log: r.conf.Logger}
	if bound := r.Bound(); bound != nil {
		t.Bound = bound
	}
	resource := r.conf.Resource
	sources := map[Resource]*refresh.Source{resource: r.source(resource)}
	t.Source = func(*url.URL) *refresh.Source { return sources[resource] }
	if resource == "" {
		for _, resource := range services {
			sources[resource] = r.source(resource)
		}
		t.Source = func(u *url.URL) *refresh.Source { return sources[resourceOf(u)] }
	}
	return t
}

// invalid is the transport of a client whose Config is invalid.
type invalid struct{ err error }

func (i invalid) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, i.err
}
