// Package mosaic obtains access tokens for Transmit Security's Mosaic, as a [golang.org/x/oauth2]
// TokenSource.
//
// # Getting started
//
// A [Config] takes the place of a [clientcredentials.Config]: client ID, client secret, and the
// region's [Endpoint] instead of a token URL.
//
//	conf := &mosaic.Config{
//		ClientID:     id,
//		ClientSecret: secret,
//		Endpoint:     mosaic.EU,
//	}
//	client := conf.Client(ctx)
//	res, err := client.Get(mosaic.EU.URL("/cis/v1/users"))
//
// [Config.Client] calls Mosaic's APIs, each service with a token of its own. [Config.TokenSource]
// is for code with an [oauth2.TokenSource], such as [oauth2.NewClient]: its tokens are for one
// [Resource]. [Config.Token] requests one token. FAPI 2.0 clients set PrivateKey or Certificate
// instead of ClientSecret. With GetCredentials, credentials are replaced without a restart.
// [FromEnv] reads a Config from environment variables.
//
// # Renewal
//
// A Mosaic token cannot be refreshed: a new one is requested. A [TokenSource] or a client requests
// it in the background after 3/5 to 2/3 of the current token's lifetime, if that token was used.
// Calls go on with the current token meanwhile. Only the first call to each service waits, and one
// after a long idle period. If tokens live for an hour, an outage of the token endpoint of 20
// minutes goes unnoticed.
//
// A token expires with its exp claim, even if the local clock is off. Its last ten seconds (of a
// lifetime under 100 seconds, the last 10 %) count as expired, except in an outage of the token
// endpoint.
//
// Without a valid token, the next call retries a failed request. From the second failure on there
// are pauses, in which calls get the last error at once: about one or two seconds, after refusals
// up to about 30. A Retry-After is a pause, too, of up to a minute.
//
// # Errors
//
// The text of an error is one line and begins with "mosaic: "; net/http puts the method and the URL
// of a client's request in front. If the token endpoint refused, [errors.As] finds an
// [oauth2.RetrieveError] with the code of RFC 6749 §5.2. Its Body and headers hold only what the
// text may show. If the caller's context has ended, [errors.Is] finds that context's error.
//
// # Logs
//
// The records of Config.Logger are stable, for handlers that count them. Each has client_id and
// endpoint; "token obtained" and "token request failed" also have resource, "default" for the
// default audience. Durations are slog durations. No record holds a path or a query of a request.
//
//	DEBUG mosaic: token obtained                           lifetime, took
//	INFO  mosaic: token obtained                           lifetime, took, failures, failing_for: the first after failures
//	WARN  mosaic: token request failed                     error, took, failures; retry_in if the source itself tries again
//	INFO  mosaic: credentials changed                      method; kid, x5t
//	WARN  mosaic: using earlier credentials                error
//	WARN  mosaic: request sent without a token             host, reason
//	DEBUG mosaic: request sent without a token             the same for a request with its own Authorization header
//	ERROR mosaic: token request panicked                   stack
//	ERROR mosaic: GetCredentials panicked                  stack
//	ERROR mosaic: PrivateKey panicked                      stack
//	ERROR mosaic: the private key of Certificate panicked  stack
//
// A source logs the first failure of an outage and then one a minute; failures counts all of them.
// The warning of earlier credentials is logged once a minute at most. A request without a token is
// logged once for each host and reason, in 32 records at most. Each record is written in a goroutine of its own: a handler may
// block, or use the very client it logs for. So records may arrive out of order; their times are
// right.
//
// # Testing
//
// Package mosaictest is a stand-in for Mosaic, started by a test with one call.
//
// # Security
//
// No secret, key, assertion or token is in a text, log record or error of this package, even if a
// server sends it back. A secret of fewer than eight characters is not looked for. An encoded one is
// not recognized if it is short, or in a request ID. An error of GetCredentials or of a signer is
// shown without the secret in use.
//
// Credentials go to the token endpoint only, over TLS (on a loopback host, plain HTTP is allowed),
// and no redirect is followed with them. [Config.Client] sends tokens to known origins only.
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

// Config describes a client of Mosaic and the service of its tokens.
//
// It is copied when a source or a client is made: later changes have no effect. Its methods are
// safe for concurrent use. GetCredentials and the Sign method of a key are each called by up to
// four goroutines of a source or client at a time.
//
// Printed by fmt, logged by log/slog, or encoded as JSON, YAML or text, a Config or *Config shows
// neither secret nor key, and only the names of EndpointParams. The verbs %p and %w bypass this,
// but go vet refuses them. fmt also bypasses it for a Config in an unexported field: store a
// *Config there, and print the struct around it with %v only.
//
// A Config can be decoded from JSON or YAML, but not from its own encoding.
type Config struct {
	// ClientID is the application's client ID. Required.
	ClientID string

	// ClientSecret is the application's client secret, sent in the form (client_secret_post). Set
	// one of ClientSecret, PrivateKey and Certificate, or Certificate beside one of the others.
	ClientSecret string

	// PrivateKey replaces the secret: it signs client assertions (private_key_jwt, RFC 7523). Any
	// crypto.Signer will do, such as a KMS's. Its public key is an *rsa.PublicKey of 2048 bits or
	// more, an *ecdsa.PublicKey on P-256 or an ed25519.PublicKey. Sign has ten seconds.
	PrivateKey crypto.Signer

	// Certificate is presented in the TLS handshake (RFC 8705), at the token endpoint and by Client
	// at the APIs. Alone it authenticates the client (tls_client_auth or
	// self_signed_tls_client_auth). Beside a secret or a key it only binds the token to the
	// certificate (cnf). Tokens expire with it at the latest. Its private key is a crypto.Signer:
	// RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519. Sign has nine seconds. An HTTPS
	// proxy that requests a client certificate gets it, too.
	//
	// The HTTP client's Transport is cloned. It must be an *http.Transport without DialTLS and
	// DialTLSContext; for any other, see TLSClientAuth.
	Certificate *tls.Certificate

	// KeyID is the kid of PrivateKey in assertions and in JWKS. Empty: the key's RFC 7638 SHA-256
	// thumbprint.
	KeyID string

	// SigningAlgorithm is the alg of PrivateKey's assertions: RS256, PS256, ES256 or EdDSA (FAPI
	// 2.0 allows the last three). Empty: RS256 for an RSA key, ES256 for P-256, EdDSA for Ed25519.
	SigningAlgorithm string

	// AssertionAudience is the aud of PrivateKey's assertions. Empty: the URL of the token
	// endpoint, as Mosaic documents. Other FAPI 2.0 servers may want their issuer.
	AssertionAudience string

	// GetCredentials, if set, is called before each attempt of a token request, and returns its
	// credentials: from [Files], a vault, a SPIFFE source. It is called about every 40 minutes for
	// each service in use, so it may read a file or ask a vault each time. ClientSecret, PrivateKey,
	// KeyID and Certificate must then be empty; SigningAlgorithm and AssertionAudience may be set.
	// Its result must not be modified afterwards. For the same key, return the same crypto.Signer: a
	// new one gets four more goroutines, as does the key of each new certificate.
	//
	// Its context ends with the attempt and has no values. If GetCredentials fails, panics, takes
	// more than half of the attempt's time (five seconds at most) or returns credentials that
	// Validate would refuse, the attempt uses the last valid ones, or fails if there are none.
	GetCredentials func(context.Context) (Credentials, error)

	// TLSClientAuth says that the context's HTTP client presents the certificate itself. Set no
	// other credentials with it. It is for transports that cannot be cloned for Certificate, such
	// as an instrumented one. After replacing the certificate, call that client's
	// CloseIdleConnections.
	TLSClientAuth bool

	// Endpoint is the environment and region of the credentials. Required.
	Endpoint Endpoint

	// Resource is the service of the tokens. Empty: the default audience; in Client, the service
	// named by each request's path.
	Resource Resource

	// Hosts lists further hosts, with or without a port, to which Client sends tokens over https.
	// A request's host must be written as it is here, but for upper and lower case and ":443".
	Hosts []string

	// Scopes are the scopes to request. Mosaic does not document their effect on a token.
	Scopes []string

	// EndpointParams are further parameters of the token request. They may not set client_id,
	// client_secret, client_assertion, client_assertion_type, grant_type, resource or scope: set
	// the fields above instead.
	EndpointParams url.Values

	// Logger gets the records listed in the package documentation. Nil: none.
	Logger *slog.Logger
}

// Credentials authenticate a client: ClientSecret, PrivateKey or Certificate, or Certificate beside
// one of the others. The fields are those of [Config]. Printed by fmt, logged by log/slog, or
// encoded as JSON, YAML or text, they show neither secret nor key.
type Credentials struct {
	ClientSecret     string
	PrivateKey       crypto.Signer
	KeyID            string // of PrivateKey; empty: its thumbprint
	SigningAlgorithm string // empty: the Config's
	Certificate      *tls.Certificate
}

// Files are the paths of files that hold [Credentials]. A field that is empty is not used.
type Files struct {
	ClientSecret   string // white space at both ends of the file is cut off
	PrivateKey     string // in PEM, see [ParsePrivateKey]
	Certificate    string // in PEM; its chain follows it in the same file
	CertificateKey string // the private key of Certificate, in PEM
	KeyID          string // not a path, but the kid of PrivateKey
}

// Credentials reads the files. It is meant for Config.GetCredentials, and does not use the context.
// Each file must be a regular file of at most 64 KiB. If a file holds something else, for example
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
// It is an error if there are two keys, or if the key is encrypted or restricted to RSA-PSS. For
// this, and for data in another format, the error names the command that makes the right file. No
// error shows any part of a key.
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	key, err := files.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("mosaic: %w", err)
	}
	return key, nil
}

// Validate returns nil, or an error of one line that names every mistake in c by its field. Token,
// TokenSource, Client and JWKS call Validate. Call it yourself to find mistakes when your program
// starts. Validate makes no request and does not call GetCredentials.
func (c *Config) Validate() error {
	_, err := c.check()
	return err
}

// problems are the mistakes in a Config, as texts that name the field.
type problems struct {
	texts   []string
	inFront map[string]string // of a text, by the field that it is about
}

// add adds a mistake in a field. The field of a mistake in the choice of credentials is Credentials.
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

// check returns the credentials in c's fields, or the error of Validate.
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
		if err := checkHost(host); err != nil {
			p.add("Hosts", "Hosts: %s %v", quoteURL(host), err)
		}
	}
	for _, param := range slices.Sorted(maps.Keys(c.EndpointParams)) {
		if instead, ok := ownParams[param]; ok {
			p.add("EndpointParams", "EndpointParams may not set %s: %s", param, instead)
		}
	}
	return fixed
}

// ownParams has what to do instead of setting a parameter in EndpointParams.
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

// checkText reports what an identifier or a secret never has, but gets on its way here: docker
// --env-file and some secret stores keep quotes and white space.
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

// check returns c for package grant. If c has no SigningAlgorithm, algorithm takes its place.
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

// Token requests one new token and does not cache it. Most users will use [Config.Client] or
// [Config.TokenSource] instead.
//
// The HTTP client is ctx's under [oauth2.HTTPClient], or the default one. An attempt takes at most
// ten seconds. Transport errors, 408, 429 and 5xx are retried: at most three attempts in 30
// seconds, and one more if a wrong clock is corrected. A server certificate that does not verify is
// not retried. A shorter Timeout of the HTTP client bounds an attempt and the whole request. The
// request ends with ctx and carries its values. The token's Expiry is its exp claim, moved onto the
// local clock if that is off.
func (c *Config) Token(ctx context.Context) (*oauth2.Token, error) {
	w, err := c.wire(ctx)
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
	return copyOf(tok), nil
}

// TokenSource returns a source of tokens for c.Resource. It caches the current token and renews it
// ahead of its expiry. It composes with [oauth2.NewClient] and [oauth2.ReuseTokenSource].
//
// Only the HTTP client of ctx is used, under [oauth2.HTTPClient]: the end of ctx does not end the
// source. That client's transport has to end a request with the request's context, as net/http's
// does. If c is invalid, each call returns the error of [Config.Validate].
//
// Send a token bound to a certificate only over a connection that presents the certificate in
// Claims.Confirmation, or use [Config.Client], which does so.
func (c *Config) TokenSource(ctx context.Context) *TokenSource {
	w, err := c.wire(ctx)
	if err != nil {
		return &TokenSource{err: err}
	}
	return &TokenSource{source: w.source(w.conf.Resource)}
}

// A TokenSource is an [oauth2.TokenSource] for one service, made by [Config.TokenSource]. It is
// safe for concurrent use. It needs no Close: an idle one makes no requests.
type TokenSource struct {
	source *refresh.Source // a pointer: fmt does not look behind it
	err    error           // of an invalid Config; source is then nil
}

var _ oauth2.TokenSource = (*TokenSource)(nil)

// Token returns the current token, as the caller's own copy (only the values of Extra are shared).
// It blocks only without a valid token, for at most 30 seconds. If it first waits for a renewal
// begun in the old token's last seconds, and that fails, it blocks for at most 40.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	return s.TokenContext(context.Background())
}

// TokenContext is Token, but its wait ends with ctx, with an error that wraps ctx's. The request
// goes on for others. A valid token is returned even if ctx has ended.
func (s *TokenSource) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	if s.source == nil {
		return nil, cmp.Or(s.err, errors.New("mosaic: a TokenSource is made by Config.TokenSource"))
	}
	tok, err := s.source.Token(ctx)
	if err != nil {
		return nil, err
	}
	return copyOf(tok), nil
}

// Invalidate drops t if it is the current token, for example after an API has refused it: the next
// call of Token requests a new one. Concurrent calls for the same token cause one request. A nil t
// is ignored.
//
// The cache of [oauth2.NewClient] and [oauth2.ReuseTokenSource] does not hear of it and goes on
// with t. A client of [Config.Client] renews a refused token by itself.
func (s *TokenSource) Invalidate(t *oauth2.Token) {
	if t != nil && s.source != nil {
		s.source.Invalidate(t.AccessToken)
	}
}

// copyOf returns a copy: oauth2.ReuseTokenSource writes into the tokens it gets.
func copyOf(tok *refresh.Token) *oauth2.Token {
	t := tok.Token
	return &t
}

// Client returns an HTTP client for all of Mosaic. Each request gets the token for Resource or,
// without one, for the service named by the first segment of its path: /verify, /risk, /xdv;
// anything else, the default audience.
//
// Only known origins get tokens: Endpoint's, an https Resource's, and Hosts. Only they, and an
// HTTPS proxy requesting it, see Certificate. A request with an Authorization header is sent as it
// is. The following requests are sent without a token, and the log has a warning:
//   - to another origin
//   - with a Host that is not its URL's
//   - after a redirect by another origin, or of a request with its own Authorization header
//
// The wait for a token ends with the request's context.
//
// If an API answers 401 to a token that is at least ten seconds old, the client renews the token, at
// most once a minute. The request is then sent once more if all of the following hold:
//   - the 401 says invalid_token, or net/http itself would repeat the request (GET,
//     HEAD, OPTIONS, TRACE, or an Idempotency-Key)
//   - its body can be rewound (GetBody)
//   - the new token arrives within five seconds
//
// Otherwise the caller gets the 401, with its body unread. With HTTP/1.1 and a MaxConnsPerHost of 1,
// the caller gets the 401 after five seconds, because the body occupies the connection until then.
//
// The client has the timeout, jar and redirect policy of ctx's client under [oauth2.HTTPClient],
// and uses its transport, or with Certificate a clone of it. Nothing else of ctx is used. If c is
// invalid, each request returns the error of [Config.Validate]. The client is safe for concurrent
// use. Its Transport may be wrapped but not replaced. Change fields before the first use only.
func (c *Config) Client(ctx context.Context) *http.Client {
	w, err := c.wire(ctx)
	if err != nil {
		client := contextClient(ctx)
		client.Transport = invalid{err}
		return client
	}
	source, bySegment := w.source(w.conf.Resource), make(map[string]*refresh.Source)
	if w.conf.Resource == "" {
		for segment, resource := range services {
			bySegment[segment] = w.source(Resource(resource))
		}
	}
	client := *w.http
	client.Transport = &bearer.Transport{
		Plain:  w.identity.Plain(),
		Own:    w.identity.Transport,
		Knows:  w.conf.origins().has,
		Source: func(u *url.URL) *refresh.Source { return cmp.Or(bySegment[segmentOf(u)], source) },
		Idle:   w.identity.CloseIdleConnections,
		Log:    w.conf.Logger,
	}
	return &client
}

// invalid is the transport of an invalid Config's client.
type invalid struct{ err error }

func (i invalid) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, i.err
}

// wired is a valid Config in use.
type wired struct {
	conf     *Config      // a deep copy, with a Logger
	http     *http.Client // a copy of the context's
	identity *identity.Source
	grant    *grant.Client
}

// wire makes the client for c's token requests.
func (c *Config) wire(ctx context.Context) (*wired, error) {
	fixed, err := c.check()
	if err != nil {
		return nil, err
	}
	w := &wired{conf: c.clone(), http: contextClient(ctx)}
	var get func(context.Context) (*identity.Credentials, error)
	if c.GetCredentials != nil {
		get = w.conf.get
	}
	if w.identity, err = identity.New(fixed, get, w.http.Transport, w.conf.Logger); err != nil {
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
		Timeout:  w.http.Timeout,
		Log:      w.conf.Logger,
	}
	return w, nil
}

// contextClient returns a copy of ctx's HTTP client, or of the default one.
func contextClient(ctx context.Context) *http.Client {
	client := *cmp.Or(oauth2.NewClient(ctx, nil), http.DefaultClient) // the context's may be nil
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

// jwksTimeout bounds JWKS's call of GetCredentials.
const jwksTimeout = 10 * time.Second

// JWKS returns the public JWK Set (RFC 7517) of PrivateKey and Certificate, for Mosaic's Admin
// Portal, and of next: further credentials that Mosaic is to accept, for a rotation. If
// GetCredentials is set, JWKS calls it, with ten seconds.
//
// A private key has the same kid as in its assertions. The key of a certificate comes with its
// chain (x5c). Different keys with the same kid are an error, and so is a ClientSecret in next. The
// set has no private member.
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
	all := []*identity.Credentials{current}
	for i, n := range next {
		var p problems
		all = append(all, n.check(&p, c.SigningAlgorithm))
		if n.ClientSecret != "" {
			p.add("ClientSecret", "ClientSecret has no public key")
		}
		if err := p.err(fmt.Sprintf("mosaic: JWKS: next[%d]: ", i)); err != nil {
			return nil, err
		}
	}
	var keys []assertion.JWK
	for _, creds := range all {
		keys = append(keys, creds.JWKs()...)
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
	if c.Endpoint, err = parseEndpoint(getenv("MOSAIC_ENDPOINT")); err != nil {
		p.add("Endpoint", "%v", err)
		c.Endpoint = US // has no problem, so Endpoint is reported once
	}
	now := *c // with what the files hold now
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

// variables has the variables of FromEnv that a field comes from, to be put in front of its problems.
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

// MarshalText returns [Config.String], also for encoders of JSON and YAML. It cannot be read back.
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
	Role          []string      `json:"role,omitempty"`  // of admin tokens
	Roles         []string      `json:"roles,omitempty"` // the same, as the documentation's example has it
	TSRoles       []string      `json:"ts_roles,omitempty"`
	TSPermissions []string      `json:"ts_permissions,omitempty"`
	Confirmation  *Confirmation `json:"cnf,omitempty"` // nil unless token binding is on
}

// Confirmation names the certificate of a bound token (RFC 8705 §3.1).
type Confirmation struct {
	CertificateThumbprint string `json:"x5t#S256,omitempty"` // base64url SHA-256 of the certificate's DER
}

// ParseClaims reads the claims of t, for logs and for decisions about one's own token. It does not
// verify the signature. Never use ParseClaims to authenticate a caller. It fails if the token is no
// JWT, or if a claim's type is not the one in Mosaic's documentation or RFC 7519. The error does
// not hold the token.
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
