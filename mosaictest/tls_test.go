package mosaictest_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestServerHasFurtherNames(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		tok := token(t, s, "")
		s.ServeAs(string(mosaic.EU), "login.acme.com")
		s.ServeAs("acme.example:8443", "192.0.2.7")
		for _, base := range []string{
			"https://api.eu.transmitsecurity.io", "https://api.eu.transmitsecurity.io:443", "https://login.acme.com", "https://acme.example:8443", "https://192.0.2.7", string(s.Endpoint()),
		} {
			req, err := http.NewRequest("GET", base+"/cis/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+tok)
			t.Log(base)
			do(t, s.Client(), req).wants(t, 200)
			if reqs := s.APIRequests(); reqs[len(reqs)-1].Host != req.Host {
				t.Errorf("recorded host %s; want %s", reqs[len(reqs)-1].Host, req.Host)
			}
		}

		conf := s.Config()
		conf.Endpoint = mosaic.EU
		resp, err := conf.Client(s.Context(t.Context())).Get(mosaic.EU.URL("/risk/v1/recommendation"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("a client for mosaic.EU: got %s", resp.Status)
		}
		conf = &mosaic.Config{ClientID: "key", PrivateKey: kit.EC(), Endpoint: mosaic.EU}
		s.RegisterKey("key", kit.JWKS(t, conf))
		if _, err := conf.Token(s.Context(t.Context())); err != nil {
			t.Errorf("an assertion for mosaic.EU's token endpoint: %v", err)
		}
	})
}

// A CA file is all that another process needs.
func TestCertificateVouchesForTheServer(t *testing.T) {
	s, other := mosaictest.Start(t), mosaictest.Start(t)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}}}
	defer tr.CloseIdleConnections()
	s.ServeAs("login.acme.com")
	for _, s := range []*mosaictest.Server{s, other} { // one certificate per process
		do(t, &http.Client{Transport: tr}, apiRequest(s, "/cis/x", token(t, s, ""))).wants(t, 200)
	}
	if err := s.Certificate().VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	if c := s.Certificate(); c.Issuer.String() == "" || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		t.Error("curl and Python refuse a CA without a name or a usage")
	}
}
