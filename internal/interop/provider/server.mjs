// oidc-provider with an API beside it, at one address as Mosaic's are. The arguments are a folder with
// the server's key and certificate, and with the CA of clients, and the lifetime of tokens in seconds.
// The end of standard input ends it.
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { json } from 'node:stream/consumers';
import { exportJWK, generateKeyPair, jwtVerify } from 'jose';
import { Provider } from 'oidc-provider';

const read = (name) => readFileSync(`${process.argv[2]}/${name}`);
const server = createServer({
  key: read('key.pem'),
  cert: read('cert.pem'),
  ca: read('ca.pem'),
  requestCert: true,
  rejectUnauthorized: false, // a self-signed one is looked up in the client's JWK Set
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `https://127.0.0.1:${server.address().port}`;

const { publicKey, privateKey } = await generateKeyPair('RS256', { extractable: true });

// A front that ends TLS has verified the certificate, and passes it on: nginx as PEM with the escapes
// of a URL, HAProxy as DER in base64.
const forwarded = (req) => req.headers['x-client-cert'];
const certificate = (req) => {
  const text = forwarded(req);
  if (!text) return req.socket.getPeerX509Certificate();
  return new X509Certificate(text.startsWith('-----') ? decodeURIComponent(text) : Buffer.from(text, 'base64'));
};

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'RS256' }] },
  routes: { token: '/oidc/token' },
  clientAuthMethods: ['client_secret_post', 'client_secret_basic', 'private_key_jwt', 'tls_client_auth', 'self_signed_tls_client_auth'],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    fapi: { enabled: true, profile: (ctx) => (ctx.oidc.body?.client_id?.includes('FAPI') ? '2.0' : undefined) },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      selfSignedTlsClientAuth: true,
      tlsClientAuth: true,
      getCertificate: (ctx) => certificate(ctx.req),
      certificateAuthorized: (ctx) => forwarded(ctx.req) !== undefined || ctx.req.socket.authorized,
      certificateSubjectMatches: (ctx, property, value) => certificate(ctx.req).subject === value,
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => issuer,
      getResourceServerInfo: (ctx, resource) => ({
        scope: '',
        audience: resource,
        accessTokenFormat: 'jwt',
        accessTokenTTL: Number(process.argv[3]),
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});

// api accepts a token of its audience, over a connection of the certificate in cnf.
async function api(req, res) {
  const audience = req.url.startsWith('/risk/') ? 'https://risk.identity.security' : issuer;
  try {
    const token = req.headers.authorization?.replace('Bearer ', '');
    const { payload } = await jwtVerify(token, publicKey, { issuer, audience, typ: 'at+jwt' });
    const bound = payload.cnf?.['x5t#S256'];
    if (bound && bound !== createHash('sha256').update(certificate(req)?.raw ?? '').digest('base64url')) {
      throw new Error('the token is bound to a different certificate');
    }
    res.end();
  } catch (err) {
    res.writeHead(401, { 'WWW-Authenticate': 'Bearer error="invalid_token"' }).end(err.message);
  }
}

server.on('request', async (req, res) => {
  if (req.method === 'PUT') { // the test registers a client
    const client = await json(req);
    await provider.Client.adapter.upsert(client.client_id, client);
    res.end();
  } else if (req.method === 'POST') {
    req.url = req.url.replace('/cis/oidc/', '/oidc/'); // the path for mTLS in Mosaic's guide
    provider.callback()(req, res);
  } else {
    await api(req, res);
  }
});

process.stdin.resume().on('end', () => process.exit());
console.log(issuer);
