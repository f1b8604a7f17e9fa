package mosaictest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"example.com/mosaic"
	"github.com/golang-jwt/jwt/v5"
)

// services are the APIs, by the first segment of their path, that want a
// token for their own resource.
var services = map[string]mosaic.Resource{
	"verify": mosaic.IdentityVerification,
	"risk":   mosaic.FraudPrevention,
	"xdv":    mosaic.DataValidation,
}

// Handle mounts an API: h gets the requests that match pattern, one of
// [http.ServeMux], once their token has been found valid for their path. It can
// answer 401 for reasons of its own, such as a wrong password. A pattern cannot
// be mounted twice (ServeMux panics); a handler of one of the server's own three
// paths is never called.
//
// The request's body has been received whole, and its context ends with the
// client's connection or with [Server.Close].
func (s *Server) Handle(pattern string, h http.Handler) { s.apis.Handle(pattern, h) }

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	rec := s.record(&s.apiRequests, w, r, body, nil)
	w = rec
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))

	if r.URL.Path == "/cis/oidc/jwks" {
		s.serveKeys(w)
		return
	}
	claims, err := s.authorize(r)
	if err != nil {
		// RFC 6750 §3: no error code where there was no token. Mosaic documents
		// the body alone.
		challenge := `Bearer error="invalid_token"`
		if errors.Is(err, errNoToken) {
			challenge = `Bearer realm="mosaictest"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		w.Write(mustMarshal(map[string]any{"message": err.Error(), "error_code": http.StatusUnauthorized}))
		return
	}
	if _, pattern := s.apis.Handler(r); pattern != "" {
		s.apis.ServeHTTP(w, r)
		rec.note(http.StatusOK) // what net/http sends for a handler that wrote nothing
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(mustMarshal(map[string]any{
		"method":    r.Method,
		"path":      r.URL.RequestURI(),
		"audience":  claims["aud"],
		"client_id": claims["client_id"],
		"scope":     claims["scope"],
		"jti":       claims["jti"],
		"exp":       claims["exp"],
	}))
}

var errNoToken = errors.New("there is no bearer token")

// authorize returns the claims of the request's token if that is valid for the
// request's path.
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
	audience, _ := claims["aud"].(string)
	service, _, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/") // an escaped slash ends no segment
	service, _ = url.PathUnescape(service)
	own, _ := s.resource(audience)
	accepted := audience == defaultAudience || own
	if resource, ok := services[service]; ok {
		accepted = audience == string(resource)
	}
	if !accepted {
		return nil, errors.New("the token's audience is that of another service")
	}
	return claims, nil
}
