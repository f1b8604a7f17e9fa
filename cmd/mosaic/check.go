package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/expiry"
	"example.com/mosaic/internal/redact"
)

// check prints a line for each part of the configuration. Its error is errPrinted, because the reason
// is on one of the lines.
func (c *command) check(ctx context.Context) error {
	conf, err := mosaic.FromEnv(c.getenv)
	var creds mosaic.Credentials
	if err == nil && conf.GetCredentials != nil {
		creds, err = conf.GetCredentials(ctx)
	}
	if err != nil { // such as a certificate that has expired
		c.line("configuration", err, "")
		return errPrinted
	}
	c.line("configuration", nil, "client %s at %s", redact.Own(conf.ClientID, "", 64), conf.Endpoint)
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

// line prints one line with ✗ and err or, if err is nil, with ✓ and the formatted text.
func (c *command) line(what string, err error, format string, args ...any) {
	mark, text := "✓", fmt.Sprintf(format, args...)
	if err != nil {
		mark, text = "✗", unprefixed(err)
	}
	c.print(fmt.Sprintf("%s %-14s %s", mark, what, text))
}

// checkTokens requests a token for the default audience and then a token for each service, and shows
// the permissions. It fails if there is no token for the default audience.
func (c *command) checkTokens(ctx context.Context, conf *mosaic.Config, secret string) error {
	all := append([]service{{"token", ""}}, services...)
	if !slices.ContainsFunc(all, func(s service) bool { return s.resource == conf.Resource }) {
		all = append(all, service{"resource", conf.Resource})
	}
	var tok *oauth2.Token
	var failure error // from the request for the default audience
	for _, s := range all {
		var t *oauth2.Token
		var err error
		switch {
		case s.resource == "":
			t, err = c.checkConnection(ctx, conf)
			failure = err
		case failure != nil && !notConfigured(failure):
			err = errors.New("not tried, without a token for the default audience")
		default:
			t, err = c.request(ctx, conf, s.resource)
		}
		audience := cmp.Or(string(s.resource), "the default audience")
		if s.resource != "" && notConfigured(err) {
			err = fmt.Errorf("not configured (invalid_target): if the application needs it, add the resource %s in Mosaic", audience)
		}
		if err != nil {
			c.line(s.name, err, "")
			continue
		}
		c.line(s.name, nil, "for %s, expires in %s", audience, left(t))
		tok = cmp.Or(tok, t)
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

// checkConnection requests a token for the default audience, and shows what that says about the
// connection and the clocks. It opens no separate test connection, because a server may refuse one
// that does not present the certificate the way a token request does.
func (c *command) checkConnection(ctx context.Context, conf *mosaic.Config) (*oauth2.Token, error) {
	var conn, answered atomic.Pointer[httptrace.GotConnInfo]
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { conn.Store(&info) },
		GotFirstResponseByte: func() { answered.Store(conn.Load()) },
	})
	sent := time.Now()
	tok, err := c.request(ctx, conf, "")
	received := time.Now()
	if answered.Load() == nil {
		c.line("connection", err, "")
		c.line("clock", errors.New("not compared, without a connection"), "")
		return nil, errors.New("no token, without a connection")
	}
	way := "without TLS"
	if conn, ok := answered.Load().Conn.(*tls.Conn); ok {
		way = "over " + tls.VersionName(conn.ConnectionState().Version)
	}
	req, _ := http.NewRequest(http.MethodPost, conf.Endpoint.TokenURL(), nil) // cannot fail, because the URL has been checked
	if proxy, err := http.ProxyFromEnvironment(req); err == nil && proxy != nil {
		way += ", through the proxy " + proxy.Host
	}
	c.line("connection", nil, "%s answers %s", conf.Endpoint, way)
	c.line("clock", skew(sent, received, serverTime(tok, err)), "agrees with the server's")
	return tok, err
}

// serverTime returns the time at which the server issued tok or sent the refusal in err, by the
// server's clock. It returns the zero time if neither has the time.
func serverTime(tok *oauth2.Token, err error) time.Time {
	if refusal := (*oauth2.RetrieveError)(nil); errors.As(err, &refusal) {
		date, _ := http.ParseTime(refusal.Response.Header.Get("Date"))
		return date
	}
	var claims jwt.RegisteredClaims // mosaic.ParseClaims would fail if any other claim had the wrong type
	if tok != nil {
		_, _, _ = jwt.NewParser().ParseUnverified(tok.AccessToken, &claims)
	}
	return cmp.Or(claims.IssuedAt, new(jwt.NumericDate)).Time
}

// skew returns an error if the local clock differs from the server's by so much that package mosaic
// moves a token's expiry.
func skew(sent, received, server time.Time) error {
	switch {
	case server.IsZero():
		return errors.New("not compared, because the reply does not show the server's time")
	case server.Before(sent.Add(-expiry.Tolerance)):
		return fmt.Errorf("%s ahead of the server's: set the local clock (NTP)", sent.Sub(server).Round(time.Second))
	case server.After(received.Add(expiry.Tolerance)):
		return fmt.Errorf("%s behind the server's: set the local clock (NTP)", server.Sub(received).Round(time.Second))
	}
	return nil
}

// notConfigured reports whether Mosaic refused a token because of its resource.
func notConfigured(err error) bool {
	var refusal *oauth2.RetrieveError
	return errors.As(err, &refusal) && refusal.ErrorCode == "invalid_target"
}

// checkCertificate shows ✗ if less than 14 days are left, because somebody may have to submit another
// certificate to Mosaic. A tool usually renews a short-lived certificate when a third of its life is
// left, so for such a certificate checkCertificate shows ✗ only in the last tenth of its life.
func (c *command) checkCertificate(leaf *x509.Certificate) {
	left := time.Until(leaf.NotAfter)
	days := fmt.Sprintf("%d days", max(0, left/(24*time.Hour)))
	if days == "1 days" {
		days = "1 day"
	}
	text := fmt.Sprintf("%s, %s left, until %s", redact.Own(leaf.Subject.String(), "", 100), days, leaf.NotAfter.UTC().Format(time.RFC3339))
	var err error
	if left < min(14*24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore)/10) {
		err = errors.New(text + ": replace it, and if it is self-signed, submit the new one to Mosaic")
	}
	c.line("certificate", err, "%s", text)
}
