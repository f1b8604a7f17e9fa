package mosaic_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// A service that calls Mosaic's APIs makes one Config and one client when it starts, and shares the
// client between all requests.
func Example() {
	conf, err := mosaic.FromEnv(os.Getenv)
	if err != nil {
		log.Fatal(err)
	}
	base := &http.Client{Timeout: 30 * time.Second}
	client := conf.Client(context.WithValue(context.Background(), oauth2.HTTPClient, base))

	resp, err := client.Get(conf.Endpoint.URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
}

// A test of code that calls Mosaic starts a stand-in for Mosaic. The test can set the responses of the
// APIs, and look at the requests that have arrived.
func Example_testing() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.Handle("GET /cis/v1/users/{id}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"user_id":%q}`, r.PathValue("id"))
	}))

	conf := srv.Config()                          // for a client that the stand-in knows
	ctx := srv.Context(context.Background())      // has the HTTP client that trusts srv
	url := srv.Endpoint().URL("/cis/v1/users/17") // what the code under test would call
	resp, err := conf.Client(ctx).Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	fmt.Println(len(srv.TokenRequests()), "token request")
	// Output:
	// {"user_id":"17"}
	// 1 token request
}

// To find out why Mosaic has refused a token request, look for an oauth2.RetrieveError. If its code is
// invalid_client, for example, somebody must correct the credentials, and a retry will not help.
func Example_errors() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf := srv.Config()
	conf.ClientSecret = "the secret of another environment"

	_, err := conf.Token(srv.Context(context.Background()))
	var refusal *oauth2.RetrieveError
	switch {
	case errors.As(err, &refusal) && refusal.ErrorCode == "invalid_client":
		fmt.Println("refused:", refusal.ErrorCode)
	case err != nil:
		log.Fatal(err)
	}
	// Output: refused: invalid_client
}

// If your code already uses an oauth2.TokenSource, for example with oauth2.NewClient, you need to
// change only the literal of its Config.
func ExampleConfig_TokenSource() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf := srv.Config()
	conf.Resource = mosaic.FraudPrevention

	ctx := srv.Context(context.Background())
	client := oauth2.NewClient(ctx, conf.TokenSource(ctx))
	resp, err := client.Get(srv.Endpoint().URL("/risk/v1/recommendation"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// If you send tokens without Config.Client, call Invalidate with a token that an API has refused. If
// several goroutines do so with the same token, only one new token is requested.
func ExampleTokenSource_Invalidate() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	source := srv.Config().TokenSource(srv.Context(context.Background()))

	refused, err := source.Token()
	if err != nil {
		log.Fatal(err)
	}
	srv.Revoke()
	source.Invalidate(refused)
	source.Invalidate(refused)
	tok, err := source.Token()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.AccessToken != refused.AccessToken, len(srv.TokenRequests()), "token requests")
	// Output: true 2 token requests
}

// If you call more than one service, leave Resource empty. Each request then gets the token for its
// path.
func ExampleConfig_Client() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf := srv.Config()

	client := conf.Client(srv.Context(context.Background()))
	for _, path := range []string{"/cis/v1/users", "/risk/v1/recommendation"} {
		resp, err := client.Get(srv.Endpoint().URL(path))
		if err != nil {
			log.Fatal(err)
		}
		var saw struct{ Audience string } // the stand-in answers with what it saw
		err = json.NewDecoder(resp.Body).Decode(&saw)
		resp.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(resp.Status, path, saw.Audience)
	}
	// Output:
	// 200 OK /cis/v1/users userid-api
	// 200 OK /risk/v1/recommendation https://risk.identity.security
}

// A cloudKey is a key in a KMS. It has the public key, and a function that calls the KMS's SDK to
// sign a digest.
type cloudKey struct {
	public crypto.PublicKey
	sign   func(digest []byte) (signature []byte, err error)
}

func (k *cloudKey) Public() crypto.PublicKey { return k.public }

func (k *cloudKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return k.sign(digest)
}

// If the private key is in a KMS, an HSM or an agent, set PrivateKey to a crypto.Signer that asks it
// for each signature.
func ExampleConfig_kms() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	inside, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	signatures := 0
	key := &cloudKey{
		public: inside.Public(),
		sign: func(digest []byte) ([]byte, error) { // in production, a call to the KMS
			signatures++
			return ecdsa.SignASN1(rand.Reader, inside, digest)
		},
	}

	conf := &mosaic.Config{ClientID: "my-client", PrivateKey: key, Endpoint: srv.Endpoint()}
	jwks, err := conf.JWKS()
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterKey(conf.ClientID, jwks)
	if _, err := conf.Token(srv.Context(context.Background())); err != nil {
		log.Fatal(err)
	}
	fmt.Println(signatures, "signature for a token")
	// Output: 1 signature for a token
}

func selfSigned(name string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{name},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// ParseClaims is for logs, and for decisions about your own token. It does not verify the token,
// because the API that receives it does.
func ExampleParseClaims() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	tok, err := srv.Config().Token(srv.Context(context.Background()))
	if err != nil {
		log.Fatal(err)
	}
	claims, err := mosaic.ParseClaims(tok)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(claims.AppName, claims.Audience, claims.TSPermissions)
	// Output: Acme [userid-api] [read:user]
}

// If Mosaic protects an API of your own, set Resource to that API's URI, which becomes the audience
// of the tokens. If the URI is an https URL, Config.Client also sends tokens to it.
func ExampleResource() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.AddResource("https://orders.acme.com")

	conf := srv.Config()
	conf.Resource = "https://orders.acme.com"
	tok, err := conf.Token(srv.Context(context.Background()))
	if err != nil {
		log.Fatal(err)
	}
	claims, err := mosaic.ParseClaims(tok)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(claims.Audience)
	// Output: [https://orders.acme.com]
}

// A metric stands for two counters and two sums of seconds in Prometheus or OpenTelemetry, with the
// label resource.
type metric struct {
	tokens, failures int
	took, failing    time.Duration // the durations of logged requests, and of outages
	counted          int           // the part of failures since the last token
}

// A meter is a slog.Handler that counts the records of Config.Logger before it passes them on.
type meter struct {
	slog.Handler
	mu      *sync.Mutex
	metrics map[string]*metric // by resource
}

// Enabled returns true at every level, because most tokens are logged at debug.
func (m meter) Enabled(context.Context, slog.Level) bool { return true }

func (m meter) WithAttrs(attrs []slog.Attr) slog.Handler {
	m.Handler = m.Handler.WithAttrs(attrs)
	return m
}

func (m meter) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "mosaic: token obtained" || r.Message == "mosaic: token request failed" {
		m.count(r)
	}
	if !m.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return m.Handler.Handle(ctx, r)
}

func (m meter) count(r slog.Record) {
	attrs := make(map[string]slog.Value)
	r.Attrs(func(a slog.Attr) bool { attrs[a.Key] = a.Value; return true })
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.metrics[attrs["resource"].String()]
	if one == nil {
		one = new(metric)
		m.metrics[attrs["resource"].String()] = one
	}
	one.took += attrs["took"].Duration()
	if n, ok := attrs["failures"]; ok { // all since the last token, because not every failure has a record
		one.failures += max(int(n.Int64())-one.counted, 0)
		one.counted = int(n.Int64())
	}
	if r.Message == "mosaic: token obtained" {
		one.tokens++
		one.counted = 0
		if d, ok := attrs["failing_for"]; ok {
			one.failing += d.Duration()
		}
	}
}

// If you need metrics, set Logger to a logger whose slog.Handler counts the records.
func ExampleConfig_metrics() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.FailNext(1, mosaictest.OAuthError(http.StatusUnauthorized, "invalid_client", ""))

	lines, out := io.Pipe() // in production, os.Stderr
	m := meter{
		Handler: slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}),
		mu:      new(sync.Mutex),
		metrics: make(map[string]*metric),
	}
	conf := srv.Config()
	conf.Resource = mosaic.FraudPrevention
	conf.Logger = slog.New(m)
	source := conf.TokenSource(srv.Context(context.Background()))

	records := bufio.NewScanner(lines)
	for range 2 {
		_, err := source.Token()
		records.Scan() // a record may be written after the call
		fmt.Println("failed:", err != nil)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for resource, metric := range m.metrics {
		fmt.Println(resource, metric.tokens, "token,", metric.failures, "failure", metric.took > 0)
	}
	// Output:
	// failed: true
	// failed: false
	// https://risk.identity.security 1 token, 1 failure true
}

// A vaultClient stands for the client of a vault's SDK.
type vaultClient map[string]string

func (v vaultClient) Read(_ context.Context, path string) (string, error) {
	secret, ok := v[path]
	if !ok {
		return "", errors.New("vault: no secret at " + path)
	}
	return secret, nil
}

// If the secret is in a vault, let GetCredentials read it. GetCredentials is called about every 40
// minutes for each service in use, so you need not cache the secret.
func ExampleConfig_vault() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	vault := vaultClient{"mosaic/client-secret": srv.Config().ClientSecret}

	conf := &mosaic.Config{ClientID: srv.Config().ClientID, Endpoint: srv.Endpoint()}
	conf.GetCredentials = func(ctx context.Context) (mosaic.Credentials, error) {
		secret, err := vault.Read(ctx, "mosaic/client-secret")
		return mosaic.Credentials{ClientSecret: secret}, err
	}
	client := conf.Client(srv.Context(context.Background()))
	resp, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// An x509SVID has the fields of x509svid.SVID in go-spiffe.
type x509SVID struct {
	Certificates []*x509.Certificate
	PrivateKey   crypto.Signer
}

// An x509Source has the method of workloadapi.X509Source, which keeps its SVID fresh.
type x509Source interface {
	GetX509SVID() (*x509SVID, error)
}

type fixedSource struct{ *x509SVID }

func (s fixedSource) GetX509SVID() (*x509SVID, error) { return s.x509SVID, nil }

// A workload with a SPIFFE identity presents its SVID as the client's certificate. When SPIFFE replaces
// the SVID, every hour or so, the workload need not restart.
func ExampleConfig_spiffe() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.BindTokens(true)
	issued, err := selfSigned("my-client")
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterCertificate("my-client", issued.Leaf)
	var source x509Source = fixedSource{&x509SVID{ // in production, workloadapi.NewX509Source(ctx)
		Certificates: []*x509.Certificate{issued.Leaf},
		PrivateKey:   issued.PrivateKey.(crypto.Signer),
	}}

	conf := &mosaic.Config{ClientID: "my-client", Endpoint: srv.Endpoint()}
	conf.GetCredentials = func(context.Context) (mosaic.Credentials, error) {
		svid, err := source.GetX509SVID()
		if err != nil {
			return mosaic.Credentials{}, err
		}
		cert := &tls.Certificate{PrivateKey: svid.PrivateKey}
		for _, c := range svid.Certificates {
			cert.Certificate = append(cert.Certificate, c.Raw)
		}
		return mosaic.Credentials{Certificate: cert}, nil
	}
	client := conf.Client(srv.Context(context.Background()))
	resp, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// If the private key comes as PEM from a vault or from an environment variable, parse it first.
func ExampleParsePrivateKey() {
	generated, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(generated)
	if err != nil {
		log.Fatal(err)
	}
	pemData := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}) // in production, from the vault

	key, err := mosaic.ParsePrivateKey(pemData) // or any crypto.Signer, such as one backed by a KMS
	if err != nil {
		log.Fatal(err)
	}
	conf := &mosaic.Config{ClientID: "my-client", PrivateKey: key, Endpoint: mosaic.EU}
	fmt.Println(conf.Validate())
	// Output: <nil>
}

// To rotate a private key, first submit a JWK Set with both the current key and the new key in
// Mosaic's Admin Portal. Only then replace the key.
func ExampleConfig_JWKS_rotation() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	current, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}

	key := current
	conf := &mosaic.Config{
		ClientID: "my-client",
		Endpoint: srv.Endpoint(),
		GetCredentials: func(context.Context) (mosaic.Credentials, error) { // in production, mosaic.Files
			return mosaic.Credentials{PrivateKey: key}, nil
		},
	}
	jwks, err := conf.JWKS(mosaic.Credentials{PrivateKey: next})
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterKey(conf.ClientID, jwks) // in production, in the Admin Portal

	for _, key = range []*ecdsa.PrivateKey{current, next} {
		tok, err := conf.Token(srv.Context(context.Background()))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(tok.Valid())
	}
	// Output:
	// true
	// true
}

// Before a service takes traffic, Validate finds mistakes without the network, and one token
// request shows whether Mosaic accepts the client.
func Example_startUp() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf, ctx := srv.Config(), srv.Context(context.Background())

	if err := conf.Validate(); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := conf.Token(ctx); err != nil {
		log.Fatalf("Mosaic gives this service no token: %v", err)
	}
}

// In Kubernetes, mount the Secret as a volume. The file is read again for each token request, so a
// new secret needs no restart.
func ExampleFiles() {
	conf := &mosaic.Config{
		ClientID:       "my-client",
		Endpoint:       mosaic.EU,
		GetCredentials: mosaic.Files{ClientSecret: "/var/run/secrets/mosaic/client-secret"}.Credentials,
	}
	fmt.Println(conf.Validate())
	// Output: <nil>
}

// A certificate from tls.LoadX509KeyPair is read once. If it is renewed while the process runs, use
// Files, which reads it again for each token request.
func Example_certificate() {
	cert, err := tls.LoadX509KeyPair("client.pem", "client-key.pem")
	if err != nil {
		log.Fatal(err)
	}
	conf := &mosaic.Config{ClientID: "my-client", Certificate: &cert, Endpoint: mosaic.EU}
	fmt.Println(conf.Validate())
}

// If cert-manager issues the certificate, mount its Secret as a volume.
func ExampleFiles_certManager() {
	conf := &mosaic.Config{ClientID: "my-client", Endpoint: mosaic.EU}
	conf.GetCredentials = mosaic.Files{
		Certificate:    "/var/run/secrets/mosaic-tls/tls.crt",
		CertificateKey: "/var/run/secrets/mosaic-tls/tls.key",
	}.Credentials
	fmt.Println(conf.Validate())
	// Output: <nil>
}

// If a transport is wrapped, for example by an instrumentation library, it cannot be cloned for
// Certificate. Let the inner transport present the certificate, and set TLSClientAuth instead.
func Example_tlsClientAuth() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	cert, err := selfSigned("my-client") // in production, tls.LoadX509KeyPair
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterCertificate("my-client", cert.Leaf)
	transport := srv.Client().Transport.(*http.Transport).Clone() // in production, http.DefaultTransport's
	transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return cert, nil
	}

	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: userAgent{transport}})
	conf := &mosaic.Config{ClientID: "my-client", TLSClientAuth: true, Endpoint: srv.Endpoint()}
	tok, err := conf.Token(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.Valid())
	// Output: true
}

// tracing stands for a function of an instrumentation library, such as otelhttp.NewTransport.
func tracing(base http.RoundTripper) http.RoundTripper { return tracer{base} }

type tracer struct{ http.RoundTripper }

func (t tracer) RoundTrip(req *http.Request) (*http.Response, error) {
	fmt.Println("span:", req.Method, req.URL.Path)
	return t.RoundTripper.RoundTrip(req)
}

// If the transport of the context's HTTP client makes spans, token requests have spans, too.
func Example_tracing() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf := srv.Config()
	base := srv.Client().Transport // in production, http.DefaultTransport

	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: tracing(base)})
	client := conf.Client(ctx)
	resp, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	// Output:
	// span: POST /oidc/token
	// span: GET /cis/v1/users
}

// userAgent passes on CloseIdleConnections, because it embeds the transport. Package mosaic calls it to
// leave a dead connection.
type userAgent struct{ *http.Transport }

func (u userAgent) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "acme-backend/1.0")
	return u.Transport.RoundTrip(req)
}

// tenants holds a client for each tenant.
type tenants struct {
	mu      sync.Mutex
	clients map[string]*http.Client
}

// client returns the client of a tenant. It makes the client when it is first called for the tenant.
func (t *tenants) client(ctx context.Context, id, secret string, endpoint mosaic.Endpoint) *http.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients[id] == nil {
		conf := &mosaic.Config{ClientID: id, ClientSecret: secret, Endpoint: endpoint}
		t.clients[id] = conf.Client(ctx)
	}
	return t.clients[id]
}

// A service with many tenants keeps one client for each tenant, so that all requests of a tenant
// share its tokens.
func Example_tenants() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.RegisterSecret("tenant-a", "the secret of a")
	srv.RegisterSecret("tenant-b", "the secret of b")
	ctx := srv.Context(context.Background())

	all := tenants{clients: make(map[string]*http.Client)}
	for _, id := range []string{"tenant-a", "tenant-b", "tenant-a"} {
		client := all.client(ctx, id, "the secret of "+id[len("tenant-"):], srv.Endpoint())
		resp, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
	fmt.Println(len(srv.TokenRequests()), "token requests")
	// Output: 2 token requests
}

// If a serverless function stores its token between runs, oauth2.ReuseTokenSource uses the stored token
// until it expires, and only then the source.
func Example_serverless() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf, ctx := srv.Config(), srv.Context(context.Background())
	stored, err := conf.Token(ctx) // in production, by an earlier run
	if err != nil {
		log.Fatal(err)
	}

	source := oauth2.ReuseTokenSource(stored, conf.TokenSource(ctx))
	tok, err := source.Token()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.AccessToken == stored.AccessToken)
	// Output: true
}

type perRPC struct{ source *mosaic.TokenSource }

func (p perRPC) RequireTransportSecurity() bool { return true }

func (p perRPC) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	tok, err := p.source.TokenContext(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + tok.AccessToken}, nil
}

// If you use gRPC, make a type like perRPC, which implements credentials.PerRPCCredentials of grpc-go.
// A call then waits for a token no longer than until its own deadline.
func Example_gRPC() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	creds := perRPC{srv.Config().TokenSource(srv.Context(context.Background()))}
	metadata, err := creds.GetRequestMetadata(context.Background()) // in production, called by grpc-go
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(metadata["authorization"][:len("Bearer ")])
	// Output: Bearer
}
