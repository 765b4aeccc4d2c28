// Package avx mends what assembly of other modules leaves behind.
package avx

// ZeroUpper zeroes the upper halves of the vector registers (VZEROUPPER), where
// the processor has them; it takes a few cycles.
//
// Code that used them and does not do so makes each change between AVX and SSE
// instructions slow that follows on the same thread, in whatever package (Intel
// 64 and IA-32 Architectures Optimization Reference Manual, "Mixing AVX Code
// with SSE Code"). SHA-256 of one block, which changes between them all the
// time, then takes 11 µs instead of 0.15 µs. github.com/segmentio/asm/ascii is
// such code (v1.1.3 to v1.2.1); the JSON decoder of the MCP SDK uses it.
func ZeroUpper() { zeroUpper() }
