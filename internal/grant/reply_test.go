package grant_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/identity"
)

// Status 409 has no hint of its own.
func TestWhatIsShownOfAReply(t *testing.T) {
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhY21lIiwiZXhwIjoxfQ.c2lnbmF0dXJlIG9mIDMyIGJ5dGVz"
	long := strings.Repeat("word ", 80)
	for _, tt := range []struct {
		name, header, body string
		line               string // after the status
		shown              string // the RetrieveError's Body
	}{
		{"code and description", jsonType, `{"error":"odd_code","error_description":"no such client","error_uri":"https://acme.com/odd"}`, `: odd_code, "no such client"`, `{"error":"odd_code","error_description":"no such client"}`},
		{"a code", jsonType, `{"error":"odd_code"}`, `: odd_code`, `{"error":"odd_code"}`},
		{"a code that begins as the secret", jsonType, `{"error":"plain_secretless"}`, `: plain_secretless`, `{"error":"plain_secretless"}`},
		{"a description without a code", jsonType, `{"error_description":"no"}`, `: "no"`, `{"error_description":"no"}`},
		{"a code of another form", jsonType, `{"error":"Odd Code","error_description":"no"}`, `: "no"`, `{"error_description":"no"}`},
		{"a code of 64 letters", jsonType, `{"error":"` + strings.Repeat("a", 64) + `"}`, `: ` + strings.Repeat("a", 64), `{"error":"` + strings.Repeat("a", 64) + `"}`},
		{"a code of 65 letters", jsonType, `{"error":"` + strings.Repeat("a", 65) + `"}`, ``, `{}`},
		{"a code and Mosaic's message", jsonType, `{"error":"odd_code","message":"not here"}`, `: odd_code, "not here"`, `{"error":"odd_code","message":"not here"}`},
		{"the description before the message", jsonType, `{"error":"odd_code","error_description":"d","message":"m"}`, `: odd_code, "d"`, `{"error":"odd_code","error_description":"d"}`},
		{"Mosaic's message", jsonType, `{"message":"not here","error_code":409}`, `: "not here"`, `{"message":"not here"}`},
		{"messages", jsonType, `{"message":["one","","two",3,["four"],"100%"],"error_code":"E-409"}`, `: "one; two; [withheld]"`, `{"message":"one; two; [withheld]"}`},
		{"messages, of several lines", jsonType, `{"message":["one\nmore"," \n","two"]}`, `: "one [withheld]; two"`, `{"message":"one [withheld]; two"}`},
		{"a message of another type", jsonType, `{"message":{"a":"b"},"error_code":["x"]}`, ``, `{}`},
		{"a long message", jsonType, `{"message":"` + long + `"}`, `: "` + long[:297] + `…"`, `{"message":"` + long[:297] + `…"}`},
		{"long messages", jsonType, `{"message":["` + long[:199] + `","` + long[:199] + `","more"]}`, `: "` + long[:199] + "; " + long[:96] + `…"`, `{"message":"` + long[:199] + "; " + long[:96] + `…"}`},
		{"the secret and a token", jsonType, `{"error":"odd_code","error_description":"plain-secret_0123 and ` + jwt + `."}`, `: odd_code, "[redacted] and [redacted].[redacted].[redacted]."`, `{"error":"odd_code","error_description":"[redacted] and [redacted].[redacted].[redacted]."}`},
		{"an escape", jsonType, `{"error":"odd_code","error_description":"a b\\nc"}`, `: odd_code, "a [withheld]"`, `{"error":"odd_code","error_description":"a [withheld]"}`},
		{"several lines", jsonType, `{"error":"odd_code","error_description":"no such\nclient"}`, `: odd_code, "no such [withheld]"`, `{"error":"odd_code","error_description":"no such [withheld]"}`},
		{"problem details", "Content-Type: application/problem+json", `{"type":"about:blank","title":"Conflict","detail":"no such client"}`, `: "no such client"`, `{"message":"no such client"}`},
		{"problem details without detail", "Content-Type: application/problem+json", `{"title":"Conflict","detail":null,"status":409}`, `: "Conflict"`, `{"message":"Conflict"}`},
		{"an object under error", jsonType, `{"error":{"code":409,"message":"no such client"}}`, `: "no such client"`, `{"message":"no such client"}`},
		{"a list under errors", jsonType, `{"success":false,"errors":["E",{"code":1},{"message":"no such client"},{"message":"more"}]}`, `: "no such client"`, `{"message":"no such client"}`},
		{"an object under errors", jsonType, `{"errors":{"message":"no"}}`, ``, `{}`},
		{"the message before the detail", jsonType, `{"title":"t","detail":"d","message":"m"}`, `: "m"`, `{"message":"m"}`},
		{"the detail before the error's message", jsonType, `{"error":{"message":"e"},"errors":[{"message":"es"}],"detail":"d"}`, `: "d"`, `{"message":"d"}`},
		{"JSON that is no object", jsonType, `["odd_code"]`, ``, `{}`},
		{"JSON of another type", "Content-Type: text/html", `{"error":"odd_code"}`, `: odd_code`, `{"error":"odd_code"}`},
		{"JSON as text", "Content-Type: text/plain", `{"error":"odd_code","error_description":"a+b"}`, `: odd_code, "a+b"`, `{"error":"odd_code","error_description":"a+b"}`},
		{"JSON as a form", "Content-Type: application/x-www-form-urlencoded", `{"error":"odd_code"}`, `: odd_code`, `{"error":"odd_code"}`},
		{"JSON as text, with no known member", "Content-Type: text/plain", `{"fault":"no"}`, ``, `{}`},
		{"a form", "Content-Type: application/x-www-form-urlencoded", "error=odd_code&error_description=no+such", `: odd_code, "no such"`, `{"error":"odd_code","error_description":"no such"}`},
		{"a form as text", "Content-Type: text/plain", "error=odd_code", `: odd_code`, `{"error":"odd_code"}`},
		{"text", "Content-Type: text/plain; charset=utf-8", " RBAC: access denied\n", `: "RBAC: access denied"`, `{"message":"RBAC: access denied"}`},
		{"text of two lines", "Content-Type: text/plain", "RBAC:\ndenied", `: "RBAC: [withheld]"`, `{"message":"RBAC: [withheld]"}`},
		{"text without a type", "", "RBAC: access denied", ``, `{}`},
		{"a page", "Content-Type: text/html", "<p>no</p>", `: an HTML page: does a proxy or a firewall answer in Mosaic's place?`, `{}`},
		{"a Server that is not JSON", "Server: envoy", "", `, server envoy`, `{}`},
		{"a Server with JSON", "Server: envoy\r\n" + jsonType, "{}", ``, `{}`},
		{"a long Server", "Server: " + long, "", `, server ` + long[:61] + `…`, `{}`},
		{"a request ID", "X-Correlation-Id: b-2\r\nX-Request-Id: a=1_.:-", "", `, request ID a=1_.:-`, `{}`},
		{"a request ID in another header", "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nCf-Ray: 8c1f-FRA", "", `, request ID 8c1f-FRA`, `{}`},
		{"a request ID with the secret", "X-Request-Id: plain-secret_0123", "", ``, `{}`},
		{"everything", "X-Azure-Ref: r1\r\nServer: nginx\r\nContent-Type: text/plain", "no", `, request ID r1, server nginx: "no"`, `{"message":"no"}`},
		{"a compressed text", "Content-Type: text/plain\r\nContent-Encoding: br\r\nServer: nginx", "\x0b\x02\x80no\x03", `, server nginx, a body that is not text in UTF-8, Content-Encoding br`, `{}`},
		{"bytes", "Content-Type: application/octet-stream", "a\x00b", `, a body that is not text in UTF-8`, `{}`},
		{"Latin-1", "Content-Type: text/plain", "refus\xe9", `, a body that is not text in UTF-8`, `{}`},
		{"a Content-Encoding with the secret", "Content-Encoding: plain-secret_0123", "\xff", `, a body that is not text in UTF-8, Content-Encoding [redacted]`, `{}`},
		{"all white space", "Content-Type: text/plain", " a\tb\v\f\r\n", `: "[withheld]"`, `{"message":"[withheld]"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stub := &kit.Stub{Replies: []string{kit.Reply("409 Words "+jwt, tt.header, tt.body)}}
			failure := fail(t, t.Context(), newClientOf(t, stub, &identity.Credentials{Secret: "plain-secret_0123"}))
			if want := failed + ": 409 Conflict" + tt.line; failure.Error() != want {
				t.Errorf("got  %v\nwant %s", failure, want)
			}
			var reply *oauth2.RetrieveError
			if !errors.As(failure, &reply) {
				t.Fatal("errors.As finds no RetrieveError")
			}
			if string(reply.Body) != tt.shown || reply.ErrorURI != "" || reply.Response.Status != "409 Conflict" {
				t.Errorf("got Body %s, URI %q, status %q; want Body %s, no URI", reply.Body, reply.ErrorURI, reply.Response.Status, tt.shown)
			}
			var members struct {
				Code        string `json:"error"`
				Description string `json:"error_description"`
			}
			if err := json.Unmarshal(reply.Body, &members); err != nil || reply.ErrorCode != members.Code || reply.ErrorDescription != members.Description {
				t.Errorf("got code %q and description %q; want those of Body %s", reply.ErrorCode, reply.ErrorDescription, reply.Body)
			}
			request := &http.Request{Method: http.MethodPost, URL: reply.Response.Request.URL}
			if !reflect.DeepEqual(reply.Response.Request, request) || request.URL.String() != "https://api.acme.com/oidc/token" {
				t.Errorf("got request %+v; want its method and its URL alone", reply.Response.Request)
			}
			if rest, err := io.ReadAll(reply.Response.Body); len(rest) != 0 || err != nil {
				t.Errorf("got a body of %d bytes, error %v; want an empty one", len(rest), err)
			}
		})
	}
}

func TestJSONIsReadWhateverItsTypeIs(t *testing.T) {
	for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "text/html", "", "application/json; charset=utf-8"} {
		token := kit.Reply("200 OK", "Content-Type: "+media, `{"access_token":"opaque",`+usable+`}`)
		if tok, failure := request(t, t.Context(), newClient(t, &kit.Stub{Replies: []string{token}})); failure != nil || tok.AccessToken != "opaque" {
			t.Errorf("%q: got error %v; want the token", media, failure)
		}
		refusal := kit.Reply("200 OK", "Content-Type: "+media, `{"error":"odd_code"}`)
		if failure := fail(t, t.Context(), newClient(t, &kit.Stub{Replies: []string{refusal}})); failure.Error() != failed+": 200 OK: odd_code" {
			t.Errorf("%q: got %v; want the code", media, failure)
		}
	}
}

func TestTheHeadersThatAreReachable(t *testing.T) {
	const kept = "Content-Type: text/html\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nServer: envoy\r\nVia: 1.1 varnish\r\nX-Request-Id: a\r\nCf-Ray: b"
	header := strings.Replace(kept, "text/html", "text/html; charset="+secret, 1) + "\r\nRetry-After: 60 %41\r\nX-Amzn-Requestid: <b>\r\nSet-Cookie: a=b\r\nX-Echo: 1\r\nLocation: /"
	failure := fail(t, t.Context(), newClient(t, &kit.Stub{Replies: []string{kit.Reply("409 x", header, "")}}))
	var reply *oauth2.RetrieveError
	if !errors.As(failure, &reply) {
		t.Fatal("errors.As finds no RetrieveError")
	}
	var got []string
	for _, name := range slices.Sorted(maps.Keys(reply.Response.Header)) {
		got = append(got, name+": "+reply.Response.Header.Get(name))
	}
	want := append(strings.Split(kept, "\r\n"), "Retry-After: 60 [withheld]")
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestNothingThatAServerEchoesOfTheSecretIsReachable(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhY21lIiwiZXhwIjoxNzAwMDAwMDAwfQ.c2lnbmF0dXJl0123456789"
	toJSON := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	for _, secret := range []string{secret, "plain-secret_0123456789", `"quoted" 'too' <tag/> C:\new`, "geheimschlüssel日本", "8letters", "correcthorsebattery", "CorrectHorseBattery", "correct horse battery staple", "8374650192"} {
		form := url.Values{"client_id": {"acme"}, "client_secret": {secret}}.Encode()
		for spelling, text := range map[string]string{
			"form":   form + "&t=" + token,
			"text":   "secret: " + secret + " token: " + token,
			"HTML":   "<input value='" + html.EscapeString(secret) + "'><pre>" + html.EscapeString(form) + "</pre><p>" + token,
			"JSON":   toJSON(map[string]string{"client_secret": secret, "form": form, "token": token}),
			"base64": base64.StdEncoding.EncodeToString([]byte(form)),
			"case":   strings.ToUpper("secret: " + secret),
		} {
			members := map[string]any{"error": "odd_code", "error_description": text, "error_uri": text}
			for place, reply := range map[string]string{
				"page":        kit.Reply("400 Bad Request", "Content-Type: text/html", text),
				"text":        kit.Reply("400 Bad Request", "Content-Type: text/plain", text),
				"no type":     kit.Reply("400 Bad Request", "", text),
				"far behind":  kit.Reply("500 Oops", "Content-Type: text/plain", strings.Repeat(". ", 150-len(secret)/4)+text),
				"members":     kit.Reply("400 Bad Request", jsonType, toJSON(members)),
				"code":        kit.Reply("400 Bad Request", jsonType, toJSON(map[string]any{"error": "no_" + strings.ToLower(secret)})),
				"problem":     kit.Reply("400 Bad Request", jsonType, toJSON(map[string]any{"detail": text})),
				"error":       kit.Reply("400 Bad Request", jsonType, toJSON(map[string]any{"error": map[string]string{"message": text}})),
				"encoding":    kit.Reply("400 Bad Request", "Content-Encoding: "+text, "\xff"),
				"message":     kit.Reply("400 Bad Request", jsonType, toJSON(map[string]any{"message": []string{"a", text}, "error": text})),
				"form":        kit.Reply("400 Bad Request", "Content-Type: application/x-www-form-urlencoded", url.Values{"error": {text}, "error_description": {text}}.Encode()),
				"status 200":  kit.Reply("200 OK", jsonType, toJSON(map[string]string{"error": text, "error_description": text, "access_token": token})),
				"header":      kit.Reply("400 Bad Request", "Server: "+text+"\r\nVia: "+text+"\r\nX-Request-Id: "+secret+"\r\nX-Echo: "+text, ""),
				"trailer":     "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\n\r\n0\r\nX-Echo: " + text + "\r\n\r\n",
				"status line": kit.Reply("400 "+text, "", ""),
				"Location":    kit.Reply("302 "+text, "Location: https://"+text, ""),
				"no JSON":     kit.Reply("200 "+text, "", text),
				"token_type":  kit.TokenReply("opaque", usable+`,"token_type":`+toJSON(text)),
				"expires_in":  kit.TokenReply("opaque", `"expires_in":`+toJSON(text)),
				"no HTTP":     text,
			} {
				kit.Run(t, secret[:8]+"/"+spelling+"/"+place, func(t *testing.T) {
					failure := fail(t, t.Context(), newClientOf(t, &kit.Stub{Replies: []string{reply}}, &identity.Credentials{Secret: secret}))
					kit.NoSecret(t, failure, secret, "c2lnbmF0dXJl", "eyJzdWIi", strings.Trim(toJSON(secret), `"`), strings.ToLower(secret), strings.ToUpper(secret), url.QueryEscape(secret), html.EscapeString(secret),
						base64.StdEncoding.EncodeToString([]byte(form))[:20])
				})
			}
		}
	}
}

// The golden table of internal/behaviour has the others.
func TestAReplyHasTheHintOfItsCodeOrStatus(t *testing.T) {
	for _, tt := range []struct{ name, reply, hint string }{
		{"invalid_client with 400", kit.Reply("400 x", jsonType, `{"error":"invalid_client"}`), "check ClientID and ClientSecret"},
		{"XHTML with 200", kit.Reply("200 x", "Content-Type: application/xhtml+xml", "<p>"), "an HTML page"},
		{"404 with JSON", kit.Reply("404 x", jsonType, `{}`), "unknown path"},
		{"a page of 5xx", kit.Reply("502 x", "Content-Type: text/html", "<p>"), "a fault on Mosaic's side"},
		{"a page of 429", kit.Reply("429 x", "Content-Type: text/html", "<p>"), "rate limit"},
		{"a page of 400, without a certificate", kit.Reply("400 x", "Content-Type: text/html", "<p>"), "set Certificate"},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			if failure := fail(t, t.Context(), newClient(t, &kit.Stub{Replies: []string{tt.reply}})); !strings.Contains(failure.Error(), tt.hint) {
				t.Errorf("got %v; want %q in it", failure, tt.hint)
			}
		})
	}
}
