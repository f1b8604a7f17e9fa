// Package mosaic obtains access tokens for Transmit Security's Mosaic and provides them through a
// [golang.org/x/oauth2] TokenSource.
//
// # Getting started
//
// A [Config] takes the place of a [clientcredentials.Config]. It has the client ID, the client
// secret and, instead of a token URL, the [Endpoint] of your region.
//
//	conf := &mosaic.Config{
//		ClientID:     id,
//		ClientSecret: secret,
//		Endpoint:     mosaic.EU,
//	}
//	client := conf.Client(ctx)
//	res, err := client.Get(mosaic.EU.URL("/cis/v1/users"))
//
// Most programs need only [Config.Client]. It returns an HTTP client for Mosaic's APIs that uses a
// separate token for each service. [Config.TokenSource] is for code that takes an
// [oauth2.TokenSource], such as [oauth2.NewClient]; its tokens are for a single [Resource].
// [Config.Token] requests one token and caches nothing.
//
// FAPI 2.0 clients set PrivateKey or Certificate instead of ClientSecret. If you set GetCredentials,
// secrets, keys and certificates can be replaced without a restart. [FromEnv] reads a Config from
// environment variables.
//
// # Renewal
//
// Mosaic issues no refresh tokens, so renewing a token means requesting a new one. A [TokenSource]
// or client does so in the background, at a random point between 3/5 and 2/3 of the current token's
// lifetime, if that token has been used. Until the new token arrives, calls use the current one. A
// call waits only if it is the first to its service, or the first after a long idle period. If
// tokens live for an hour, a 20-minute outage of the token endpoint goes unnoticed.
//
// A token expires at the time in its exp claim, even if the local clock is wrong. It is treated as
// expired ten seconds early, or 10% of its lifetime early if the lifetime is under 100 seconds. While
// token requests are failing, it is used until it actually expires.
//
// If a request fails and no valid token is left, the next call tries again. After a second failure,
// the package pauses between requests: for a second or two, or for up to about 30 seconds if the
// token endpoint refused the request. Calls made during a pause return the last error at once. A
// Retry-After header also starts a pause, of up to a minute.
//
// # Errors
//
// An error message is one line that begins with "mosaic: ". For requests made through a client,
// net/http prepends the method and URL. [errors.As] and [errors.Is] find
//   - an [oauth2.RetrieveError], if the token endpoint refused the request. It has the error code of
//     RFC 6749 §5.2, if there was one. Its Body and headers have only the parts that are safe to show.
//   - a [net.Error], for every token request that failed
//   - the error from the caller's context, if that context ended
//   - any error that the error from the HTTP client's transport wraps, such as
//     syscall.ECONNREFUSED. Only errors.Is finds it, because errors.As would expose its message,
//     which may contain a secret.
//
// # Logs
//
// The messages and keys of the records that Config.Logger receives are stable, so a handler can
// count them. Each record has client_id and endpoint. The records "token obtained" and "token
// request failed" also have resource, which is "default" if no resource was requested. Durations
// are values of kind slog.KindDuration. No record contains the path or query of a request.
//
//	DEBUG mosaic: token obtained                           lifetime, took
//	INFO  mosaic: token obtained                           lifetime, took, failures, failing_for (instead of DEBUG, if requests had failed)
//	WARN  mosaic: token request failed                     error, took, failures; retry_in if the source itself tries again
//	INFO  mosaic: credentials changed                      method; kid if there is a key, x5t if there is a certificate
//	WARN  mosaic: using earlier credentials                error
//	WARN  mosaic: request sent without a token             host, reason
//	DEBUG mosaic: request sent without a token             the same, if the request has its own Authorization header
//	ERROR mosaic: token request panicked                   stack
//	ERROR mosaic: GetCredentials panicked                  stack
//	ERROR mosaic: PrivateKey panicked                      stack
//	ERROR mosaic: the private key of Certificate panicked  stack
//
// While token requests fail, a source logs the first failure and then one a minute; the failures
// attribute counts all of them. The warning about earlier credentials is logged at most once a
// minute. A request sent without a token is logged once for each host and reason, and at most 32 of
// these records are written.
//
// Each record is written in its own goroutine, so a handler may block, or use the very client that
// it logs for. Records may therefore arrive out of order, but their times are correct.
//
// # Testing
//
// Package mosaictest has a stand-in for Mosaic that a test starts with one call.
//
// # Security
//
// Secrets, keys, assertions and tokens do not appear in this package's errors, log records or printed
// values, even if a server sends them back. This has limits: text from servers and callbacks is not
// searched for secrets shorter than eight characters, and an encoded secret is missed if it is short,
// or part of a request ID. In errors from GetCredentials or a signer, only the secret in use is
// redacted.
//
// Credentials are sent only to the token endpoint, over TLS (plain HTTP is allowed on a loopback
// host), and never follow a redirect. [Config.Client] sends tokens only to known origins.
//
// # Compatibility
//
// The following are stable, and any change to them is announced in the changelog: the exported API of
// this package and of mosaictest, the messages and keys of log records, the types that errors.As and
// errors.Is find in an error, and the verbs, output and exit statuses of the mosaic command. Error
// messages are for people. They may change in any version, so a program must not compare or search
// them.
package mosaic

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
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
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/bearer"
	"example.com/mosaic/internal/files"
	"example.com/mosaic/internal/grant"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/identity"
	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
	"example.com/mosaic/internal/refresh"
)

// Config describes a Mosaic client application and the service that its tokens are for. Most
// programs set ClientID, ClientSecret and Endpoint.
//
// A Config is copied when a source or client is made, so later changes have no effect on it. The
// methods of a Config are safe for concurrent use. Each source or client calls GetCredentials, and a
// key's Sign method, from up to four goroutines at a time.
//
// If a Config or *Config is printed by fmt, logged by log/slog, or encoded as JSON, YAML or text, the
// output contains no secret and no key, and only the names of EndpointParams. Printing a struct that
// holds a Config in an unexported field bypasses this: store a *Config instead, and print the struct
// only with %v.
//
// Configs that differ only in a secret, a key, a certificate, GetCredentials or the values of
// EndpointParams therefore print and encode alike. Do not use an encoded Config as a cache key,
// because one client would get the tokens of another.
//
// A Config can be decoded from JSON or YAML, but its own encoding is redacted and cannot be decoded.
// A struct that embeds Config has Config's methods, so it prints and encodes as the Config alone,
// without its other fields. Use a named field instead.
type Config struct {
	// ClientID is the application's client ID. It is required.
	ClientID string

	// ClientSecret is the application's client secret. It is sent in the request body
	// (client_secret_post).
	//
	// Unless GetCredentials or TLSClientAuth is set, one of ClientSecret, PrivateKey and Certificate
	// is required. Certificate may also be combined with either of the others.
	ClientSecret string

	// Endpoint is the environment and region that the credentials belong to. It is required.
	Endpoint Endpoint

	// Resource is the service that the tokens are for.
	//
	// If empty, tokens are for the default audience (see [Resource]). Client then chooses the service
	// by the path of each request.
	Resource Resource

	// PrivateKey signs client assertions in place of a secret (private_key_jwt, RFC 7523). It may be
	// any crypto.Signer, such as one backed by a KMS. Its public key must be an *rsa.PublicKey of at
	// least 2048 bits, an *ecdsa.PublicKey on P-256 or an ed25519.PublicKey. A call to Sign may take
	// up to ten seconds.
	PrivateKey crypto.Signer

	// KeyID is the kid of PrivateKey in assertions and in JWKS. If empty, it is the key's RFC 7638
	// SHA-256 thumbprint.
	KeyID string

	// SigningAlgorithm is the alg of PrivateKey's assertions: RS256, PS256, ES256 or EdDSA. FAPI 2.0
	// allows only the last three.
	//
	// If empty, it is RS256 for an RSA key, ES256 for P-256 and EdDSA for Ed25519.
	SigningAlgorithm string

	// AssertionAudience is the aud of PrivateKey's assertions. If empty, it is the URL of the token
	// endpoint, as Mosaic documents.
	//
	// FAPI 2.0 Final and the revision of RFC 7523 (draft-ietf-oauth-rfc7523bis) require the issuer
	// instead. If Mosaic refuses the assertions of a client that worked before, set the issuer of
	// your region: https://userid.security (US), https://eu.userid.security,
	// https://ca.userid.security or https://au.userid.security. If the application has its own
	// signing key, the issuer is the application's domain. A token's iss claim names the issuer.
	AssertionAudience string

	// Certificate is presented in TLS handshakes (RFC 8705) with the token endpoint. Client also
	// presents it to the APIs. An HTTPS proxy that requests a client certificate gets it, too.
	//
	// If Certificate is set alone, it authenticates the client (tls_client_auth or
	// self_signed_tls_client_auth). Together with a secret or a key, it only binds the tokens to the
	// certificate (cnf). Tokens expire no later than the certificate.
	//
	// The certificate's private key must be a crypto.Signer: RSA of at least 2048 bits, P-256, P-384,
	// P-521 or Ed25519. A call to Sign may take up to nine seconds.
	//
	// The HTTP client's Transport is cloned, so it must be an *http.Transport without DialTLS and
	// DialTLSContext. For any other transport, see TLSClientAuth.
	Certificate *tls.Certificate

	// GetCredentials, if set, is called before each attempt at a token request and returns the
	// credentials to use, for example from [Files], a vault or a SPIFFE source. ClientSecret,
	// PrivateKey, KeyID and Certificate must then be empty; SigningAlgorithm and AssertionAudience
	// may be set.
	//
	// It is called about every 40 minutes for each service in use, so it may read a file or ask a
	// vault each time. Its context ends with the attempt and carries no values.
	//
	// If GetCredentials fails, panics, returns credentials that Validate would refuse, or takes more
	// than half of the attempt's time (at most five seconds), the attempt uses the last valid
	// credentials. It fails if there are none.
	//
	// The result must not be modified afterwards. As long as the key is the same, return the same
	// crypto.Signer: each new Signer, and the key of each new certificate, may occupy four more
	// goroutines.
	GetCredentials func(context.Context) (Credentials, error)

	// TLSClientAuth says that the HTTP client in the context passed to Client, TokenSource or Token
	// (see [oauth2.HTTPClient]) presents the certificate itself. No other credentials may be set. Use
	// TLSClientAuth if that client's transport cannot be cloned for Certificate, for example because
	// it is instrumented. After you replace the client's certificate, call its CloseIdleConnections.
	TLSClientAuth bool

	// Hosts lists additional hosts, with or without a port, to which Client sends tokens over https.
	// A request's host must be spelled as it is here, except for letter case and ":443".
	Hosts []string

	// Scopes are the scopes to request. Mosaic does not document their effect on a token.
	Scopes []string

	// EndpointParams are additional parameters of the token request. They must not set client_id,
	// client_secret, client_assertion, client_assertion_type, grant_type, resource or scope, because
	// those come from the other fields.
	EndpointParams url.Values

	// Logger receives the records listed in the package documentation. If nil, nothing is logged.
	Logger *slog.Logger
}

// Client returns an HTTP client for all of Mosaic's APIs. If Resource is set, every request gets the
// token for it. Otherwise the first segment of the request's path chooses the service: /verify,
// /risk or /xdv. All other paths get the token for the default audience. A request waits for a token
// no longer than its own context allows.
//
// Tokens are sent only to known origins: those of Endpoint, Hosts, and a Resource that is an https
// URL. A request that has an Authorization header is sent unchanged. A request is sent without a
// token, and a warning is logged, if
//   - it goes to an unknown origin
//   - its Host differs from its URL's host
//   - it follows a redirect from an unknown origin
//   - it follows a redirect of a request that had its own Authorization header
//
// If a request gets a 401 and its token is at least ten seconds old, the client renews the token, at
// most once a minute. It then retries the request once, if all of the following hold:
//   - the 401 says invalid_token, or net/http itself would retry the request (GET,
//     HEAD, OPTIONS, TRACE, or an Idempotency-Key)
//   - the request's body can be rewound (GetBody)
//   - the new token arrives within five seconds
//
// Otherwise the caller gets the 401, with its body unread. Over HTTP/1.1, if the transport's
// MaxConnsPerHost is 1, the 401 may come five seconds late, because its body occupies the
// connection that the token request needs.
//
// If a request times out or gets a 421, the next request to that host uses a different connection.
// To achieve this, the client closes the transport's idle connections, at most once every five
// seconds per host.
//
// The client takes its timeout, cookie jar, redirect policy and transport from the HTTP client in ctx
// (see [oauth2.HTTPClient]). If Certificate is set, the transport is cloned. The client uses nothing
// else in ctx. If c is invalid, every request returns the error from [Config.Validate].
//
// The client is safe for concurrent use. Change its fields only before its first use. Its Transport
// may be wrapped, but must not be replaced, because only that Transport adds tokens.
func (c *Config) Client(ctx context.Context) *http.Client {
	client := contextClient(ctx)
	w, err := c.wire(client)
	if err != nil {
		client.Transport = invalid{err}
		return client
	}
	source, bySegment := w.source(w.conf.Resource), make(map[string]*refresh.Source)
	if w.conf.Resource == "" {
		for segment, resource := range services {
			bySegment[segment] = w.source(Resource(resource))
		}
	}
	client.Transport = &bearer.Transport{
		Plain:  client.Transport, // from ctx
		Own:    w.identity.Transport,
		Knows:  w.conf.origins().has,
		Source: func(u *url.URL) *refresh.Source { return cmp.Or(bySegment[segmentOf(u)], source) },
		Log:    w.conf.Logger,
	}
	return client
}

// invalid is the transport of an invalid Config's client.
type invalid struct{ err error }

func (i invalid) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, i.err
}

// TokenSource returns a source of tokens for c.Resource. The source caches the current token and
// renews it before it expires. It composes with [oauth2.NewClient] and [oauth2.ReuseTokenSource].
//
// Only the HTTP client in ctx is used (see [oauth2.HTTPClient]); canceling ctx does not stop the
// source. That client's transport must abort a request when the request's context is done, as
// net/http's does. If c is invalid, each call returns the error from [Config.Validate].
//
// A token that is bound to a certificate must be sent only over a connection that presents the
// certificate whose thumbprint is in Claims.Confirmation. [Config.Client] does this.
func (c *Config) TokenSource(ctx context.Context) *TokenSource {
	w, err := c.wire(contextClient(ctx))
	if err != nil {
		return &TokenSource{err: err}
	}
	return &TokenSource{source: w.source(w.conf.Resource)}
}

// A TokenSource is an [oauth2.TokenSource] for one service, made by [Config.TokenSource]. It is safe
// for concurrent use. It needs no Close, because it makes no requests while it is not used.
type TokenSource struct {
	source *refresh.Source // a pointer, so that fmt does not print what it points to
	err    error           // set if the Config is invalid; source is then nil
}

var _ oauth2.TokenSource = (*TokenSource)(nil)

// Token returns the current token. The token is the caller's own copy, except that the values of
// Extra are shared.
//
// If there is a valid token, Token does not block. Otherwise it blocks for at most 30 seconds, or 40
// seconds if it first waits for a renewal that then fails.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	return s.TokenContext(context.Background())
}

// TokenContext is like Token, but stops waiting when ctx is done and returns an error that wraps
// ctx's error. The token request continues for other callers. A valid token is returned even if ctx
// is done.
func (s *TokenSource) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	if s.source == nil {
		return nil, cmp.Or(s.err, errors.New("mosaic: a TokenSource is made by Config.TokenSource"))
	}
	tok, err := s.source.Token(ctx)
	if err != nil {
		return nil, err
	}
	t := tok.Token // a copy, because oauth2.ReuseTokenSource writes into the tokens that it gets
	return &t, nil
}

// Invalidate drops t if it is the current token, so that the next call to Token requests a new token.
// Call it, for example, after an API has refused t. Concurrent calls for the same token cause only
// one request. If t is nil, Invalidate does nothing.
//
// The caches of [oauth2.NewClient] and [oauth2.ReuseTokenSource] are not told and keep returning t. A
// client from [Config.Client] renews a refused token on its own.
func (s *TokenSource) Invalidate(t *oauth2.Token) {
	if t != nil && s.source != nil {
		s.source.Invalidate(t.AccessToken)
	}
}

// Token requests one new token and does not cache it. Most users will use [Config.Client] or
// [Config.TokenSource] instead.
//
// The request is sent by the HTTP client in ctx (see [oauth2.HTTPClient]), or by the default client.
// It ends when ctx is done, and carries the values of ctx. The token's Expiry is the time in its exp
// claim, adjusted to the local clock if that clock is wrong.
//
// After a transport error, or a reply with status 408, 421, 429 or 5xx, the request is retried, for
// at most three attempts in all. One more attempt is made if an assertion was refused because the
// local clock is off. The request is not retried if the server's certificate does not verify, or if a
// proxy is known to have refused the request with a 4xx status. An attempt may take ten seconds, and
// all attempts together 30 seconds. If the HTTP client's Timeout is shorter, it limits both.
func (c *Config) Token(ctx context.Context) (*oauth2.Token, error) {
	w, err := c.wire(contextClient(ctx))
	if err != nil {
		return nil, err
	}
	defer w.identity.CloseIdleConnections()
	begun := time.Now()
	tok, err := guard.Call(context.Background(), guard.NewCalls(1), "mosaic: token request", w.conf.Logger, func() (*refresh.Token, error) {
		return w.grant.Token(ctx, string(c.Resource), refresh.Attempts)
	})
	if err != nil {
		return nil, err
	}
	tok.LogObtained(w.log(c.Resource), time.Since(begun))
	return &tok.Token, nil
}

// wired is a valid Config in use.
type wired struct {
	conf     *Config // a deep copy, with a Logger
	identity *identity.Source
	grant    *grant.Client
}

// wire checks c and connects its parts. Token requests go through client's transport.
func (c *Config) wire(client *http.Client) (*wired, error) {
	fixed, err := c.check()
	if err != nil {
		return nil, err
	}
	w := &wired{conf: c.clone()}
	if w.identity, err = identity.New(fixed, w.conf.get, client.Transport, w.conf.Logger); err != nil {
		return nil, fmt.Errorf("mosaic: %w", err)
	}
	w.grant = &grant.Client{
		Config: clientcredentials.Config{
			ClientID:       w.conf.ClientID,
			TokenURL:       w.conf.Endpoint.TokenURL(),
			Scopes:         w.conf.Scopes,
			EndpointParams: w.conf.EndpointParams,
			AuthStyle:      oauth2.AuthStyleInParams,
		},
		MTLSURL:  w.conf.Endpoint.URL("/cis/oidc/token"), // as in Mosaic's guide for mTLS
		Audience: w.conf.AssertionAudience,
		Identity: w.identity,
		Timeout:  client.Timeout,
		Log:      w.conf.Logger,
	}
	return w, nil
}

// contextClient returns a copy of ctx's HTTP client, or of the default one.
func contextClient(ctx context.Context) *http.Client {
	client := *cmp.Or(oauth2.NewClient(ctx, nil), http.DefaultClient) // ctx's client may be nil
	return &client
}

// clone returns a deep copy, except for certificates and keys, which are checked and copied
// elsewhere.
func (c *Config) clone() *Config {
	d := *c
	d.Hosts, d.Scopes = slices.Clone(c.Hosts), slices.Clone(c.Scopes)
	d.EndpointParams = url.Values(http.Header(c.EndpointParams).Clone()) // maps.Clone would share the values
	d.Logger = slog.New(slog.DiscardHandler)
	if c.Logger != nil {
		d.Logger = slog.New(guard.Handler{To: c.Logger.Handler()}).With("client_id", c.ClientID, "endpoint", string(c.Endpoint))
	}
	return &d
}

// source returns a cached source of tokens for resource.
func (w *wired) source(resource Resource) *refresh.Source {
	return refresh.New(func(ctx context.Context, attempts int) (*refresh.Token, error) {
		return w.grant.Token(ctx, string(resource), attempts)
	}, w.log(resource))
}

func (w *wired) log(resource Resource) *slog.Logger {
	return w.conf.Logger.With("resource", cmp.Or(string(resource), "default"))
}

// Validate returns nil, or a one-line error that lists every mistake in c with the name of its field.
// Token, TokenSource, Client and JWKS call Validate. Call it yourself to find mistakes when your
// program starts. Validate makes no request and does not call GetCredentials.
func (c *Config) Validate() error {
	_, err := c.check()
	return err
}

// problems collects messages about a Config, each of which names a field.
type problems struct {
	texts   []string
	inFront map[string]string // maps a field to the prefix for its messages
}

// add records a mistake in a field. The field "Credentials" is for a wrong choice of credentials.
func (p *problems) add(field, format string, args ...any) {
	p.texts = append(p.texts, p.inFront[field]+fmt.Sprintf(format, args...))
}

// err returns nil if there are no problems.
func (p *problems) err(what string) error {
	if len(p.texts) == 0 {
		return nil
	}
	return errors.New(what + strings.Join(p.texts, "; "))
}

// check returns the credentials in c's fields, or the error that Validate returns.
func (c *Config) check() (fixed *identity.Credentials, err error) {
	var p problems
	fixed = c.checkFields(&p)
	return fixed, p.err("mosaic: invalid Config: ")
}

func (c *Config) checkFields(p *problems) (fixed *identity.Credentials) {
	if c.ClientID == "" {
		p.add("ClientID", "ClientID is empty: set the application's client ID")
	}
	p.checkText("ClientID", c.ClientID)
	p.checkText("AssertionAudience", c.AssertionAudience)
	fixed = c.checkCredentials(p)
	if err := c.Endpoint.check(); err != nil {
		p.add("Endpoint", "%v", err)
	}
	if err := c.Resource.check(); err != nil {
		p.add("Resource", "%v", err)
	}
	for _, host := range c.Hosts {
		if !isHostPort(host) {
			p.add("Hosts", `Hosts: %s is not a host: want a name such as "api.acme.com" or "api.acme.com:8443"`, quoteURL(host))
		}
	}
	for _, param := range slices.Sorted(maps.Keys(c.EndpointParams)) {
		if instead, ok := ownParams[param]; ok {
			p.add("EndpointParams", "EndpointParams may not set %s: %s", param, instead)
		}
	}
	return fixed
}

// ownParams says what to do instead of setting a parameter in EndpointParams.
var ownParams = map[string]string{
	"client_id": "set ClientID", "client_secret": "set ClientSecret", "client_assertion": "set PrivateKey", "client_assertion_type": "set PrivateKey",
	"grant_type": "it is always client_credentials", "resource": "set Resource", "scope": "set Scopes",
}

// checkCredentials returns the credentials in c's fields, or nil if c has a GetCredentials.
func (c *Config) checkCredentials(p *problems) *identity.Credentials {
	own := Credentials{ClientSecret: c.ClientSecret, PrivateKey: c.PrivateKey, KeyID: c.KeyID, Certificate: c.Certificate}
	none := own == (Credentials{})
	if c.GetCredentials != nil {
		if !none || c.TLSClientAuth {
			p.add("GetCredentials", "GetCredentials excludes ClientSecret, PrivateKey, KeyID, Certificate and TLSClientAuth")
		}
		return nil
	}
	if c.PrivateKey == nil && c.SigningAlgorithm != "" {
		p.add("SigningAlgorithm", "SigningAlgorithm is set without PrivateKey")
	}
	if c.PrivateKey == nil && c.AssertionAudience != "" {
		p.add("AssertionAudience", "AssertionAudience is set without PrivateKey")
	}
	if !c.TLSClientAuth {
		return own.check(p, c.SigningAlgorithm)
	}
	if !none {
		p.add("TLSClientAuth", "TLSClientAuth excludes ClientSecret, PrivateKey, KeyID and Certificate")
	}
	return new(identity.Credentials)
}

// checkText reports characters that do not belong in an identifier or secret. For example, docker
// --env-file and some secret stores pass on quotes and white space.
func (p *problems) checkText(field, value string) {
	outer := func(r rune) bool { return r == '"' || r == '\'' || unicode.IsSpace(r) }
	switch {
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		p.add(field, "%s holds a control character (a line end read from a file?)", field)
	case strings.TrimFunc(value, outer) != value:
		p.add(field, "%s begins or ends with white space or a quote: remove it", field)
	case !utf8.ValidString(value):
		p.add(field, "%s is not valid UTF-8", field)
	}
}

// Credentials authenticate a client. The fields mean the same as in [Config]. Like a Config,
// Credentials are printed, logged and encoded without secrets and keys.
type Credentials struct {
	ClientSecret     string
	PrivateKey       crypto.Signer
	KeyID            string // the kid of PrivateKey; if empty, the key's thumbprint
	SigningAlgorithm string // if empty, Config's SigningAlgorithm
	Certificate      *tls.Certificate
}

// check adds c's mistakes to p, and returns c in the form that package identity uses. If c has no
// SigningAlgorithm, algorithm takes its place.
func (c *Credentials) check(p *problems, algorithm string) *identity.Credentials {
	checked := &identity.Credentials{Secret: c.ClientSecret}
	p.checkText("ClientSecret", c.ClientSecret)
	p.checkText("KeyID", c.KeyID)
	switch {
	case c.ClientSecret == "" && c.PrivateKey == nil && c.Certificate == nil:
		p.add("Credentials", "set ClientSecret, PrivateKey or Certificate")
	case c.ClientSecret != "" && c.PrivateKey != nil:
		p.add("Credentials", "ClientSecret and PrivateKey exclude each other")
	}
	if c.PrivateKey == nil && c.KeyID != "" {
		p.add("KeyID", "KeyID is set without PrivateKey")
	}
	if c.PrivateKey != nil {
		if public, err := assertion.PublicKey(c.PrivateKey); err != nil {
			p.add("PrivateKey", "PrivateKey %v", err)
		} else if checked.Key, err = assertion.NewKey(c.PrivateKey, public, cmp.Or(c.SigningAlgorithm, algorithm), c.KeyID); err != nil {
			p.add("SigningAlgorithm", "%v", err)
		}
	}
	if c.Certificate != nil {
		var err error
		if checked.Certificate, err = mtls.New(c.Certificate); err != nil {
			p.add("Certificate", "%v", err)
		}
	}
	return checked
}

// get calls GetCredentials and checks its result.
func (c *Config) get(ctx context.Context) (*identity.Credentials, error) {
	creds, err := c.GetCredentials(ctx)
	if err != nil {
		return nil, redact.NewForeign("GetCredentials: ", err, creds.ClientSecret)
	}
	var p problems
	checked := creds.check(&p, c.SigningAlgorithm)
	return checked, p.err("GetCredentials: ")
}

// Files are the paths of files that contain [Credentials]. A field that is empty is not used.
type Files struct {
	ClientSecret   string // leading and trailing white space is trimmed
	PrivateKey     string // in PEM, see [ParsePrivateKey]
	Certificate    string // in PEM; its chain follows it in the same file
	CertificateKey string // the private key of Certificate, in PEM
	KeyID          string // not a path, but the kid of PrivateKey
}

// Credentials reads the files. It is meant for Config.GetCredentials, and does not use the context.
// Each file must be a regular file of at most 64 KiB. If a file contains something else, for example
// DER or PKCS #12, the error says what it is and which command makes the right file.
//
// An error names the field, and shows the path if the path is absolute. A relative path may be a
// secret that was set by mistake, so it is not shown.
func (f Files) Credentials(context.Context) (Credentials, error) {
	c, _, err := f.read()
	if err != nil {
		return Credentials{}, fmt.Errorf("mosaic: %w", err)
	}
	return c, nil
}

// read returns the credentials in the files, or an error and the field of Config that it is about.
func (f Files) read() (c Credentials, field string, err error) {
	c.KeyID = f.KeyID
	if (f.Certificate == "") != (f.CertificateKey == "") {
		field, err = "Certificate", errors.New("set both Certificate and CertificateKey")
	}
	if f.ClientSecret != "" && err == nil {
		field = "ClientSecret"
		c.ClientSecret, err = files.Secret(f.ClientSecret)
	}
	if f.PrivateKey != "" && err == nil {
		field = "PrivateKey"
		c.PrivateKey, err = files.Key(f.PrivateKey)
	}
	if f.Certificate != "" && err == nil {
		field = "Certificate"
		c.Certificate, err = files.Pair(f.Certificate, f.CertificateKey)
	}
	return c, field, err
}

// ParsePrivateKey returns the private key in PEM data: PKCS #8, PKCS #1 or SEC 1, as openssl,
// ssh-keygen -m PEM, cert-manager and Java tools write them. Other PEM blocks, such as certificates,
// and the text around the blocks are skipped.
//
// It is an error if there are two keys, or if the key is encrypted or restricted to RSA-PSS. In these
// cases, and for data in another format, the error names the command that makes the right file. No
// error shows any part of a key.
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	key, err := files.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("mosaic: %w", err)
	}
	return key, nil
}

// jwksTimeout bounds JWKS's call to GetCredentials.
const jwksTimeout = 10 * time.Second

// JWKS returns the JWK Set (RFC 7517) to submit in Mosaic's Admin Portal. It has the public keys of
// PrivateKey and Certificate, and those of next, which are the credentials to use after a rotation.
// If GetCredentials is set, JWKS calls it, and waits for at most ten seconds.
//
// The public key of PrivateKey has the same kid as the assertions. The key of a certificate comes
// with the certificate's chain (x5c). It is an error if different keys have the same kid, or if there
// is a ClientSecret in next. The set has no private key.
func (c *Config) JWKS(next ...Credentials) ([]byte, error) {
	current, err := c.check()
	if err != nil {
		return nil, err
	}
	if c.GetCredentials != nil {
		ctx, cancel := context.WithTimeout(context.Background(), jwksTimeout)
		defer cancel()
		current, err = guard.Call(ctx, guard.NewCalls(1), "mosaic: GetCredentials", c.clone().Logger, func() (*identity.Credentials, error) { return c.get(ctx) })
		if err != nil {
			return nil, redact.NewForeign("mosaic: JWKS: ", err, "")
		}
	}
	keys := current.JWKs()
	for i, n := range next {
		var p problems
		keys = append(keys, n.check(&p, c.SigningAlgorithm).JWKs()...)
		if n.ClientSecret != "" {
			p.add("ClientSecret", "ClientSecret has no public key")
		}
		if err := p.err(fmt.Sprintf("mosaic: JWKS: next[%d]: ", i)); err != nil {
			return nil, err
		}
	}
	if keys == nil {
		return nil, errors.New("mosaic: JWKS needs a PrivateKey or a Certificate: a secret has no public key")
	}
	set, err := assertion.Set(keys)
	if err != nil {
		return nil, fmt.Errorf("mosaic: %w", err)
	}
	return set, nil
}

// FromEnv returns the Config described by environment variables. getenv is os.Getenv, or a function
// that adds a prefix to their names. A variable that is set but empty counts as unset.
//
//	MOSAIC_CLIENT_ID          required
//	MOSAIC_ENDPOINT           required; see [ParseEndpoint]
//	MOSAIC_CLIENT_SECRET      one of these three, or only a certificate
//	MOSAIC_CLIENT_SECRET_FILE
//	MOSAIC_PRIVATE_KEY_FILE   with MOSAIC_KEY_ID, MOSAIC_SIGNING_ALGORITHM, MOSAIC_ASSERTION_AUDIENCE
//	MOSAIC_CERTIFICATE_FILE   with MOSAIC_CERTIFICATE_KEY_FILE; alone, or together with one of the three
//	MOSAIC_RESOURCE           optional
//	MOSAIC_SCOPES             optional, separated by spaces
//	MOSAIC_HOSTS              optional, separated by spaces
//
// Files are read by GetCredentials at each token request, and once by FromEnv, so that it returns
// an error if a file is missing or wrong. The error names every variable that has to be set or
// changed. It shows no secret.
func FromEnv(getenv func(string) string) (*Config, error) {
	c := &Config{
		ClientID:          getenv("MOSAIC_CLIENT_ID"),
		ClientSecret:      getenv("MOSAIC_CLIENT_SECRET"),
		SigningAlgorithm:  getenv("MOSAIC_SIGNING_ALGORITHM"),
		AssertionAudience: getenv("MOSAIC_ASSERTION_AUDIENCE"),
		Resource:          Resource(getenv("MOSAIC_RESOURCE")),
		Scopes:            strings.Fields(getenv("MOSAIC_SCOPES")),
		Hosts:             strings.Fields(getenv("MOSAIC_HOSTS")),
	}
	f := Files{
		ClientSecret:   getenv("MOSAIC_CLIENT_SECRET_FILE"),
		PrivateKey:     getenv("MOSAIC_PRIVATE_KEY_FILE"),
		Certificate:    getenv("MOSAIC_CERTIFICATE_FILE"),
		CertificateKey: getenv("MOSAIC_CERTIFICATE_KEY_FILE"),
		KeyID:          getenv("MOSAIC_KEY_ID"),
	}
	p := problems{inFront: variables}
	var err error
	if c.Endpoint, err = ParseEndpoint(getenv("MOSAIC_ENDPOINT")); err != nil {
		p.add("Endpoint", "%v", errors.Unwrap(err)) // without "mosaic: "
		c.Endpoint = US                             // a valid value, because the mistake is already reported
	}
	now := *c // c with the credentials that the files currently contain
	if f != (Files{}) {
		secret := c.ClientSecret
		c.ClientSecret, c.GetCredentials = "", func(ctx context.Context) (Credentials, error) {
			creds, err := f.Credentials(ctx)
			creds.ClientSecret = cmp.Or(creds.ClientSecret, secret)
			return creds, err
		}
		if secret != "" && f.ClientSecret != "" {
			p.add("ClientSecret", "set only one of the two variables")
		}
		if creds, field, err := f.read(); err != nil {
			p.add(field, "%v", err)
			now = *c // the credentials are not known
		} else {
			now.ClientSecret, now.PrivateKey = cmp.Or(creds.ClientSecret, secret), creds.PrivateKey
			now.KeyID, now.Certificate = creds.KeyID, creds.Certificate
		}
	}
	now.checkFields(&p)
	if err := p.err("mosaic: invalid environment: "); err != nil {
		return nil, err
	}
	return c, nil
}

// variables maps each field to the variables that FromEnv reads it from. They are the prefix for the
// messages about the field.
var variables = map[string]string{
	"Credentials":       "MOSAIC_CLIENT_SECRET, MOSAIC_CLIENT_SECRET_FILE, MOSAIC_PRIVATE_KEY_FILE or MOSAIC_CERTIFICATE_FILE: ",
	"ClientID":          "MOSAIC_CLIENT_ID: ",
	"ClientSecret":      "MOSAIC_CLIENT_SECRET or MOSAIC_CLIENT_SECRET_FILE: ",
	"PrivateKey":        "MOSAIC_PRIVATE_KEY_FILE: ",
	"KeyID":             "MOSAIC_KEY_ID: ",
	"SigningAlgorithm":  "MOSAIC_SIGNING_ALGORITHM or MOSAIC_PRIVATE_KEY_FILE: ",
	"AssertionAudience": "MOSAIC_ASSERTION_AUDIENCE: ",
	"Certificate":       "MOSAIC_CERTIFICATE_FILE or MOSAIC_CERTIFICATE_KEY_FILE: ",
	"Endpoint":          "MOSAIC_ENDPOINT: ",
	"Resource":          "MOSAIC_RESOURCE: ",
	"Hosts":             "MOSAIC_HOSTS: ",
}

// String returns c without its secret and its keys.
func (c Config) String() string { return "mosaic.Config{" + c.fields() + "}" }

// fields returns the fields of c that are set, without secrets.
func (c Config) fields() string {
	var fields []string
	add := func(name, format string, value any, set bool) {
		if set {
			fields = append(fields, fmt.Sprintf(name+": "+format, value))
		}
	}
	text := func(name, value string) { add(name, "%q", value, value != "") }
	list := func(name string, values []string) { add(name, "%q", values, len(values) > 0) }
	var hosts []string
	for _, host := range c.Hosts {
		hosts = append(hosts, maskUser(host))
	}
	text("ClientID", c.ClientID)
	add("ClientSecret", "%s", redact.Mark, c.ClientSecret != "")
	add("PrivateKey", "%s", redact.Mark, c.PrivateKey != nil)
	add("Certificate", "%s", redact.Mark, c.Certificate != nil)
	text("KeyID", c.KeyID)
	text("SigningAlgorithm", c.SigningAlgorithm)
	text("AssertionAudience", c.AssertionAudience)
	add("GetCredentials", "%s", "set", c.GetCredentials != nil)
	add("TLSClientAuth", "%t", true, c.TLSClientAuth)
	text("Endpoint", maskUser(string(c.Endpoint)))
	text("Resource", maskUser(string(c.Resource)))
	list("Hosts", hosts)
	list("Scopes", c.Scopes)
	list("EndpointParams", slices.Sorted(maps.Keys(c.EndpointParams)))
	return strings.Join(fields, ", ")
}

// Format writes [Config.String] for every verb and flag.
func (c Config) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// LogValue returns [Config.String].
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns [Config.String]. Encoders of JSON and YAML use it, too. It cannot be read back.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// String returns c without its secret and its keys.
func (c Credentials) String() string {
	same := Config{ClientSecret: c.ClientSecret, PrivateKey: c.PrivateKey, KeyID: c.KeyID, SigningAlgorithm: c.SigningAlgorithm, Certificate: c.Certificate}
	return "mosaic.Credentials{" + same.fields() + "}"
}

// Format writes [Credentials.String] for every verb and flag.
func (c Credentials) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// LogValue returns [Credentials.String].
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns [Credentials.String].
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Claims are the documented claims of a Mosaic access token.
type Claims struct {
	jwt.RegisteredClaims // Subject is the client ID; Issuer, Audience, ExpiresAt, IssuedAt and ID are set, too

	Scope         string        `json:"scope,omitempty"` // space-delimited
	ClientID      string        `json:"client_id,omitempty"`
	AppID         string        `json:"app_id,omitempty"`
	AppName       string        `json:"app_name,omitempty"`
	TenantID      string        `json:"tid,omitempty"`
	Role          []string      `json:"role,omitempty"`  // in admin tokens
	Roles         []string      `json:"roles,omitempty"` // like Role, but spelled as in the documentation's example
	TSRoles       []string      `json:"ts_roles,omitempty"`
	TSPermissions []string      `json:"ts_permissions,omitempty"`
	Confirmation  *Confirmation `json:"cnf,omitempty"` // nil unless token binding is on
}

// Confirmation names the certificate of a bound token (RFC 8705 §3.1).
type Confirmation struct {
	CertificateThumbprint string `json:"x5t#S256,omitempty"` // base64url SHA-256 of the certificate's DER
}

// ParseClaims reads the claims of t, for logs and for decisions about your own token. It does not
// verify the signature. Never use ParseClaims to authenticate a caller. It fails if the token is not
// a JWT, or if a claim's type is not the one in Mosaic's documentation or RFC 7519. The error never
// contains the token.
func ParseClaims(t *oauth2.Token) (*Claims, error) {
	if t == nil {
		return nil, errors.New("mosaic: cannot read the claims of a nil token")
	}
	claims := new(Claims)
	_, _, err := jwt.NewParser().ParseUnverified(t.AccessToken, claims)
	if err != nil && !errors.Is(err, jwt.ErrTokenUnverifiable) { // an algorithm unknown to the library
		return nil, fmt.Errorf("mosaic: cannot read the token's claims: %s", redact.Peer(err.Error(), "", 300))
	}
	return claims, nil
}
