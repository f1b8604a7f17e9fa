package main

const usage = `Usage:
  mosaic token  [-resource R] [-json]   print a new access token
  mosaic claims [-resource R] [-]       print the claims of a new token, or of a token on standard input
  mosaic jwks                           print the public JWK Set to submit to Mosaic
  mosaic check                          try the configuration, and say what is wrong
  mosaic version                        print the version of this command
  mosaic help                           print the full help

Flags:
  -resource R     verify, risk, xdv or a URI, in place of MOSAIC_RESOURCE; if neither is set, the
                  token is for the default audience
  -json           print access_token, token_type and expiry (RFC 3339, UTC)
  -endpoint E     sandbox, us, eu, ca, au or a base URL, in place of MOSAIC_ENDPOINT
  -client-id ID   the client ID, in place of MOSAIC_CLIENT_ID

Each command takes -endpoint and -client-id, and flags may come before or after the command. Secrets
cannot be arguments: set MOSAIC_CLIENT_SECRET or MOSAIC_CLIENT_SECRET_FILE.
`

const help = `mosaic prints access tokens for Transmit Security's Mosaic, and checks a configuration.

` + usage + `
mosaic token requests a token and prints it on standard output. Nothing is cached, so each run makes a
token request. If standard error is a terminal, mosaic token also shows there when the token expires.
For example, this calls an API with curl, without showing the token in the list of processes:

  mosaic token | sed 's/^/Authorization: Bearer /' |
      curl -H @- https://api.eu.transmitsecurity.io/cis/v1/users

mosaic claims requests a token and prints all of its claims as JSON. If the argument is "-", it reads
a token from standard input instead, with or without a "Bearer" prefix, and needs no configuration.
It does not verify the token, which anybody could have written.

  jq -r .access_token reply.json | mosaic claims -

mosaic jwks prints the public JWK Set (RFC 7517) of the private key and of the certificate, which you
submit in Mosaic's Admin Portal. Nothing in it is secret. mosaic jwks makes no request, so it accepts
any client ID.

  mosaic jwks > jwks.json

mosaic check prints a line for each of these: the configuration, the connection, the clock, a token for
the default audience and for each service, the permissions, the key, and the certificate. Each line
begins with ✓, or with ✗ if something is wrong. A line with ✗ says what is wrong, or why nothing was
checked. The exit status is 1 if the configuration is wrong or if there is no token for the default
audience. It is 0 after any other ✗, even if there is no token for MOSAIC_RESOURCE.

mosaic version, or mosaic -version, prints the version, the revision if the command was built in a
checkout, the version of Go, and whether Go's FIPS 140 mode is on.

Environment:
  MOSAIC_CLIENT_ID             required
  MOSAIC_ENDPOINT              required: sandbox, us, eu, ca, au, or an https URL
  MOSAIC_CLIENT_SECRET         one of these three is required, unless a certificate authenticates
  MOSAIC_CLIENT_SECRET_FILE
  MOSAIC_PRIVATE_KEY_FILE      with MOSAIC_KEY_ID, MOSAIC_SIGNING_ALGORITHM, MOSAIC_ASSERTION_AUDIENCE
  MOSAIC_CERTIFICATE_FILE      with MOSAIC_CERTIFICATE_KEY_FILE, alone or with one of the three
  MOSAIC_RESOURCE              a URI
  MOSAIC_SCOPES, MOSAIC_HOSTS  separated by spaces
  HTTPS_PROXY, SSL_CERT_FILE   as for any Go program

The exit status is 0 after success, 1 after a failure, and 2 after a usage error. After a failure,
nothing is on standard output, except for the lines that mosaic check prints.
`
