package interop

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
)

func TestOIDCProvider(t *testing.T) {
	t.Parallel()
	ca := kit.Certificate(t, "clients' CA", kit.NewEC(t), nil)
	s := startProvider(t, ca)
	rsa, ec := newRSA(t), kit.NewEC(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificates := func(r rotation, issuer *tls.Certificate) rotation {
		r.old.Certificate = kit.Certificate(t, "client", kit.NewEC(t), issuer)
		r.new.Certificate = kit.Certificate(t, "client", kit.NewEC(t), issuer)
		return r
	}
	bound := map[string]rotation{
		"tls_client_auth":                     certificates(rotation{method: "tls_client_auth"}, ca),
		"self_signed_tls_client_auth":         certificates(rotation{method: "self_signed_tls_client_auth"}, nil),
		"private_key_jwt beside certificates": certificates(keyRotation("ES256", kit.EC(), ec), nil),
	}
	for name, r := range bound {
		t.Run(name+" binds tokens", func(t *testing.T) {
			t.Parallel()
			s.testBinding(t, r)
		})
	}
	t.Run("client_secret_post beside a certificate binds tokens", func(t *testing.T) {
		t.Parallel()
		s.testBinding(t, certificates(secretRotation, nil))
	})

	rotations := map[string]rotation{
		"private_key_jwt RS256": keyRotation("RS256", kit.RSA(), rsa),
		"private_key_jwt PS256": keyRotation("PS256", kit.RSA(), rsa),
		"private_key_jwt ES256": keyRotation("ES256", kit.EC(), ec),
		"private_key_jwt EdDSA": keyRotation("EdDSA", kit.Ed25519(), ed),
		"private_key_jwt EdDSA, then ES256": {
			"private_key_jwt", mosaic.Credentials{PrivateKey: ed}, mosaic.Credentials{PrivateKey: ec},
		},
	}
	maps.Copy(rotations, bound)
	for name, r := range rotations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.testRotation(t, r)
		})
	}
	t.Run("an assertion is good once", func(t *testing.T) {
		t.Parallel()
		s.testReplay(t, mosaic.Credentials{PrivateKey: ed})
	})
	t.Run("the issuer is an audience", func(t *testing.T) {
		t.Parallel()
		creds := mosaic.Credentials{PrivateKey: ec}
		s.register(t, "private_key_jwt", creds)
		conf := s.config(t, creds)
		conf.AssertionAudience = string(s.endpoint)
		if _, err := conf.Token(kit.Over(t.Context(), s.http)); err != nil {
			t.Error(err)
		}
	})
}

// startProvider starts provider/server.mjs, in a folder of its own. It trusts certificates of ca.
func startProvider(t *testing.T, ca *tls.Certificate) *server {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Printf("SKIPPED: oidc-provider needs %s: %v\n", tool, err) // t.Skip's reason needs -v
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	key := kit.NewEC(t)
	cert := kit.Certificate(t, "127.0.0.1", key, nil, func(template *x509.Certificate) {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	for name, data := range map[string][]byte{
		"key.pem":  kit.KeyPEM(t, key),
		"cert.pem": kit.CertificatePEM(cert),
		"ca.pem":   kit.CertificatePEM(ca),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"package.json", "package-lock.json", "server.mjs"} {
		data, err := os.ReadFile(filepath.Join("provider", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}

	node := exec.Command("node", "server.mjs", ".")
	node.Dir = dir
	node.Stderr = t.Output()
	stdin, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // ends node
		node.Wait()
	})
	var endpoint mosaic.Endpoint
	lines := bufio.NewScanner(stdout)
	for endpoint == "" && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "https://") { // not a notice of oidc-provider
			endpoint, err = mosaic.ParseEndpoint(lines.Text())
		}
	}
	if endpoint == "" || err != nil {
		t.Fatalf("server.mjs names no address (%v)", err)
	}
	go io.Copy(io.Discard, stdout)

	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	put := func(t testing.TB, c client) {
		body, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if status, text := send(t, &http.Client{Transport: transport}, "PUT", endpoint.URL("/"), string(body)); status != http.StatusOK {
			t.Fatalf("the registration gets %d: %s", status, text)
		}
	}
	return &server{endpoint, transport, put}
}
