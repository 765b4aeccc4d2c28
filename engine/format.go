package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Layout of a data directory:
//
//	DIR/FORMAT       identity, format version, encryption (text, ends with its own CRC32C); written last at creation
//	DIR/FORMAT.tmp   only while a directory is being created
//	DIR/LOCK         held by the process that has the store open
//	DIR/wal/         the log (package wal); entries of type EntryWriteSet hold write sets (writeset.go)
//	DIR/store/       Pebble, without a log of its own
//
// Keys in Pebble. Integers are big-endian so that byte order is number order:
//
//	'd' table 0x00 key                  row
//	't' deadline u64 table 0x00 key     row with a deadline (empty value); derived from the row
//	'm' 'a'                             applied row, rewritten in every batch
//	'm' 'x' index u64                   marker: the log entry was refused; value = 1 byte reason
//
// Row value:
//
//	mod_index u64 | deadline uvarint (Unix ms, 0 = none) | payload
//
// payload is the value itself or, in an encrypted store, nonce (24) | AES-256-GCM ciphertext (crypt.go) with
// additional data = Pebble key | mod_index u64 | deadline uvarint. Keys are never encrypted.
//
// Applied row (77 bytes):
//
//	version u8 = 1 | applied index u64 | state hash lanes 4 x u64 | log id (16) | store id (16) | CRC32C u32 of all before
//
// Row of table _idem: key = idempotency key, value = index u64 | len uvarint, request hash | outcome (rest).

const (
	formatVersion = 1

	spaceRow      = 'd'
	spaceDeadline = 't'
	spaceMeta     = 'm'
	metaApplied   = 'a'
	metaMarker    = 'x'

	idemTable = "_idem"

	appliedRowVersion = 1
	appliedRowLen     = 1 + 8 + 32 + 16 + 16 + 4
)

// Reasons stored in marker rows.
const (
	markConflict  byte = 1
	markDuplicate byte = 2
	markMismatch  byte = 3
	markMalformed byte = 4
)

func markReason(b byte) string {
	switch b {
	case markConflict:
		return "conflict"
	case markDuplicate:
		return "duplicate"
	case markMismatch:
		return "idempotency-mismatch"
	case markMalformed:
		return "malformed"
	}
	return fmt.Sprintf("unknown-%d", b)
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	be         = binary.BigEndian
	appliedKey = []byte{spaceMeta, metaApplied}
)

// appendRowKey appends the Pebble key of a row.
func appendRowKey(dst []byte, table string, key []byte) []byte {
	dst = append(dst, spaceRow)
	dst = append(dst, table...)
	dst = append(dst, 0)
	return append(dst, key...)
}

// splitRowKey is the inverse of appendRowKey; key aliases k.
func splitRowKey(k []byte) (table, key []byte, err error) {
	if len(k) < 2 || k[0] != spaceRow {
		return nil, nil, fmt.Errorf("%w: not a row key: %x", ErrMalformed, clip(k))
	}
	i := bytes.IndexByte(k, 0)
	if i < 2 || !validName(string(k[1:i])) {
		return nil, nil, fmt.Errorf("%w: row key without a table: %x", ErrMalformed, clip(k))
	}
	return k[1:i], k[i+1:], nil
}

// appendDeadlineKey appends the key under which a row with a deadline is found; row is its Pebble key.
func appendDeadlineKey(dst []byte, deadline int64, row []byte) []byte {
	dst = append(dst, spaceDeadline)
	dst = be.AppendUint64(dst, uint64(deadline))
	return append(dst, row[1:]...)
}

// splitDeadlineKey is the inverse of appendDeadlineKey.
func splitDeadlineKey(k []byte) (deadline int64, table, key []byte, err error) {
	if len(k) < 11 || k[0] != spaceDeadline {
		return 0, nil, nil, fmt.Errorf("%w: not a deadline key: %x", ErrMalformed, clip(k))
	}
	i := bytes.IndexByte(k[9:], 0)
	if i < 1 || !validName(string(k[9:9+i])) {
		return 0, nil, nil, fmt.Errorf("%w: deadline key without a table: %x", ErrMalformed, clip(k))
	}
	return int64(be.Uint64(k[1:9])), k[9 : 9+i], k[10+i:], nil
}

func markerKey(index uint64) []byte {
	return be.AppendUint64([]byte{spaceMeta, metaMarker}, index)
}

// appendRowHeader appends what stands before the payload of a row value.
func appendRowHeader(dst []byte, mod uint64, deadline int64) []byte {
	dst = be.AppendUint64(dst, mod)
	return binary.AppendUvarint(dst, uint64(deadline))
}

// rowSize is the length of a plain row value.
func rowSize(deadline int64, value int) int {
	n := 9 + value
	for d := uint64(deadline); d >= 0x80; d >>= 7 {
		n++
	}
	return n
}

// parseRow splits a row value; payload and header alias v.
func parseRow(v []byte) (mod uint64, deadline int64, payload []byte, err error) {
	if len(v) < 9 {
		return 0, 0, nil, fmt.Errorf("%w: row value of %d bytes", ErrMalformed, len(v))
	}
	d, n := binary.Uvarint(v[8:])
	if n <= 0 || d > maxDeadline {
		return 0, 0, nil, fmt.Errorf("%w: row value with a bad deadline", ErrMalformed)
	}
	return be.Uint64(v), int64(d), v[8+n:], nil
}

// maxDeadline keeps deadlines inside what time.UnixMilli can represent exactly (year 292 million).
const maxDeadline = 1<<63 - 1

// appliedRow is the row that ties Pebble's state to the log.
type appliedRow struct {
	index   uint64
	lanes   lanes
	logID   [16]byte
	storeID [16]byte
}

func (a appliedRow) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, appliedRowVersion)
	dst = be.AppendUint64(dst, a.index)
	dst = a.lanes.append(dst)
	dst = append(dst, a.logID[:]...)
	dst = append(dst, a.storeID[:]...)
	return be.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func parseAppliedRow(b []byte) (appliedRow, error) {
	var a appliedRow
	if len(b) != appliedRowLen {
		return a, fmt.Errorf("%w: applied row of %d bytes, expected %d", ErrMalformed, len(b), appliedRowLen)
	}
	body := b[:appliedRowLen-4]
	if crc32.Checksum(body, castagnoli) != be.Uint32(b[appliedRowLen-4:]) {
		return a, fmt.Errorf("%w: checksum of the applied row", ErrMalformed)
	}
	if body[0] != appliedRowVersion {
		return a, fmt.Errorf("%w: applied row version %d", ErrVersion, body[0])
	}
	a.index = be.Uint64(body[1:])
	for i := range a.lanes {
		a.lanes[i] = be.Uint64(body[9+8*i:])
	}
	copy(a.logID[:], body[41:57])
	copy(a.storeID[:], body[57:73])
	return a, nil
}

// idemRow is the record of an idempotency key.
type idemRow struct {
	index   uint64
	reqHash []byte
	outcome []byte
}

func (r idemRow) append(dst []byte) []byte {
	dst = be.AppendUint64(dst, r.index)
	dst = binary.AppendUvarint(dst, uint64(len(r.reqHash)))
	dst = append(dst, r.reqHash...)
	return append(dst, r.outcome...)
}

// parseIdemRow copies what it returns.
func parseIdemRow(v []byte) (idemRow, error) {
	if len(v) < 9 {
		return idemRow{}, fmt.Errorf("%w: idempotency record of %d bytes", ErrMalformed, len(v))
	}
	n, w := binary.Uvarint(v[8:])
	if w <= 0 || n > uint64(len(v)-8-w) {
		return idemRow{}, fmt.Errorf("%w: idempotency record with a bad length", ErrMalformed)
	}
	rest := v[8+w:]
	return idemRow{
		index:   be.Uint64(v),
		reqHash: bytes.Clone(rest[:n]),
		outcome: bytes.Clone(rest[n:]),
	}, nil
}

// clip keeps error messages short.
func clip(b []byte) []byte {
	if len(b) > 64 {
		return b[:64]
	}
	return b
}

// successor is the smallest key greater than every key that begins with p, nil if there is none.
func successor(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xff {
			s := bytes.Clone(p[:i+1])
			s[i]++
			return s
		}
	}
	return nil
}
