// Package snapshot is the point-in-time image of a store: one self-contained stream of sorted rows that proves itself.
//
//	header   which state: log index, term, chain value, log id, membership
//	block    rows, prefix-compressed, zstd, BLAKE3
//	...
//	index    where the last 1024 blocks begin, so that a file can be searched
//	...
//	footer   counts per table, state hash, root hash over every element before it
//	tail     where the footer is
//
// A snapshot installs state on a new follower, is what a full backup stores, and is what `tcpsdump snapshot` reads.
// The package knows rows and bytes; it knows neither the engine nor where the stream comes from.
//
//	w, err := snapshot.NewWriter(file, snapshot.Header{Index: 4711, Term: 3}, snapshot.WriterOptions{})
//	err = w.Add(&snapshot.Entry{Table: "stock", Key: key, Value: value, ModIndex: 4000})
//	footer, err := w.Finish()
//
//	r, err := snapshot.NewReader(file, snapshot.ReaderOptions{})
//	for {
//		e, err := r.Next() // io.EOF only after the footer was verified
//	}
//
// # What always holds
//
//   - Nothing unverified gets out. A block is handed out after its BLAKE3 matched; the digest covers the header's
//     digest and the position of the block, so a block of another snapshot or in another place does not match.
//   - The end is proven. io.EOF is returned only after the footer's counts, root hash and state hash agreed
//     with what was read. A stream that merely stops is ErrCorrupt.
//   - The state hash is that of the engine (the sum of the row hashes), so an image can be compared with a running store.
//   - Memory is bounded by a few blocks, whatever the size of the state.
//   - No input makes the package panic; a declared length is checked against its limit before anything is allocated.
//
// What it does not do: the digests are not keyed. They find damage, not an attacker who rewrites the whole stream;
// backups add encryption and authentication (package backupfmt).
//
// The bytes are described in format.go and docs/format.md.
package snapshot
