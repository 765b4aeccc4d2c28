// Package object is the envelope of everything a backup repository stores: packs, lists, manifests, archived log.
//
//	header | clear section | frame, frame, ..., directory | footer | checks and parity | footer
//
// One envelope answers three questions with three means:
//
//   - Is it what was stored? A BLAKE3 digest over header, clear section and frames stands in the footer, so a scrub needs no key.
//     It finds damage.
//   - Is it what the owner of the key wrote? Every frame is sealed with AES-256-GCM under a key of this object alone
//     (HKDF of the epoch key and the random object id) and the number of the frame as nonce, so no nonce is ever used twice
//     with a key; the identity of the object is additional data. The directory, sealed last, fixes the number of frames and the
//     clear section. It finds forgery, also of objects that moved.
//   - Can damage be undone? Reed-Solomon parity over the stored bytes, with a CRC32C per shard that says which shards are bad.
//     Healing needs no key and is proven by the digest.
//
// The package knows bytes and keys, no store and no meaning. Nothing here panics on any input.
//
// The bytes are described in format.go and docs/format-backup.md.
package object
