package backupfmt

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
)

// record makes values that compress about 3:1, like the records of the comparison with other tools.
func record(rng *rand.Rand, i int) []byte {
	v := fmt.Appendf(nil, `{"id":"rec-%08d","state":"%s","owner":"user-%04d","body":"`, i, []string{"open", "closed", "waiting"}[rng.IntN(3)], rng.IntN(5000))
	for n := 20 + rng.IntN(120); n > 0; n-- {
		v = fmt.Appendf(v, "%s-%d ", []string{"steel", "order", "machine", "shift", "quality", "pallet"}[rng.IntN(6)], rng.IntN(1000))
	}
	return append(v, `"}`...)
}

// TestLargeStoreFigures prints what full, incremental, scrub and restore cost. ERLMCP_BACKUP_MIB says how large the store is; without it
// a small one shows that the path works.
func TestLargeStoreFigures(t *testing.T) {
	mib, _ := strconv.Atoi(os.Getenv("ERLMCP_BACKUP_MIB"))
	if mib == 0 {
		mib = 3
	}
	dir := t.TempDir()
	s, err := engine.Open(filepath.Join(dir, "data"), engine.Options{})
	require.NoError(t, err)
	defer s.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	n, size := 0, 0
	batch := func(ids []int) {
		_, err := s.Update(bg, func(tx *engine.Tx) error {
			for _, i := range ids {
				v := record(rng, i)
				size += len(v) + 20
				if err := tx.Put("records", fmt.Appendf(nil, "rec-%010d", i), v); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(t, err)
	}
	for size < mib<<20 {
		ids := make([]int, 0, 500)
		for range 500 {
			ids = append(ids, 10*n)
			n++
		}
		batch(ids)
	}
	disk, err := store.CreateDir(nil, filepath.Join(dir, "repo"))
	require.NoError(t, err)
	repo, err := Init(bg, disk, InitOptions{Options: Options{Secret: keyFile}, KDF: keys.File})
	require.NoError(t, err)
	figure := func(name string, fn func() uint64) {
		runtime.GC()
		at := time.Now()
		stored := fn()
		t.Logf("%-14s %8.2f s  %8.1f MB", name, time.Since(at).Seconds(), float64(stored)/1e6)
	}
	backup := func(kind string) func() uint64 {
		return func() uint64 {
			src, err := EngineSource(s, object.ID{})
			require.NoError(t, err)
			defer src.Close()
			l, err := repo.Backup(bg, src, BackupOptions{Type: kind})
			require.NoError(t, err)
			return l.NewBytes
		}
	}
	t.Logf("%d rows, %.1f MB", n, float64(size)/1e6)
	figure("full", backup(Full))
	var ids []int
	for range n / 100 {
		ids = append(ids, 10*rng.IntN(n), 10*rng.IntN(n)+1+rng.IntN(9))
	}
	for len(ids) > 0 {
		k := min(len(ids), 500)
		batch(ids[:k])
		ids = ids[k:]
	}
	figure("incremental", backup(Incremental))
	figure("second full", backup(Full))
	figure("scrub", func() uint64 {
		rep, err := Scrub(bg, disk, VerifyOptions{ReadData: true})
		require.NoError(t, err)
		require.Empty(t, rep.Damage)
		return uint64(rep.BytesSum)
	})
	for seq := uint64(1); seq <= 3; seq++ {
		figure(fmt.Sprintf("restore %d", seq), func() uint64 {
			p, err := repo.Plan(bg, Target{Seq: seq})
			require.NoError(t, err)
			rep, err := repo.Restore(bg, p, RestoreOptions{Dir: filepath.Join(dir, fmt.Sprint("restored", seq))})
			require.NoError(t, err)
			for _, ph := range rep.Phases {
				t.Logf("    %-12s %8.2f s", ph.Name, ph.Duration.Seconds())
			}
			return uint64(p.Bytes)
		})
	}
}
