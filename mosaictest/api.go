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

// services lists the APIs that accept only tokens for their own resource, keyed by the first segment
// of their paths.
var services = map[string]mosaic.Resource{
	"verify": mosaic.IdentityVerification,
	"risk":   mosaic.FraudPrevention,
	"xdv":    mosaic.DataValidation,
}

// Handle sets the handler for API calls that match pattern, which has the syntax of [http.ServeMux].
// It replaces an earlier handler with the same pattern. If h is nil, the earlier handler is removed.
// Handle panics if the ServeMux refuses the pattern, or if h is a [Fault] with an invalid Status.
//
// To simulate an outage of an API, set a Fault. To end the outage, set the usual handler again. To
// simulate a slow API, sleep in the handler.
//
// The server reads the whole body and checks the token before it calls h. The request's context is
// canceled when the client gives up or the server is closed. Token requests and requests for the
// signing keys never reach h. To make token requests fail, see [Server.Fail].
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
	s.handlers, s.apis = handlers, apis // only now, because the ServeMux may panic
}

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request, body []byte) {
	rec := s.record(&s.apiRequests, w, r, body, nil)
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.api(r).ServeHTTP(rec, r)
	rec.note(http.StatusOK) // what net/http sends if the handler has written nothing
}

// api returns the handler for an API call. If the call has no token that is valid for its path, the
// handler responds with 401.
func (s *Server) api(r *http.Request) http.Handler {
	if r.URL.Path == "/cis/oidc/jwks" {
		return s.keys()
	}
	claims, err := s.authorize(r)
	if err != nil {
		// RFC 6750 §3: if there is no token, there is no error code. Mosaic documents only the body.
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

var errNoToken = errors.New("the request has no bearer token")

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
	service, _, _ := strings.Cut(strings.TrimLeft(r.URL.EscapedPath(), "/"), "/") // an escaped slash does not end a segment
	service, _ = url.PathUnescape(service)
	audiences, _ := claims.GetAudience()
	if !slices.ContainsFunc(audiences, func(aud string) bool { return accepts(service, mosaic.Resource(aud)) }) {
		return nil, errors.New("the token is for another service")
	}
	return claims, nil
}

// accepts reports whether a service accepts tokens for audience. A service in services accepts only
// its own resource. All other services accept any audience except the resources in services.
func accepts(service string, audience mosaic.Resource) bool {
	for name, own := range services {
		if (service == name) != (audience == own) {
			return false
		}
	}
	return true
}
