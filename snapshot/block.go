package snapshot

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Inside of a block, before compression. Rows are strictly ascending by (table, key), in byte order.
//
//	op u8
//	  0 table    name                                                    the rows that follow belong to it
//	  1 row      shared uvarint | rest of key | mod_index uvarint | value
//	  2 row      shared uvarint | rest of key | mod_index uvarint | deadline uvarint (Unix ms, > 0) | value
//	  3 removed  shared uvarint | rest of key | mod_index uvarint        only in the delta runs of a backup
//
// shared is how many bytes the key has in common with the key before it; after a table op there is none.
// Every block begins with a table op, so blocks can be read alone.
const (
	opTable    = 0
	opRow      = 1
	opRowUntil = 2
	opRemoved  = 3

	maxDeadline = 1<<63 - 1
)

// Entry is one row. What a Cursor or Reader hands out is valid until its next call.
type Entry struct {
	Table    string // [a-z0-9_]{1,64}
	Key      []byte
	Value    []byte
	ModIndex uint64 // log index that wrote the row; for a removed row 0 or the index of the removal
	Deadline int64  // Unix ms, 0 = none
	Removed  bool   // the row does not exist any more; only in delta runs, never in a snapshot
}

// Clone returns a copy that stays valid.
func (e *Entry) Clone() *Entry {
	c := *e
	c.Key, c.Value = bytes.Clone(e.Key), bytes.Clone(e.Value)
	return &c
}

// Compare orders rows by table and key.
func Compare(aTable string, aKey []byte, bTable string, bKey []byte) int {
	switch {
	case aTable < bTable:
		return -1
	case aTable > bTable:
		return 1
	}
	return bytes.Compare(aKey, bKey)
}

// Validate checks the limits of a row: ErrInvalid or ErrTooLarge.
func (e *Entry) Validate() error {
	switch {
	case !validName(e.Table):
		return fmt.Errorf("%w: table name %q is not [a-z0-9_]{1,64}", ErrInvalid, e.Table)
	case len(e.Key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes in table %s, limit %d", ErrTooLarge, len(e.Key), e.Table, MaxKey)
	case len(e.Value) > MaxValue:
		return fmt.Errorf("%w: value of %d bytes in table %s, limit %d", ErrTooLarge, len(e.Value), e.Table, MaxValue)
	case e.Deadline < 0:
		return fmt.Errorf("%w: negative deadline in table %s", ErrInvalid, e.Table)
	case e.Removed && (len(e.Value) != 0 || e.Deadline != 0):
		return fmt.Errorf("%w: removed row with a value or deadline in table %s", ErrInvalid, e.Table)
	}
	return nil
}

func validName[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// BlockBuilder encodes rows into a block. The zero value is ready. The caller keeps the rows valid and ascending.
type BlockBuilder struct {
	buf   []byte
	table string
	key   []byte
	rows  int
}

// Add appends a row.
func (b *BlockBuilder) Add(e *Entry) {
	if b.rows == 0 || b.table != e.Table {
		b.buf = append(b.buf, opTable)
		b.buf = appendString(b.buf, e.Table)
		b.table, b.key = e.Table, b.key[:0]
	}
	op := byte(opRow)
	switch {
	case e.Removed:
		op = opRemoved
	case e.Deadline != 0:
		op = opRowUntil
	}
	n := commonPrefix(b.key, e.Key)
	b.buf = append(b.buf, op)
	b.buf = binary.AppendUvarint(b.buf, uint64(n))
	b.buf = appendString(b.buf, e.Key[n:])
	b.buf = binary.AppendUvarint(b.buf, e.ModIndex)
	if op == opRowUntil {
		b.buf = binary.AppendUvarint(b.buf, uint64(e.Deadline))
	}
	if op != opRemoved {
		b.buf = appendString(b.buf, e.Value)
	}
	b.key = append(b.key[:0], e.Key...)
	b.rows++
}

// Len is the encoded size so far, Rows the number of rows.
func (b *BlockBuilder) Len() int { return len(b.buf) }

// Rows is the number of rows added since the last Reset.
func (b *BlockBuilder) Rows() int { return b.rows }

// Bytes is the encoded block; valid until the next Add or Reset.
func (b *BlockBuilder) Bytes() []byte { return b.buf }

// Take hands the encoded block over and starts an empty one that uses buf.
func (b *BlockBuilder) Take(buf []byte) (block []byte, rows int) {
	block, rows = b.buf, b.rows
	b.buf, b.rows, b.table, b.key = buf[:0], 0, "", b.key[:0]
	return block, rows
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Cursor decodes a block row by row. It checks form, limits and order and never panics.
type Cursor struct {
	d     decoder
	e     Entry
	key   []byte
	count int // rows handed out
	names map[string]string
}

// NewCursor returns a cursor over a decoded block; entries alias b.
func NewCursor(b []byte) *Cursor { return &Cursor{d: decoder{b: b}} }

// Reset starts over with another block.
func (c *Cursor) Reset(b []byte) {
	c.d, c.e, c.key, c.count = decoder{b: b}, Entry{}, c.key[:0], 0
}

// Next returns the next row, nil at the end. The error is a *CorruptError without a place.
func (c *Cursor) Next() (*Entry, error) {
	if len(c.d.b) == 0 && c.d.reason == "" {
		return nil, nil
	}
	op := c.op()
	if op == opTable {
		c.table()
		op = c.op()
	}
	if op == opTable || op > opRemoved || c.e.Table == "" {
		c.d.fail("bad op")
	}
	c.row(op)
	if c.d.reason != "" {
		return nil, &CorruptError{Reason: fmt.Sprintf("row %d: %s", c.count, c.d.reason)}
	}
	c.count++
	return &c.e, nil
}

func (c *Cursor) op() byte {
	if len(c.d.b) == 0 {
		c.d.fail("cut short")
		return 0
	}
	op := c.d.b[0]
	c.d.b = c.d.b[1:]
	return op
}

func (c *Cursor) table() {
	b := c.d.bytes(maxName)
	name, known := c.names[string(b)]
	if !known {
		if !validName(b) {
			c.d.fail("bad table name")
			return
		}
		name = string(b)
		if c.names == nil {
			c.names = map[string]string{}
		}
		if len(c.names) < 1024 { // table names are few; a stream of made-up ones must not fill memory
			c.names[name] = name
		}
	}
	if name <= c.e.Table {
		c.d.fail("tables out of order")
	}
	c.e.Table, c.key, c.e.Key = name, c.key[:0], nil
}

func (c *Cursor) row(op byte) {
	first := c.e.Key == nil
	shared := c.d.uvarint()
	if shared > uint64(len(c.key)) {
		c.d.fail("bad shared key length")
		return
	}
	rest := c.d.bytes(MaxKey)
	if !first && !follows(c.key, int(shared), rest) {
		c.d.fail("keys out of order")
	}
	if int(shared)+len(rest) > MaxKey {
		c.d.fail("key too long")
	}
	c.key = append(c.key[:shared], rest...)
	c.e.Key, c.e.ModIndex, c.e.Deadline, c.e.Value, c.e.Removed = c.key, c.d.uvarint(), 0, nil, op == opRemoved
	if c.e.Key == nil {
		c.e.Key = []byte{}
	}
	if op == opRowUntil {
		d := c.d.uvarint()
		if d == 0 || d > maxDeadline {
			c.d.fail("bad deadline")
		}
		c.e.Deadline = int64(d)
	}
	if op != opRemoved {
		c.e.Value = c.d.bytes(MaxValue)
	}
}

// follows reports whether prev[:shared]+rest is greater than prev and encoded the one allowed way.
func follows(prev []byte, shared int, rest []byte) bool {
	if shared == len(prev) {
		return len(rest) > 0
	}
	return len(rest) > 0 && rest[0] > prev[shared]
}
