package backupfmt

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/wal"
)

func FuzzItems(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	var list []byte
	var prev *item
	for i := range 50 {
		it := &item{table: "t", key: []byte{byte(i)}, rows: uint32(i), pack: i / 9, offset: rng.Uint32(), length: rng.Uint32()}
		it.frame = object.Frame{Number: uint32(i / 4), Offset: 72, Length: 1000}
		list = it.append(list, prev)
		prev = it
	}
	f.Add(list, 6)
	f.Fuzz(func(t *testing.T, b []byte, packs int) {
		items, err := parseItems(b, packs%1000)
		if err != nil {
			return
		}
		for _, it := range items {
			require.Less(t, it.pack, max(packs%1000, 1))
		}
	})
}

func TestItemsSurviveTheirEncoding(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	var list []byte
	var prev *item
	var want []item
	for i := range 200 {
		it := item{table: "table", key: []byte{byte(i), 0}, rows: rng.Uint32(), pack: i / 20, offset: rng.Uint32(), length: rng.Uint32()}
		it.frame = object.Frame{Number: uint32(i / 7), Offset: uint32(i / 7 * 100), Length: 90}
		it.id[3] = byte(i)
		list = it.append(list, prev)
		prev = &it
		want = append(want, it)
	}
	got, err := parseItems(list, 10)
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = parseItems(list, 9)
	require.ErrorIs(t, err, ErrDamaged, "a pack that the manifest does not name")
}

func FuzzManifest(f *testing.F) {
	inv := Inventory{Version: 1, Seq: 2, Kind: Incremental, Base: 1, Since: 3, Index: 4, Packs: []Ref{{Name: "packs/a/b", Size: 1}}}
	b, err := json.Marshal(&inv)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parseInventory(manifestName(2), b)
		_, _ = parsePiece(archiveName(object.ID{}, 1), b)
		_, _ = parseConfig(b)
	})
}

func FuzzPiece(f *testing.F) {
	col := collector{}
	for i := range uint64(20) {
		col.add(wal.Entry{Index: i + 1, Term: 1, Type: 0x10, Data: []byte("not a write set")})
	}
	f.Add(col.cur)
	f.Fuzz(func(_ *testing.T, raw []byte) {
		w, err := object.NewWriter(object.Archive, object.ID{}, object.ID{1}, 0, nil, nil)
		if err != nil {
			return
		}
		p, err := object.Compress(raw)
		if err != nil {
			return
		}
		if _, err := w.Add(p); err != nil {
			return
		}
		b, _, err := w.Finish(nil)
		if err != nil {
			return
		}
		c, err := object.Open(b, object.Archive, object.ID{}, nil, nil)
		if err != nil {
			return
		}
		_ = entries("x", c, &Piece{First: 1, Last: 20}, func(wal.Entry) error { return nil })
	})
}
