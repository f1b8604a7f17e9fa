// Package provider starts oidc-provider (npm) with an API beside it: see server.mjs.
package provider

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
)

// A Provider runs until its test ends. A client whose ID contains "FAPI" gets the FAPI 2.0 profile.
type Provider struct {
	Endpoint  mosaic.Endpoint
	Transport *http.Transport // trusts the server
}

//go:embed package.json package-lock.json server.mjs
var files embed.FS

// Start starts a Provider that trusts client certificates of ca, and whose tokens live for lifetime.
// It skips t if node or npm is missing.
func Start(t testing.TB, ca *tls.Certificate, lifetime time.Duration) *Provider {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Printf("SKIPPED: oidc-provider needs %s: %v\n", tool, err) // t.Skip's reason needs -v
			t.Skip(err)
		}
	}
	key := kit.NewEC(t)
	cert := ServerCertificate(t, key)
	dir := t.TempDir()
	err := os.CopyFS(dir, files)
	for name, data := range map[string][]byte{
		"key.pem":  kit.KeyPEM(t, key),
		"cert.pem": kit.CertificatePEM(cert),
		"ca.pem":   kit.CertificatePEM(ca),
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}

	node := exec.Command("node", "server.mjs", ".", strconv.Itoa(int(lifetime.Seconds())))
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
	p := new(Provider)
	lines := bufio.NewScanner(stdout)
	for p.Endpoint == "" && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "https://") { // not a notice of oidc-provider
			p.Endpoint, err = mosaic.ParseEndpoint(lines.Text())
		}
	}
	if p.Endpoint == "" || err != nil {
		t.Fatalf("server.mjs names no address (%v)", err)
	}
	go io.Copy(io.Discard, stdout)

	p.Transport = Trusting(t, cert)
	return p
}

// Register replaces the registration of a client by metadata (RFC 7591 §2), which is encoded as
// JSON.
func (p *Provider) Register(t testing.TB, metadata any) {
	t.Helper()
	body, err := json.Marshal(metadata)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "PUT", p.Endpoint.URL("/"), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the registration gets %s", res.Status)
	}
}

// ServerCertificate returns a self-signed certificate for a server at 127.0.0.1.
func ServerCertificate(t testing.TB, key crypto.Signer) *tls.Certificate {
	return kit.Certificate(t, "127.0.0.1", key, nil, func(template *x509.Certificate) {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

// Trusting returns a transport that trusts a server with cert.
func Trusting(t testing.TB, cert *tls.Certificate) *http.Transport {
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}
