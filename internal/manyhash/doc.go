// Package manyhash computes BLAKE3 of many messages at once.
//
// A row has about 1 KB, one or two BLAKE3 chunks, and a library that hashes one message at a time finds nothing in it to do in parallel: state
// hashes and chunk names were a third of the CPU of a backup. Here every lane of a vector register works on a message of its own:
//
//	messages ─ chunks of 1 KiB ─ one lane each, 16 (AVX-512) or 8 (AVX2) at once; a lane that is done takes the next chunk
//	                              │
//	                         chaining values ─ parents, level by level, again one lane each ─ digests
//
// The results are those of any other BLAKE3 (BLAKE3 team, "BLAKE3: one function, fast everywhere", 2020). Without vector
// units, and where there are too few messages to fill lanes, github.com/zeebo/blake3 does the work.
package manyhash
