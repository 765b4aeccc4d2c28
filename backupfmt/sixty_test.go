package backupfmt

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
)

// TestWhatSixtyDaysLeave prints how much of what is stored is needed after days of hourly incrementals, a full backup and a prune a day, with the default
// retention. ERLMCP_TEST_BACKUP_DAYS says how many days (60 for the figure in docs/backup.md); without it a few show that the path works.
func TestWhatSixtyDaysLeave(t *testing.T) {
	days, _ := strconv.Atoi(os.Getenv("ERLMCP_TEST_BACKUP_DAYS"))
	rows := 8_000
	if days == 0 {
		days, rows = 2, 1000
	}
	policy := DefaultPolicy
	if days < 10 {
		policy.Hourly, policy.Daily = 24*time.Hour, 24*time.Hour
	}
	for _, repack := range []bool{false, true} {
		if days < 10 && !repack {
			continue
		}
		w := newWorld(t, 600)
		w.disk, _ = store.CreateDir(vfs.NewMem(), "sixty")
		o := w.options()
		o.PackSize = 1 << 20
		var err error
		w.repo, err = Init(bg, w.disk, InitOptions{Options: o, KDF: keys.File})
		require.NoError(t, err)
		w.ar, err = w.repo.OpenArchive(bg, w.life())
		require.NoError(t, err)
		put := func(n int, of func(i int) int) {
			for at := 0; at < n; at += 80 {
				_, err := w.s.Update(bg, func(tx *engine.Tx) error {
					for i := at; i < min(n, at+80); i++ {
						k := of(i)
						if err := tx.Put("records", []byte(strconv.Itoa(1e9+k)), record(w.rng, k)); err != nil {
							return err
						}
					}
					return nil
				})
				require.NoError(t, err)
			}
			index, hash := w.s.StateHash()
			w.hash[index] = hash
		}
		put(rows, func(i int) int { return 10 * i })
		var rep *PruneReport
		moved := int64(0)
		for day := range days {
			for hour := range 24 {
				// 2.4 % of the rows a day change, chosen at random, and as many are new half the time.
				put(rows/1000, func(int) int { return 10 * w.rng.IntN(rows) })
				put(rows/2000, func(int) int { return w.rng.IntN(10 * rows) })
				w.clock.Add(time.Hour)
				w.ship()
				if hour == 0 {
					w.backup(Full)
				} else {
					w.backup(Auto)
				}
			}
			rep, err = w.repo.Prune(bg, PruneOptions{Policy: policy, NoRepack: !repack})
			require.NoError(t, err, "day %d", day)
			moved += rep.Repack.Written
		}
		look, err := w.repo.Prune(bg, PruneOptions{Policy: policy, DryRun: true, MaxUnused: 1})
		require.NoError(t, err)
		u, total := look.Repack, int64(0)
		require.NoError(t, w.disk.List(bg, "", func(i store.Info) error { total += i.Size; return nil }))
		t.Logf("%d days, repacking %v: %d backups, %d bytes stored, of these %d in packs, %d of them needed: live/stored %.3f of the packs, %.3f of all; %d bytes written by repacking",
			days, repack, len(look.Kept), total, u.Stored, u.Stored-u.Unused, float64(u.Stored-u.Unused)/float64(u.Stored), float64(total-u.Unused)/float64(total), moved)
		if repack {
			require.LessOrEqual(t, float64(u.Unused), 1.01*DefaultMaxUnused*float64(u.Stored))
			w.restore(Target{})
			w.restore(Target{Seq: look.Kept[0].Seq})
			w.tidy()
		}
	}
}
