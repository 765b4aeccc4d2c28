package wal

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
)

// forgery rewrites a batch so that everything fits again but what was forged:
// header and trailer CRC and the chain value are recomputed.
type forgery struct {
	seed  uint32
	prev  chainValue
	raw   []byte
	chain bool // leave the chain value alone
}

func (f *forgery) trailer() []byte { return f.raw[len(f.raw)-trailerSize:] }

func (f *forgery) record() []byte { return f.raw[batchHeaderSize:] }

func (f *forgery) fixRecord() {
	b := f.record()
	n := int(binary.LittleEndian.Uint32(b[4:]) & lengthMask)
	binary.LittleEndian.PutUint32(b, crc32.Update(f.seed, castagnoli, b[4:recordHeader+n]))
}

func (f *forgery) fix() {
	binary.LittleEndian.PutUint32(f.raw[4:], crc32.Update(f.seed, castagnoli, f.raw[8:batchHeaderSize]))
	t := f.trailer()
	if !f.chain {
		v := newChainer().next(f.prev, f.raw)
		copy(t[96:], v[:])
	}
	binary.LittleEndian.PutUint32(t[4:], crc32.Update(f.seed, castagnoli, t[8:]))
}

func add(b []byte, n uint64) { binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)+n) }

func add32(b []byte, n uint32) { binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)+n) }

// Each check of the scanner is reached alone: a batch that is consistent in
// all other respects is refused for just that reason.
func TestEveryCheckOfABatchStandsAlone(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		forge        func(f *forgery)
	}{
		{"header number", "batch number", func(f *forgery) { add(f.raw[8:], 1) }},
		{"body length", "past the segment's end", func(f *forgery) { add32(f.raw[16:], 1<<20) }},
		{"trailer number", "out of place", func(f *forgery) { add(f.trailer()[8:], 1) }},
		{"trailer offset", "out of place", func(f *forgery) { add(f.trailer()[48:], 512) }},
		{"trailer segment", "out of place", func(f *forgery) { add(f.trailer()[72:], 1) }},
		{"trailer length", "disagree on length", func(f *forgery) { add32(f.trailer()[56:], 8) }},
		{"trailer count", "disagree on length or count", func(f *forgery) { add32(f.trailer()[60:], 1) }},
		{"impossible range", "impossible index range", func(f *forgery) { add(f.trailer()[16:], 9) }},
		{"chain value", "chain value", func(f *forgery) { f.trailer()[100] ^= 1; f.chain = true }},
		{"record CRC", "record 1 of the batch is invalid", func(f *forgery) { f.record()[recordHeader] ^= 1 }},
		{"record length", "record 1 of the batch is invalid", func(f *forgery) { add32(f.record()[4:], 1<<20) }},
		{"record index", "record carries index", func(f *forgery) { add(f.record()[8:], 1); f.fixRecord() }},
		{"record count", "disagree on count", func(f *forgery) { add32(f.raw[20:], 1); add32(f.trailer()[60:], 1) }},
		{"last index", "disagree on count or indexes", func(f *forgery) { add(f.trailer()[24:], 1) }},
		{"both indexes", "disagree on count or indexes", func(f *forgery) { add(f.trailer()[16:], 1); add(f.trailer()[24:], 1) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newRig(t).open().fill(9).image()
			e := m.end()
			h, err := decodeSegmentHeader(m.read(e.Segment, 0, headerSize))
			require.NoError(t, err)
			f := &forgery{seed: h.seed(), prev: m.batches[len(m.batches)-2].Chain, raw: m.read(e.Segment, e.Offset, e.Length)}
			tc.forge(f)
			f.fix()
			m.write(e.Segment, e.Offset, f.raw)
			require.Contains(t, m.refused(KindBadBatch, e.Segment).Message, tc.reason)
		})
	}
}

// A record is checked on every read, also in a log that was verified when it
// was opened.
func TestDamageUnderAnOpenLogIsMetByReads(t *testing.T) {
	r := newRig(t, func(o *Options) { o.RingBytes = -1 }).open().fill(60)
	m := &image{t: t, r: r}
	_, err := Inspect(r.fs, "db/wal", InspectOptions{}, Visitor{Batch: func(b BatchInfo) error { m.batches = append(m.batches, b); return nil }})
	require.NoError(t, err)
	for _, b := range m.batches {
		if b.FirstIndex == 7 && b.LastIndex == 7 {
			m.flip(b.Segment, b.Offset+batchHeaderSize+recordHeader+2)
		}
	}
	_, err = r.log.Get(7)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, r.log.Iterate(1, func(Entry) error { return nil }), ErrCorrupt)
	e, err := r.log.Get(8)
	require.NoError(t, err)
	require.Equal(t, uint64(8), e.Index)
	rep, err := r.log.Verify(t.Context())
	require.NoError(t, err)
	require.False(t, rep.Clean)
}
