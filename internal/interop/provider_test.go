package interop

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"maps"
	"strings"
	"testing"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/interop/provider"
)

func TestOIDCProvider(t *testing.T) {
	t.Parallel()
	ca := kit.Certificate(t, "clients' CA", kit.NewEC(t), nil)
	p := provider.Start(t, ca, 6*time.Second)
	s := &server{p.Endpoint, p.Transport, func(t testing.TB, c client) { p.Register(t, c) }}
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
	t.Run("FAPI 2.0 accepts the issuer as audience, and nothing else", func(t *testing.T) {
		t.Parallel()
		creds := mosaic.Credentials{PrivateKey: ec}
		s.register(t, "private_key_jwt", creds)
		conf := s.config(t, creds)
		conf.AssertionAudience = string(s.endpoint)
		if _, err := conf.Token(kit.Over(t.Context(), s.http)); err != nil {
			t.Error(err)
		}
		conf.AssertionAudience = ""
		if err := s.testRefusal(t, conf, "invalid_client"); !strings.Contains(err.Error(), "AssertionAudience") {
			t.Errorf("got %v; want a hint that names AssertionAudience", err)
		}
	})
	t.Run("a client registered for client_secret_basic may post its secret", func(t *testing.T) {
		t.Parallel()
		s.register(t, "client_secret_basic", secretRotation.new)
		if _, err := s.config(t, secretRotation.new).Token(kit.Over(t.Context(), s.http)); err != nil {
			t.Error(err)
		}
	})
}
