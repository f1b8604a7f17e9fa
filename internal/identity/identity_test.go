package identity_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/identity"
	"example.com/mosaic/internal/mtls"
)

func certificate(t testing.TB) *mtls.Certificate {
	t.Helper()
	cert, err := mtls.New(kit.Certificate(t, "acme", kit.EC(), nil, kit.Lifetime(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A source of what *creds is at each call.
func source(t testing.TB, creds **identity.Credentials, log *kit.Log) *identity.Source {
	t.Helper()
	get := func(context.Context) (*identity.Credentials, error) { return *creds, nil }
	s, err := identity.New(nil, get, new(http.Transport), log.Logger(0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func current(t testing.TB, s *identity.Source) *identity.Identity {
	t.Helper()
	id, err := s.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOtherCredentialsAreLoggedOnceATokenWasObtained(t *testing.T) {
	cert := certificate(t)
	key := func(id string) *assertion.Key {
		signer := kit.NewEC(t)
		key, err := assertion.NewKey(signer, signer.Public(), "", id)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	k1 := key("k1")
	var log kit.Log
	var creds *identity.Credentials
	s := source(t, &creds, &log)
	for _, step := range []struct {
		creds    identity.Credentials
		obtained bool
		want     string
	}{
		{identity.Credentials{Secret: "a-secret"}, true, ""},
		{identity.Credentials{Secret: "a-secret"}, true, ""},
		{identity.Credentials{Secret: "another-secret"}, false, ""},
		{identity.Credentials{Secret: "another-secret"}, true, `msg="mosaic: credentials changed" method=client_secret_post` + "\n"},
		{identity.Credentials{Key: k1}, true, "method=private_key_jwt kid=k1\n"},
		{identity.Credentials{Key: k1}, true, ""},
		{identity.Credentials{Key: key("k1")}, true, "method=private_key_jwt kid=k1\n"},
		{identity.Credentials{Key: k1, Certificate: cert}, true, "method=private_key_jwt kid=k1 x5t=" + cert.Thumbprint + "\n"},
		{identity.Credentials{Certificate: cert}, true, "method=tls_client_auth x5t=" + cert.Thumbprint + "\n"},
	} {
		creds = &step.creds
		if id := current(t, s); step.obtained {
			s.Obtained(id)
		}
		if got := log.Take(); !strings.HasSuffix(got, step.want) || step.want == "" && got != "" {
			t.Errorf("got %q; want it to end in %q", got, step.want)
		}
	}
}
