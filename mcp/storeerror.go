package mcp

import (
	"errors"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
)

// This file gives failures of the store the codes that clients know: whatever
// refused without writing anything is CodeOverloaded, so that a client tries
// again later; a change whose outcome is unknown never is.

// refusedByStore reports whether the store refused for now and wrote nothing.
func refusedByStore(err error) bool {
	if errors.Is(err, engine.ErrUnknownOutcome) {
		return false
	}
	for _, refusal := range []error{errMoved, engine.ErrOverloaded, engine.ErrNoSpace, engine.ErrUnavailable, engine.ErrConflict} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// overloadedStore is the answer to what the store refused.
func overloadedStore(err error) *wireError {
	return refuse(http.StatusServiceUnavailable, CodeOverloaded, "overloaded: the store takes no changes now (%v); try again later", err)
}

// storeError gives a failure of a transaction on tasks its code.
func storeError(err error) error {
	switch {
	case errors.Is(err, errIdemMismatch):
		return invalidParams("%v; use a new key for a new call", errIdemMismatch)
	case errors.Is(err, ErrNoTask):
		return invalidParams("no such task: the id is wrong, belongs to somebody else, or the task ended and its result was kept for its time")
	case refusedByStore(err):
		return overloadedStore(err).rpc()
	}
	return err
}

// storeRefusal is the answer of HTTP when a session cannot be read or stored.
func storeRefusal(err error) *wireError {
	if refusedByStore(err) {
		return overloadedStore(err)
	}
	return refuse(http.StatusInternalServerError, jsonrpc.CodeInternalError,
		"the session could not be read or stored: %v; try again", err)
}
