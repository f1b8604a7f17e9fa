package mosaic_test

import (
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
	"math/big"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// For a service that calls Mosaic's APIs: one Config, one client, made at
// start-up and shared by all requests.
func Example() {
	conf := &mosaic.Config{
		ClientID:     os.Getenv("MOSAIC_CLIENT_ID"),
		ClientSecret: os.Getenv("MOSAIC_CLIENT_SECRET"),
		Endpoint:     mosaic.EU,
	}
	if err := conf.Validate(); err != nil {
		log.Fatal(err)
	}
	client := conf.Client(context.Background())

	resp, err := client.Get(mosaic.EU.URL("/cis/v1/users"))
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

// For code that tells a refusal, which a person has to mend, from an outage,
// which passes.
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

// For start-up: a mistake in the configuration is found before the first call,
// and all of them are found at once.
func ExampleConfig_Validate() {
	conf := &mosaic.Config{
		ClientID: "my-client",
		Endpoint: "eu",
	}
	fmt.Println(conf.Validate())
	// Output: mosaic: invalid Config: ClientSecret is empty, and there is neither PrivateKey nor Certificate in its place; Endpoint "eu" is a name, not a base URL: use mosaic.EU, or ParseEndpoint for text
}

// For a job that needs one token, once, and has a cache of its own or none.
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

// For code that takes an oauth2.TokenSource, or is built on oauth2.NewClient:
// it stays as it is.
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

// For a caller that can wait for a first token no longer than its own request
// may take.
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
	// mosaic: waiting for a token: context deadline exceeded
	// true
}

// For code that sends tokens by other means than Config.Client, and learns that
// one was refused: however many holders report it, one new token is requested.
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

// For calls to more than one service: each request gets the token that its path
// asks for.
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // in production, read from where keys are kept
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

// A cloudKey is a key that stays in its KMS: here are its public half and the
// call of the KMS's SDK that signs a digest.
type cloudKey struct {
	public crypto.PublicKey
	sign   func(digest []byte) (signature []byte, err error)
}

func (k *cloudKey) Public() crypto.PublicKey { return k.public }

func (k *cloudKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return k.sign(digest)
}

// For a key that may not leave a KMS, an HSM or an agent: any crypto.Signer
// serves.
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

// For a FAPI 2.0 client that proves itself by its certificate (mTLS), which is
// presented at the token endpoint and at the APIs.
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

// For the Admin Portal, where the public key of PrivateKey, or of a self-signed
// Certificate, is submitted.
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

// For a region or a custom domain that comes as text: from the environment, or
// from a file that somebody has written.
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
	// mosaic: endpoint "mars" is no known name: want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"
}

// For a program with flags: flag.TextVar parses an Endpoint, and refuses what is
// none.
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

// For a configuration file: a Config is read as it is, and its Endpoint takes
// names and URLs.
func ExampleEndpoint_UnmarshalText() {
	var conf mosaic.Config
	file := `{"ClientID": "my-client", "Endpoint": "ca"}`
	if err := json.Unmarshal([]byte(file), &conf); err != nil {
		log.Fatal(err)
	}
	conf.ClientSecret = os.Getenv("MOSAIC_CLIENT_SECRET")
	fmt.Println(conf.Endpoint)
	// Output: https://api.ca.transmitsecurity.io
}

// For the URLs of API calls, so that a change of region is a change in one place.
func ExampleEndpoint_URL() {
	fmt.Println(mosaic.EU.URL("/risk/v1/recommendation?action_token=abc"))
	// Output: https://api.eu.transmitsecurity.io/risk/v1/recommendation?action_token=abc
}

// For code that has to name the token endpoint, as an allow-list of outgoing
// connections does.
func ExampleEndpoint_TokenURL() {
	fmt.Println(mosaic.US.TokenURL())
	// Output: https://api.transmitsecurity.io/oidc/token
}

// For an API of your own that Mosaic protects: its resource is the audience of
// the tokens, and where it is an https URL, Config.Client sends them there.
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
