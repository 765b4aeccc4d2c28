// Package tcps is the production ledger of the Toyota Code Production System:
// work orders pulled by demand, andon events that stop the line, receipts that
// prove every step, and a change log that forgets nothing.
//
// # The picture
//
//	pull signal --> work order --queue--> in progress --stages--> completed
//	                    |                     |   ^
//	                    | dependencies        |   | resolve
//	                    v                     v   |
//	                 blocked <----------- andon event (stops the SKU)
//
//	every arrow = one engine transaction = entity + receipt + change-log entry
//
// A [Ledger] is a thin, stateless layer over an engine.Store: it holds no
// cache and no lock, so any number of goroutines (and, once replicated, any
// number of nodes) may use it at once. What keeps two of them from breaking a
// rule together is the engine's conflict check on everything a transaction
// read, including scanned ranges: the WIP limit is enforced by scanning the
// index of running orders, a fork of a receipt chain by scanning for another
// receipt with the same predecessor, and so on.
//
// # Documents
//
// Entities are JSON documents in canonical form (RFC 8785: sorted keys, no
// space, one spelling per number). Each carries the SHA-256 of its canonical
// form without the checksum member; every read recomputes it. Times are stored
// as unix milliseconds and shown as YYYY-MM-DDTHH:MM:SS.sssZ ([Time] does the
// conversion in both directions).
//
// Each document has a revision, starting at 1, and every revision has exactly
// one entry in the change log under (entity, id, revision). Removing, adding or
// rolling back a document behind the ledger's back therefore leaves a trace
// that [Ledger.VerifyAll] reports.
//
// # Indexes
//
// [Indexes] must be passed to engine.Open. Index keys are pure functions of one
// document; queue order, WIP counts, SLA lists and receipt chains are range
// scans over them and never scans of a whole table. Creating two orders in
// one bucket touches no common key, so creates never conflict.
//
// # Invariants
//
//   - An order that is neither pending nor final is blocked if and only if it
//     names an unfinished dependency or a stopping andon event.
//   - A bucket never has more orders in progress than its WIP limit allowed at
//     the moment the last of them was started.
//   - Receipts and change-log entries are never modified. Completed and
//     cancelled orders never move again.
//   - A receipt names its predecessor and hashes its predecessor's chain value:
//     chain(n) = BLAKE3(chain(n-1), canonical receipt n).
//
// # What it does not do
//
// It does not run builds or tests: quality gates judge the evidence a caller
// hands in, and missing evidence is "not run", never a pass. SKUs, root cause
// analyses, levelling and the RDF view are not part of this version; their ids
// are accepted where the rules mention them.
package tcps
