package mcp

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	auditPacked  = 4 << 10 // rows from this size on are compressed
	auditRowSize = 4 << 20 // no row is larger: 512 records, whose texts are cut
)

// auditCodec compresses the rows of the audit log: they repeat themselves, and
// what is not written to the log, the store and its compactions costs nothing.
var auditCodec = sync.OnceValues(func() (*zstd.Encoder, *zstd.Decoder) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<10), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(fmt.Sprintf("mcp: zstd: %v", err)) // the options are constants
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(auditRowSize), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(fmt.Sprintf("mcp: zstd: %v", err))
	}
	return enc, dec
})

// packAudit returns what is stored for a row: JSON, or a zstd frame of it.
func packAudit(row []byte) []byte {
	if len(row) < auditPacked {
		return row
	}
	enc, _ := auditCodec()
	return enc.EncodeAll(row, make([]byte, 0, len(row)/3))
}

// unpackAudit is the reverse of packAudit.
func unpackAudit(stored []byte) ([]byte, error) {
	if len(stored) > 0 && stored[0] == '{' {
		return stored, nil
	}
	_, dec := auditCodec()
	return dec.DecodeAll(stored, nil)
}
