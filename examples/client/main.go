// Command client is the quick start from the README. It calls one of Mosaic's APIs and prints the
// status of the response.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"example.com/mosaic"
	"golang.org/x/oauth2"
)

func main() {
	conf := &mosaic.Config{
		ClientID:     os.Getenv("MOSAIC_CLIENT_ID"),
		ClientSecret: os.Getenv("MOSAIC_CLIENT_SECRET"),
		Endpoint:     mosaic.EU, // the region of the credentials
		Logger:       slog.Default(),
	}
	if err := conf.Validate(); err != nil {
		log.Fatal(err)
	}
	base := &http.Client{Timeout: time.Minute}                                              // a token request takes up to 30 s
	client := conf.Client(context.WithValue(context.Background(), oauth2.HTTPClient, base)) // make it once

	resp, err := client.Get(mosaic.EU.URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
}
