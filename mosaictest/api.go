package mosaictest

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"example.com/mosaic"
	"github.com/golang-jwt/jwt/v5"
)

// services are the APIs with a resource of their own, by the first segment of their paths.
var services = map[string]mosaic.Resource{
	"verify": mosaic.IdentityVerification,
	"risk":   mosaic.FraudPrevention,
	"xdv":    mosaic.DataValidation,
}

// Handle sets the handler of the API paths matching pattern, in the syntax of [http.ServeMux]. It
// replaces an earlier handler of the same pattern; nil removes it. To simulate an outage of an API,
// set a [Fault], and then the former handler again. To simulate a slow API, sleep in the handler.
//
// The server checks the token and reads the whole body before it calls h. The request's context
// ends with the client's connection or with [Server.Close]. h never gets a token request or a
// request for the signing keys: see [Server.Fail].
func (s *Server) Handle(pattern string, h http.Handler) {
	if f, ok := h.(Fault); ok {
		h = f.checked()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	handlers, apis := maps.Clone(s.handlers), new(http.ServeMux)
	handlers[pattern] = h
	for pattern, h := range handlers {
		if h != nil {
			apis.Handle(pattern, h)
		}
	}
	s.handlers, s.apis = handlers, apis // unless the ServeMux has panicked
}

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request, body []byte) {
	rec := s.record(&s.apiRequests, w, r, body, nil)
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.api(r).ServeHTTP(rec, r)
	rec.note(http.StatusOK) // net/http's, for a handler that wrote nothing
}

// api returns the handler of an API call.
func (s *Server) api(r *http.Request) http.Handler {
	if r.URL.Path == "/cis/oidc/jwks" {
		return s.keys()
	}
	claims, err := s.authorize(r)
	if err != nil {
		// RFC 6750 §3: no error code without a token. Mosaic documents the body only.
		challenge := `Bearer error="invalid_token"`
		if errors.Is(err, errNoToken) {
			challenge = `Bearer realm="mosaictest"`
		}
		refusal := MessageError(http.StatusUnauthorized, err.Error())
		refusal.Header.Set("WWW-Authenticate", challenge)
		return refusal
	}
	apis := s.current().apis
	if _, pattern := apis.Handler(r); pattern != "" {
		return apis
	}
	return jsonReply(http.StatusOK, map[string]any{
		"method":    r.Method,
		"path":      r.URL.RequestURI(),
		"audience":  claims["aud"],
		"client_id": claims["client_id"],
		"scope":     claims["scope"],
		"jti":       claims["jti"],
		"exp":       claims["exp"],
	})
}

var errNoToken = errors.New("there is no bearer token")

// authorize returns the claims of the request's token if it is valid for the request's path.
func (s *Server) authorize(r *http.Request) (jwt.MapClaims, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, errNoToken
	}
	claims, err := s.verify(token)
	if err != nil {
		return nil, err
	}
	if cnf, bound := claims["cnf"].(map[string]any); bound {
		if cert := presented(r); cert == nil || cnf["x5t#S256"] != thumbprint(cert) {
			return nil, errors.New("the token is bound to a certificate that was not presented")
		}
	}
	service, _, _ := strings.Cut(strings.TrimLeft(r.URL.EscapedPath(), "/"), "/") // an escaped slash ends no segment
	service, _ = url.PathUnescape(service)
	audiences, _ := claims.GetAudience()
	if !slices.ContainsFunc(audiences, func(aud string) bool { return accepts(service, mosaic.Resource(aud)) }) {
		return nil, errors.New("the token's audience is that of another service")
	}
	return claims, nil
}

// accepts reports whether a service accepts tokens for audience. A service with a resource of its
// own accepts only that, any other service everything except those.
func accepts(service string, audience mosaic.Resource) bool {
	for name, own := range services {
		if (service == name) != (audience == own) {
			return false
		}
	}
	return true
}
