// Package words is a codec for frames that are mostly text: JSON documents, logs. It knows words where zstd knows strings of bytes, so on such data it
// is several times as fast and makes a third less of it.
//
// The bytes are cut into words and what is between them. A word that occurs for the first time is spelled out and gets the next number; then
// its number stands for it. What comes out are four streams, which zstd, at its fastest, has little left to do with:
//
//	ops   one byte per step: a run of bytes, a new word, or the number of a word
//	lens  the lengths of runs and new words
//	low   the second bytes of the numbers that need two
//	text  the bytes of runs and new words
//
// What is a word is the encoder's affair alone: the decoder does what the streams say. A frame stands for itself, nothing is learned from others.
//
// Nothing here panics on any input, and no more memory is used than the decoded length allows for. The bytes are described in format.go and
// docs/format-backup.md.
package words
