// Package integrity answers one question about a data directory: is everything that was acknowledged still there and
// unchanged?
//
// It runs these checks, in this order, and reports each by itself:
//
//	log_chain        every record and batch of the write-ahead log: CRC32C, BLAKE3 chain, order, footers
//	store_files      every block of the sorted store: Pebble's checksums
//	state_hash       the hash over all rows, recomputed and compared with the one kept on every change
//	json_files       every ledger document parses as the entity it should be
//	checksums        the SHA-256 of every ledger document
//	indexes          every index entry belongs to a row and every row has its index entries
//	receipt_chains   receipts follow each other without gap, fork or edit
//	references       ids name documents that exist, states agree with each other
//	change_log       every revision of a document has its entry, every entry its document
//
// # Live and stopped
//
// On a running server the checks read through the server's own store, beside its work. On a stopped directory the log
// is inspected first, without opening anything for writing: a damaged directory must reach the person who repairs it in
// the state in which it was found. Only a log without damage is then opened, like a server would, which replays it and takes the directory's lock.
//
// # What it does not do
//
// It repairs nothing, and it cannot see what was never acknowledged: the unfinished last write of a crash (a "torn tail") is
// reported as a note, not as damage.
package integrity
