module example.com/mosaic

go 1.25.0

require golang.org/x/oauth2 v0.36.0

require github.com/golang-jwt/jwt/v5 v5.3.1
