package behaviour_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

var update = flag.Bool("update", false, "write docs/troubleshooting.md")

// A text is one that a user can meet. Those with advice are in docs/troubleshooting.md.
type text struct {
	name   string
	meet   func(t *testing.T) error
	want   string // the whole error, after the section's prefix
	advice string
}

// A section of the document.
type section struct {
	title, intro string
	prefix       string // of the errors
	texts        []text
}

const jsonType = "Content-Type: application/json"

// with returns a valid Config, changed.
func with(change func(c *mosaic.Config)) *mosaic.Config {
	c := &mosaic.Config{ClientID: "acme", ClientSecret: "a secret of the test", Endpoint: mosaic.EU}
	change(c)
	return c
}

func unchanged(*mosaic.Config) {}

// invalid meets Validate's error.
func invalid(change func(c *mosaic.Config)) func(*testing.T) error {
	return func(*testing.T) error { return with(change).Validate() }
}

// reply meets the error of a token request that is answered so.
func reply(change func(c *mosaic.Config), reply string) func(*testing.T) error {
	return func(t *testing.T) error {
		_, err := with(change).Token((&kit.Stub{Replies: []string{reply}}).Context(t.Context()))
		return err
	}
}

func status(status, header, body string) func(*testing.T) error {
	return reply(unchanged, kit.Reply(status, header, body))
}

func oauth(code string) func(*testing.T) error {
	return status("400 Bad Request", jsonType, `{"error":"`+code+`"}`)
}

func tokenReply(token, further string) func(*testing.T) error {
	return reply(unchanged, kit.TokenReply(token, further))
}

// transport meets the error of a token request over rt.
func transport(change func(c *mosaic.Config), rt http.RoundTripper) func(*testing.T) error {
	return func(t *testing.T) error {
		_, err := with(change).Token(kit.Over(t.Context(), rt))
		return err
	}
}

func failing(err error) http.RoundTripper {
	return kit.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
}

// dialing returns a transport without a connection.
func dialing(err error) *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
}

// instrumented stands for a RoundTripper that wraps another.
type instrumented struct{ http.RoundTripper }

func noReply(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// key makes a Config that signs with a key that calls before first.
func key(before func() error) func(c *mosaic.Config) {
	return func(c *mosaic.Config) {
		c.ClientSecret, c.PrivateKey = "", &kit.Signer{Signer: kit.EC(), Before: before}
	}
}

// get makes a Config with this GetCredentials.
func get(f func(context.Context) (mosaic.Credentials, error)) func(c *mosaic.Config) {
	return func(c *mosaic.Config) { c.ClientSecret, c.GetCredentials = "", f }
}

func certificate(t *testing.T, change ...func(*x509.Certificate)) *tls.Certificate {
	return kit.Certificate(t, "acme", kit.EC(), nil, change...)
}

// certified returns a Config with c instead of the secret.
func certified(c *tls.Certificate) *mosaic.Config {
	return with(func(conf *mosaic.Config) { conf.ClientSecret, conf.Certificate = "", c })
}

// presenting meets the error of a token request with a certificate over rt.
func presenting(rt http.RoundTripper) func(*testing.T) error {
	return func(t *testing.T) error {
		_, err := certified(certificate(t)).Token(kit.Over(t.Context(), rt))
		return err
	}
}

// standIn meets the error of a token request with a certificate to a stand-in, both changed.
func standIn(change func(*mosaictest.Server, *tls.Certificate)) func(*testing.T) error {
	return func(t *testing.T) error {
		srv, c := mosaictest.NewInMemory(), certificate(t)
		defer srv.Close()
		srv.ServeAs("api.eu.transmitsecurity.io")
		change(srv, c)
		_, err := certified(c).Token(srv.Context(t.Context()))
		return err
	}
}

func env(variables map[string]string) func(*testing.T) error {
	return func(*testing.T) error {
		_, err := mosaic.FromEnv(func(name string) string { return variables[name] })
		return err
	}
}

func secretEnv(name, value string) func(*testing.T) error {
	variables := map[string]string{"MOSAIC_CLIENT_ID": "acme", "MOSAIC_CLIENT_SECRET": "a secret of the test", "MOSAIC_ENDPOINT": "eu"}
	variables[name] = value
	return env(variables)
}

var sections = []section{
	{"Config, at start-up", "`Validate` finds these; so do Token, TokenSource, Client and JWKS.", "mosaic: invalid Config: ", []text{
		{"no client ID", invalid(func(c *mosaic.Config) { c.ClientID = "" }), `ClientID is empty: set the application's client ID`, `Copy it from the application in Mosaic's Admin Portal.`},
		{"a line end", invalid(func(c *mosaic.Config) { c.ClientSecret += "\n" }), `ClientSecret holds a control character (a line end read from a file?)`, `Trim what was read from a file, or use Files or FromEnv, which do.`},
		{"not UTF-8", invalid(func(c *mosaic.Config) { c.ClientID = "acm\xe9" }), `ClientID is not valid UTF-8`, ``},
		{"no credentials", invalid(func(c *mosaic.Config) { c.ClientSecret = "" }), `set ClientSecret, PrivateKey or Certificate`, `Or GetCredentials, which returns one of them.`},
		{"two credentials", invalid(func(c *mosaic.Config) { c.PrivateKey = kit.EC() }), `ClientSecret and PrivateKey exclude each other`, ``},
		{"GetCredentials and others", invalid(func(c *mosaic.Config) { c.GetCredentials = mosaic.Files{}.Credentials }), `GetCredentials excludes ClientSecret, PrivateKey, KeyID, Certificate and TLSClientAuth`, `Return them from GetCredentials instead.`},
		{"TLSClientAuth and others", invalid(func(c *mosaic.Config) { c.TLSClientAuth = true }), `TLSClientAuth excludes ClientSecret, PrivateKey, KeyID and Certificate`, ``},
		{"KeyID alone", invalid(func(c *mosaic.Config) { c.KeyID = "k" }), `KeyID is set without PrivateKey`, ``},
		{"SigningAlgorithm alone", invalid(func(c *mosaic.Config) { c.SigningAlgorithm = "PS256" }), `SigningAlgorithm is set without PrivateKey`, ``},
		{"AssertionAudience alone", invalid(func(c *mosaic.Config) { c.AssertionAudience = "x" }), `AssertionAudience is set without PrivateKey`, ``},
		{"an unknown algorithm", invalid(func(c *mosaic.Config) { key(nil)(c); c.SigningAlgorithm = "HS256" }), `SigningAlgorithm "HS256" is not one of RS256, PS256, ES256, EdDSA`, ``},
		{"another algorithm", invalid(func(c *mosaic.Config) { key(nil)(c); c.SigningAlgorithm = "PS256" }), `SigningAlgorithm "PS256" does not fit the key, which signs with ES256`, `Leave SigningAlgorithm empty, or use an RSA key.`},
		{"an expired certificate", func(t *testing.T) error {
			c := certificate(t, kit.Lifetime(-time.Hour))
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate has expired: its NotAfter is 1999-12-31T23:00:00Z`, `Renew it. With GetCredentials, a renewed certificate is used without a restart.`},
		{"a certificate without a key", func(t *testing.T) error {
			c := certificate(t)
			c.PrivateKey = nil
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate has no usable private key (<nil>): want a crypto.Signer`, ``},
		{"another certificate's key", func(t *testing.T) error {
			c := certificate(t)
			c.PrivateKey = kit.Ed25519()
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate has a private key that does not match it`, ``},
		{"no endpoint", invalid(func(c *mosaic.Config) { c.Endpoint = "" }), `Endpoint is empty: set the region that the credentials belong to, such as mosaic.EU`, ``},
		{"a name", invalid(func(c *mosaic.Config) { c.Endpoint = "eu" }), `Endpoint "eu" is a name, not a base URL: use mosaic.EU, or ParseEndpoint for text`, ``},
		{"a path", invalid(func(c *mosaic.Config) { c.Endpoint = "https://login.acme.com/oidc/token" }), `Endpoint "https://login.acme.com/oidc/token" has a path (give the base URL, without /oidc/token): use a constant such as mosaic.EU, or ParseEndpoint for text`, ``},
		{"a password", invalid(func(c *mosaic.Config) { c.Endpoint = "https://u:p@acme.com" }), `Endpoint "https://[redacted]@acme.com" holds user information: use a constant such as mosaic.EU, or ParseEndpoint for text`, ``},
		{"no URI", invalid(func(c *mosaic.Config) { c.Resource = "risk" }), `Resource "risk" is not an absolute URI such as https://risk.identity.security (RFC 8707 §2)`, `Write a constant such as mosaic.FraudPrevention, or the URI as it is configured in Mosaic.`},
		{"a URL in Hosts", invalid(func(c *mosaic.Config) { c.Hosts = []string{"https://b.com"} }), `Hosts: "https://b.com" is a URL: give the host alone`, ``},
		{"no host in Hosts", invalid(func(c *mosaic.Config) { c.Hosts = []string{"a b"} }), `Hosts: "a b" has a bad host: want a host name, with or without a port`, ``},
		{"a parameter of ours", invalid(func(c *mosaic.Config) { c.EndpointParams = url.Values{"scope": {"x"}} }), `EndpointParams may not set "scope"`, `Use the field for it.`},
	}},
	{"ParseEndpoint and FromEnv", "", "mosaic: ", []text{
		{"an unknown region", func(*testing.T) error { _, err := mosaic.ParseEndpoint("mars"); return err }, `endpoint "mars" is no known name: want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"`, ``},
		{"plain HTTP", func(*testing.T) error { _, err := mosaic.ParseEndpoint("http://acme.com"); return err }, `endpoint "http://acme.com" is not https (plain http is for loopback hosts only): want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"`, ``},
		{"an empty environment", env(nil), `invalid environment: MOSAIC_CLIENT_ID is empty: set the application's client ID; set MOSAIC_CLIENT_SECRET(_FILE), MOSAIC_PRIVATE_KEY_FILE or MOSAIC_CERTIFICATE_FILE; MOSAIC_ENDPOINT is empty: set the region that the credentials belong to, such as eu`, `Every variable to set is named at once.`},
		{"a missing file", secretEnv("MOSAIC_PRIVATE_KEY_FILE", "/nowhere/key.pem"), `invalid environment: MOSAIC_PRIVATE_KEY_FILE "/nowhere/key.pem": no such file or directory`, `Mount the file before the process starts: FromEnv reads it, too.`},
		{"two secrets", secretEnv("MOSAIC_CLIENT_SECRET_FILE", "/nowhere/secret"), `invalid environment: MOSAIC_CLIENT_SECRET and MOSAIC_CLIENT_SECRET_FILE exclude each other; MOSAIC_CLIENT_SECRET_FILE "/nowhere/secret": no such file or directory`, ``},
		{"a certificate without its key", secretEnv("MOSAIC_CERTIFICATE_FILE", "/nowhere/tls.crt"), `invalid environment: set both MOSAIC_CERTIFICATE_FILE and MOSAIC_CERTIFICATE_KEY_FILE`, ``},
	}},
	{"Token requests: refused by Mosaic", "Errors of `Token`, `TokenSource` and `Client` begin with `mosaic: token request to … for client … failed: `; the following texts come after it.", failed, []text{
		{"a wrong secret", status("401 Unauthorized", jsonType+"\r\nX-Request-Id: 7f3c1e52-9a0b-4f7e-8d21-5b6f7c8d9e0a", `{"error":"invalid_client","error_description":"Invalid client credentials"}`),
			`401 Unauthorized, request ID 7f3c1e52-9a0b-4f7e-8d21-5b6f7c8d9e0a: invalid_client, "Invalid client credentials": check ClientID and ClientSecret, and that both belong to this Endpoint`,
			`The secret is wrong, revoked, or of another region or environment. Mosaic's support asks for the request ID.`},
		{"a wrong key", reply(key(nil), kit.Reply("401 Unauthorized", jsonType, `{"error":"invalid_client"}`)),
			`401 Unauthorized: invalid_client: check ClientID, KeyID and SigningAlgorithm, and that the application at this Endpoint has what JWKS returns`, `In the Admin Portal, submit the JWK Set that Config.JWKS returns (or mosaic jwks prints).`},
		{"a wrong certificate", standIn(func(*mosaictest.Server, *tls.Certificate) {}), `401 Unauthorized: invalid_client, "the client is not registered": check ClientID, and that the application at this Endpoint has this certificate`, ``},
		{"401 with a message", status("401 Unauthorized", jsonType, `{"message":["no such client","or secret"],"error_code":401}`), `401 Unauthorized: "no such client; or secret": check ClientID and ClientSecret, and that both belong to this Endpoint`, ``},
		{"400 with a message", status("400 Bad Request", jsonType, `{"message":"client_id must be a string","error_code":400}`), `400 Bad Request: "client_id must be a string"`, ``},
		{"invalid_target", reply(func(c *mosaic.Config) { c.Resource = mosaic.FraudPrevention }, kit.Reply("400 Bad Request", jsonType, `{"error":"invalid_target"}`)),
			`400 Bad Request: invalid_target: check Resource: "https://risk.identity.security" has to be configured for the application in Mosaic`, `Configure the service for the application, or call another one.`},
		{"invalid_target by path", func(t *testing.T) error {
			_, err := with(unchanged).Client((&kit.Stub{Replies: []string{kit.Reply("400 Bad Request", jsonType, `{"error":"invalid_target"}`)}}).Context(t.Context())).Get(mosaic.EU.URL("/risk/v1/recommendation"))
			return errors.Unwrap(err)
		}, `400 Bad Request: invalid_target: the path's first segment, "risk", needs the resource "https://risk.identity.security", which has to be configured for the application in Mosaic`, `As above: Client chose the resource by the path.`},
		{"invalid_target without a resource", oauth("invalid_target"), `400 Bad Request: invalid_target: the request names no resource: check Resource`, ``},
		{"invalid_scope", oauth("invalid_scope"), `400 Bad Request: invalid_scope: check Scopes`, ``},
		{"invalid_request", oauth("invalid_request"), `400 Bad Request: invalid_request: check EndpointParams, and the client authentication method set for the application`, ``},
		{"unauthorized_client", oauth("unauthorized_client"), `400 Bad Request: unauthorized_client: the application has to be allowed the grant type client_credentials`, ``},
		{"unsupported_grant_type", oauth("unsupported_grant_type"), `400 Bad Request: unsupported_grant_type: the application has to be allowed the grant type client_credentials`, ``},
		{"an unknown code", oauth("server_error"), `400 Bad Request: server_error`, ``},
		{"403 with JSON", status("403 Forbidden", jsonType, `{"message":"Forbidden","error_code":403}`), `403 Forbidden: "Forbidden": check that the application may request tokens, and that no firewall refuses this network`, ``},
		{"403 without JSON", status("403 Forbidden", "Content-Type: text/plain\r\nServer: envoy", "RBAC: access denied\n"), `403 Forbidden, server envoy: "RBAC: access denied": check Endpoint: Mosaic's hosts answer 403 or 404 to an unknown path`, `The path is unknown there (a wrong custom domain), or a proxy or firewall refused the request: its name and its text are shown.`},
		{"404", status("404 Not Found", "", ""), `404 Not Found: check Endpoint: Mosaic's hosts answer 403 or 404 to an unknown path`, ``},
		{"an HTML page", status("403 Forbidden", "Content-Type: text/html; charset=UTF-8\r\nServer: cloudflare\r\nCf-Ray: 8c1f2d3e4a5b6c7d-FRA", "<html>"), `403 Forbidden, request ID 8c1f2d3e4a5b6c7d-FRA, server cloudflare: an HTML page: does a proxy or a firewall answer in Mosaic's place?`, `A proxy, a firewall or a captive portal answered instead of Mosaic.`},
		{"a redirect", status("302 Found", "Location: https://login.acme.com/", ""), `302 Found: a redirect, which is not followed with credentials: check Endpoint`, `Set Endpoint to the base URL that the redirect leads to, if Mosaic owns it.`},
		{"a redirect to nowhere", status("307 Temporary Redirect", "Location: http://[", ""), `307 Temporary Redirect: a redirect, which is not followed with credentials: check Endpoint`, ``},
		{"429", status("429 Too Many Requests", "Retry-After: 60", ""), `429 Too Many Requests: Mosaic's rate limit is reached: share one source or client in each process; retry after 1m0s`, `Do not call Config.Token for each request.`},
		{"an escaped echo", status("400 Bad Request", jsonType, `{"error":"invalid_request","error_description":"client_secret=a%20secret"}`), `400 Bad Request: invalid_request, "[withheld]": check EndpointParams, and the client authentication method set for the application`, `[withheld] and [redacted] stand for text that could hold a secret.`},
	}},
	{"Token requests: no good answer", "They begin as above. `(3 attempts)` stands before the colon if the request was retried.", failed, []text{
		{"500", status("500 Internal Server Error", jsonType, `{"message":"oops","error_code":500}`), ` (3 attempts): 500 Internal Server Error: "oops": a fault on Mosaic's side, or on the way there`, `With a token the source tries again by itself, without one the next call does; see Mosaic's status page.`},
		{"503", status("503 Service Unavailable", "Content-Type: text/plain\r\nServer: envoy\r\nRetry-After: 30", "no healthy upstream"), `: 503 Service Unavailable, server envoy: "no healthy upstream": a fault on Mosaic's side, or on the way there; retry after 30s`, ``},
		{"a name that is not known", transport(unchanged, failing(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "api.eu.transmitsecurity.io", IsNotFound: true}})),
			` (3 attempts): "dial tcp: lookup api.eu.transmitsecurity.io: no such host": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`, `DNS, routes or a firewall: try the same from the same host with curl.`},
		{"a proxy that cannot be reached", transport(unchanged, &http.Transport{
			Proxy:       func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.acme.com:8080") },
			DialContext: dialing(&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("proxy.acme.com:8080: connection refused")}).DialContext,
		}), ` (3 attempts): "proxyconnect tcp: dial tcp: proxy.acme.com:8080: connection refused": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`, ``},
		//lint:ignore ST1005 net/http's text
		{"a proxy that refuses", transport(unchanged, failing(errors.New("Proxy Authentication Required"))), ` (3 attempts): the proxy refused CONNECT: 407 Proxy Authentication Required: check HTTPS_PROXY and its credentials`, ``},
		{"a proxy that allows other hosts", transport(unchanged, failing(errors.New("Forbidden"))), ` (3 attempts): the proxy refused CONNECT: 403 Forbidden: check HTTPS_PROXY, and that the proxy allows this host`, ``},
		{"plain HTTP", transport(unchanged, failing(errors.New("http: server gave HTTP response to HTTPS client"))), ` (3 attempts): "http: server gave HTTP response to HTTPS client": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`, ``},
		{"no reply", transport(unchanged, kit.RoundTripper(noReply)), ` (3 attempts): no reply in time`, `An attempt has ten seconds, all together thirty: Mosaic or the way to it is slow.`},
		{"the HTTP client's Timeout", func(t *testing.T) error {
			_, err := with(unchanged).Token(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: kit.RoundTripper(noReply), Timeout: 5 * time.Second}))
			return err
		}, `: no reply in time: the Timeout of the HTTP client is 5s`, `Timeout bounds the whole token request: raise it.`},
		{"a deadline of the caller's", func(t *testing.T) error {
			ctx, cancel := context.WithTimeout(kit.Over(t.Context(), kit.RoundTripper(noReply)), 3*time.Second)
			defer cancel()
			_, err := with(unchanged).Token(ctx)
			return err
		}, `: context deadline exceeded`, `The context of the call ended first: give it more time.`},
		{"a broken reply", status("200 OK", "Content-Length: 99", "{"), ` (3 attempts): the reply broke off: "unexpected EOF"`, ``},
		{"a closed connection", reply(unchanged, ""), ` (3 attempts): "unexpected EOF"`, ``},
		{"HTML with 200", status("200 OK", "Content-Type: text/html\r\nServer: captive", "<html>"), `: the reply (200 OK, server captive) is not a token response (RFC 6749 §5.1): an HTML page: does a proxy or a firewall answer in Mosaic's place?`, ``},
		{"no token", status("200 OK", jsonType, `{}`), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "oauth2: server response missing access_token"`, `Endpoint is not Mosaic's, or something on the way answers for it.`},
		{"an empty reply", status("204 No Content", "", ""), `: the reply (204 No Content) is not a token response (RFC 6749 §5.1): "oauth2: cannot parse json: unexpected end of JSON input"`, ``},
		{"another type", status("200 OK", jsonType+"\r\nX-Request-Id: req-42", `{"access_token":"t","expires_in":60,"token_type":"DPoP"}`), `: the reply (200 OK, request ID req-42) holds no usable token: its token_type is "DPoP", not Bearer`, ``},
		{"a token with a space", tokenReply("a b", `"expires_in":60`), `: the reply (200 OK) holds no usable token: it holds characters that no Bearer token may have (RFC 6750 §2.1)`, ``},
		{"a long token", tokenReply(strings.Repeat("a", 16385), `"expires_in":60`), `: the reply (200 OK) holds no usable token: it has 16385 bytes, more than any header takes`, ``},
		{"no end", tokenReply("opaque", ""), `: the reply (200 OK) holds no usable token: the token has no usable exp claim, and the reply no usable expires_in`, ``},
		{"an end too far", tokenReply("opaque", `"expires_in":2147483647`), `: the reply (200 OK) holds no usable token: the token would end 596523h14m7s after the request, in a reply that took 0s: no such lifetime can be true`, `Check the clocks, and that nothing rewrites replies.`},
	}},
	{"TLS and certificates", "", failed, []text{
		{"an unknown authority", transport(unchanged, failing(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})), `: the server's certificate does not verify ("tls: failed to verify certificate: x509: certificate signed by unknown authority"): check Endpoint, the local clock, and whether a proxy terminates TLS here`, `A proxy terminates TLS and the HTTP client lacks its CA, the image lacks the system's CAs, or the clock is off.`},
		{"refused", presenting(dialing(&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")})), ` (3 attempts): "remote error: tls: bad certificate": the server may have refused Certificate`, `Check that this certificate was submitted to Mosaic with its chain, and is not revoked.`},
		{"refused in TLS 1.3", presenting(dialing(&net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")})), ` (3 attempts): "read tcp: connection reset by peer": the server may have refused Certificate`, `The alert was lost behind a broken connection, or the connection broke by itself.`},
		{"expired since", func(t *testing.T) error {
			c := certificate(t, kit.Lifetime(time.Minute))
			src := certified(c).TokenSource(kit.Over(t.Context(), dialing(&net.OpError{Op: "remote error", Err: errors.New("tls: expired certificate")})))
			time.Sleep(time.Hour)
			_, err := src.Token()
			return err
		}, ` (3 attempts): "remote error: tls: expired certificate": Certificate has expired: its NotAfter is 2000-01-01T00:01:00Z`, `Return renewed certificates from GetCredentials.`},
		{"a proxy between", standIn(func(srv *mosaictest.Server, c *tls.Certificate) {
			srv.SetClaims(func(claims map[string]any) { claims["cnf"] = map[string]any{"x5t#S256": "another"} })
			srv.RegisterCertificate("acme", c.Leaf)
		}), `: the reply (200 OK) holds no usable token: it is bound to a different certificate: is a proxy terminating TLS?`, `Let the proxy pass TLS through for Mosaic's hosts.`},
		{"an HSM that fails", standIn(func(_ *mosaictest.Server, c *tls.Certificate) {
			c.PrivateKey = &kit.Signer{Signer: kit.EC(), Before: func() error { return errors.New("CKR_DEVICE_ERROR") }}
		}), ` (3 attempts): no TLS handshake: CKR_DEVICE_ERROR`, `The text is the error of the certificate's key.`},
	}},
	{"Keys and GetCredentials", "", failed, []text{
		{"a signer that fails", reply(key(func() error { return errors.New("kms: permission denied") }), ""), `: no client assertion: PrivateKey could not sign: kms: permission denied`, `The text is the error of the signer.`},
		{"a signer that hangs", reply(key(func() error { time.Sleep(time.Hour); return nil }), ""), ` (3 attempts): no client assertion: PrivateKey did not return in time`, `The KMS or HSM did not answer in ten seconds.`},
		{"a signer that panics", reply(key(func() error { panic("x") }), ""), `: no client assertion: PrivateKey panicked (its stack is in the log)`, ``},
		{"a signer that ends its goroutine", reply(key(func() error { runtime.Goexit(); return nil }), ""), `: no client assertion: PrivateKey ended its goroutine (runtime.Goexit)`, ``},
		{"another key behind the name", reply(func(c *mosaic.Config) {
			c.ClientSecret, c.PrivateKey = "", otherKey{kit.EC(), &another.PublicKey}
		}, ""), `: no client assertion: PrivateKey's ES256 signature does not verify with its own public key: its name or alias may now stand for another key, or it did not sign as it was asked to`, ``},
		{"a clock that is off", reply(key(nil), kit.Reply("401 Unauthorized", jsonType+"\r\nDate: Fri, 30 Jun 2000 00:00:00 GMT", `{"error":"invalid_client"}`)),
			`: 401 Unauthorized: invalid_client: check ClientID, KeyID and SigningAlgorithm, and that the application at this Endpoint has what JWKS returns; the local clock differs from the server's by 4344h0m0s`, `Set the clock. A difference of up to 26 hours is corrected.`},
		{"GetCredentials fails", reply(get(func(context.Context) (mosaic.Credentials, error) {
			return mosaic.Credentials{}, errors.New("vault: permission denied")
		}), ""), ` (3 attempts): no credentials: GetCredentials: vault: permission denied`, `The text is the error of GetCredentials. If there are earlier credentials, a log record replaces the error.`},
		{"GetCredentials hangs", reply(get(func(ctx context.Context) (mosaic.Credentials, error) {
			time.Sleep(time.Hour)
			return mosaic.Credentials{}, nil
		}), ""), ` (3 attempts): no credentials: GetCredentials did not return in time`, `It has five seconds.`},
		{"GetCredentials returns nothing", reply(get(func(context.Context) (mosaic.Credentials, error) { return mosaic.Credentials{}, nil }), ""), ` (3 attempts): no credentials: GetCredentials: set ClientSecret, PrivateKey or Certificate`, ``},
		{"a file is missing", reply(get(mosaic.Files{ClientSecret: "/nowhere/secret"}.Credentials), ""), ` (3 attempts): no credentials: GetCredentials: ClientSecret "/nowhere/secret": no such file or directory`, ``},
	}},
	{"A transport that cannot present a certificate", "", "mosaic: ", []text{
		{"an instrumented transport", presenting(instrumented{}), `cannot present Certificate without an HTTP client whose Transport is an *http.Transport (this is behaviour_test.instrumented): set TLSClientAuth instead, and let the HTTP client present it`, ``},
		{"beside a secret", func(t *testing.T) error {
			c := certificate(t)
			_, err := with(func(conf *mosaic.Config) { conf.Certificate = c }).Token(kit.Over(t.Context(), &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}))
			return err
		}, `cannot present Certificate without an HTTP client whose Transport has neither DialTLS nor DialTLSContext: drop Certificate, and let the HTTP client present it`, `Or wrap the Transport of the client that Config.Client returns.`},
	}},
	{"ParsePrivateKey and key files", "The field's name and the file's path stand in front.", "mosaic: ", []text{
		{"an encrypted key", parse("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----"), `the key is encrypted: decrypt it with openssl pkey -in FILE -out NEWFILE`, ``},
		{"OpenSSH's format", parse("-----BEGIN OPENSSH PRIVATE KEY-----\nMAA=\n-----END OPENSSH PRIVATE KEY-----"), `the key is in OpenSSH's own format: ssh-keygen -p -N '' -m PKCS8 -f COPY converts a copy of an RSA or ECDSA key, openssl genpkey -algorithm ed25519 makes another Ed25519 key`, ``},
		{"a public key", parse("-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----"), `this is a public key: want the private key file that openssl genpkey wrote`, ``},
		{"one line", parse("-----BEGIN PRIVATE KEY----- MAA= -----END PRIVATE KEY-----"), `the PEM of the key is broken (are its line ends missing?): openssl pkey -in FILE -noout -text_pub tells whether it is whole`, ``},
		{"no PEM", parse("0\x82"), `there is no private key in PEM: convert DER with openssl pkey -inform DER -in FILE, PKCS #12 with openssl pkcs12 -in FILE -nocerts -nodes`, ``},
		{"a broken key", parse("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----"), `the key cannot be parsed: openssl pkey -in FILE -noout -text_pub tells its kind (want RSA, P-256 or Ed25519), or that it is broken`, ``},
	}},
	{"Waiting, and calls through Client", "net/http puts the method and the URL in front.", "mosaic: ", []text{
		{"a deadline in the wait for a token", func(t *testing.T) error {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := with(unchanged).TokenSource(kit.Over(t.Context(), kit.RoundTripper(noReply))).TokenContext(ctx)
			return err
		}, `waiting for a token (requested 3s ago): context deadline exceeded`, `The request's own context or timeout ended first; the token request goes on for others.`},
		{"a deadline in an outage", func(t *testing.T) error {
			refusal := &kit.Stub{Replies: []string{kit.Reply("400 Bad Request", jsonType, `{"error":"slow_down"}`)}}
			src := with(unchanged).TokenSource(kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				if len(refusal.Requests()) == 0 {
					return refusal.RoundTrip(req)
				}
				return noReply(req)
			})))
			_, _ = src.Token()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := src.TokenContext(ctx)
			return err
		}, `waiting for a token (requested 3s ago): context deadline exceeded; the last request failed: token request to https://api.eu.transmitsecurity.io/oidc/token for client acme failed: 400 Bad Request: slow_down`, ``},
		{"a context that has ended before", func(t *testing.T) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := with(unchanged).TokenSource(t.Context()).TokenContext(ctx)
			return err
		}, `waiting for a token: context canceled`, ``},
		{"a source of nobody's", func(*testing.T) error { _, err := new(mosaic.TokenSource).Token(); return err }, `a TokenSource is made by Config.TokenSource`, ``},
		{"a panic of the transport", func(t *testing.T) error {
			_, err := with(unchanged).TokenSource(kit.Over(t.Context(), kit.RoundTripper(func(*http.Request) (*http.Response, error) { panic("x") }))).Token()
			return err
		}, `token request panicked (its stack is in the log)`, ``},
		{"no JWT", func(*testing.T) error {
			_, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: "opaque"})
			return err
		}, `cannot read the token's claims: token is malformed: token contains an invalid number of segments`, ``},
	}},
}

var another, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)

const failed = "mosaic: token request to https://api.eu.transmitsecurity.io/oidc/token for client acme failed"

// parse meets the error of ParsePrivateKey.
func parse(pem string) func(*testing.T) error {
	return func(*testing.T) error { _, err := mosaic.ParsePrivateKey([]byte(pem)); return err }
}

// otherKey signs with another key than its Public's.
type otherKey struct {
	crypto.Signer
	public crypto.PublicKey
}

func (k otherKey) Public() crypto.PublicKey { return k.public }

func TestEveryTextThatAUserCanMeet(t *testing.T) {
	for _, s := range sections {
		for _, tt := range s.texts {
			t.Run(s.title+"/"+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					err := tt.meet(t)
					time.Sleep(2 * time.Hour) // all that hangs ends
					want := s.prefix + tt.want
					if s.prefix == failed && !strings.HasPrefix(tt.want, " (") && !strings.HasPrefix(tt.want, ": ") {
						want = s.prefix + ": " + tt.want
					}
					got := strings.ReplaceAll(fmt.Sprint(err), "/cis/oidc/token", "/oidc/token")
					if got != want {
						t.Errorf("got  %s\nwant %s", got, want)
					}
					if len(want) > 700 || strings.ContainsAny(want, "\n\r") {
						t.Errorf("the text has %d bytes, or more than one line", len(want))
					}
				})
			})
		}
	}
}

func TestTheTroubleshootingDocumentHasTheseTexts(t *testing.T) {
	const name, marker = "../../docs/troubleshooting.md", "<!-- made from internal/behaviour/texts_test.go -->\n"
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	intro, _, _ := strings.Cut(string(got), marker)
	want := intro + marker + document()
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(got) != want {
		t.Error("docs/troubleshooting.md differs from the table above: go test ./internal/behaviour -run Troubleshooting -update writes it")
	}
}

// document returns the texts as a part of docs/troubleshooting.md.
func document() string {
	var b strings.Builder
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		if s.intro != "" {
			fmt.Fprintf(&b, "%s\n\n", s.intro)
		}
		for _, tt := range s.texts {
			fmt.Fprintf(&b, "- `%s`\n", strings.TrimLeft(tt.want, ": "))
			if tt.advice != "" {
				fmt.Fprintf(&b, "  %s\n", tt.advice)
			}
		}
	}
	return b.String()
}
