package mosaictest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"sync"
	"time"

	"example.com/mosaic"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// defaultAudience is that of a token for which no resource was asked.
	defaultAudience = "userid-api"

	// defaultScope is the one of Mosaic's decoded example.
	defaultScope = "openid offline_access"

	// maxForm is far above any token request, client assertion included. Mosaic
	// documents no limit; an unlimited one would hide a client that sends without
	// end.
	maxForm = 1 << 20
)

// signingKey is made once per process, 2048 bits taking some 50 ms. What tells
// the keys of two servers apart, or those before and after [Server.Revoke], is
// their kid.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic("mosaictest: " + err.Error())
	}
	return key
})

// Revoke makes all tokens issued so far invalid before their exp, as the
// deletion of an app-specific signing key does: APIs answer them 401. Tokens
// issued from now on, and the published keys, have another kid.
func (s *Server) Revoke() { s.set(func(c *settings) { c.kid = rand.Text() }) }

// AddResource registers a resource of the customer's own, which tokens may then
// be asked for. They are accepted on every path that does not belong to one of
// Mosaic's services.
func (s *Server) AddResource(r mosaic.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.resources[string(r)]; !ok {
		s.resources[string(r)] = true
	}
}

// resource reports whether a resource is registered, and as the customer's own.
func (s *Server) resource(name string) (own, registered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own, registered = s.resources[name]
	return own, registered
}

// BindTokens sets whether tokens are bound to the client certificate that was
// presented with their request, if one was, by whatever method the client
// authenticated: they carry its thumbprint (cnf, RFC 8705 §3), and an API call
// with them is refused unless the same certificate is presented. At first they
// are not.
func (s *Server) BindTokens(on bool) { s.set(func(c *settings) { c.binding = on }) }

// serveToken reads all of a request before anything else: a client that gives up
// is noticed only by a server that has.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	body, readErr := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	var form url.Values
	formErr := readErr
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		formErr = errors.New("the content type is not application/x-www-form-urlencoded")
	} else if readErr == nil {
		if form, formErr = url.ParseQuery(string(body)); formErr != nil {
			formErr = errors.New("the body is no form") // the error itself quotes it
		}
	}

	rec := s.record(&s.tokenRequests, w, r, body, form)
	fault := s.nextFault()
	latency := s.current()
	wait(r.Context(), latency.before)
	var a answer
	if fault != nil {
		a = fault.answer(r.Context(), s.date())
	} else {
		a = s.answer(r, form, formErr)
	}
	wait(r.Context(), latency.after)
	a.send(rec)
}

// A refusal is an error answer of the token endpoint (RFC 6749 §5.2).
type refusal struct {
	status            int
	code, description string
}

func invalidRequest(description string) *refusal {
	return &refusal{http.StatusBadRequest, "invalid_request", description}
}

func (s *Server) answer(r *http.Request, form url.Values, formErr error) answer {
	now := s.now()
	reply, refused := s.grant(r, form, formErr, now)
	status := http.StatusOK
	if refused != nil {
		status = refused.status
		reply = map[string]any{"error": refused.code, "error_description": refused.description}
	}
	header := http.Header{
		"Content-Type":  {"application/json"},
		"Cache-Control": {"no-store"}, // RFC 6749 §5.1
		"Date":          {now.UTC().Format(http.TimeFormat)},
	}
	if status == http.StatusMethodNotAllowed {
		header.Set("Allow", http.MethodPost)
	}
	return answer{status, header, string(mustMarshal(reply))}
}

// grant returns the reply to a token request, a new token in it.
func (s *Server) grant(r *http.Request, form url.Values, formErr error, now time.Time) (map[string]any, *refusal) {
	var tooLarge *http.MaxBytesError
	switch {
	case r.Method != http.MethodPost:
		return nil, &refusal{http.StatusMethodNotAllowed, "invalid_request", "the method is not POST"}
	case errors.As(formErr, &tooLarge):
		return nil, &refusal{http.StatusRequestEntityTooLarge, "invalid_request", "the body is larger than 1 MiB"}
	case formErr != nil:
		return nil, invalidRequest(formErr.Error())
	}
	for name, values := range form {
		if len(values) > 1 { // RFC 6749 §3.2; RFC 8707 would allow several resources, Mosaic documents one
			return nil, invalidRequest(fmt.Sprintf("parameter %s is there more than once", name))
		}
	}
	if refused := s.authenticate(r, form, now); refused != nil {
		return nil, refused
	}

	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return nil, invalidRequest("there is no grant_type")
	default:
		return nil, &refusal{http.StatusBadRequest, "unsupported_grant_type", "the grant type is not client_credentials"}
	}

	audience := defaultAudience
	if resource := form.Get("resource"); resource != "" {
		if _, registered := s.resource(resource); !registered {
			return nil, &refusal{http.StatusBadRequest, "invalid_target", "the resource is not registered"} // RFC 8707 §2
		}
		audience = resource
	}
	scope := defaultScope
	if asked := form.Get("scope"); asked != "" {
		scope = asked
	}
	return s.mint(r, form.Get("client_id"), audience, scope, now), nil
}

// mint returns the reply with a new token.
func (s *Server) mint(r *http.Request, client, audience, scope string, now time.Time) map[string]any {
	current := s.current()
	seconds := int64(current.lifetime / time.Second)

	// As in the decoded example of Mosaic's documentation, but for sub, which
	// the documentation's own table says is the client ID, and iss, which with an
	// app-specific signing key is the application's own domain.
	claims := jwt.MapClaims{
		"tid":            "6oi3tjkijshdfgekwjfwey9",
		"app_name":       "Acme",
		"app_id":         "zl2trg3sanjsd63qs7se",
		"roles":          []string{},
		"jti":            rand.Text(),
		"sub":            client,
		"iat":            now.Unix(),
		"exp":            now.Unix() + seconds,
		"scope":          scope,
		"client_id":      client,
		"iss":            string(s.endpoint),
		"aud":            audience,
		"ts_roles":       []string{"reader"},
		"ts_permissions": []string{"read:user"},
	}
	if cert := presented(r); current.binding && cert != nil {
		claims["cnf"] = map[string]string{"x5t#S256": thumbprint(cert)}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = current.kid
	signed, err := token.SignedString(signingKey())
	if err != nil {
		panic("mosaictest: " + err.Error())
	}
	return map[string]any{
		"access_token": signed,
		"token_type":   "Bearer",
		"expires_in":   seconds,
		"scope":        scope,
	}
}

// thumbprint is the x5t#S256 of RFC 8705 §3.1.
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// serveKeys publishes the key that tokens are signed with.
func (s *Server) serveKeys(w http.ResponseWriter) {
	pub := signingKey().Public().(*rsa.PublicKey)
	w.Header().Set("Content-Type", "application/json")
	w.Write(mustMarshal(map[string][]jwk{"keys": {{
		Kty: "RSA",
		Use: "sig",
		Alg: "RS256",
		Kid: s.current().kid,
		N:   base64.RawURLEncoding.EncodeToString(pub.N.Bytes()),
		E:   base64.RawURLEncoding.EncodeToString(big.NewInt(int64(pub.E)).Bytes()),
	}}}))
}

// verify returns the claims of one of the server's own tokens, still valid.
func (s *Server) verify(token string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		if t.Header["kid"] != s.current().kid {
			return nil, errors.New("the signing key is not one in use")
		}
		return signingKey().Public(), nil
	},
		jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithIssuer(string(s.endpoint)),
		jwt.WithExpirationRequired(), // "will not be accepted on or after": to the second, without leeway
		jwt.WithTimeFunc(s.now))
	return claims, err
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("mosaictest: " + err.Error())
	}
	return b
}
