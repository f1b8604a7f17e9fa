package kit

import (
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// KeyClient registers a client that authenticates with key, and returns the client's Config. The
// functions in change can set other fields first.
func KeyClient(t testing.TB, srv *mosaictest.Server, key crypto.Signer, change ...func(*mosaic.Config)) *mosaic.Config {
	t.Helper()
	conf := &mosaic.Config{ClientID: "acme", PrivateKey: key, Endpoint: srv.Endpoint()}
	for _, f := range change {
		f(conf)
	}
	srv.RegisterKey(conf.ClientID, JWKS(t, conf))
	return conf
}

// CertificateClient registers a client that authenticates with a self-signed certificate, and returns
// the client's Config.
func CertificateClient(t testing.TB, srv *mosaictest.Server, id string) *mosaic.Config {
	t.Helper()
	cert := Certificate(t, id, NewEC(t), nil)
	srv.RegisterCertificate(id, cert.Leaf)
	return &mosaic.Config{ClientID: id, Certificate: cert, Endpoint: srv.Endpoint()}
}

// JWKS returns the JWK Set of conf and next.
func JWKS(t testing.TB, conf *mosaic.Config, next ...mosaic.Credentials) []byte {
	t.Helper()
	set, err := conf.JWKS(next...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// JWKs returns the keys in a JWK Set.
func JWKs(t testing.TB, set []byte) []map[string]any {
	t.Helper()
	var keys struct{ Keys []map[string]any }
	if err := json.Unmarshal(set, &keys); err != nil {
		t.Fatal(err)
	}
	return keys.Keys
}

// Assertion returns the header and the claims of the client assertion in a token request. It does not
// verify the assertion.
func Assertion(t testing.TB, req mosaictest.Request) (header map[string]any, claims jwt.MapClaims) {
	t.Helper()
	claims = jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(req.Form.Get("client_assertion"), claims)
	if err != nil {
		t.Fatal("the form holds no assertion that can be parsed")
	}
	return token.Header, claims
}

// Statuses returns the status of the response to each request.
func Statuses(requests []mosaictest.Request) (statuses []int) {
	for _, r := range requests {
		statuses = append(statuses, r.Status)
	}
	return statuses
}

// Fetch sends a GET, and returns an error unless the response has this status.
func Fetch(client *http.Client, url string, status int) error {
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != status {
		return fmt.Errorf("GET %s: got %s; want %d", url, res.Status, status)
	}
	return nil
}

// IsLine reports whether the text of err is a single line of less than 1,000 bytes that begins with
// "mosaic: ". To get a failure instead, see [OneLine].
func IsLine(err error) bool {
	text := fmt.Sprint(err)
	return strings.HasPrefix(text, "mosaic: ") && len(text) < 1000 && !strings.ContainsAny(text, "\r\n\t")
}
