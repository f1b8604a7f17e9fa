package behaviour_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestEachRequestGetsTheTokenOfItsPath(t *testing.T) {
	const own = "https://orders.acme.com/"
	inWorld(t, func(t *testing.T, w *world) {
		w.AddResource(own)
		conf := *w.conf
		conf.Resource = own
		byPath, withResource := w.client(), conf.Client(w.Context(context.Background()))
		check := func(client *http.Client, target string, want mosaic.Resource) {
			t.Helper()
			w.client = func() *http.Client { return client }
			if o := w.get(target); client == byPath {
				o.want(0, 200) // the stand-in checks it, too
			}
			arrived := w.APIRequests()
			tok := strings.TrimPrefix(arrived[len(arrived)-1].Header.Get("Authorization"), "Bearer ")
			claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: tok})
			if err != nil || len(claims.Audience) != 1 || claims.Audience[0] != string(want) {
				t.Errorf("%q: error %v, or a token for another audience than %q", target, err, want)
			}
		}
		for want, paths := range map[mosaic.Resource][]string{
			"userid-api": {
				"", "/", "/cis/v1/users", "/anything", "/verifyx", "/verifyx/verify", "/xverify", "/ver/ify", "/Verify/api",
				"/risk;v=1/x", "/risk.json", "/cis/risk", "/cis/../risk", "/cis//risk", "/risk%2Fv1",
			},
			mosaic.IdentityVerification: {"/verify", "/verify/api/v1/verification"},
			mosaic.FraudPrevention: {
				"/risk", "/risk/", "/risk/v1/recommendation", "//risk/x", "///risk", "/risk?service=/xdv", "/risk#/xdv",
				"/%72isk/v1", "/risk/v1%2Fx", "/%72isk/v1%2Fx", "//risk/v1%2Fx",
			},
			mosaic.DataValidation: {"/xdv/v1/check"},
		} {
			for _, path := range paths {
				check(byPath, "https://example.com"+path, want)
				check(byPath, w.conf.Endpoint.URL(path), want)
				check(withResource, "https://example.com"+path, own)
			}
		}
		w.wantTokenRequests(5) // four services and a Resource
	})
}

func TestTheServicesOfAClientDoNotShareTheirParameters(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf := srv.Config()
		conf.EndpointParams = url.Values{"tenant": {"acme"}}
		client := conf.Client(srv.Context(t.Context()))
		for i, want := range []struct {
			path     string
			resource mosaic.Resource
		}{{"/risk/x", mosaic.FraudPrevention}, {"/cis/x", ""}} {
			if err := kit.Fetch(client, srv.Endpoint().URL(want.path), http.StatusOK); err != nil {
				t.Fatal(err)
			}
			if form := srv.TokenRequests()[i].Form; form.Get("resource") != string(want.resource) || form.Get("tenant") != "acme" {
				t.Errorf("%s: got resource %q and tenant %q; want %q and acme", want.path, form.Get("resource"), form.Get("tenant"), want.resource)
			}
		}
	})
}
