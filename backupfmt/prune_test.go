package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

func link(seq uint64, kind string, base uint64, at time.Time) *Link {
	return &Link{Inventory: Inventory{Seq: seq, Kind: kind, Base: base, Since: base * 10, Index: seq * 10, Time: at, Life: "a"}}
}

func TestPolicyKeepsWhatItSaysAndWhatThatBuildsOn(t *testing.T) {
	t0 := time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC)
	c := &Chain{}
	seq := uint64(0)
	add := func(kind string, base uint64, at time.Time) uint64 {
		seq++
		c.Links = append(c.Links, link(seq, kind, base, at))
		return seq
	}
	for day := range 60 {
		full := add(Full, 0, t0.AddDate(0, 0, day))
		prev := full
		for h := range 3 {
			prev = add(Incremental, prev, t0.AddDate(0, 0, day).Add(time.Duration(h+1)*20*time.Minute))
		}
	}
	keep, err := DefaultPolicy.Keep(c)
	require.NoError(t, err)
	newest := c.Links[len(c.Links)-1]
	require.True(t, keep[newest.Seq])
	days := map[int]bool{}
	for _, l := range c.Links {
		if !keep[l.Seq] {
			continue
		}
		days[l.Time.YearDay()] = true
		if l.Kind == Incremental {
			require.True(t, keep[l.Base], "the base of %d", l.Seq)
		}
		require.LessOrEqual(t, newest.Time.Sub(l.Time), 30*24*time.Hour+time.Hour)
	}
	require.Len(t, days, 31)
	keep, err = Policy{Last: 2}.Keep(c)
	require.NoError(t, err)
	require.Len(t, keep, 4, "the two newest incrementals and what they build on")
	keep, err = Policy{}.Keep(c)
	require.NoError(t, err)
	require.True(t, keep[newest.Seq], "the newest backup stays whatever the policy")
}

func (w *world) names(prefix string) (out []string) {
	w.t.Helper()
	require.NoError(w.t, w.disk.List(bg, prefix, func(i store.Info) error { out = append(out, i.Name); return nil }))
	return out
}

func TestPruneRemovesWhatNothingNeedsAndKeepsTheRest(t *testing.T) {
	w := newWorld(t, 20)
	w.fill(3000)
	w.backup(Full)
	w.ship()
	w.write(20)
	w.backup(Incremental)
	w.ship()
	full := w.backup(Full)
	w.write(20)
	inc := w.backup(Incremental)
	w.write(5)
	w.ship()
	before := len(w.names(""))
	dry, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}, DryRun: true, NoRepack: true})
	require.NoError(t, err)
	require.Len(t, w.names(""), before)
	rep, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}, NoRepack: true})
	require.NoError(t, err)
	require.Equal(t, dry.Objects, rep.Objects)
	require.Len(t, rep.Removed, 2)
	require.Len(t, rep.Kept, 2)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	require.Len(t, c.Links, 3)
	w.restore(Target{Seq: full.Seq})
	w.restore(Target{Seq: inc.Seq})
	w.restore(Target{})
	_, err = w.tryRestore(Target{Seq: 1})
	require.ErrorIs(t, err, ErrNoBackup)
	again, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}, NoRepack: true})
	require.NoError(t, err)
	require.LessOrEqual(t, again.Objects, 1, "at most the older prune link")
	w.write(3)
	w.backup(Incremental)
	w.restore(Target{})
}

// faulty fails at the n-th operation that changes the store, as if the process had been killed there.
type faulty struct {
	store.Store
	left atomic.Int64
}

func newFaulty(st store.Store, n int) *faulty {
	f := &faulty{Store: st}
	f.left.Store(int64(n))
	return f
}

var errKilled = errors.New("killed")

func (f *faulty) step() error {
	if f.left.Add(-1) < 0 {
		return errKilled
	}
	return nil
}

func (f *faulty) Create(ctx context.Context, name string, b []byte) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.Store.Create(ctx, name, b)
}

func (f *faulty) Replace(ctx context.Context, name string, b []byte, v store.Version) (store.Version, error) {
	if err := f.step(); err != nil {
		return "", err
	}
	return f.Store.Replace(ctx, name, b, v)
}

func (f *faulty) Delete(ctx context.Context, name string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.Store.Delete(ctx, name)
}

// killed opens the repository on a store that dies after n changes.
func (w *world) killed(n int) *Repo {
	w.t.Helper()
	r, err := Open(bg, newFaulty(w.disk, n), w.options())
	require.NoError(w.t, err)
	return r
}

func TestKilledAtEveryOperationOfBackupAndPrune(t *testing.T) {
	w := newWorld(t, 21)
	w.fill(1500)
	w.backup(Full)
	for n, done := 0, false; !done; n++ {
		w.write(3)
		good := w.repo
		w.repo = w.killed(n)
		kind := []string{Full, Incremental}[n%2]
		_, err := w.tryBackup(kind)
		require.True(t, err == nil || errors.Is(err, errKilled), "%v", err)
		_, perr := w.killed(n).Prune(bg, PruneOptions{Policy: Policy{Last: 2}})
		require.True(t, perr == nil || errors.Is(perr, errKilled), "%v", perr)
		done = err == nil && perr == nil && n > 12
		w.repo = good
		c, cerr := w.repo.Chain(bg)
		require.NoError(t, cerr, "killed at change %d", n)
		for _, l := range c.Backups("") {
			w.restore(Target{Seq: l.Seq})
		}
		w.restore(Target{})
		require.Less(t, n, 60, "backup and prune never got through")
		t.Logf("killed at change %d: backup %v, prune %v", n, err, perr)
	}
	// Without any unlocking the repository cleans up after all of that: two prunes later no session and no stray object is left.
	for range 3 {
		_, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
		require.NoError(t, err)
	}
	require.Empty(t, w.names(folderSessions))
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	need := map[string]bool{}
	for _, l := range c.Links {
		for _, ref := range append(append([]Ref{}, l.Packs...), l.Lists...) {
			need[ref.Name] = true
		}
	}
	for _, n := range append(w.names(folderPacks), w.names(folderLists)...) {
		require.True(t, need[n], "%s is left over", n)
	}
	w.restore(Target{})
}

// pausing runs a function before the n-th change.
type pausing struct {
	store.Store
	before func(name string)
}

func (p *pausing) Create(ctx context.Context, name string, b []byte) error {
	p.before(name)
	return p.Store.Create(ctx, name, b)
}

func TestABackupThatWasTakenForDeadIsFenced(t *testing.T) {
	for _, prunes := range []int{1, 2, 3} {
		w := newWorld(t, uint64(30+prunes))
		w.fill(500)
		w.backup(Full)
		w.write(5)
		good := w.repo
		fired := false
		slow, err := Open(bg, &pausing{w.disk, func(name string) {
			if fired || name != manifestName(2) {
				return
			}
			fired = true
			for range prunes {
				_, err := good.Prune(bg, PruneOptions{Policy: Policy{Last: 1}, AbortAll: true})
				require.NoError(t, err)
				// Something new for the next prune to do.
				_, err = good.session(bg, "abandoned")
				require.NoError(t, err)
			}
		}}, w.options())
		require.NoError(t, err)
		w.repo = slow
		_, err = w.tryBackup(Full)
		require.ErrorIs(t, err, ErrFenced, "%d prunes", prunes)
		w.repo = good
		c, err := w.repo.Chain(bg)
		require.NoError(t, err)
		require.Len(t, c.Backups(""), 1)
		w.restore(Target{})
		w.backup(Auto)
		w.restore(Target{})
	}
}

func TestPruneLeavesARunningBackupAlone(t *testing.T) {
	w := newWorld(t, 40)
	w.fill(500)
	w.backup(Full)
	w.write(5)
	good := w.repo
	slow, err := Open(bg, &pausing{w.disk, func(name string) {
		if name == manifestName(2) {
			rep, err := good.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
			require.NoError(t, err)
			require.Len(t, rep.Open, 1)
		}
	}}, w.options())
	require.NoError(t, err)
	w.repo = slow
	l := w.backup(Full)
	require.Equal(t, uint64(3), l.Seq, "behind the prune")
	w.repo = good
	w.restore(Target{})
}

func TestTheArchiveOfANewLifeIsLeftAlone(t *testing.T) {
	w := newWorld(t, 41)
	w.write(5)
	w.backup(Full)
	other, err := w.repo.OpenArchive(bg, object.ID{0xff})
	require.NoError(t, err)
	_, err = other.Ship(bg, w.s.Log(), 5)
	require.NoError(t, err)
	w.write(5)
	w.backup(Full)
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.NoError(t, err)
	require.Len(t, w.names(fmt.Sprintf("%s%s/", folderArchive, object.ID{0xff})), 1)
}
