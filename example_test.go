package mosaic_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// For a service calling Mosaic's APIs: one Config, one client, made at start-up and shared by all
// requests.
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

// For the tests of code that calls Mosaic: the stand-in takes Mosaic's place,
// and sees what arrives.
func Example_testing() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.Handle("GET /cis/v1/users/{id}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"user_id":%q}`, r.PathValue("id"))
	}))

	conf := srv.Config()                          // of a client that is registered
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

// For code distinguishing a refusal, which needs a person, from an outage, which passes.
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

// For start-up: all mistakes in the configuration are found before the first call.
func ExampleConfig_Validate() {
	conf := &mosaic.Config{
		ClientID: "my-client",
		Endpoint: "eu",
	}
	fmt.Println(conf.Validate())
	// Output: mosaic: invalid Config: set ClientSecret, PrivateKey or Certificate; Endpoint "eu" is not a URL: use a constant such as mosaic.EU, or ParseEndpoint for text
}

// For a job needing one token once, or with a cache of its own.
func ExampleConfig_Token() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf := srv.Config() // in production, a mosaic.Config of your own

	ctx, cancel := context.WithTimeout(srv.Context(context.Background()), 20*time.Second)
	defer cancel()
	tok, err := conf.Token(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.Type(), tok.Valid(), time.Until(tok.Expiry).Round(time.Minute))
	// Output: Bearer true 1h0m0s
}

// For code with an oauth2.TokenSource or oauth2.NewClient: it stays as it is.
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

// For a caller with a deadline.
func ExampleTokenSource_TokenContext() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.Fail(mosaictest.Fault{Hang: true})
	source := srv.Config().TokenSource(srv.Context(context.Background()))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := source.TokenContext(ctx)
	fmt.Println(err)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// mosaic: waiting for a token (requested 0s ago): context deadline exceeded
	// true
}

// For code sending tokens by other means than Config.Client: after a refusal, reported by any
// number of goroutines, one new token is requested.
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

// For calls to more than one service: each request gets the token for its path.
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

// For logs: a Config prints without its secret and its key, with any verb.
func ExampleConfig_String() {
	conf := &mosaic.Config{ClientID: "my-client", ClientSecret: "5ecr3t-5ecr3t", Endpoint: mosaic.EU}
	fmt.Printf("%+v\n", conf)
	// Output: mosaic.Config{ClientID: "my-client", ClientSecret: [redacted], Endpoint: "https://api.eu.transmitsecurity.io"}
}

// For a FAPI 2.0 client (private_key_jwt): a key takes the place of the secret.
func ExampleConfig_privateKey() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // in production, from a file or a vault
	if err != nil {
		log.Fatal(err)
	}

	conf := &mosaic.Config{
		ClientID:   "my-client",
		PrivateKey: key, // ES256
		Endpoint:   srv.Endpoint(),
	}
	jwks, err := conf.JWKS()
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterKey(conf.ClientID, jwks) // in production, in Mosaic's Admin Portal

	tok, err := conf.Token(srv.Context(context.Background()))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.Type(), tok.Valid())
	// Output: Bearer true
}

// A cloudKey is a key in a KMS: its public half, and the call of the KMS's SDK to sign a digest.
type cloudKey struct {
	public crypto.PublicKey
	sign   func(digest []byte) (signature []byte, err error)
}

func (k *cloudKey) Public() crypto.PublicKey { return k.public }

func (k *cloudKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return k.sign(digest)
}

// For a key in a KMS, an HSM or an agent: any crypto.Signer will do.
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
		sign: func(digest []byte) ([]byte, error) { // in production, a call of the KMS
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

// For a FAPI 2.0 client with a certificate (mTLS). It is presented at the token endpoint and at the
// APIs.
func ExampleConfig_certificate() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.BindTokens(true)
	cert, err := selfSigned("my-client") // in production, tls.LoadX509KeyPair
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterCertificate("my-client", cert.Leaf) // in production, in Mosaic's Admin Portal

	conf := &mosaic.Config{ClientID: "my-client", Certificate: cert, Endpoint: srv.Endpoint()}
	resp, err := conf.Client(srv.Context(context.Background())).Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
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

// For the Admin Portal: it wants the public key of PrivateKey, or of a self-signed Certificate.
func ExampleConfig_JWKS() {
	// The public key of RFC 8037, appendix A: to print the set, nothing is signed.
	block, _ := pem.Decode([]byte(`-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----`))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}

	conf := &mosaic.Config{
		ClientID:   "my-client",
		PrivateKey: &cloudKey{public: public.(ed25519.PublicKey)},
		Endpoint:   mosaic.EU,
	}
	jwks, err := conf.JWKS()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(jwks))
	// Output:
	// {
	//   "keys": [
	//     {
	//       "kty": "OKP",
	//       "use": "sig",
	//       "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
	//       "alg": "EdDSA",
	//       "crv": "Ed25519",
	//       "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
	//     }
	//   ]
	// }
}

// For logs and decisions about one's own token. It does not verify the token:
// Mosaic does.
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

// For a region or a custom domain given as text, in the environment or in a file.
func ExampleParseEndpoint() {
	for _, s := range []string{"EU", "login.acme.com", "https://login.acme.com/", "mars"} {
		endpoint, err := mosaic.ParseEndpoint(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(endpoint)
	}
	// Output:
	// https://api.eu.transmitsecurity.io
	// https://login.acme.com
	// https://login.acme.com
	// mosaic: endpoint "mars" is not a URL: want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"
}

// For a program with flags: flag.TextVar parses an Endpoint.
func ExampleEndpoint() {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	endpoint := mosaic.Sandbox
	flags.TextVar(&endpoint, "mosaic", mosaic.Sandbox, "Mosaic's region, or a custom domain")
	if err := flags.Parse([]string{"-mosaic", "au"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(endpoint)
	// Output: https://api.au.transmitsecurity.io
}

// For a configuration file: a Config is decoded as it is. Its Endpoint takes names and URLs.
func ExampleEndpoint_UnmarshalText() {
	var conf mosaic.Config
	file := `{"ClientID": "my-client", "Endpoint": "ca"}`
	if err := json.Unmarshal([]byte(file), &conf); err != nil {
		log.Fatal(err)
	}
	conf.ClientSecret = os.Getenv("CLIENT_SECRET")
	fmt.Println(conf.Endpoint)
	// Output: https://api.ca.transmitsecurity.io
}

// For the URLs of API calls: a change of region is a change in one place.
func ExampleEndpoint_URL() {
	fmt.Println(mosaic.EU.URL("/risk/v1/recommendation?action_token=abc"))
	// Output: https://api.eu.transmitsecurity.io/risk/v1/recommendation?action_token=abc
}

// For an allow-list of outgoing connections.
func ExampleEndpoint_TokenURL() {
	fmt.Println(mosaic.US.TokenURL())
	// Output: https://api.transmitsecurity.io/oidc/token
}

// For an API of your own, protected by Mosaic: its resource is the audience of the tokens. To an
// https URL Config.Client sends them, too.
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

// A metric would be two counters and two sums of seconds in Prometheus or OpenTelemetry, with a
// label resource.
type metric struct {
	tokens, failures int
	took, failing    time.Duration // of requests with a record, and of outages
	counted          int           // failures since the last token
}

// A meter is a slog.Handler counting the records of Config.Logger before it passes them on.
type meter struct {
	slog.Handler
	mu      *sync.Mutex
	metrics map[string]*metric // by resource
}

// Enabled lets through tokens, logged at debug.
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
	if n, ok := attrs["failures"]; ok { // so far: not each has a record
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

// For metrics: a slog.Handler counts tokens, failures and their durations.
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

// For a secret, key or certificate in files, replaced by Kubernetes or cert-manager: no restart is
// needed.
func ExampleFiles() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "client-secret") // in production, of a mounted volume

	conf := &mosaic.Config{
		ClientID:       srv.Config().ClientID,
		Endpoint:       srv.Endpoint(),
		GetCredentials: mosaic.Files{ClientSecret: file}.Credentials,
	}
	first, second := srv.Config().ClientSecret, "the second secret"
	srv.AddSecret(second) // in production, in Mosaic's Admin Portal
	for _, secret := range []string{first, second} {
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			log.Fatal(err)
		}
		tok, err := conf.Token(srv.Context(context.Background()))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(tok.Valid())
	}
	srv.RevokeSecret(first)
	// Output:
	// true
	// true
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

// For a secret in a vault: it is read before each token request, about every 40 minutes.
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

// For a workload with an identity of SPIFFE: its SVID, replaced every hour or so, is the client's
// certificate.
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

// For a program configured by its environment.
func ExampleFromEnv() {
	env := map[string]string{
		"MOSAIC_CLIENT_ID":     "my-client",
		"MOSAIC_CLIENT_SECRET": "5ecr3t-5ecr3t",
		"MOSAIC_ENDPOINT":      "eu",
	}
	conf, err := mosaic.FromEnv(func(name string) string { return env[name] }) // in production, os.Getenv
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(conf)
	// Output: mosaic.Config{ClientID: "my-client", ClientSecret: [redacted], Endpoint: "https://api.eu.transmitsecurity.io"}
}

// For a key in PEM from a vault, or from an environment variable.
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

	key, err := mosaic.ParsePrivateKey(pemData) // or any crypto.Signer, such as a KMS's
	if err != nil {
		log.Fatal(err)
	}
	conf := &mosaic.Config{ClientID: "my-client", PrivateKey: key, Endpoint: mosaic.EU}
	fmt.Println(conf.Validate())
	// Output: <nil>
}

// For the rotation of a key: the Admin Portal gets a set with the current key and the next one,
// before the next one is used.
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

// For a deployment's smoke test: Validate needs no network, and one token shows whether Mosaic
// accepts the client.
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

// For Kubernetes: the Secret is mounted as a volume.
func Example_kubernetes() {
	conf := &mosaic.Config{
		ClientID:       "my-client",
		Endpoint:       mosaic.EU,
		GetCredentials: mosaic.Files{ClientSecret: "/var/run/secrets/mosaic/client-secret"}.Credentials,
	}
	fmt.Println(conf.Validate())
	// Output: <nil>
}

// For a certificate in files: it is read once. Files reads it again for each token request.
func Example_certificate() {
	cert, err := tls.LoadX509KeyPair("client.pem", "client-key.pem")
	if err != nil {
		log.Fatal(err)
	}
	conf := &mosaic.Config{ClientID: "my-client", Certificate: &cert, Endpoint: mosaic.EU}
	fmt.Println(conf.Validate())
}

// For cert-manager: the certificate's Secret is mounted as a volume.
func Example_certManager() {
	conf := &mosaic.Config{ClientID: "my-client", Endpoint: mosaic.EU}
	conf.GetCredentials = mosaic.Files{
		Certificate:    "/var/run/secrets/mosaic-tls/tls.crt",
		CertificateKey: "/var/run/secrets/mosaic-tls/tls.key",
	}.Credentials
	fmt.Println(conf.Validate())
	// Output: <nil>
}

// For a certificate presented by an HTTP client of your own: Certificate cannot be used with an
// instrumented transport.
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

// tracing stands for a RoundTripper of an instrumentation library, such as otelhttp.NewTransport.
func tracing(base http.RoundTripper) http.RoundTripper { return tracer{base} }

type tracer struct{ http.RoundTripper }

func (t tracer) RoundTrip(req *http.Request) (*http.Response, error) {
	fmt.Println("span:", req.Method, req.URL.Path)
	return t.RoundTripper.RoundTrip(req)
}

// For traces: under the client, token requests have spans, too.
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

type userAgent struct{ http.RoundTripper }

func (u userAgent) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "acme-backend/1.0")
	return u.RoundTripper.RoundTrip(req)
}

// For a User-Agent of your own, also on token requests.
func Example_userAgent() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	base := &http.Client{Transport: userAgent{srv.Client().Transport}}
	client := srv.Config().Client(context.WithValue(context.Background(), oauth2.HTTPClient, base))
	resp, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(srv.TokenRequests()[0].Header.Get("User-Agent"), srv.APIRequests()[0].Header.Get("User-Agent"))
	// Output: acme-backend/1.0 acme-backend/1.0
}

// tenants has a client for each tenant.
type tenants struct {
	mu      sync.Mutex
	clients map[string]*http.Client
}

// client returns the client of a tenant, made by its first call.
func (t *tenants) client(ctx context.Context, id, secret string, endpoint mosaic.Endpoint) *http.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients[id] == nil {
		conf := &mosaic.Config{ClientID: id, ClientSecret: secret, Endpoint: endpoint}
		t.clients[id] = conf.Client(ctx)
	}
	return t.clients[id]
}

// For many tenants: a client each, shared by all its requests.
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

// For a function with a token stored elsewhere between its runs.
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

// For gRPC: perRPC is a credentials.PerRPCCredentials of grpc-go, and minds the deadline of a call.
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
