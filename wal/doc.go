// Package wal is a segmented, hash-chained write-ahead log: the only fsync on
// the write path of everything above it.
//
// It stores entries (index, term, type, bytes) and knows nothing about keys.
// Concurrent appends share one group commit: appenders encode their records
// into the open batch while the previous batch is in fdatasync; one committer
// goroutine closes the batch, chains it, writes it with a single pwrite and a
// single fdatasync, and only then tells the appenders.
//
//	appenders ──encode──> open batch ──┐ swap
//	                                   v
//	committer: trailer + chain -> pwrite -> fdatasync -> publish -> complete -> end mark
//
// # Invariants
//
//   - A batch is never written before the fdatasync of the previous one has
//     returned, so anything valid behind a batch proves that the batch was
//     durable.
//   - Batches start on block borders, so a write never touches a sector that
//     holds acknowledged bytes.
//   - Every CRC of a segment is seeded with the log's identity, the segment's
//     id and the chain value at its start, so stale, swapped or foreign bytes
//     never validate.
//   - Every batch carries chain = BLAKE3(previous chain ‖ batch), every segment
//     header the chain value it continues, so removal, reordering and edits
//     show, and show where.
//   - A failed fdatasync is final: the log stops acknowledging (ErrFailed).
//   - A full disk refuses appends (ErrNoSpace) before anything is written:
//     segments are zero-filled and made durable ahead of time.
//
// # Recovery
//
// Open verifies every byte that carries data and decides by a table
// (recover.go, docs/format.md): a torn last batch is cut and reported, damage
// is refused and named. The one case a single node cannot decide is damage to
// the very last batch with nothing valid behind it. It is narrowed by the end
// mark, which is written behind the last batch as soon as the log is idle and
// promises that the batch was durable; by the owner, which knows how far it
// had applied; and in a cluster by the peers.
//
// # Truncation
//
// TruncateFront and TruncateBack are records in the same chain, not edits.
// What TruncateBack took back stays readable for forensics until its segment
// is recycled.
package wal
