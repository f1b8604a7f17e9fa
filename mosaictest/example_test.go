package mosaictest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// A test of code that calls an API of Mosaic's: the stand-in takes the place of
// the endpoint, and sees what arrives.
func Example() {
	srv := mosaictest.NewServer()
	defer srv.Close()

	cfg := srv.Config()
	cfg.Resource = mosaic.FraudPrevention
	client := cfg.Client(srv.Context(context.Background()))

	resp, err := client.Get(srv.Endpoint().URL("/risk/v1/recommendation"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	var saw struct{ Path, Audience string }
	if err := json.NewDecoder(resp.Body).Decode(&saw); err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Status, saw.Path, saw.Audience)
	fmt.Println(len(srv.TokenRequests()), "token request")
	// Output:
	// 200 OK /risk/v1/recommendation https://risk.identity.security
	// 1 token request
}

// An API of Mosaic's as the code under test expects it, behind the check of the
// token.
func ExampleServer_Handle() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.Handle("GET /cis/v1/users/{id}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"user_id":%q}`, r.PathValue("id"))
	}))

	client := srv.Config().Client(srv.Context(context.Background()))
	resp, err := client.Get(srv.Endpoint().URL("/cis/v1/users/17"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	var user struct {
		ID string `json:"user_id"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&user); err != nil {
		log.Fatal(err)
	}
	fmt.Println(user.ID)
	// Output: 17
}

// An outage of the token endpoint, with an HTML page from the network's edge,
// and its end.
func ExampleServer_Fail() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	post := func() string {
		cfg := srv.Config()
		resp, err := srv.Client().PostForm(cfg.Endpoint.TokenURL(), map[string][]string{
			"grant_type":    {"client_credentials"},
			"client_id":     {cfg.ClientID},
			"client_secret": {cfg.ClientSecret},
		})
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return resp.Status
	}

	srv.Fail(mosaictest.Fault{
		Status: http.StatusServiceUnavailable,
		Header: http.Header{"Content-Type": {"text/html"}, "Retry-After": {"120"}},
		Body:   "<html>",
	})
	fmt.Println(post())
	srv.Heal()
	fmt.Println(post())
	// Output:
	// 503 Service Unavailable
	// 200 OK
}
