package forensic

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
)

// data makes a closed store with n changes on an in-memory disk; the rows of the first `flushed` ones are in the store.
func data(t *testing.T, n, flushed int) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	s, err := engine.Open("data", engine.Options{FS: fs, SegmentSize: 64 << 10})
	require.NoError(t, err)
	var killed *vfs.MemFS
	for i := 1; i <= n; i++ {
		_, err := s.Update(context.Background(), func(tx *engine.Tx) error {
			return tx.Put("orders", fmt.Appendf(nil, "o-%03d", i), []byte(strings.Repeat("x", 900)))
		})
		require.NoError(t, err)
		if i == flushed {
			_, err := s.Checkpoint()
			require.NoError(t, err)
		}
	}
	killed = vfs.NewMem()
	ok, err := vfs.Clone(fs, killed, "data", "data")
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, s.Close())
	return killed
}

func damage(t *testing.T, fs vfs.FS, index uint64) {
	t.Helper()
	var name string
	var at int64
	_, err := wal.Inspect(fs, "data/wal", wal.InspectOptions{}, wal.Visitor{Record: func(r wal.RecordInfo) error {
		if r.Entry.Index == index {
			name, at = fmt.Sprintf("data/wal/%016x.seg", r.Segment), r.Offset
		}
		return nil
	}})
	require.NoError(t, err)
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("damage"), at+50)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func letter(t *testing.T, fs vfs.FS) (*Letter, string) {
	t.Helper()
	l, err := Examine(fs, "data", nil)
	require.NoError(t, err)
	var text strings.Builder
	l.WriteText(&text)
	return l, text.String()
}

func TestNothingIsSaidAboutAHealthyDirectory(t *testing.T) {
	l, text := letter(t, data(t, 30, 10))
	require.False(t, l.Damaged())
	require.Empty(t, text)
	require.Equal(t, uint64(10), l.Store.AppliedIndex)
}

func TestDamageThatTheStoreOutlivesIsToldFromLoss(t *testing.T) {
	fs := data(t, 200, 150)
	damage(t, fs, 20)
	_, text := letter(t, fs)
	require.Contains(t, text, "no row is lost")
	require.Contains(t, text, "index 20 to 20")
	require.Contains(t, text, "orders/o-020")
	require.Contains(t, text, "index 1 to 19: every byte verified")
	require.Contains(t, text, "cp -a data COPY")

	fs = data(t, 200, 10)
	damage(t, fs, 180)
	_, text = letter(t, fs)
	require.Contains(t, text, "changes 180 to 180 were acknowledged, had not reached the store (it holds 10)")
	require.NotContains(t, text, "no row is lost")
}

func TestEveryKindOfDamageHasItsLetter(t *testing.T) {
	for _, tc := range []struct {
		name, kind, next string
		do               func(t *testing.T, fs *vfs.MemFS)
	}{
		{"missing segment", wal.KindMissingSegment, "put the file back", func(t *testing.T, fs *vfs.MemFS) {
			require.NoError(t, fs.Remove("data/wal/0000000000000002.seg"))
		}},
		{"swapped segments", wal.KindMisplaced, "put the file back", func(t *testing.T, fs *vfs.MemFS) {
			require.NoError(t, fs.Rename("data/wal/0000000000000002.seg", "data/wal/x"))
			require.NoError(t, fs.Rename("data/wal/0000000000000001.seg", "data/wal/0000000000000002.seg"))
			require.NoError(t, fs.Rename("data/wal/x", "data/wal/0000000000000001.seg"))
		}},
		{"lost rows", "store-unreadable", "newest backup", func(t *testing.T, fs *vfs.MemFS) {
			require.NoError(t, fs.RemoveAll("data/store"))
		}},
		{"lost log", "log-unreadable", "check the key", func(t *testing.T, fs *vfs.MemFS) {
			require.NoError(t, fs.RemoveAll("data/wal"))
			require.NoError(t, fs.MkdirAll("data/wal", 0o755))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := data(t, 200, 150)
			tc.do(t, fs)
			l, text := letter(t, fs)
			require.True(t, l.Damaged())
			require.Equal(t, tc.kind, l.Diagnoses[0].Kind, text)
			for _, d := range l.Diagnoses {
				require.NotEmpty(t, d.Damaged)
				require.NotEmpty(t, d.Intact)
				require.NotEmpty(t, d.Meaning)
				require.NotEmpty(t, d.Next)
			}
			require.Contains(t, text, tc.next)
		})
	}
	_, err := Examine(vfs.NewMem(), "data", nil)
	require.Error(t, err)
}
