package main

const usage = `Usage:
  mosaic token  [-resource R] [-json]   print a new access token
  mosaic claims [-resource R] [-]       print the claims of a new token, or of one on standard input
  mosaic jwks                           print the public JWK Set to submit to Mosaic
  mosaic check                          try the configuration, and say what is wrong
  mosaic help                           print the full help

Flags:
  -resource R     verify, risk, xdv or a URI, in place of MOSAIC_RESOURCE; without both: the default audience
  -json           print access_token, token_type and expiry (RFC 3339, UTC)
  -endpoint E     any command: sandbox, us, eu, ca, au or a base URL, in place of MOSAIC_ENDPOINT
  -client-id ID   any command: in place of MOSAIC_CLIENT_ID

Flags may stand before or after the command. A secret is never an argument: set MOSAIC_CLIENT_SECRET
or MOSAIC_CLIENT_SECRET_FILE.
`

const help = `mosaic prints access tokens for Transmit Security's Mosaic, and checks a configuration.

` + usage + `
mosaic token requests a token and prints it on standard output. Nothing is cached: each call is a
token request. If standard error is a terminal, it shows when the token expires. To call an API with
curl, without the token in the process list:

  mosaic token | sed 's/^/Authorization: Bearer /' |
      curl -H @- https://api.eu.transmitsecurity.io/cis/v1/users

mosaic claims requests a token and prints all of its claims as JSON. With "-" it reads a token from
standard input, with or without "Bearer" in front, and needs no configuration. It does not verify the
token: anybody can have written it.

  jq -r .access_token reply.json | mosaic claims -

mosaic jwks prints the public JWK Set (RFC 7517) of the private key and the certificate, for Mosaic's Admin
Portal. Nothing in it is secret. It makes no request; any client ID will do.

  mosaic jwks > jwks.json

mosaic check prints a line for each of these, with ✓, or with ✗ and what to do: the configuration, the connection, the
clock, a token for the default audience and for each service, permissions, the key, the certificate.
Its exit status is 1 if the configuration or the token for the default audience fails. Any other ✗
leaves it 0, also that of MOSAIC_RESOURCE.

Environment:
  MOSAIC_CLIENT_ID             required
  MOSAIC_ENDPOINT              required: sandbox, us, eu, ca, au, or an https URL
  MOSAIC_CLIENT_SECRET         one of these three, or only a certificate
  MOSAIC_CLIENT_SECRET_FILE
  MOSAIC_PRIVATE_KEY_FILE      with MOSAIC_KEY_ID, MOSAIC_SIGNING_ALGORITHM, MOSAIC_ASSERTION_AUDIENCE
  MOSAIC_CERTIFICATE_FILE      with MOSAIC_CERTIFICATE_KEY_FILE; alone, or beside one of the three
  MOSAIC_RESOURCE              a URI
  MOSAIC_SCOPES, MOSAIC_HOSTS  separated by spaces
  HTTPS_PROXY, SSL_CERT_FILE   as for any Go program

Exit status: 0 after success, 1 after a failure, 2 after wrong usage. After a failure only check has
written to standard output.
`
