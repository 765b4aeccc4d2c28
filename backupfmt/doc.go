// Package backupfmt is the backup repository: everything needed to bring a store back, kept on a directory or in a bucket, and able to
// prove that it still can.
//
// Think of it as an LSM tree of sorted runs. A full backup is a base run, an incremental is a delta run with the rows that changed
// since its parent; a restore merges them in one pass and replays the archived log behind them, up to any index or time.
//
//	rows ─ chunks of 8..64 KiB, named by keyed BLAKE3 ─ frames of 2 MiB (zstd, AES-256-GCM) ─ packs of 16 MiB
//	                 │
//	               lists: which chunk is where, in key order
//	                 │
//	            manifest: link of a hash chain ── parent ── parent ── ...      head: newest link
//
//	log ─ archive pieces, linked by digest, end to end
//
// A chunk border depends on keys alone, so a second full backup shares the chunks that did not change; it finds them by walking
// over the lists of the last one in step with its own rows, and no index of all chunks is needed anywhere.
//
// # What always holds
//
//   - A backup exists when its manifest does: manifests/<seq> can be created once, so writers are ordered without locks, and what was
//     uploaded before by a writer that died is garbage, never half a backup.
//   - Every manifest names its parent by digest. What was removed, replayed, reordered, edited or rolled back is found and named.
//   - Nothing is restored that does not authenticate, and a restore is renamed into place only after the engine opened it and the
//     state hash was that of the backup.
//   - A gap in the log is refused for every kind of target.
//   - Objects are immutable but for the head. A prune first commits a link that says what still counts, then deletes; whatever it is
//     killed in between, everything that counts is there, and there is nothing to unlock.
//   - With public keys given, nothing counts that none of them signed: see signature.go.
//   - Whoever holds the store but not the key can destroy, but not read or forge. See docs/backup.md for what is not protected.
//
// Packages: store (where objects are), object (their envelope), keys (secrets), sign (signatures), shard (packs in several places). This package: repo.go and secrets.go (opening), chain.go and manifest.go
// (the chain), items.go, runwriter.go, runreader.go (runs), source.go and backup.go (making), archive.go (log), plan.go and
// restore.go (getting back), verify.go (scrub), prune.go (retention).
package backupfmt
