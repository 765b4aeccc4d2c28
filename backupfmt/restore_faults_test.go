package backupfmt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
)

// restoring is a world whose newest state takes everything a restore can do: a full backup, an incremental, and log that is folded, with more of
// it than the fold holds in memory.
type restoring struct {
	*world
	plan *Plan
	want [32]byte
	old  [32]byte // of the store that is in the way, if one is
}

func newRestoring(t *testing.T, seed uint64) *restoring {
	t.Helper()
	w := newWorld(t, seed)
	w.fill(200)
	w.backup(Full)
	w.write(10)
	w.ship()
	w.backup(Incremental)
	for range 3 {
		w.write(15)
		w.ship()
	}
	p, err := w.repo.Plan(bg, Target{})
	require.NoError(t, err)
	require.Len(t, p.Run, 2)
	require.NotEmpty(t, p.Pieces)
	return &restoring{world: w, plan: p, want: w.hash[p.Index]}
}

// to restores into "restored" of a file system.
func (r *restoring) to(fs vfs.FS, replace bool) (*RestoreReport, error) {
	o := r.engineOptions()
	o.FS = fs
	return r.repo.Restore(bg, r.plan, RestoreOptions{Dir: "restored", Replace: replace, Engine: o, foldMemory: 2000})
}

// inTheWay makes an older store where the restored one belongs.
func (r *restoring) inTheWay(fs vfs.FS) {
	r.t.Helper()
	o := r.engineOptions()
	o.FS = fs
	s, err := engine.Open("restored", o)
	require.NoError(r.t, err)
	_, err = s.Update(bg, func(tx *engine.Tx) error { return tx.Put("t", []byte("old"), []byte("state")) })
	require.NoError(r.t, err)
	_, r.old = s.StateHash()
	require.NoError(r.t, s.Close())
	d, err := fs.OpenDir("")
	require.NoError(r.t, err)
	require.NoError(r.t, errors.Join(d.Sync(), d.Close()))
}

// opened is the state hash of a directory; false if it does not open as a store.
func (r *restoring) opened(fs vfs.FS, dir string) ([32]byte, bool) {
	r.t.Helper()
	o := r.engineOptions()
	o.FS = fs
	s, err := engine.Open(dir, o)
	if err != nil {
		return [32]byte{}, false
	}
	_, hash := s.StateHash()
	require.NoError(r.t, s.Close())
	return hash, true
}

// sound looks at what a restore left that died, or failed: where the target belongs is nothing, the store that was there, or the whole new one;
// nothing else opens and is something else; and the restore, repeated, gets through.
func (r *restoring) sound(fs vfs.FS, replace bool, at string) {
	r.t.Helper()
	names, err := fs.List("")
	require.NoError(r.t, err)
	done := false
	for _, name := range names {
		parts, err := fs.List(name)
		require.NoError(r.t, err)
		begun := slices.Contains(parts, "wal") || slices.Contains(parts, "store") // else it is as good as a directory that is not there
		hash, ok := r.opened(fs, name)
		switch {
		case name == "restored" && replace:
			require.True(r.t, ok, "%s: the target does not open", at)
			require.Contains(r.t, [][32]byte{r.old, r.want}, hash, "%s: the target", at)
			done = hash == r.want
		case name == "restored":
			require.True(r.t, ok, "%s: the target does not open", at)
			require.Equal(r.t, r.want, hash, "%s: the target", at)
			done = true
		case strings.HasPrefix(name, "restored.before-"):
			require.True(r.t, ok, "%s: %s does not open", at, name)
			require.Equal(r.t, r.old, hash, "%s: %s", at, name)
		default:
			require.Contains(r.t, name, ".restore-", at)
			if ok && begun {
				require.Equal(r.t, r.want, hash, "%s: %s", at, name)
			}
		}
	}
	if done && !replace {
		_, err := r.to(fs, false)
		require.ErrorIs(r.t, err, ErrInvalid, "%s: it is there already", at)
		return
	}
	rep, err := r.to(fs, replace)
	require.NoError(r.t, err, "%s: repeated", at)
	require.Equal(r.t, r.want, rep.StateHash, at)
	hash, ok := r.opened(fs, "restored")
	require.True(r.t, ok, at)
	require.Equal(r.t, r.want, hash, at)
}

// changes calls fn before every operation that changes a file system, with its number.
func changes(fs vfs.FS, fn func(n int, op errorfs.Op) error) vfs.FS {
	var n atomic.Int64
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch {
		case op.Kind.ReadOrWrite() == errorfs.OpIsRead, op.Kind == errorfs.OpFileClose, op.Kind == errorfs.OpLock:
			return nil
		}
		return fn(int(n.Add(1)), op)
	}))
}

// TestARestoreMayBeKilledAtEveryFileOperation looks at the disk before each operation of a restore that changes it, as a kill -9 leaves
// it, as a power failure leaves it, and in between.
func TestARestoreMayBeKilledAtEveryFileOperation(t *testing.T) {
	step := everyPoint(71)
	for i, replace := range []bool{false, true} {
		r := newRestoring(t, uint64(400+i))
		mem := vfs.NewCrashableMem()
		if replace {
			r.inTheWay(mem)
		}
		var mu sync.Mutex
		points, last := 0, 0
		rep, err := r.to(changes(mem, func(n int, op errorfs.Op) error {
			// The end is where the directories are exchanged: no point of it is left out.
			if n%step != 0 && (op.Kind != errorfs.OpRename || strings.Contains(op.Path, "/")) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for _, survives := range []int{100, 0, 50} {
				rng := rand.New(rand.NewPCG(uint64(n), uint64(survives)))
				fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survives, RNG: rng})
				r.sound(fs, replace, fmt.Sprintf("killed before operation %d, %d of %s, %d %% of what was not synced is there", n, op.Kind, op.Path, survives))
			}
			points++
			last = n
			return nil
		}), replace)
		require.NoError(t, err)
		require.Equal(t, r.want, rep.StateHash)
		r.sound(mem.CrashClone(vfs.CrashCloneCfg{}), replace, "the power fails when the restore has returned")
		_, ok := r.opened(mem.CrashClone(vfs.CrashCloneCfg{}), "restored")
		require.True(t, ok, "what a restore has reported is on disk")
		t.Logf("in place %v: %d of %d operations, 3 disks each", replace, points, last)
		require.NotZero(t, points)
	}
}

// TestARestoreOnADiskThatFailsLeavesNothingWrong: an operation fails once, or all of them from there on, as on a full disk.
func TestARestoreOnADiskThatFailsLeavesNothingWrong(t *testing.T) {
	r := newRestoring(t, 402)
	for _, replace := range []bool{false, true} {
		for mode, boom := range []error{syscall.ENOSPC, syscall.EIO, syscall.ENOSPC} {
			failed, harmless := 0, 0
			step := everyPoint(71 + 10*mode)
			for n := 1; ; n += step {
				fs := vfs.NewMem()
				if replace {
					r.inTheWay(fs)
				}
				struck := atomic.Bool{}
				_, err := r.to(changes(fs, func(at int, op errorfs.Op) error {
					if at == n || mode == 2 && at > n {
						struck.Store(true)
						return &os.PathError{Op: "write", Path: op.Path, Err: boom}
					}
					return nil
				}), replace)
				if !struck.Load() {
					require.NoError(t, err)
					break
				}
				if err == nil {
					harmless++ // of no account: a file that is no longer needed was not removed
				} else {
					failed++
				}
				r.sound(fs, replace, fmt.Sprintf("in place %v, mode %d, operation %d: %v", replace, mode, n, err))
				require.Less(t, n, 5000)
			}
			t.Logf("in place %v, %v, for ever %v: %d failed, %d did not matter", replace, boom, mode == 2, failed, harmless)
			require.NotZero(t, failed)
		}
	}
}
