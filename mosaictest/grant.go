package mosaictest

import (
	"cmp"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"time"

	"example.com/mosaic"
)

const (
	defaultAudience = "userid-api"            // the aud of a token that was requested without a resource
	defaultScope    = "openid offline_access" // as in the decoded token in Mosaic's documentation
)

// AddResource configures a resource for the application, so that clients can request tokens for it. By
// default, the resources of Mosaic's three services are configured (see [mosaic.Resource]), and no
// others. Tokens for any other resource are valid on all paths except /verify, /risk and /xdv.
func (s *Server) AddResource(r mosaic.Resource) { s.set(func() { s.resources[r] = true }) }

// RemoveResource removes r from the resources that are configured for the application. Token requests
// for r are then refused with the code invalid_target. Tokens that have been issued for r remain
// valid.
func (s *Server) RemoveResource(r mosaic.Resource) { s.set(func() { delete(s.resources, r) }) }

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request, body []byte) {
	form := parseForm(r.Header, body)
	rec := s.record(&s.tokenRequests, w, r, body, form)
	answer := s.nextFault()
	latency := s.current()

	wait(r.Context(), latency.before)
	now := s.now()
	setDate(w, now)
	if answer == nil {
		answer = s.grant(r, form, now)
	}
	wait(r.Context(), latency.after)
	answer.ServeHTTP(rec, r)
}

// parseForm returns nil if the body is not a valid form.
func parseForm(header http.Header, body []byte) url.Values {
	mediaType, _, typeErr := mime.ParseMediaType(header.Get("Content-Type"))
	form, err := url.ParseQuery(string(body))
	if typeErr != nil || mediaType != "application/x-www-form-urlencoded" || err != nil {
		return nil
	}
	return form
}

// grant returns the response to a token request.
func (s *Server) grant(r *http.Request, form url.Values, now time.Time) Fault {
	invalid := func(description string) Fault {
		return OAuthError(http.StatusBadRequest, "invalid_request", description)
	}
	switch {
	case r.Method != http.MethodPost:
		refusal := OAuthError(http.StatusMethodNotAllowed, "invalid_request", "the method is not POST")
		refusal.Header.Set("Allow", http.MethodPost)
		return refusal
	case form == nil:
		return invalid("the body is not a form of the type application/x-www-form-urlencoded")
	case form.Get("client_secret") != "" && form.Get("client_assertion") != "":
		return invalid("the form has both a client_secret and a client_assertion") // RFC 6749 §2.3
	}
	for name, values := range form {
		if len(values) > 1 { // RFC 6749 §3.2; RFC 8707 allows several resources, but Mosaic documents a single resource
			return invalid(fmt.Sprintf("the form has the parameter %s more than once", name))
		}
	}
	if err := s.authenticate(r, form, now); err != nil {
		return OAuthError(http.StatusUnauthorized, "invalid_client", err.Error())
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return invalid("the form has no grant_type")
	default:
		return OAuthError(http.StatusBadRequest, "unsupported_grant_type", "the grant_type is not client_credentials")
	}
	resource := form.Get("resource")
	if resource != "" && !s.configured(mosaic.Resource(resource)) {
		return OAuthError(http.StatusBadRequest, "invalid_target", "the resource is not configured for the application") // RFC 8707 §2
	}
	audience, scope := cmp.Or(resource, defaultAudience), cmp.Or(form.Get("scope"), defaultScope)
	return tokenReply(http.StatusOK, s.mint(form.Get("client_id"), audience, scope, presented(r), now))
}

func (s *Server) configured(r mosaic.Resource) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resources[r]
}
