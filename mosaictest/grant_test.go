package mosaictest_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

func TestTokenEndpointRefuses(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		set := func(name string, values ...string) func(*http.Request, url.Values) {
			return func(_ *http.Request, form url.Values) { form[name] = values }
		}
		body := func(body string) func(*http.Request, url.Values) {
			return func(req *http.Request, _ url.Values) {
				req.GetBody, req.ContentLength = nil, int64(len(body))
				req.Body = io.NopCloser(strings.NewReader(body))
			}
		}
		header := func(name, value string) func(*http.Request, url.Values) {
			return func(req *http.Request, _ url.Values) { req.Header.Set(name, value) }
		}
		basic := func(req *http.Request, form url.Values) {
			req.SetBasicAuth(form.Get("client_id"), form.Get("client_secret"))
		}
		for _, tt := range []struct {
			name   string
			change func(*http.Request, url.Values)
			status int
			code   string
		}{
			{"nothing changed", func(*http.Request, url.Values) {}, 200, ""},
			{"content type with a charset", header("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), 200, ""},
			{"empty resource", set("resource", ""), 200, ""},
			{"GET", func(r *http.Request, _ url.Values) { r.Method = "GET" }, 405, "invalid_request"},
			{"PUT", func(r *http.Request, _ url.Values) { r.Method = "PUT" }, 405, "invalid_request"},
			{"JSON", header("Content-Type", "application/json"), 400, "invalid_request"},
			{"no content type", func(r *http.Request, _ url.Values) { r.Header.Del("Content-Type") }, 400, "invalid_request"},
			{"no form", body("%zz"), 400, "invalid_request"},
			{"empty body", body(""), 401, "invalid_client"},
			{"credentials in the URL", func(r *http.Request, form url.Values) {
				r.URL.RawQuery = form.Encode()
				body("")(r, form)
			}, 401, "invalid_client"},
			{"a parameter twice", set("resource", string(mosaic.FraudPrevention), string(mosaic.DataValidation)), 400, "invalid_request"},
			{"a parameter twice, equal", set("grant_type", "client_credentials", "client_credentials"), 400, "invalid_request"},
			{"no client_id", set("client_id"), 401, "invalid_client"},
			{"unknown client", set("client_id", "mars"), 401, "invalid_client"},
			{"no secret", set("client_secret"), 401, "invalid_client"},
			{"wrong secret", set("client_secret", "x"), 401, "invalid_client"},
			{"Basic credentials", func(r *http.Request, form url.Values) {
				basic(r, form)
				body("grant_type=client_credentials")(r, form)
			}, 401, "invalid_client"},
			{"Basic credentials beside the form's", basic, 401, "invalid_client"},
			{"secret and assertion", set("client_assertion", "a.b.c"), 400, "invalid_request"},
			{"no grant type", set("grant_type"), 400, "invalid_request"},
			{"empty grant type", set("grant_type", ""), 400, "invalid_request"},
			{"another grant type", set("grant_type", "refresh_token"), 400, "unsupported_grant_type"},
			{"unknown resource", set("resource", "https://mars.identity.security"), 400, "invalid_target"},
			{"resource with a slash added", set("resource", string(mosaic.FraudPrevention)+"/"), 400, "invalid_target"},
			{"the default audience as a resource", set("resource", "userid-api"), 400, "invalid_target"},
		} {
			form := secretForm(s)
			req := tokenRequest(s, "/oidc/token", form)
			tt.change(req, form)
			if req.GetBody != nil { // not replaced: the changed form
				body(form.Encode())(req, form)
			}
			if req.Method == "GET" {
				req.Body, req.ContentLength = nil, 0
			}
			t.Logf("%s:", tt.name)
			got := do(t, s.Client(), req)
			got.refuses(t, tt.status, tt.code)
			if tt.status == 405 && got.Header.Get("Allow") != "POST" {
				t.Errorf("Allow: got %q; want POST", got.Header.Get("Allow"))
			}
			reqs := s.TokenRequests()
			if form := reqs[len(reqs)-1].Form; tt.name == "no form" && form != nil {
				t.Errorf("recorded form %v; want none", form)
			}
		}
	})
}

func TestResourcesAreConfiguredForTheApplication(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		own := mosaic.Resource("https://api.acme.com")
		ask := func(r mosaic.Resource) reply { return post(t, s, "resource", string(r)) }
		ask(own).refuses(t, 400, "invalid_target")
		s.AddResource(own)
		s.AddResource(mosaic.FraudPrevention) // as it is
		tokens := map[string]string{"/cis/x": token(t, s, own), "/risk/x": token(t, s, mosaic.FraudPrevention)}
		s.RemoveResource(own)
		s.RemoveResource(mosaic.FraudPrevention)
		s.RemoveResource("https://mars.example") // not there
		ask(own).refuses(t, 400, "invalid_target")
		ask(mosaic.FraudPrevention).refuses(t, 400, "invalid_target")
		ask(mosaic.DataValidation).refuses(t, 200, "")
		ask("").refuses(t, 200, "")
		for path, tok := range tokens {
			call(t, s, path, tok).wants(t, 200)
		}
		s.AddResource(mosaic.FraudPrevention)
		ask(mosaic.FraudPrevention).refuses(t, 200, "")
	})
}
