// Package engine is a transactional, ordered key-value store that loses nothing it acknowledged.
//
// A store is one directory owned by one process. It holds tables of key -> value rows, secondary
// indexes, idempotency records and deadlines, and answers with serializable transactions:
//
//	store, err := engine.Open(dir, engine.Options{})
//	res, err := store.Update(ctx, func(tx *engine.Tx) error {
//		v, err := tx.Get("stock", []byte("bolt"))
//		...
//		return tx.Put("stock", []byte("bolt"), v)
//	}, engine.WithActor("mcp:claude"), engine.WithIdempotencyKey(key, hash))
//
// # The way of a write
//
//	Update(fn) ── fn reads one consistent version, collects puts and deletes
//	   │
//	write set  ── what was read (row versions, scanned ranges), what is to change, who, when, which key
//	   │
//	sequencer  ── refuses at once what recent or pending writes have already made stale
//	   │
//	Committer  ── the log: durable (one fdatasync for all waiting writers), in a replicated store on a quorum
//	   │
//	Apply      ── one goroutine, in log order: check the reads again, one Pebble batch with the applied
//	   │          index inside, in-memory indexes, state hash
//	   │
//	 answer    ── only now, so a client reads its own writes
//
// The log carries effects, never business logic: replay does not run fn again.
//
// # What always holds
//
//   - Log first. A row reaches Pebble only after its log entry is durable. Pebble's own log is off; its
//     flushed state is an exact prefix of the applied batches, and the applied index is in every batch,
//     so the row says where replay starts.
//   - One decision. Whether a write set is applied is a pure function of the log and of the state before it:
//     equal on every node and after every restart. A write set that is refused leaves a marker row.
//   - One version per transaction. Every read of a transaction, point, scan or index, sees the same index.
//   - No phantoms. Scans are read conflicts too: a row that appears in a scanned range refuses the transaction.
//   - Nobody's clock decides alone. Time enters through write sets; expired rows stay visible until
//     their logged removal is applied.
//   - Bounded everything. The commit queue, the un-flushed log and the retained log have limits; beyond them
//     callers get ErrOverloaded or ErrNoSpace at once.
//   - Fail-stop. After a failed fsync or an inconsistency nothing is acknowledged any more: Failed() is closed
//     and the process must exit.
//
// # Who owns what
//
// The apply loop (one goroutine, started by the single-node committer, or the caller of Apply) is the only
// writer of Pebble rows, indexes and the applied index. The flusher owns flushing and log truncation. The
// sweeper proposes removals of expired rows through Update like any other client. Everybody else only reads.
//
// The exact bytes on disk are in format.go and docs/format.md.
package engine
