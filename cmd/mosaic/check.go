package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/expiry"
	"example.com/mosaic/internal/redact"
)

func (c *command) check(ctx context.Context) error {
	conf, err := mosaic.FromEnv(c.getenv)
	var creds mosaic.Credentials
	if err == nil && conf.GetCredentials != nil {
		creds, err = conf.GetCredentials(ctx)
	}
	if err != nil {
		c.line("configuration", err, "")
		return errPrinted
	}
	c.line("configuration", nil, "client %s at %s", redact.Own(conf.ClientID, "", 64), conf.Endpoint)
	c.checkConnection(ctx, string(conf.Endpoint))
	err = c.checkTokens(ctx, conf, cmp.Or(creds.ClientSecret, conf.ClientSecret))
	if creds.PrivateKey != nil {
		kid := assertion.NewJWK(creds.PrivateKey.Public(), "", creds.KeyID).KeyID
		c.line("key", nil, "kid %s, does not expire; Mosaic needs the output of mosaic jwks", redact.Own(kid, "", 64))
	}
	if creds.Certificate != nil {
		c.checkCertificate(creds.Certificate.Leaf)
	}
	return err
}

// line prints one result, or err.
func (c *command) line(what string, err error, format string, args ...any) {
	mark, text := "✓", fmt.Sprintf(format, args...)
	if err != nil {
		mark, text = "✗", unprefixed(err)
	}
	c.print(fmt.Sprintf("%s %-14s %s", mark, what, text))
}

// connectTimeout has the length of one attempt of a token request.
const connectTimeout = 10 * time.Second

// checkConnection sends a request without credentials, accepts any status, and compares the clocks.
func (c *command) checkConnection(ctx context.Context, base string) {
	stop := c.waiting("a connection to " + base + ", for up to 10 seconds")
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var resp *http.Response
	sent := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base, nil)
	if err == nil {
		resp, err = http.DefaultTransport.RoundTrip(req) // which follows no redirect
	}
	received := time.Now()
	stop()
	if err != nil {
		c.line("connection", unreachable(err), "")
		c.line("clock", errors.New("not compared, without a connection"), "")
		return
	}
	resp.Body.Close()
	way := "without TLS"
	if resp.TLS != nil {
		way = "over " + tls.VersionName(resp.TLS.Version)
	}
	if proxy, err := http.ProxyFromEnvironment(req); err == nil && proxy != nil {
		way += ", through the proxy " + proxy.Host
	}
	c.line("connection", nil, "%s answers %s", base, way)
	c.line("clock", skew(sent, received, resp.Header.Get("Date")), "agrees with the server's")
}

// unreachable returns err with a hint.
func unreachable(err error) error {
	text, hint := redact.Peer(err.Error(), "", 300), "check the endpoint, DNS, the firewall and HTTPS_PROXY"
	if certificate := new(tls.CertificateVerificationError); errors.As(err, &certificate) {
		hint = "check the local clock, SSL_CERT_FILE, and whether a proxy terminates TLS"
	} else if errors.Is(err, context.DeadlineExceeded) {
		text = fmt.Sprintf("no answer within %s", connectTimeout)
	}
	return fmt.Errorf("%s: %s", text, hint)
}

// skew returns an error if the local clock differs from the server's Date by so much that package
// mosaic moves a token's expiry.
func skew(sent, received time.Time, date string) error {
	server, err := http.ParseTime(date)
	switch {
	case err != nil:
		return errors.New("not compared: the server's answer has no Date")
	case server.Before(sent.Add(-expiry.Tolerance)):
		return fmt.Errorf("%s ahead of the server's: set the local clock (NTP)", sent.Sub(server).Round(time.Second))
	case server.After(received.Add(expiry.Tolerance)):
		return fmt.Errorf("%s behind the server's: set the local clock (NTP)", server.Sub(received).Round(time.Second))
	}
	return nil
}

// checkTokens requests a token for the default audience and one for each service, and shows the
// permissions. It fails if there is no token for the default audience.
func (c *command) checkTokens(ctx context.Context, conf *mosaic.Config, secret string) error {
	all := append([]service{{"token", ""}}, services...)
	if !slices.ContainsFunc(all, func(s service) bool { return s.resource == conf.Resource }) {
		all = append(all, service{"resource", conf.Resource})
	}
	var tok *oauth2.Token
	var failure error
	for _, s := range all {
		if failure != nil && !notConfigured(failure) {
			c.line(s.name, errors.New("not tried, without a token for the default audience"), "")
			continue
		}
		t, err := c.request(ctx, conf, s.resource)
		audience := cmp.Or(string(s.resource), "the default audience")
		switch {
		case err == nil:
			c.line(s.name, nil, "for %s, expires in %s", audience, left(t))
			tok = cmp.Or(tok, t)
		case s.resource != "" && notConfigured(err):
			c.line(s.name, fmt.Errorf("not configured (invalid_target): if the application needs it, add the resource %s in Mosaic", audience), "")
		default:
			c.line(s.name, err, "")
		}
		if s.resource == "" {
			failure = err
		}
	}
	if tok != nil {
		claims, err := mosaic.ParseClaims(tok)
		claims = cmp.Or(claims, new(mosaic.Claims))
		show := func(values ...string) string {
			return cmp.Or(redact.Own(strings.Join(values, " "), secret, 300), "none")
		}
		c.line("permissions", err, "roles: %s; permissions: %s; scope: %s",
			show(slices.Concat(claims.TSRoles, claims.Roles, claims.Role)...), show(claims.TSPermissions...), show(claims.Scope))
	}
	if failure != nil {
		return errPrinted
	}
	return nil
}

// notConfigured reports whether a token was refused for its resource.
func notConfigured(err error) bool {
	var refusal *oauth2.RetrieveError
	return errors.As(err, &refusal) && refusal.ErrorCode == "invalid_target"
}

// checkCertificate fails in the last 14 days: somebody may have to submit another certificate to
// Mosaic. A tool renews a short-lived one, usually with a third of its life left: checkCertificate
// fails in the last tenth.
func (c *command) checkCertificate(leaf *x509.Certificate) {
	left := time.Until(leaf.NotAfter)
	text := fmt.Sprintf("%s, %d days left, until %s", redact.Own(leaf.Subject.String(), "", 100),
		max(0, left/(24*time.Hour)), leaf.NotAfter.UTC().Format(time.RFC3339))
	var err error
	if left < min(14*24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore)/10) {
		err = errors.New(text + ": replace it, and if it is self-signed, submit the new one to Mosaic")
	}
	c.line("certificate", err, "%s", text)
}
