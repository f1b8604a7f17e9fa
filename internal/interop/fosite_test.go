package interop

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/storage"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
)

func TestFosite(t *testing.T) {
	t.Parallel()
	s := startFosite(t)
	rsa, ec := newRSA(t), kit.NewEC(t)
	for name, r := range map[string]rotation{
		"client_secret_post":    secretRotation,
		"private_key_jwt RS256": keyRotation("RS256", kit.RSA(), rsa),
		"private_key_jwt PS256": keyRotation("PS256", kit.RSA(), rsa),
		"private_key_jwt ES256": keyRotation("ES256", kit.EC(), ec),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.testRotation(t, r)
		})
	}
	t.Run("an assertion is good once", func(t *testing.T) {
		t.Parallel()
		s.testReplay(t, mosaic.Credentials{PrivateKey: kit.EC()})
	})
	t.Run("a client registered for client_secret_basic is refused", func(t *testing.T) {
		t.Parallel()
		s.register(t, "client_secret_basic", secretRotation.new)
		s.testRefusal(t, s.config(t, secretRotation.new), "invalid_client")
	})
}

// A store is fosite's, whose own map of clients cannot be changed while it is read.
type store struct {
	*storage.MemoryStore
	clients sync.Map
}

func (s *store) GetClient(_ context.Context, id string) (fosite.Client, error) {
	if c, ok := s.clients.Load(id); ok {
		return c.(fosite.Client), nil
	}
	return nil, fosite.ErrNotFound
}

func startFosite(t *testing.T) *server {
	mux := http.NewServeMux()
	srv := httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	endpoint, err := mosaic.ParseEndpoint(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	conf := &fosite.Config{
		TokenURL:            endpoint.TokenURL(),
		AccessTokenIssuer:   srv.URL,
		AccessTokenLifespan: 3 * time.Second,
		HashCost:            4, // bcrypt's minimum

		// If these are nil, fosite sets them at their first use, in several goroutines at once.
		ScopeStrategy:            fosite.WildcardScopeStrategy,
		AudienceMatchingStrategy: fosite.DefaultAudienceMatchingStrategy,
		JWKSFetcherStrategy:      fosite.NewDefaultJWKSFetcherStrategy(),
	}
	conf.ClientSecretsHasher = &fosite.BCrypt{Config: conf}
	signer := compose.NewOAuth2JWTStrategy(func(context.Context) (any, error) { return kit.RSA(), nil }, compose.NewOAuth2HMACStrategy(conf), conf)
	clients := &store{MemoryStore: storage.NewMemoryStore()}
	provider := compose.Compose(conf, clients, signer,
		compose.OAuth2ClientCredentialsGrantFactory, compose.OAuth2StatelessJWTIntrospectionFactory)

	mux.HandleFunc("POST /oidc/token", func(w http.ResponseWriter, r *http.Request) {
		req, err := provider.NewAccessRequest(r.Context(), r, new(oauth2.JWTSession))
		if err != nil {
			provider.WriteAccessError(r.Context(), w, req, err)
			return
		}
		res, err := provider.NewAccessResponse(r.Context(), req)
		if err != nil {
			provider.WriteAccessError(r.Context(), w, req, err)
			return
		}
		provider.WriteAccessResponse(r.Context(), w, req, res)
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		_, _, err := provider.IntrospectToken(r.Context(), fosite.AccessTokenFromRequest(r), fosite.AccessToken, new(oauth2.JWTSession))
		if err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, err.Error(), http.StatusUnauthorized)
		}
	})

	hash := func(t testing.TB, secret string) []byte {
		sum, err := conf.ClientSecretsHasher.Hash(t.Context(), []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	put := func(t testing.TB, c client) {
		registered := &fosite.DefaultOpenIDConnectClient{
			DefaultClient:           &fosite.DefaultClient{ID: c.ID, GrantTypes: c.GrantTypes},
			TokenEndpointAuthMethod: c.Method,
		}
		if c.Secret != "" {
			registered.Secret, registered.RotatedSecrets = hash(t, c.Secret), [][]byte{hash(t, c.EarlierSecret)}
		}
		if c.JWKS != nil {
			if err := json.Unmarshal(c.JWKS, &registered.JSONWebKeys); err != nil {
				t.Fatal(err)
			}
			registered.TokenEndpointAuthSigningAlgorithm = registered.JSONWebKeys.Keys[0].Algorithm
		}
		clients.clients.Store(c.ID, registered)
	}
	return &server{endpoint, srv.Client().Transport.(*http.Transport), put}
}
