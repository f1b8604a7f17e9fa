package behaviour_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"runtime"
	"slices"
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

// A text is an error message that a user can meet. Those with advice are in docs/troubleshooting.md.
type text struct {
	name   string
	meet   func(t *testing.T) error
	want   string // the whole message, after the section's prefix
	advice string // what the message does not say itself
}

// A section of the document.
type section struct {
	title, intro string
	prefix       string // of the messages
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
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{Reused: true})
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// staged meets the error of a token request that waits for something for ever.
func staged(what string) func(*testing.T) error {
	silent := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if what == "dial" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if trace := httptrace.ContextClientTrace(ctx); trace != nil {
			trace.ConnectStart(network, addr)
			trace.ConnectDone(network, addr, nil)
		}
		client, server := net.Pipe()
		go io.Copy(io.Discard, server)
		return client, nil
	}
	rt := &http.Transport{DialContext: silent, TLSHandshakeTimeout: time.Hour}
	switch what {
	case "proxy":
		rt.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.acme.com:8080"})
	case "limit":
		rt.MaxConnsPerHost = 1
	}
	return func(t *testing.T) error {
		if what == "limit" {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, string(mosaic.EU), nil)
			if err != nil {
				t.Fatal(err)
			}
			go rt.RoundTrip(req)
			synctest.Wait()
		}
		_, err := with(unchanged).Token(kit.Over(t.Context(), rt))
		return err
	}
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
	{"Config, at start-up", "`Validate` returns these errors. Token, TokenSource, Client and JWKS return them, too, because they call Validate.", "mosaic: invalid Config: ", []text{
		{"no client ID", invalid(func(c *mosaic.Config) { c.ClientID = "" }), `ClientID is empty: set the application's client ID`, `Copy it from the application in Mosaic's Admin Portal.`},
		{"a line end", invalid(func(c *mosaic.Config) { c.ClientSecret += "\n" }), `ClientSecret holds a control character (a line end read from a file?)`, `If your code reads the secret from a file, trim it, or let Files read it. If Files or FromEnv reads it, the file contains more than the secret.`},
		{"a space", invalid(func(c *mosaic.Config) { c.ClientSecret += " " }), `ClientSecret begins or ends with white space or a quote: remove it`, `docker --env-file and some secret stores pass on white space and quotes.`},
		{"quotes", invalid(func(c *mosaic.Config) { c.ClientID = `"acme"` }), `ClientID begins or ends with white space or a quote: remove it`, ``},
		{"not UTF-8", invalid(func(c *mosaic.Config) { c.ClientID = "acm\xe9" }), `ClientID is not valid UTF-8`, ``},
		{"no credentials", invalid(func(c *mosaic.Config) { c.ClientSecret = "" }), `set ClientSecret, PrivateKey or Certificate`, `Or set GetCredentials to a function that returns one of them.`},
		{"two credentials", invalid(func(c *mosaic.Config) { c.PrivateKey = kit.EC() }), `ClientSecret and PrivateKey exclude each other`, ``},
		{"GetCredentials and others", invalid(func(c *mosaic.Config) { c.GetCredentials = mosaic.Files{}.Credentials }), `GetCredentials excludes ClientSecret, PrivateKey, KeyID, Certificate and TLSClientAuth`, `Return them from GetCredentials instead.`},
		{"TLSClientAuth and others", invalid(func(c *mosaic.Config) { c.TLSClientAuth = true }), `TLSClientAuth excludes ClientSecret, PrivateKey, KeyID and Certificate`, ``},
		{"KeyID alone", invalid(func(c *mosaic.Config) { c.KeyID = "k" }), `KeyID is set without PrivateKey`, ``},
		{"SigningAlgorithm alone", invalid(func(c *mosaic.Config) { c.SigningAlgorithm = "PS256" }), `SigningAlgorithm is set without PrivateKey`, ``},
		{"AssertionAudience alone", invalid(func(c *mosaic.Config) { c.AssertionAudience = "x" }), `AssertionAudience is set without PrivateKey`, ``},
		{"an unknown algorithm", invalid(func(c *mosaic.Config) { key(nil)(c); c.SigningAlgorithm = "HS256" }), `SigningAlgorithm "HS256" is not one of RS256, PS256, ES256, EdDSA`, ``},
		{"another algorithm", invalid(func(c *mosaic.Config) { key(nil)(c); c.SigningAlgorithm = "PS256" }), `SigningAlgorithm "PS256" does not fit the key, which signs with ES256`, `Leave SigningAlgorithm empty, or use an RSA key, which PS256 requires.`},
		{"an expired certificate", func(t *testing.T) error {
			c := certificate(t, kit.Lifetime(-time.Hour))
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate has expired: its NotAfter is 1999-12-31T23:00:00Z`, `Renew the certificate. If GetCredentials returns it, a renewed certificate is used without a restart.`},
		{"a certificate that is not valid yet", func(t *testing.T) error {
			c := certificate(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate is not valid yet: its NotBefore is 2000-01-01T01:00:00Z`, `If the local clock is wrong, set it. Otherwise wait: the certificate can be used from five minutes before its NotBefore.`},
		{"a chain in the wrong order", func(t *testing.T) error {
			c := certificate(t)
			c.Certificate = append(kit.Certificate(t, "CA", kit.Ed25519(), nil).Certificate, c.Certificate...)
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate: the leaf has to come first, but the private key belongs to number 2 of the chain (CN=acme)`, `Move that certificate to the beginning of the chain or of its file.`},
		{"a certificate without a key", func(t *testing.T) error {
			c := certificate(t)
			c.PrivateKey = nil
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate has no usable private key (<nil>): want a crypto.Signer`, `Load the certificate together with its key, with tls.LoadX509KeyPair or Files.`},
		{"another certificate's key", func(t *testing.T) error {
			c := certificate(t)
			c.PrivateKey = kit.Ed25519()
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate: the private key does not match it`, ``},
		{"a broken key", invalid(func(c *mosaic.Config) { c.ClientSecret, c.PrivateKey = "", ed25519.PrivateKey("short") }), `PrivateKey is an ed25519.PrivateKey of 5 bytes; want 64 (of a seed, ed25519.NewKeyFromSeed makes one)`, ``},
		{"a certificate with a broken key", func(t *testing.T) error {
			c := certificate(t)
			c.PrivateKey = new(rsa.PrivateKey)
			return with(func(conf *mosaic.Config) { conf.Certificate = c }).Validate()
		}, `Certificate has a private key that is empty or broken: its public key cannot be read`, ``},
		{"no endpoint", invalid(func(c *mosaic.Config) { c.Endpoint = "" }), `Endpoint is empty: set the region that the credentials belong to, such as mosaic.EU`, ``},
		{"a name", invalid(func(c *mosaic.Config) { c.Endpoint = "eu" }), `Endpoint "eu" is not a URL: use a constant such as mosaic.EU, or ParseEndpoint for text`, ``},
		{"a domain in Unicode", invalid(func(c *mosaic.Config) { c.Endpoint = "https://bücher.example" }), `Endpoint "https://bücher.example" has a character that is not ASCII (write an international domain in its "xn--" form): use a constant such as mosaic.EU, or ParseEndpoint for text`, ``},
		{"a path", invalid(func(c *mosaic.Config) { c.Endpoint = "https://login.acme.com/oidc/token" }), `Endpoint "https://login.acme.com/oidc/token" has a path (give the base URL, without /oidc/token): use a constant such as mosaic.EU, or ParseEndpoint for text`, ``},
		{"a password", invalid(func(c *mosaic.Config) { c.Endpoint = "https://u:p@acme.com" }), `Endpoint "https://[redacted]@acme.com" holds user information: use a constant such as mosaic.EU, or ParseEndpoint for text`, ``},
		{"no URI", invalid(func(c *mosaic.Config) { c.Resource = "risk" }), `Resource "risk" is not an absolute URI such as https://risk.identity.security (RFC 8707 §2)`, `Use a constant such as mosaic.FraudPrevention, or the URI that is configured in Mosaic.`},
		{"a URL in Hosts", invalid(func(c *mosaic.Config) { c.Hosts = []string{"https://b.com"} }), `Hosts: "https://b.com" is not a host: want a name such as "api.acme.com" or "api.acme.com:8443"`, ``},
		{"no host in Hosts", invalid(func(c *mosaic.Config) { c.Hosts = []string{"a b"} }), `Hosts: "a b" is not a host: want a name such as "api.acme.com" or "api.acme.com:8443"`, ``},
		{"a parameter of ours", invalid(func(c *mosaic.Config) { c.EndpointParams = url.Values{"scope": {"x"}} }), `EndpointParams may not set scope: set Scopes`, ``},
		{"the grant type", invalid(func(c *mosaic.Config) { c.EndpointParams = url.Values{"grant_type": {"x"}} }), `EndpointParams may not set grant_type: it is always client_credentials`, ``},
	}},
	{"ParseEndpoint and FromEnv", "", "mosaic: ", []text{
		{"an unknown region", func(*testing.T) error { _, err := mosaic.ParseEndpoint("mars"); return err }, `endpoint "mars" is not a URL: want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"`, `If your region is not in this list, use the base URL that Mosaic has given you.`},
		{"plain HTTP", func(*testing.T) error { _, err := mosaic.ParseEndpoint("http://acme.com"); return err }, `endpoint "http://acme.com" is not https (plain http is for loopback hosts only): want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"`, ``},
		{"an empty environment", env(nil), `invalid environment: MOSAIC_ENDPOINT: endpoint "" is empty: want "sandbox", "us", "eu", "ca", "au", or the base URL of a custom domain such as "https://login.acme.com"; MOSAIC_CLIENT_ID: ClientID is empty: set the application's client ID; MOSAIC_CLIENT_SECRET, MOSAIC_CLIENT_SECRET_FILE, MOSAIC_PRIVATE_KEY_FILE or MOSAIC_CERTIFICATE_FILE: set ClientSecret, PrivateKey or Certificate`, `The error names every variable that has to be set.`},
		{"a missing file", env(map[string]string{"MOSAIC_CLIENT_ID": "acme", "MOSAIC_ENDPOINT": "eu", "MOSAIC_PRIVATE_KEY_FILE": "/nowhere/key.pem", "MOSAIC_KEY_ID": "k"}), `invalid environment: MOSAIC_PRIVATE_KEY_FILE: PrivateKey "/nowhere/key.pem": no such file or directory`, `Mount the file before the process starts, because FromEnv reads it, too.`},
		{"a key itself", env(map[string]string{"MOSAIC_CLIENT_ID": "acme", "MOSAIC_ENDPOINT": "eu", "MOSAIC_PRIVATE_KEY_FILE": "-----BEGIN PRIVATE KEY-----"}), `invalid environment: MOSAIC_PRIVATE_KEY_FILE: PrivateKey (a relative path): no such file or directory`, `A relative path is not shown, because it may be a secret. Set the variable to the path of a file, without quotes, and not to the secret or the key itself.`},
		{"two secrets", secretEnv("MOSAIC_CLIENT_SECRET_FILE", "/nowhere/secret"), `invalid environment: MOSAIC_CLIENT_SECRET or MOSAIC_CLIENT_SECRET_FILE: set only one of the two variables; MOSAIC_CLIENT_SECRET or MOSAIC_CLIENT_SECRET_FILE: ClientSecret "/nowhere/secret": no such file or directory`, ``},
		{"a key ID without its key", secretEnv("MOSAIC_KEY_ID", "k"), `invalid environment: MOSAIC_KEY_ID: KeyID is set without PrivateKey`, `Set MOSAIC_PRIVATE_KEY_FILE to the file of the key, or remove MOSAIC_KEY_ID.`},
		{"a certificate without its key", secretEnv("MOSAIC_CERTIFICATE_FILE", "/nowhere/tls.crt"), `invalid environment: MOSAIC_CERTIFICATE_FILE or MOSAIC_CERTIFICATE_KEY_FILE: set both Certificate and CertificateKey`, ``},
	}},
	{"Token requests: refused by Mosaic", "Each of these messages follows `mosaic: token request to … for client … failed: `.", failed, []text{
		{"a wrong secret", status("401 Unauthorized", jsonType+"\r\nX-Request-Id: 7f3c1e52-9a0b-4f7e-8d21-5b6f7c8d9e0a", `{"error":"invalid_client","error_description":"Invalid client credentials"}`),
			`401 Unauthorized, request ID 7f3c1e52-9a0b-4f7e-8d21-5b6f7c8d9e0a: invalid_client, "Invalid client credentials": check ClientID and ClientSecret, and that both belong to this Endpoint`,
			`The secret is wrong or revoked, or it belongs to another region or environment. If you contact Mosaic's support, give them the request ID.`},
		{"a wrong key", reply(key(nil), kit.Reply("401 Unauthorized", jsonType, `{"error":"invalid_client"}`)),
			`401 Unauthorized: invalid_client: check ClientID, KeyID, SigningAlgorithm and AssertionAudience, and that the application at this Endpoint has the JWK Set that JWKS returns`, `In the Admin Portal, submit the JWK Set that Config.JWKS returns or mosaic jwks prints. If Mosaic already has that set, it may require its issuer as the audience: see AssertionAudience.`},
		{"a wrong certificate", standIn(func(*mosaictest.Server, *tls.Certificate) {}), `401 Unauthorized: invalid_client, "the client is not registered": check ClientID, and that the application at this Endpoint has this certificate`, `In the Admin Portal, submit the JWK Set of the certificate if it is self-signed, or its chain if a CA has signed it.`},
		{"another subject", standIn(func(srv *mosaictest.Server, c *tls.Certificate) {
			roots := x509.NewCertPool()
			roots.AddCert(c.Leaf)
			srv.RegisterCA("acme", roots, "CN=another")
		}), `401 Unauthorized: invalid_client, "the certificate's subject is not the client's": check ClientID, and that the application at this Endpoint has this certificate`,
			`A CA-signed certificate must have the subject that is registered for the client (tls_client_auth_subject_dn). A renewed certificate must have the same subject. The words in quotes come from mosaictest. Mosaic's own words are not documented.`},
		{"OCSP", standIn(func(srv *mosaictest.Server, _ *tls.Certificate) {
			srv.Fail(mosaictest.OAuthError(http.StatusUnauthorized, "invalid_client", ""))
		}), `401 Unauthorized: invalid_client: check ClientID, and that the application at this Endpoint has this certificate`,
			`If Mosaic accepted this CA-signed certificate before, the certificate may have been revoked, or the OCSP responder in the client's settings may be down. While the responder is down, Mosaic can refuse every token request unless ocsp_fail_open is set there.`},
		{"401 with a message", status("401 Unauthorized", jsonType, `{"message":["no such client","or secret"],"error_code":401}`), `401 Unauthorized: "no such client; or secret": check ClientID and ClientSecret, and that both belong to this Endpoint`, ``},
		{"400 with a message", status("400 Bad Request", jsonType, `{"message":"client_id must be a string","error_code":400}`), `400 Bad Request: "client_id must be a string"`, `Mosaic sent the text in quotes. Compare the Config with the client's settings in the Admin Portal.`},
		{"invalid_target", reply(func(c *mosaic.Config) { c.Resource = mosaic.FraudPrevention }, kit.Reply("400 Bad Request", jsonType, `{"error":"invalid_target"}`)),
			`400 Bad Request: invalid_target: check Resource: "https://risk.identity.security" has to be configured for the application in Mosaic`, `In Mosaic, configure the service for the application. If the application does not need the service, call another service.`},
		{"invalid_target without a resource", oauth("invalid_target"), `400 Bad Request: invalid_target: the request names no resource: check Resource`, ``},
		{"invalid_scope", oauth("invalid_scope"), `400 Bad Request: invalid_scope: check Scopes`, `Leave Scopes empty, because Mosaic assigns scopes to the client, and the token carries them.`},
		{"invalid_request", oauth("invalid_request"), `400 Bad Request: invalid_request: check EndpointParams, and the client authentication method set for the application`, ``},
		{"unauthorized_client", oauth("unauthorized_client"), `400 Bad Request: unauthorized_client: the application has to be allowed the grant type client_credentials`, ``},
		{"unsupported_grant_type", oauth("unsupported_grant_type"), `400 Bad Request: unsupported_grant_type: the application has to be allowed the grant type client_credentials`, ``},
		{"an unknown code", oauth("server_error"), `400 Bad Request: server_error`, `The fault is on Mosaic's side, although the status is 400. Ask Mosaic's support.`},
		{"403 with JSON", status("403 Forbidden", jsonType, `{"message":"Forbidden","error_code":403}`), `403 Forbidden: "Forbidden": check that the application may request tokens, and that no firewall refuses this network`, ``},
		{"403 without JSON", status("403 Forbidden", "Content-Type: text/plain\r\nServer: envoy", "RBAC: access denied\n"), `403 Forbidden, server envoy: "RBAC: access denied": check Endpoint: Mosaic's hosts answer 403 or 404 to an unknown path`, `Either this host does not know the path, for example because the custom domain is wrong, or a proxy or a firewall refused the request. The error shows the server's name and its text.`},
		{"404", status("404 Not Found", "", ""), `404 Not Found: check Endpoint: Mosaic's hosts answer 403 or 404 to an unknown path`, ``},
		{"an HTML page", status("403 Forbidden", "Content-Type: text/html; charset=UTF-8\r\nServer: cloudflare\r\nCf-Ray: 8c1f2d3e4a5b6c7d-FRA", "<html>"), `403 Forbidden, request ID 8c1f2d3e4a5b6c7d-FRA, server cloudflare: an HTML page: does a proxy or a firewall answer in Mosaic's place?`, `A proxy, a firewall or a captive portal answered instead of Mosaic.`},
		{"a redirect", status("302 Found", "Location: https://login.acme.com/", ""), `302 Found: a redirect, which is not followed with credentials: check Endpoint`, `If the redirect leads to a host of Mosaic's, set Endpoint to the base URL of that host.`},
		{"a redirect to nowhere", status("307 Temporary Redirect", "Location: http://[", ""), `307 Temporary Redirect: a redirect, which is not followed with credentials: check Endpoint`, ``},
		{"429", status("429 Too Many Requests", "Retry-After: 60", ""), `429 Too Many Requests: Mosaic's rate limit is reached: share one source or client in each process; retry after 1m0s`, `Do not call Config.Token for each API call, because it requests a new token each time.`},
		{"an escaped echo", status("400 Bad Request", jsonType, `{"error":"invalid_request","error_description":"client_secret=a%20secret"}`), `400 Bad Request: invalid_request, "[withheld]": check EndpointParams, and the client authentication method set for the application`, `The marks [withheld] and [redacted] stand for text that could contain a secret.`},
		{"several lines", status("400 Bad Request", jsonType, `{"message":"The secret of the client has expired.\nCorrelation ID: 17"}`), `400 Bad Request: "The secret of the client has expired. [withheld]"`, `If the server's explanation has several lines, only the first line is shown.`},
		{"problem details", status("400 Bad Request", "Content-Type: application/problem+json", `{"title":"Bad Request","detail":"The request has no client_id."}`), `400 Bad Request: "The request has no client_id."`, ``},
		{"a compressed reply", status("403 Forbidden", "Content-Encoding: br\r\nServer: nginx", "\x0b\x02\x80no\x03"), `403 Forbidden, server nginx, a body that is not text in UTF-8, Content-Encoding br: check Endpoint: Mosaic's hosts answer 403 or 404 to an unknown path`, `The server compressed the reply although it was not asked to, so its text cannot be shown.`},
	}},
	{"Token requests: no good answer", "These errors begin in the same way. If the request was retried, `(3 attempts)` comes before the colon.", failed, []text{
		{"500", status("500 Internal Server Error", jsonType, `{"message":"oops","error_code":500}`), ` (3 attempts): 500 Internal Server Error: "oops": a fault on Mosaic's side, or on the way there`, `As long as a token is valid, the source tries again on its own. Otherwise the next call tries again. See Mosaic's status page.`},
		{"503", status("503 Service Unavailable", "Content-Type: text/plain\r\nServer: envoy\r\nRetry-After: 30", "no healthy upstream"), `: 503 Service Unavailable, server envoy: "no healthy upstream": a fault on Mosaic's side, or on the way there; retry after 30s`, ``},
		{"a page with 502", status("502 Bad Gateway", "Content-Type: text/html\r\nServer: nginx", "<html>"), ` (3 attempts): 502 Bad Gateway, server nginx: a fault on Mosaic's side, or on the way there`, `The server behind nginx, or behind another load balancer, did not answer.`},
		{"a name that is not known", transport(unchanged, failing(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "api.eu.transmitsecurity.io", IsNotFound: true}})),
			` (3 attempts): "dial tcp: lookup api.eu.transmitsecurity.io: no such host": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`, `Try curl on the same machine. If curl fails, too, check DNS, routes and firewalls.`},
		{"a proxy that cannot be reached", transport(unchanged, &http.Transport{
			Proxy:       func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.acme.com:8080") },
			DialContext: dialing(&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("proxy.acme.com:8080: connection refused")}).DialContext,
		}), ` (3 attempts): "proxyconnect tcp: dial tcp: proxy.acme.com:8080: connection refused": check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`, ``},
		{"a proxy that refuses", transport(unchanged, kit.Proxied(kit.Reply("407 Proxy Authentication Required", "", ""))), `: the proxy refused CONNECT: 407 Proxy Authentication Required: check HTTPS_PROXY and its credentials, and that the proxy allows this host`, ``},
		{"a proxy that allows other hosts", transport(unchanged, kit.Proxied(kit.Reply("403 Forbidden", "", ""))), `: the proxy refused CONNECT: 403 Forbidden: check HTTPS_PROXY and its credentials, and that the proxy allows this host`, ``},
		{"a proxy with words of its own", transport(unchanged, kit.Proxied(kit.Reply("403 Filtered", "", ""))), ` (3 attempts): the proxy refused CONNECT: "Filtered": check HTTPS_PROXY and its credentials, and that the proxy allows this host`, ``},
		{"a silent proxy", staged("proxy"), ` (3 attempts): no reply of the proxy in time: check HTTPS_PROXY and its credentials, and that the proxy allows this host`, ``},
		{"dropped packets", staged("dial"), ` (3 attempts): no connection in time: check Endpoint, and whether it can be reached from here (DNS, firewall, HTTPS_PROXY)`, `A firewall drops the packets, or the DNS server does not answer.`},
		{"all connections in use", staged("limit"), ` (3 attempts): no free connection in time: other requests may use all connections that the HTTP client's MaxConnsPerHost allows`, `Raise the transport's MaxConnsPerHost, or give token requests a transport of their own.`},
		{"a lost ClientHello", staged("handshake"), ` (3 attempts): no TLS handshake in time: check Endpoint, and whether a firewall or a proxy on the way interferes with TLS`, ``},
		{"plain HTTP", transport(unchanged, kit.Wire(kit.Reply("400 Bad Request", "", ""))), ` (3 attempts): "tls: first record does not look like a TLS handshake": check Endpoint, and whether a firewall or a proxy on the way interferes with TLS`, ``},
		{"a server that speaks HTTP/2 only", func(t *testing.T) error {
			rt := kit.Wire("\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n")
			_, err := with(func(c *mosaic.Config) { c.Endpoint = "http://localhost" }).Token(kit.Over(t.Context(), rt))
			return errors.New(strings.Replace(err.Error(), "http://localhost", string(mosaic.EU), 1))
		}, ` (3 attempts): "net/http: HTTP/1.x transport connection broken: malformed HTTP response [withheld]": the server speaks HTTP/2, and the HTTP client's transport does not: remove h2 from its NextProtos`, ``},
		{"no reply", transport(unchanged, kit.RoundTripper(noReply)), ` (3 attempts): no reply in time: a fault on Mosaic's side, or on the way there`, `An attempt may take ten seconds, and all attempts together 30 seconds. Mosaic, or something on the way to it, is slow.`},
		{"the HTTP client's Timeout", func(t *testing.T) error {
			_, err := with(unchanged).Token(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: kit.RoundTripper(noReply), Timeout: 5 * time.Second}))
			return err
		}, `: no reply in time: the Timeout of the HTTP client is 5s`, `The HTTP client's Timeout also limits the token request. Set it to more than 30 seconds, which a token request may take.`},
		{"a deadline of the caller's", func(t *testing.T) error {
			ctx, cancel := context.WithTimeout(kit.Over(t.Context(), kit.RoundTripper(noReply)), 3*time.Second)
			defer cancel()
			_, err := with(unchanged).Token(ctx)
			return err
		}, `: context deadline exceeded: no reply in time`, `The deadline of the call's context came before the reply. Give the context more time.`},
		{"a broken reply", status("200 OK", "Content-Length: 99", "{"), ` (3 attempts): the reply broke off: "unexpected EOF": a fault on Mosaic's side, or on the way there`, `The connection broke in every attempt. Look at the proxies and firewalls on the way.`},
		{"a closed connection", reply(unchanged, ""), ` (3 attempts): the connection was closed before a reply came: a fault on Mosaic's side, or on the way there`, `Look at the proxies and firewalls on the way.`},
		{"HTML with 200", status("200 OK", "Content-Type: text/html\r\nServer: captive", "<html>"), `: the reply (200 OK, server captive) is not a token response (RFC 6749 §5.1): an HTML page: does a proxy or a firewall answer in Mosaic's place?`, ``},
		{"no token", status("200 OK", jsonType, `{}`), `: the reply (200 OK) is not a token response (RFC 6749 §5.1): "oauth2: server response missing access_token"`, `Endpoint is not Mosaic's, or something on the way answers in Mosaic's place.`},
		{"an empty reply", status("204 No Content", "", ""), `: the reply (204 No Content) is not a token response (RFC 6749 §5.1): "oauth2: cannot parse json: unexpected end of JSON input"`, ``},
		{"another type", status("200 OK", jsonType+"\r\nX-Request-Id: req-42", `{"access_token":"t","expires_in":60,"token_type":"DPoP"}`), `: the reply (200 OK, request ID req-42) holds no usable token: its token_type is "DPoP", not Bearer`, `According to its documentation, Mosaic issues only Bearer tokens. Check EndpointParams, and that it is Mosaic that answers.`},
		{"a token with a space", tokenReply("a b", `"expires_in":60`), `: the reply (200 OK) holds no usable token: it holds characters that no Bearer token may have (RFC 6750 §2.1)`, `Mosaic's tokens are JWTs, which have no such characters. Check that it is Mosaic that answers.`},
		{"a long token", tokenReply(strings.Repeat("a", 16385), `"expires_in":60`), `: the reply (200 OK) holds no usable token: it has 16385 bytes, more than any header takes`, ``},
		{"no end", tokenReply("opaque", ""), `: the reply (200 OK) holds no usable token: the token has no usable exp claim, and the reply no usable expires_in`, `Mosaic's tokens are JWTs with an exp claim. Check that it is Mosaic that answers.`},
		{"an end too far", tokenReply("opaque", `"expires_in":2147483647`), `: the reply (200 OK) holds no usable token: the token would end at 2068-01-19T03:14:07Z, and the reply came at 2000-01-01T00:00:00Z: no such lifetime can be true`, `Check the clocks of both sides, and that nothing on the way changes replies.`},
	}},
	{"TLS and certificates", "", failed, []text{
		{"an unknown authority", transport(unchanged, failing(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})), `: the server's certificate does not verify ("tls: failed to verify certificate: x509: certificate signed by unknown authority"): check Endpoint, the local clock, and whether a proxy terminates TLS here`, `The local clock may be wrong, the container image may lack the system's CAs, or a proxy may terminate TLS with a certificate from a CA that the HTTP client does not trust. See [Your own CA](operations.md#your-own-ca).`},
		{"refused", presenting(dialing(&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")})), ` (3 attempts): "remote error: tls: bad certificate": the server may have refused Certificate`, `Check that this certificate was submitted to Mosaic with its chain, and that it has not been revoked.`},
		{"refused in TLS 1.3", presenting(dialing(&net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")})), ` (3 attempts): "read tcp: connection reset by peer": the server may have refused Certificate`, `Either the server refused the certificate, and its alert was lost when the connection broke, or the connection broke for another reason.`},
		{"expired since", func(t *testing.T) error {
			c := certificate(t, kit.Lifetime(time.Minute))
			src := certified(c).TokenSource(kit.Over(t.Context(), dialing(&net.OpError{Op: "remote error", Err: errors.New("tls: expired certificate")})))
			time.Sleep(time.Hour)
			_, err := src.Token()
			return err
		}, ` (3 attempts): "remote error: tls: expired certificate": Certificate has expired: its NotAfter is 2000-01-01T00:01:00Z`, `Return the renewed certificate from GetCredentials.`},
		{"a proxy between", standIn(func(srv *mosaictest.Server, c *tls.Certificate) {
			srv.SetClaims(func(claims map[string]any) { claims["cnf"] = map[string]any{"x5t#S256": "another"} })
			srv.RegisterCertificate("acme", c.Leaf)
		}), `: the reply (200 OK) holds no usable token: it is bound to a different certificate: is a proxy terminating TLS?`, `Configure the proxy not to terminate TLS for Mosaic's hosts.`},
		{"an HSM that fails", standIn(func(_ *mosaictest.Server, c *tls.Certificate) {
			c.PrivateKey = &kit.Signer{Signer: kit.EC(), Before: func() error { return errors.New("CKR_DEVICE_ERROR") }}
		}), ` (3 attempts): "tls: failed to sign handshake: CKR_DEVICE_ERROR"`, `The quoted text ends with the error that the certificate's private key returned.`},
	}},
	{"Keys and GetCredentials", "", failed, []text{
		{"a signer that fails", reply(key(func() error { return errors.New("kms: permission denied") }), ""), ` (3 attempts): no client assertion: PrivateKey could not sign: kms: permission denied`, `The text after "could not sign" is your signer's error.`},
		{"a signer that hangs", reply(key(func() error { time.Sleep(time.Hour); return nil }), ""), ` (3 attempts): no client assertion: PrivateKey did not return in time`, `The KMS or the HSM did not answer within ten seconds.`},
		{"a signer that panics", reply(key(func() error { panic("x") }), ""), ` (3 attempts): no client assertion: PrivateKey panicked (its stack is logged if Logger is set)`, ``},
		{"a signer that ends its goroutine", reply(key(func() error { runtime.Goexit(); return nil }), ""), ` (3 attempts): no client assertion: PrivateKey ended its goroutine (runtime.Goexit)`, ``},
		{"another key behind the name", reply(func(c *mosaic.Config) {
			c.ClientSecret, c.PrivateKey = "", otherKey{kit.EC(), &another.PublicKey}
		}, ""), ` (3 attempts): no client assertion: PrivateKey's ES256 signature does not verify with its own public key: its name or alias may now stand for another key, or it did not sign as it was asked to`, ``},
		{"a clock that is off", reply(key(nil), kit.Reply("401 Unauthorized", jsonType+"\r\nDate: Fri, 30 Jun 2000 00:00:00 GMT", `{"error":"invalid_client"}`)),
			`: 401 Unauthorized: invalid_client: check ClientID, KeyID, SigningAlgorithm and AssertionAudience, and that the application at this Endpoint has the JWK Set that JWKS returns; the local clock differs from the server's by 4344h0m0s`, `Set the local clock. The package corrects a difference of up to 26 hours, but not this one.`},
		{"GetCredentials fails", reply(get(func(context.Context) (mosaic.Credentials, error) {
			return mosaic.Credentials{}, errors.New("vault: permission denied")
		}), ""), ` (3 attempts): no credentials: GetCredentials: vault: permission denied`, `The last part is the error that your GetCredentials returned. If there are earlier credentials, they are used, and the error is only logged.`},
		{"GetCredentials hangs", reply(get(func(ctx context.Context) (mosaic.Credentials, error) {
			time.Sleep(time.Hour)
			return mosaic.Credentials{}, nil
		}), ""), ` (3 attempts): no credentials: GetCredentials did not return in time`, `GetCredentials must return within five seconds, or within half of the attempt's time if that is less.`},
		{"GetCredentials returns nothing", reply(get(func(context.Context) (mosaic.Credentials, error) { return mosaic.Credentials{}, nil }), ""), ` (3 attempts): no credentials: GetCredentials: set ClientSecret, PrivateKey or Certificate`, ``},
		{"a file is missing", reply(get(mosaic.Files{ClientSecret: "/nowhere/secret"}.Credentials), ""), ` (3 attempts): no credentials: GetCredentials: ClientSecret "/nowhere/secret": no such file or directory`, ``},
	}},
	{"A transport that cannot present a certificate", "", "mosaic: ", []text{
		{"an instrumented transport", presenting(instrumented{}), `cannot present Certificate without an HTTP client whose Transport is an *http.Transport (this is behaviour_test.instrumented): set TLSClientAuth instead, and let the HTTP client present it`, ``},
		{"beside a secret", func(t *testing.T) error {
			c := certificate(t)
			_, err := with(func(conf *mosaic.Config) { conf.Certificate = c }).Token(kit.Over(t.Context(), &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}))
			return err
		}, `cannot present Certificate without an HTTP client whose Transport has neither DialTLS nor DialTLSContext: drop Certificate, and let the HTTP client present it`, `If the transport only has to see API calls, you can instead keep Certificate and wrap the Transport of the client that Config.Client returns.`},
	}},
	{"Keys, certificates and files", "If `Files` reads the file, each of these errors begins with the name of the field and the path of the file.", "mosaic: ", []text{
		{"an encrypted key", parse("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----"), `the key is encrypted: decrypt it with openssl pkey -in FILE -out NEWFILE`, ``},
		{"OpenSSH's format", parse("-----BEGIN OPENSSH PRIVATE KEY-----\nMAA=\n-----END OPENSSH PRIVATE KEY-----"), `the key is in OpenSSH's own format: ssh-keygen -p -N '' -m PKCS8 -f COPY converts a copy of an RSA or ECDSA key, openssl genpkey -algorithm ed25519 makes another Ed25519 key`, ``},
		{"a key for RSA-PSS", parse("-----BEGIN RSA-PSS PRIVATE KEY-----\nMAA=\n-----END RSA-PSS PRIVATE KEY-----"), `the key is restricted to RSA-PSS, which crypto/x509 does not read: make an unrestricted key with openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out NEWFILE`, ``},
		{"a broken key", parse("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----"), `the key cannot be parsed: openssl pkey -in FILE -noout -text_pub shows its kind (which must be RSA, P-256 or Ed25519), or that it is broken`, ``},
		{"one line", parse("-----BEGIN PRIVATE KEY----- MAA= -----END PRIVATE KEY-----"), `this is broken PEM: copy the file again, with all of its lines and their line ends`, ``},
		{"a certificate", parse("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"), `this is PEM of type "CERTIFICATE": the private key is in another file, which openssl genpkey or openssl req -keyout wrote`, `A public key, a certificate request and PKCS #7 contain no private key either.`},
		{"UTF-16", parse("\xff\xfe-\x00"), `this is text in UTF-16, as PowerShell writes it: convert it with iconv -f UTF-16 -t UTF-8 FILE >NEWFILE`, ``},
		{"base64", parse("LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t"), `this is the base64 of PEM, as in a Kubernetes Secret: decode it with base64 -d FILE >NEWFILE`, ``},
		{"a JWK", parse(`{"kty":"OKP"}`), `this is a JWK: make another key with openssl genpkey -algorithm ed25519 -out NEWFILE`, `Then submit the JWK Set that Config.JWKS returns for the new key.`},
		{"PKCS #12", parse("0\x05\x02\x01\x030\x00"), `this is PKCS #12: convert it with openssl pkcs12 -in FILE -nocerts -nodes -out NEWFILE`, `Since Java 9, keytool writes this format.`},
		{"a Java keystore", parse("\xfe\xed\xfe\xed"), `this is a Java keystore: convert it to PKCS #12 with keytool -importkeystore -srckeystore FILE -destkeystore NEWFILE -deststoretype PKCS12`, `Then convert the new file, as the error for PKCS #12 says.`},
		{"DER", parse("0\x03\x02\x01\x00"), `this is DER: convert it with openssl pkey -inform DER -in FILE -out NEWFILE`, ``},
		{"no PEM", parse("-"), `this is not PEM: the private key is in another file, which openssl genpkey or openssl req -keyout wrote`, ``},
		{"a key in place of the certificate", certFile("-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----"), `this is PEM of type "EC PRIVATE KEY": the certificate is in another file; openssl req -x509 -new -key KEYFILE -subj /CN=NAME -days 365 -out NEWFILE makes a self-signed certificate`, ``},
		{"a certificate request", certFile("-----BEGIN NEW CERTIFICATE REQUEST-----\nMAA=\n-----END NEW CERTIFICATE REQUEST-----"), `this is PEM of type "CERTIFICATE REQUEST": a CA makes the certificate from it; openssl x509 -req -in FILE -signkey KEYFILE -days 365 -out NEWFILE makes a self-signed certificate`, ``},
		{"a trusted certificate", certFile("-----BEGIN TRUSTED CERTIFICATE-----\nMAA=\n-----END TRUSTED CERTIFICATE-----"), `this is PEM of type "TRUSTED CERTIFICATE": convert it with openssl x509 -in FILE -out NEWFILE`, ``},
		{"PKCS #7", certFile("-----BEGIN PKCS7-----\nMAA=\n-----END PKCS7-----"), `this is PEM of type "PKCS7": convert it with openssl pkcs7 -print_certs -in FILE -out NEWFILE`, ``},
		{"PKCS #7 in DER", certFile("0\x03\x06\x01\x2a"), `this is PKCS #7 in DER: convert it with openssl pkcs7 -inform DER -print_certs -in FILE -out NEWFILE`, ``},
		{"PKCS #12 with the certificate", certFile("0\x05\x02\x01\x030\x00"), `this is PKCS #12: convert it with openssl pkcs12 -in FILE -nokeys -out NEWFILE`, ``},
		{"a certificate in DER", func(t *testing.T) error { return certFile(string(certificate(t).Certificate[0]))(t) }, `this is a certificate in DER: convert it with openssl x509 -inform DER -in FILE -out NEWFILE`, ``},
		{"the secret in JSON", secretFile(`{"client_secret":"s"}`), `this is a JSON object: extract the member with the secret, for example with jq -r .client_secret FILE >NEWFILE`, ``},
		{"no secret", secretFile("\n"), `the file is empty, or holds only white space`, ``},
	}},
	{"Waiting, and calls through Client", "If a call through `Client` fails, net/http prepends the method and URL to these messages.", "mosaic: ", []text{
		{"a deadline in the wait for a token", func(t *testing.T) error {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := with(unchanged).TokenSource(kit.Over(t.Context(), kit.RoundTripper(noReply))).TokenContext(ctx)
			return err
		}, `waiting for a token (requested 3s ago): context deadline exceeded`, `The deadline of the request came before the token. The token request continues for other callers.`},
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
		}, `waiting for a token (requested 3s ago): context deadline exceeded; the last request failed: token request to https://api.eu.transmitsecurity.io/oidc/token for client acme failed: 400 Bad Request: slow_down`, `As above. If an earlier token request failed, the error also shows that failure.`},
		{"a context that has ended before", func(t *testing.T) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := with(unchanged).TokenSource(t.Context()).TokenContext(ctx)
			return err
		}, `waiting for a token: context canceled`, `The caller gave up, for example because its own client closed the connection.`},
		{"a source of nobody's", func(*testing.T) error { _, err := new(mosaic.TokenSource).Token(); return err }, `a TokenSource is made by Config.TokenSource`, ``},
		{"a panic of the transport", func(t *testing.T) error {
			_, err := with(unchanged).TokenSource(kit.Over(t.Context(), kit.RoundTripper(func(*http.Request) (*http.Response, error) { panic("x") }))).Token()
			return err
		}, `token request panicked (its stack is logged if Logger is set)`, `The HTTP client's transport panicked. If Logger is set, a log record has the stack.`},
		{"no JWT", func(*testing.T) error {
			_, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: "opaque"})
			return err
		}, `cannot read the token's claims: token is malformed: token contains an invalid number of segments`, `Mosaic's access tokens are JWTs, so this token comes from elsewhere, or is not an access token.`},
	}},
}

var another, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)

const failed = "mosaic: token request to https://api.eu.transmitsecurity.io/oidc/token for client acme failed"

// parse meets the error of ParsePrivateKey.
func parse(pem string) func(*testing.T) error {
	return func(*testing.T) error { _, err := mosaic.ParsePrivateKey([]byte(pem)); return err }
}

// secretFile meets the error of Files for a secret, without its field and path.
func secretFile(data string) func(*testing.T) error {
	return func(t *testing.T) error { return withoutPath(mosaic.Files{ClientSecret: kit.File(t, data)}) }
}

// certFile meets the error of Files for a certificate, without its field and path.
func certFile(data string) func(*testing.T) error {
	return func(t *testing.T) error {
		return withoutPath(mosaic.Files{Certificate: kit.File(t, data), CertificateKey: kit.File(t, kit.KeyPEM(t, kit.EC()))})
	}
}

func withoutPath(f mosaic.Files) error {
	_, err := f.Credentials(context.Background())
	_, text, _ := strings.Cut(fmt.Sprint(err), `": `)
	return errors.New("mosaic: " + text)
}

// otherKey signs with another key than its Public's.
type otherKey struct {
	crypto.Signer
	public crypto.PublicKey
}

func (k otherKey) Public() crypto.PublicKey { return k.public }

func TestEveryTextThatAUserCanMeet(t *testing.T) {
	kit.NoFIPS(t)
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
		if !slices.ContainsFunc(s.texts, func(tt text) bool { return tt.advice != "" }) {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		if s.intro != "" {
			fmt.Fprintf(&b, "%s\n\n", s.intro)
		}
		for _, tt := range s.texts {
			if tt.advice != "" {
				fmt.Fprintf(&b, "- `%s`\n  %s\n", strings.TrimLeft(tt.want, ": "), tt.advice)
			}
		}
	}
	return b.String()
}
