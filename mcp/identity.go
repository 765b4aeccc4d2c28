package mcp

import (
	"context"
	"net/http"
)

// Anonymous is the subject of requests on carriers without authentication.
// All of them are one principal: whoever can reach the server is trusted alike.
const Anonymous = "anonymous"

// An Identity is who makes a request. Sessions, streams, tasks and state
// handles belong to its Subject.
type Identity struct {
	Subject string   // never empty
	Scopes  []string // what the subject may do; nil when the carrier has no authentication
}

// An Authenticator names the sender of HTTP requests. Implementations must be
// safe for concurrent use.
type Authenticator interface {
	// Authenticate returns who sent req, or an error whose text tells the
	// client what is missing. It must not read the body.
	Authenticate(req *http.Request) (*Identity, error)
}

type identityKey struct{}

// withIdentity returns ctx with the sender of the request.
func withIdentity(ctx context.Context, id *Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// IdentityFrom returns who sent the request that ctx belongs to; on carriers
// without authentication the subject is [Anonymous].
func IdentityFrom(ctx context.Context) Identity {
	if id, ok := ctx.Value(identityKey{}).(*Identity); ok {
		return *id
	}
	return Identity{Subject: Anonymous}
}
