package wal

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	minSegmentSize = 64 << 10
	minBlockSize   = 512

	defaultSegmentSize = 64 << 20
	defaultMaxBatch    = 4 << 20
	defaultMaxEntry    = 32 << 20
	defaultRing        = 8 << 20
)

// EntryType is the owner's tag of an entry, 1..255. The log does not look at it.
type EntryType uint8

// An Entry is one record of the log.
type Entry struct {
	// Index is LastIndex+1. Zero on append lets the log assign it; in an empty
	// log any first index is accepted.
	Index uint64
	// Term is the owner's (raft's) term, below 2^56.
	Term uint64
	Type EntryType
	// Data must not change until the append has completed.
	Data []byte
}

// Options configure a log. The zero value is a good default.
type Options struct {
	// FS is the file system; default vfs.Default.
	FS vfs.FS
	// SegmentSize in bytes: 64 KiB..2 GiB, a multiple of 4096; default 64 MiB.
	// It is fixed when the log is created.
	SegmentSize int64
	// BlockSize in bytes: 512..4096, a power of two; default 512. Batches start
	// on block borders; choose the disk's physical sector size.
	BlockSize int
	// MaxBatchBytes bounds one group commit; default 4 MiB, at most a quarter
	// of a segment.
	MaxBatchBytes int
	// MaxEntryBytes bounds the data of one entry and of one Append call;
	// default 32 MiB, at most half a segment.
	MaxEntryBytes int
	// RingBytes of the newest entries are kept in memory for Get and Iterate;
	// default 8 MiB, negative: none.
	RingBytes int64
	// Key of 32 bytes turns on AES-256-GCM at rest. It is fixed when the log
	// is created.
	Key []byte
	// Now is the clock for time stamps in trailers and headers; default time.Now.
	Now func() time.Time
	// Rand is the source of the log's id and of nonces; default crypto/rand.
	Rand io.Reader
	// Logger hears of recovery and of trouble in the background; default: none.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegmentSize
	}
	if !validSegmentSize(o.SegmentSize) {
		return o, fmt.Errorf("%w: SegmentSize %d is not a multiple of 4096 in 64 KiB..2 GiB", ErrInvalid, o.SegmentSize)
	}
	if o.BlockSize == 0 {
		o.BlockSize = minBlockSize
	}
	if !validBlockSize(o.BlockSize) {
		return o, fmt.Errorf("%w: BlockSize %d is not a power of two in 512..4096", ErrInvalid, o.BlockSize)
	}
	if o.Key != nil && len(o.Key) != KeySize {
		return o, fmt.Errorf("%w: Key has %d bytes, want %d", ErrInvalid, len(o.Key), KeySize)
	}
	if o.MaxBatchBytes <= 0 {
		o.MaxBatchBytes = defaultMaxBatch
	}
	if o.MaxEntryBytes <= 0 {
		o.MaxEntryBytes = defaultMaxEntry
	}
	if o.RingBytes == 0 {
		o.RingBytes = defaultRing
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.limitTo(o.SegmentSize)
	return o, nil
}

// limitTo fits the batch and entry limits to the segment size.
func (o *Options) limitTo(segmentSize int64) {
	o.MaxBatchBytes = int(min(int64(o.MaxBatchBytes), segmentSize/4))
	o.MaxEntryBytes = int(min(int64(o.MaxEntryBytes), segmentSize/2))
}
