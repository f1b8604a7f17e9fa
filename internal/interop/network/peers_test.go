package network

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/oauth2/jwt"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
)

// peers returns a function for each source, by name. The function makes a source that asks the issuer
// at base, over the HTTP client of the context.
func peers(t *testing.T, base string) map[string]func(context.Context) oauth2.TokenSource {
	endpoint, err := mosaic.ParseEndpoint(base)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]func(context.Context) oauth2.TokenSource{
		"mosaic": func(ctx context.Context) oauth2.TokenSource {
			return (&mosaic.Config{ClientID: "acme", ClientSecret: "secret", Endpoint: endpoint}).TokenSource(ctx)
		},
		"x/oauth2": func(ctx context.Context) oauth2.TokenSource {
			return (&clientcredentials.Config{ClientID: "acme", ClientSecret: "secret", TokenURL: endpoint.TokenURL()}).TokenSource(ctx)
		},
		"Google": func(ctx context.Context) oauth2.TokenSource { // for a service account
			return (&jwt.Config{Email: "acme", PrivateKey: kit.KeyPEM(t, kit.RSA()), TokenURL: endpoint.TokenURL()}).TokenSource(ctx)
		},
		"AWS": func(ctx context.Context) oauth2.TokenSource { // in a container
			provider := endpointcreds.New(endpoint.URL("/aws"), func(o *endpointcreds.Options) { o.HTTPClient = oauth2.NewClient(ctx, nil) })
			cache := aws.NewCredentialsCache(provider)
			return source(func() error {
				_, err := cache.Retrieve(ctx)
				return err
			})
		},
		"Azure": func(ctx context.Context) oauth2.TokenSource { // with a secret
			cred, err := azidentity.NewClientSecretCredential("tenant", "acme", "secret", &azidentity.ClientSecretCredentialOptions{
				ClientOptions: azcore.ClientOptions{
					Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: string(endpoint)},
					Transport: oauth2.NewClient(ctx, nil),
				},
				DisableInstanceDiscovery: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			return source(func() error {
				_, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"acme/.default"}})
				return err
			})
		},
	}
}

// A source is a source of credentials that are not used.
type source func() error

func (s source) Token() (*oauth2.Token, error) { return nil, s() }

// issuer answers each of the peers with credentials that live for this long.
func issuer(lifetime time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		base := "https://" + r.Host
		reply := map[string]any{"access_token": "opaque", "token_type": "Bearer", "expires_in": int(lifetime.Seconds())}
		switch r.URL.Path {
		case "/aws":
			reply = map[string]any{"AccessKeyId": "acme", "SecretAccessKey": "secret", "Token": "opaque", "Expiration": time.Now().Add(lifetime)}
		case "/tenant/v2.0/.well-known/openid-configuration":
			reply = map[string]any{"issuer": base + "/tenant/v2.0", "token_endpoint": base + "/oidc/token", "authorization_endpoint": base + "/authorize"}
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(reply)
	}
}
