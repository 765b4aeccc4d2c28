package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
)

const (
	standaloneName   = "0"      // the stream of messages that belong to no call
	maxWaitingEvents = 1000     // kept of a standalone stream: as many as a session may have subscriptions
	maxKeptBytes     = 16 << 20 // kept of one stream; the newest event may be larger
	tailBytes        = 64 << 10 // newest events held in memory too, so that a reader that keeps up reads no rows
	maxUnread        = 64       // events that a connected reader of a call may be behind before the handler waits
	maxUnreadBytes   = 4 << 20  // likewise
	pageEvents       = 64       // read from the store at once, for a reader that does not
	pageBytes        = 1 << 20
)

// errPurged means that events behind a position were removed before they were asked for.
var errPurged = errors.New("mcp: events behind this position were removed")

// errStreamDead means that the stream's session ended.
var errStreamDead = errors.New("mcp: the session of this stream ended")

// A stream carries the messages that belong to one POST request, or, when it
// is the standalone one, those that belong to none.
//
//	put ── commit to the store ── tail ── wake ──> reader: the HTTP response that is open now
//
// It begins quiet: an answer that comes at once goes out as a plain JSON body,
// and nothing is stored, since the client holds no event id to ask again with.
// With the first message before the answer, or when the answer takes too long,
// it becomes durable: from then on every event is committed before a reader
// can see it, and a client that lost its response resumes by event id.
//
// mu is held over the commit, which keeps positions and commits in one order.
type stream struct {
	s     *session
	name  string // that of rec
	prime bool   // the protocol has priming events
	limit int    // events kept

	mu        sync.Mutex
	rec       streamRecord
	durable   bool     // has a row in the store
	done      bool     // the last answer is known
	dead      bool     // the session ended; nothing is committed any more
	batch     bool     // the answers of a quiet stream form an array
	parts     [][]byte // answers of a quiet stream
	kept      []keptEvent
	keptBytes int
	tail      []storedEvent
	tailSize  int
	reader    *reader
	room      sync.Cond // of mu: the reader advanced, or is gone
	delivered int64     // standalone: written to a client up to here; rec.Delivered lags behind
	closing   bool      // the reader is to end its response
	retry     time.Duration
}

// keptEvent is what memory knows of an event in the store.
type keptEvent struct {
	pos  int64
	size int
	sum  uint64 // hash of the message, to find repetitions
}

// A reader is the HTTP response that a stream's events go to.
type reader struct {
	wake chan struct{} // capacity 1: there is something to poll for
	pos  int64         // it polled for what is behind; guarded by stream.mu
}

func newReader() *reader { return &reader{wake: make(chan struct{}, 1)} }

var sumSeed = maphash.MakeSeed()

// eventID names an event within its session.
func eventID(stream string, pos int64) string {
	return stream + "_" + strconv.FormatInt(pos, 10)
}

// parseEventID is the inverse of eventID.
func parseEventID(id string) (stream string, pos int64, ok bool) {
	stream, text, found := strings.Cut(id, "_")
	pos, err := strconv.ParseInt(text, 10, 64)
	if !found || err != nil || pos < 0 || stream == "" || len(stream) > 32 || strings.Contains(stream, "/") {
		return "", 0, false
	}
	return stream, pos, true
}

// put takes one outbound message: an answer to call, or another message. It
// returns when the message can be seen by a reader, which is after its commit.
func (st *stream) put(ctx context.Context, call *Call, ev *Event) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.dead {
		return errStreamDead
	}
	if ev.Final {
		left := slices.DeleteFunc(slices.Clone(st.rec.Calls), func(id json.RawMessage) bool { return bytes.Equal(id, call.rawID) })
		if st.durable {
			err := st.commit(ctx, left, len(left) == 0, ev.Data)
			if errors.Is(err, engine.ErrTooLarge) { // it never could be: the client is told, instead of waiting
				st.s.reg.rt.log.Warn("an answer is too large to be stored", "method", call.Method, "bytes", len(ev.Data), "error", err)
				ev.Data, _ = encodeFailure(call.rawID, &jsonrpc.Error{Code: CodeMessageTooLarge, Message: fmt.Sprintf(
					"the answer has %d bytes, more than the event stream can keep; ask for less", len(ev.Data))})
				err = st.commit(ctx, left, len(left) == 0, ev.Data)
			}
			return err
		}
		st.rec.Calls, st.parts = left, append(st.parts, ev.Data)
		st.done = len(left) == 0
		st.signal()
		return nil
	}
	if !st.durable && st.reader == nil {
		// The client went away before it got an event id: nobody can ever read this.
		if ev.request {
			return rejected("the client closed the response that would carry this request")
		}
		return nil
	}
	if ev.repeatable && st.waiting(ev.Data) {
		return nil
	}
	for st.crowded() {
		st.room.Wait() // a client that takes nothing is given up after stallTimeout
	}
	if st.dead {
		return errStreamDead
	}
	err := st.commit(ctx, st.rec.Calls, false, ev.Data)
	if errors.Is(err, engine.ErrTooLarge) {
		return rejected(fmt.Sprintf("the message has %d bytes, more than the event stream can keep", len(ev.Data)))
	}
	return err
}

// crowded reports whether a call's handler must wait for its client to read.
// st.mu is held.
func (st *stream) crowded() bool {
	if st.reader == nil || st.dead || st.name == standaloneName {
		return false
	}
	n, size := 0, 0
	for i := len(st.kept) - 1; i >= 0 && st.kept[i].pos > st.reader.pos; i-- {
		n++
		size += st.kept[i].size
	}
	return n >= maxUnread || size >= maxUnreadBytes
}

// waiting reports whether the same message is already there for a client that
// is not connected. st.mu is held.
func (st *stream) waiting(data []byte) bool {
	if st.reader != nil {
		return false
	}
	sum := maphash.Bytes(sumSeed, data)
	for _, k := range st.kept {
		if k.pos > st.delivered && k.sum == sum && k.size == len(data) {
			return true
		}
	}
	return false
}

// promote makes a quiet stream durable, so that its client gets an event id to
// resume with. It does nothing when the answer came meanwhile.
func (st *stream) promote(ctx context.Context) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.done || st.durable || st.dead {
		return nil
	}
	return st.commit(ctx, st.rec.Calls, false)
}

// commit stores messages and makes them visible. st.mu is held.
func (st *stream) commit(ctx context.Context, calls []json.RawMessage, done bool, messages ...[]byte) error {
	now := st.s.reg.rt.opts.Now()
	rec := st.rec
	rec.Calls, rec.Done, rec.Delivered = calls, done, st.delivered
	if !st.durable {
		rec.Created, rec.Boot, rec.Next = now.UTC(), st.s.reg.boot, 1
		if st.prime {
			rec.Next = 2 // the first position is the priming event's
		}
		messages = append(slices.Clone(st.parts), messages...)
	}
	change := streamChange{Expiry: now.Add(st.s.reg.rt.opts.EventTTL)}
	kept, size := st.kept, st.keptBytes
	for _, data := range messages {
		change.Add = append(change.Add, storedEvent{Pos: rec.Next, Prev: rec.Last, Data: data})
		kept = append(kept, keptEvent{rec.Next, len(data), maphash.Bytes(sumSeed, data)})
		size += len(data)
		rec.Last = rec.Next
		rec.Next++
	}
	for len(kept) > 1 && (len(kept) > st.limit || size > maxKeptBytes) && (st.name == standaloneName || st.read(kept[0].pos)) {
		change.Drop = append(change.Drop, kept[0].pos)
		size -= kept[0].size
		kept = kept[1:]
	}
	change.Record = rec
	if err := st.s.reg.store.commit(ctx, st.s.id, change); err != nil {
		return err
	}
	st.rec, st.kept, st.keptBytes = rec, kept, size
	st.durable, st.done, st.parts = true, done, nil
	st.remember(change.Add)
	st.s.reg.rt.stats.events.Add(uint64(len(change.Add)))
	st.signal()
	return nil
}

// read reports whether nobody who is connected still needs the event at pos.
// st.mu is held.
func (st *stream) read(pos int64) bool { return st.reader == nil || pos <= st.reader.pos }

// remember keeps the newest events in memory. st.mu is held.
func (st *stream) remember(events []storedEvent) {
	for _, ev := range events {
		st.tail = append(st.tail, ev)
		st.tailSize += len(ev.Data)
	}
	for len(st.tail) > 0 && (st.tailSize > tailBytes || len(st.tail) > pageEvents) {
		st.tailSize -= len(st.tail[0].Data)
		st.tail = st.tail[1:]
	}
}

// signal wakes the reader. st.mu is held.
func (st *stream) signal() {
	st.room.Broadcast()
	if st.reader == nil {
		return
	}
	select {
	case st.reader.wake <- struct{}{}:
	default:
	}
}

// attach makes r, which reads behind pos, the stream's reader; the one before
// ends its response.
func (st *stream) attach(r *reader, pos int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r.pos = pos
	st.signal() // it finds that it is not the reader any more
	st.reader, st.closing = r, false
}

// detach ends r's turn. What it delivered of a standalone stream is written
// down, for the reader of another day.
func (st *stream) detach(ctx context.Context, r *reader) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.reader != r {
		return nil
	}
	st.reader, st.closing = nil, false
	st.room.Broadcast()
	if st.dead || st.delivered == st.rec.Delivered {
		return nil
	}
	return st.commit(ctx, st.rec.Calls, st.done)
}

// hangUp asks the reader to end its response; the stream goes on.
func (st *stream) hangUp(ctx context.Context, retry time.Duration) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.done || st.dead || st.reader == nil || !st.prime {
		return nil // without an event id the client could not come back
	}
	if !st.durable {
		if err := st.commit(ctx, st.rec.Calls, false); err != nil {
			return err
		}
	}
	st.closing, st.retry = true, retry
	st.signal()
	return nil
}

// kill ends the stream with its session.
func (st *stream) kill() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.dead = true
	st.signal()
}

// progress takes a fresh position and returns it: a client that reconnects
// again and again while nothing happens must see its event id move, or it
// takes the server for broken and gives up.
func (st *stream) progress(ctx context.Context) (int64, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.dead {
		return 0, errStreamDead
	}
	if st.done {
		return st.rec.Next - 1, nil
	}
	st.rec.Next++
	if err := st.commit(ctx, st.rec.Calls, false); err != nil {
		return 0, err
	}
	return st.rec.Next - 1, nil
}

// knows reports whether position pos was ever given out.
func (st *stream) knows(pos int64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.durable && pos < st.rec.Next
}

// finished reports whether the last answer is known.
func (st *stream) finished() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.done
}

// unanswered returns the ids of the calls that have no answer yet.
func (st *stream) unanswered() []json.RawMessage {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.rec.Calls
}

// begin tells a reader that resumes behind pos whether it can: errPurged if an
// event between pos and now is gone.
func (st *stream) begin(ctx context.Context, pos int64) (behind bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.rec.Last <= pos {
		return false, nil
	}
	events, err := st.after(ctx, pos)
	if err != nil {
		return false, err
	}
	if len(events) == 0 || events[0].Prev > pos {
		return true, errPurged
	}
	return true, nil
}

// start returns the position from which a client without an event id reads a
// standalone stream: behind what any client got, and behind what is gone.
func (st *stream) start(ctx context.Context) (pos int64, behind bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.rec.Last <= st.delivered {
		return st.delivered, false, nil
	}
	events, err := st.after(ctx, st.delivered)
	if err != nil || len(events) == 0 {
		return st.rec.Last, false, err
	}
	return max(st.delivered, events[0].Prev), true, nil
}

// An outcome is what a reader does next.
type outcome struct {
	durable bool
	first   int64         // position of the priming event
	parts   [][]byte      // all answers of a stream that stayed quiet
	batch   bool          // parts form an array
	events  []storedEvent // to be written next
	end     bool          // nothing follows on this response
	closing bool          // a handler wants the client to come back after retry
	retry   time.Duration
}

// poll returns what the reader must write behind position pos.
func (st *stream) poll(ctx context.Context, r *reader, pos int64) (out outcome, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.dead || st.reader != r {
		return outcome{durable: true, end: true}, nil
	}
	if pos > r.pos {
		r.pos = pos
		st.room.Broadcast()
	}
	if !st.durable {
		if st.done {
			return outcome{parts: st.parts, batch: st.batch, end: true}, nil
		}
		return outcome{}, nil
	}
	out = outcome{durable: true}
	if st.prime {
		out.first = 1
	}
	if st.rec.Last > pos {
		if out.events, err = st.after(ctx, pos); err != nil {
			return out, err
		}
		switch {
		case len(out.events) == 0:
			pos = st.rec.Last // all removed by age
		case out.events[0].Prev > pos:
			return out, errPurged // the reader is too slow to get them all
		default:
			pos = out.events[len(out.events)-1].Pos
		}
	}
	caughtUp := pos >= st.rec.Last
	out.end = st.done && caughtUp
	if st.closing && caughtUp && !out.end {
		out.closing, out.retry = true, st.retry
		st.closing = false
	}
	return out, nil
}

// after returns events behind pos, from memory if they are there. st.mu is held.
func (st *stream) after(ctx context.Context, pos int64) ([]storedEvent, error) {
	i := slices.IndexFunc(st.tail, func(e storedEvent) bool { return e.Pos > pos })
	if i > 0 || i == 0 && st.tail[0].Prev <= pos {
		return slices.Clone(st.tail[i:]), nil
	}
	return st.s.reg.store.events(ctx, st.s.id, st.rec.Name, pos, pageEvents, pageBytes)
}

// wrote notes that a client got everything up to pos.
func (st *stream) wrote(pos int64) {
	if st.name != standaloneName {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.delivered = max(st.delivered, pos)
}

// joinParts makes one JSON body of the answers.
func joinParts(parts [][]byte, batch bool) []byte {
	if !batch {
		return parts[0]
	}
	return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
}
