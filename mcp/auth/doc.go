// Package auth decides who sends a request: it is the [mcp.Authenticator] of a
// server that is reachable by others than its owner.
//
//	Authorization: Bearer X ── Guard ─┬─ Tokens:   X is a static token; a file holds its hash
//	                                  └─ Verifier: X is a JWT of an OAuth 2.1 authorization server
//
// Either or both may be configured. Whatever is refused is refused with a
// WWW-Authenticate header that tells a client how to do better (RFC 6750), and,
// with OAuth, where the metadata are from which it finds the authorization
// server (RFC 9728; MCP, "Authorization").
//
// # Static tokens
//
// A static token is 256 random bits that `erlmcp token create` prints once. The
// file keeps its SHA-256 only; since the token has full entropy a slow hash
// would add nothing. See [Token] for the file, and [Tokens] for how changes of
// the file reach a running server.
//
// # OAuth 2.1 resource server
//
// A [Verifier] accepts signed JWTs: signature by a current key of the issuer
// (JWKS, cached, fetched again when an unknown key id appears), issuer,
// audience, expiry, not-before, and algorithms that use public keys only. It
// never forwards a token and never asks the issuer about one.
//
// # Principals
//
// The subject of a static token is what its file says. The subject of a JWT is
// "oauth:" and its sub claim: nobody who can choose a name at the issuer can
// become the owner of a static token, whose subjects must not begin so.
package auth
