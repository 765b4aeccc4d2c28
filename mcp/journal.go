package mcp

import (
	"context"
	"sync/atomic"
)

// An Event is one outbound JSON-RPC message on its way to a peer.
type Event struct {
	// Stream names the call that the message belongs to: the JSON text of its
	// id. It is empty for messages that belong to no call.
	Stream string
	// ID is the position for resumption that the journal gave the message;
	// empty when the journal keeps nothing.
	ID string
	// Data is the message: one JSON text without line breaks. It must not be modified.
	Data []byte
	// Final marks the answer that ends its stream.
	Final bool

	request    bool // a request that the client must answer
	repeatable bool // says nothing new while the same message waits
}

// A Journal decides what of a session outlives the process. Conn calls Commit
// for every outbound message and hands the message to its Sink only after
// Commit returned nil, so a client never sees what a restart would forget.
//
// Implementations must be safe for concurrent use. Conn calls Commit in the
// order of delivery.
type Journal interface {
	// NextRequestID returns the id of the next server-to-client request. Ids
	// never repeat within the life of the session, restarts included: the
	// client may still hold an answer to an old one.
	NextRequestID(ctx context.Context) (int64, error)
	// Commit makes e durable and sets e.ID. When it fails the connection ends
	// and e is not delivered.
	Commit(ctx context.Context, e *Event) error
}

// A Sink carries committed events to the peer. Conn never calls Deliver
// concurrently.
type Sink interface {
	Deliver(ctx context.Context, e Event) error
	// Close releases the carrier. It may be called more than once, and while
	// Deliver is blocked, which must then return.
	Close() error
}

// VolatileJournal keeps nothing: the session ends with its carrier, as on
// stdio. The zero value is ready for use.
type VolatileJournal struct{ last atomic.Int64 }

// NextRequestID implements [Journal]; ids start at 1.
func (j *VolatileJournal) NextRequestID(context.Context) (int64, error) {
	return j.last.Add(1), nil
}

// Commit implements [Journal]; it does nothing.
func (j *VolatileJournal) Commit(context.Context, *Event) error { return nil }
