package mosaictest_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestStartClosesWithTheTest(t *testing.T) {
	var s *mosaictest.Server
	t.Run("test", func(t *testing.T) {
		s = mosaictest.Start(t)
		token(t, s, "")
	})
	if resp, err := s.Client().Do(apiRequest(s, "/cis/x", "")); err == nil {
		t.Errorf("after the test: got %s; want an error", resp.Status)
	}
}

func TestConfigIsTheCallersOwn(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		s.Config().ClientSecret = "changed"
		tok, err := s.Config().Token(s.Context(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		call(t, s, "/cis/x", tok.AccessToken).wants(t, 200)
	})
}

func TestRequestsAreRecorded(t *testing.T) {
	cert := kit.Certificate(t, "recorded", kit.EC(), nil)
	record := func(t *testing.T, s *mosaictest.Server, proto string) {
		client := presenting(t, s, cert, proto == "HTTP/2.0")
		start := time.Now()
		req := tokenRequest(s, "/cis/oidc/token?q=1", secretForm(s))
		req.Header.Set("X-Test", "a")
		tok := accessToken(t, do(t, client, req))
		post(t, s, "client_id", "mars").refuses(t, 401, "invalid_client")
		api := request(s, "POST", "/cis/v1/users?a=b", "hello")
		api.Header.Set("Authorization", "Bearer "+tok)
		do(t, client, api)
		call(t, s, "/cis/x", "")

		tokens, apis := s.TokenRequests(), s.APIRequests()
		s.ForgetRequests()
		if len(tokens) != 2 || len(apis) != 2 || len(s.TokenRequests())+len(s.APIRequests()) != 0 {
			t.Fatalf("%d token requests, %d others; want 2 of each, then none", len(tokens), len(apis))
		}
		if r := tokens[0]; r.Method != "POST" || r.RequestURI != "/cis/oidc/token?q=1" || r.Proto != proto || r.Header.Get("X-Test") != "a" ||
			r.Form.Encode() != secretForm(s).Encode() || string(r.Body) != secretForm(s).Encode() || r.Status != 200 ||
			!cert.Leaf.Equal(r.Certificate) || r.Time.Before(start) || time.Since(r.Time) < 0 || r.Host != req.Host {
			t.Errorf("%s %s %s, status %d at %v", r.Method, r.RequestURI, r.Proto, r.Status, r.Time)
		}
		own := "HTTP/2.0"
		if s.Endpoint() == "https://example.com" {
			own = "HTTP/1.1"
		}
		if r := tokens[1]; r.Status != 401 || r.Certificate != nil || r.Form.Get("client_id") != "mars" || r.Proto != own {
			t.Errorf("the refused one: %s, status %d, certificate %v", r.Proto, r.Status, r.Certificate)
		}
		if r := apis[0]; r.RequestURI != "/cis/v1/users?a=b" || string(r.Body) != "hello" || r.Status != 200 ||
			r.Header.Get("Authorization") != "Bearer "+tok || r.Form != nil || !cert.Leaf.Equal(r.Certificate) {
			t.Errorf("%s %s, status %d", r.Method, r.RequestURI, r.Status)
		}
		if apis[1].Status != 401 {
			t.Errorf("a call without a token: status %d", apis[1].Status)
		}
	}
	each(t, func(t *testing.T, s *mosaictest.Server) { record(t, s, "HTTP/1.1") })
	record(t, mosaictest.Start(t), "HTTP/2.0")
}

func TestMisuseIsAPanic(t *testing.T) {
	s := mosaictest.Start(t)
	conf := s.Config()
	keyed := mosaictest.Start(t)
	keyed.RegisterKey(conf.ClientID, jwks(t, nil))
	rotating := mosaictest.Start(t)
	rotating.AddSecret("second")
	set := func(name string, value any) func() {
		return func() { s.RegisterKey("c", jwks(t, func(key map[string]any) { key[name] = value })) }
	}
	both := func(another crypto.Signer) []byte {
		return jwksOf(t, kit.EC(), "ES256", func(set map[string][]map[string]any) {
			jwksOf(t, another, "ES256", func(more map[string][]map[string]any) { set["keys"] = append(set["keys"], more["keys"]...) })
		})
	}
	for name, misuse := range map[string]func(){
		"no JSON":                             func() { s.RegisterKey("c", []byte("x")) },
		"no keys":                             func() { s.RegisterKey("c", []byte("{}")) },
		"two keys with one kid":               func() { s.RegisterKey("c", both(kit.NewEC(t))) },
		"no kid":                              set("kid", ""),
		"no alg":                              set("alg", ""),
		"alg of another key":                  set("alg", "RS256"),
		"use enc":                             set("use", "enc"),
		"a private key":                       set("d", "AA"),
		"not base64url":                       set("x", "="),
		"a point off the curve":               set("x", strings.Repeat("A", 43)),
		"a key for no client":                 func() { s.RegisterKey("", jwks(t, nil)) },
		"a secret for no client":              func() { s.RegisterSecret("", "x") },
		"no secret":                           func() { s.RegisterSecret("c", "") },
		"set to no secret":                    func() { s.SetSecret("") },
		"no certificate":                      func() { s.RegisterCertificate("c", nil) },
		"no roots":                            func() { s.RegisterCA("c", nil, "CN=x") },
		"a third secret":                      func() { rotating.AddSecret("third") },
		"an empty second secret":              func() { s.AddSecret("") },
		"the same secret":                     func() { s.AddSecret(conf.ClientSecret) },
		"a secret beside a key":               func() { keyed.AddSecret("x") },
		"revoke the last secret":              func() { s.RevokeSecret(conf.ClientSecret) },
		"revoke a secret that is not active":  func() { rotating.RevokeSecret("third") },
		"revoke a secret of a client without": func() { keyed.RevokeSecret(conf.ClientSecret) },
		"a URL with a path":                   func() { s.ServeAs("https://login.acme.com/cis") },
		"no host":                             func() { s.ServeAs("") },
		"Fail with status 42":                 func() { s.Fail(mosaictest.Fault{Status: 42}) },
		"FailNext with status 1000":           func() { s.FailNext(1, mosaictest.Fault{Status: 1000}) },
		"an API with status 42":               func() { s.Handle("/cis/42", mosaictest.Fault{Status: 42}) },
	} {
		func() {
			defer func() {
				if p, _ := recover().(string); !strings.HasPrefix(p, "mosaictest: ") {
					t.Errorf("%s: panic %q; want one that says mosaictest", name, p)
				}
			}()
			misuse()
		}()
	}
	token(t, s, "")
	s.RegisterKey("c", jwks(t, nil))
	s.RegisterKey("c", both(kit.EC())) // as JWKS lists a key with each of its certificates
	func() {
		defer func() { _ = recover() }() // http.ServeMux's panic
		s.Handle("{", http.NotFoundHandler())
	}()
	s.Handle("/cis/users", http.NotFoundHandler())
}

func TestAHandlersPanicIsPrinted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = w
	s := mosaictest.NewInMemory() // HTTP/1.1: it is printed before the connection is closed
	defer s.Close()
	s.Handle("/cis/", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a nil map, say") }))
	if resp, err := s.Client().Do(apiRequest(s, "/cis/x", token(t, s, ""))); err == nil {
		t.Errorf("got %s; want an error", resp.Status)
	}
	os.Stderr = stderr
	w.Close()
	if text, err := io.ReadAll(r); err != nil || !strings.Contains(string(text), "a nil map, say") {
		t.Errorf("printed %q, %v", text, err)
	}
}

func TestConcurrentUse(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		cert := kit.Certificate(t, "c", kit.EC(), nil)
		pool := x509.NewCertPool()
		pool.AddCert(cert.Leaf)
		set := jwks(t, nil)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				name := fmt.Sprint("n", i)
				for j := range 3 {
					s.SetLifetime(time.Hour)
					s.SetSkew(time.Second)
					s.SetLatency(0, time.Millisecond)
					s.SetClaims(func(c map[string]any) { c["roles"] = []string{name} })
					own := mosaic.Resource("https://" + name + ".example")
					s.AddResource(own)
					s.FailNext(0, mosaictest.Fault{})
					s.Heal()
					s.BindTokens(j%2 == 0)
					s.RegisterCA("c", pool, "CN=c")
					s.RegisterCertificate("c", cert.Leaf)
					s.RegisterKey(name, set)
					s.RegisterSecret(name, "secret of "+name)
					s.ServeAs(name + ".example")
					s.Handle("/cis/"+name, http.NotFoundHandler())
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
					if resp, err := s.Client().Do(tokenRequest(s, "/oidc/token", secretForm(s)).WithContext(ctx)); err == nil {
						resp.Body.Close()
					}
					cancel()
					tok := accessToken(t, post(t, s, "client_id", name, "client_secret", "secret of "+name, "resource", string(own)))
					s.RemoveResource(own)
					call(t, s, "/cis/"+name, tok).wants(t, 404)
					s.RevokeToken(oauthToken(tok))
					call(t, s, "/cis/"+name, tok).wants(t, 401)
					s.TokenRequests()
					s.APIRequests()
					s.ForgetRequests()
				}
			})
		}
		wg.Go(func() {
			for i := range 8 {
				old, secret := s.Config().ClientSecret, fmt.Sprint("secret ", i)
				s.AddSecret(secret)
				post(t, s, "client_secret", old).refuses(t, 200, "")
				s.RevokeSecret(old)
			}
		})
		wg.Wait()
	})
}

func TestPackageCommentRepeatsATestFile(t *testing.T) {
	file, err := os.ReadFile("shop_test.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(file), "\n") // but the package clause
	comment := strings.ReplaceAll("\n"+code, "\n", "\n//\t")
	comment = strings.TrimSuffix(strings.ReplaceAll(comment, "\t\n", "\n"), "//\t")
	if !strings.Contains(string(doc), "//\tpackage shop"+comment+"package mosaictest\n") {
		t.Error("doc.go does not end with shop_test.go")
	}
}
