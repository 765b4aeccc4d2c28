package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
)

// How raft's entries and values stand in the log of package wal. Index and term of a raft entry are index and
// term of the log entry; the rest depends on the entry's type:
//
//	type            data
//	0x10            a raft command without extensions: the bytes of the command, nothing else. With the engine
//	                above, the command is a write set and the type is engine.EntryWriteSet, so that the log of a
//	                cluster member reads exactly like the log of a single node. AppendedAt is not kept: the write
//	                set has its own time.
//	0x11            the first entry of a store made out of an image (engine.EntryBase): raft takes it for a no-op.
//	0x20 + t        any other raft entry of raft.LogType t (no-op, barrier, configuration, ...):
//	                  0   i64 BE    AppendedAt, Unix nanoseconds, 0: unknown
//	                  8   uvarint   length of the extensions
//	                      bytes     extensions
//	                      bytes     data
//
// The engine changes no row for types other than 0x10.
//
// Raft's stable values (current term, last vote) are meta values of the log, in the same chain and with the same
// fdatasync, under "raft/" + key. A number is a u64 BE.
//
// The mark (marks.go) is the meta value "replication/mark":
//
//	0   u8        version, 1
//	1   u64 BE    index: everything up to it is flushed into the row store
//	9   u64 BE    term of that index
//	17  u64 BE    index of the configuration
//	25  bytes     configuration, as raft encodes it
const (
	typeCommand  = engine.EntryWriteSet
	typeEnvelope = wal.EntryType(0x20) // + raft.LogType

	envelopeHeader = 8

	stablePrefix = "raft/"
	markKey      = "replication/mark"
	markVersion  = 1
	markHeader   = 25
)

// errFormat marks bytes that are not what this file describes.
var errFormat = errors.New("replication: bad bytes")

// encodeEntry turns a raft entry into a log entry. Data is shared where the format allows it.
func encodeEntry(l *raft.Log) (wal.Entry, error) {
	e := wal.Entry{Index: l.Index, Term: l.Term}
	if l.Type == raft.LogCommand && len(l.Extensions) == 0 {
		e.Type, e.Data = typeCommand, l.Data
		return e, nil
	}
	if l.Type > 0xff-raft.LogType(typeEnvelope) {
		return e, fmt.Errorf("%w: raft entry type %d", wal.ErrInvalid, l.Type)
	}
	e.Type = typeEnvelope + wal.EntryType(l.Type)
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b := make([]byte, 0, envelopeHeader+binary.MaxVarintLen32+len(l.Extensions)+len(l.Data))
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.AppendUvarint(b, uint64(len(l.Extensions)))
	b = append(b, l.Extensions...)
	e.Data = append(b, l.Data...)
	return e, nil
}

// decodeEntry is the inverse of encodeEntry; it sets every field of l, which shares memory with e.Data.
func decodeEntry(e *wal.Entry, l *raft.Log) error {
	*l = raft.Log{Index: e.Index, Term: e.Term}
	switch e.Type {
	case typeCommand:
		l.Type, l.Data = raft.LogCommand, e.Data
		return nil
	case engine.EntryBase:
		l.Type = raft.LogNoop
		return nil
	}
	if e.Type < typeEnvelope {
		return fmt.Errorf("%w: entry %d has type %#x", errFormat, e.Index, uint8(e.Type))
	}
	if len(e.Data) < envelopeHeader {
		return fmt.Errorf("%w: entry %d has %d bytes", errFormat, e.Index, len(e.Data))
	}
	n, used := binary.Uvarint(e.Data[envelopeHeader:])
	rest := e.Data[envelopeHeader+max(used, 0):]
	if used <= 0 || n > uint64(len(rest)) {
		return fmt.Errorf("%w: entry %d: length of the extensions", errFormat, e.Index)
	}
	l.Type = raft.LogType(e.Type - typeEnvelope)
	if at := int64(binary.BigEndian.Uint64(e.Data)); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	if n > 0 {
		l.Extensions = rest[:n:n]
	}
	l.Data = rest[n:]
	return nil
}
