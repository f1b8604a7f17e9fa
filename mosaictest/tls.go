package mosaictest

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"example.com/mosaic"
)

// ServeAs gives the server further names, for code with a hard-coded host: [Server.Client] reaches
// the server under these names, too. The names are in the syntax of [mosaic.ParseEndpoint]:
// "login.acme.com", with or without a port, or string(mosaic.EU). [Server.Certificate] vouches for
// them.
func (s *Server) ServeAs(hosts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, host := range hosts {
		endpoint := must(mosaic.ParseEndpoint(host))
		u := must(url.Parse(string(endpoint)))
		s.served[net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))] = u.Hostname()
	}
	names := slices.AppendSeq(slices.Clone(ownNames), maps.Values(s.served))
	s.certificate = issue(authority(), names)
}

// address returns the address to dial for addr.
func (s *Server) address(addr string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, served := s.served[addr]; served {
		return s.http.Listener.Addr().String()
	}
	return addr
}

// Certificate returns the CA certificate of all servers in this process: for a certificate pool, or
// a PEM file for another process.
func (s *Server) Certificate() *x509.Certificate { return authority().Leaf }

// ownNames are httptest's.
var ownNames = []string{"example.com", "*.example.com", "127.0.0.1", "::1"}

// authority is the server's certificate, made once per process. With a key exchange on P-256 a
// handshake takes 0.5 ms, with httptest's RSA certificate 1.6 ms (under -race 1.6 and 5.7), and
// crowds of clients need thousands.
var authority = sync.OnceValue(func() tls.Certificate { return issue(tls.Certificate{}, ownNames) })

// issue returns a new certificate, signed by parent, or by itself if parent is zero. A bubble's
// clock starts in the year 2000.
func issue(parent tls.Certificate, names []string) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		NotBefore:             time.Date(1970, time.January, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2100, time.January, 1, 0, 0, 0, 0, time.UTC),
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if parent.Leaf == nil {
		template.IsCA = true
		template.Subject.CommonName = "mosaictest"                                // curl wants an issuer's name
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature // Python a CA's usage
		parent = tls.Certificate{Leaf: template, PrivateKey: key}
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent.Leaf, key.Public(), parent.PrivateKey))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: must(x509.ParseCertificate(der))}
}
