package backupfmt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
)

var (
	bg      = context.Background()
	keyFile = bytes.Repeat([]byte{0x5a}, keys.KeySize)
)

// clock is a fake clock that moves a second with every look.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Second)
	return c.t
}

// world is a store, a repository and the memory of what the store was like.
type world struct {
	t     *testing.T
	fs    vfs.FS // of the store
	clock *clock
	rng   *rand.Rand
	s     *engine.Store
	disk  store.Store
	repo  *Repo
	ar    *Archive
	hash  map[uint64][32]byte
	times map[uint64]time.Time
}

func (w *world) engineOptions() engine.Options {
	return engine.Options{
		FS: w.fs, SegmentSize: 256 << 10, MemTableSize: 256 << 10, CacheSize: 1 << 20, FlushInterval: -1, SweepInterval: -1, Now: w.clock.Now,
	}
}

func (w *world) options() Options {
	return Options{Secret: keyFile, Now: w.clock.Now, PackSize: 64 << 10, Workers: 2}
}

// Add moves the clock.
func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{
		t: t, fs: vfs.NewMem(), clock: &clock{t: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}, rng: rand.New(rand.NewPCG(seed, 1)),
		hash: map[uint64][32]byte{}, times: map[uint64]time.Time{},
	}
	var err error
	w.s, err = engine.Open("data", w.engineOptions())
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.s.Close() })
	w.disk, err = store.CreateDir(vfs.NewMem(), "repo")
	require.NoError(t, err)
	w.repo, err = Init(bg, w.disk, InitOptions{Options: w.options(), KDF: keys.File})
	require.NoError(t, err)
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	return w
}

func (w *world) life() object.ID { return object.ID(w.s.Log().ID()) }

// write makes n transactions over a limited set of keys.
func (w *world) write(n int) {
	w.t.Helper()
	for range n {
		res, err := w.s.Update(bg, func(tx *engine.Tx) error {
			for range 1 + w.rng.IntN(3) {
				table, key := []string{"order", "stock"}[w.rng.IntN(2)], fmt.Appendf(nil, "key-%05d", w.rng.IntN(3000))
				var err error
				switch w.rng.IntN(5) {
				case 0:
					err = tx.Delete(table, key)
				case 1:
					err = tx.PutUntil(table, key, []byte("until"), time.UnixMilli(4e12))
				default:
					err = tx.Put(table, key, fmt.Appendf(nil, `{"id":%d,"text":"%x"}`, w.rng.Uint64(), w.rng.Uint64()))
				}
				if err != nil {
					return err
				}
			}
			return nil
		}, engine.WithIdempotencyKey(fmt.Sprint(w.rng.Uint64()), nil))
		require.NoError(w.t, err)
		index, hash := w.s.StateHash()
		require.Equal(w.t, res.Index, index)
		w.hash[index] = hash
		e, err := w.s.Log().Get(index)
		require.NoError(w.t, err)
		w.times[index], _ = EntryTime(e)
	}
}

// fill makes many rows in few transactions.
func (w *world) fill(n int) {
	w.t.Helper()
	for at := 0; at < n; at += 500 {
		_, err := w.s.Update(bg, func(tx *engine.Tx) error {
			for i := at; i < min(at+500, n); i++ {
				v := fmt.Appendf(nil, `{"id":%d,"payload":"%x%x"}`, i, w.rng.Uint64(), w.rng.Uint64())
				if err := tx.Put("bulk", fmt.Appendf(nil, "key-%06d", i), v); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(w.t, err)
	}
	index, hash := w.s.StateHash()
	w.hash[index] = hash
}

func (w *world) backup(kind string) *Link {
	w.t.Helper()
	l, err := w.tryBackup(kind)
	require.NoError(w.t, err)
	return l
}

func (w *world) tryBackup(kind string) (*Link, error) {
	w.t.Helper()
	src, err := EngineSource(w.s, object.ID{})
	require.NoError(w.t, err)
	defer src.Close()
	src.values = []int{0, 400, maxChangedValues}[w.s.AppliedIndex()%3] // from the log, from the store, from both
	return w.repo.Backup(bg, src, BackupOptions{Type: kind})
}

func (w *world) ship() {
	w.t.Helper()
	last, err := w.ar.Ship(bg, w.s.Log(), w.s.AppliedIndex())
	require.NoError(w.t, err)
	require.Equal(w.t, w.s.AppliedIndex(), last)
}

// restore restores into a new directory and compares the state with what it was.
func (w *world) restore(t Target) *RestoreReport {
	w.t.Helper()
	rep, err := w.tryRestore(t)
	require.NoError(w.t, err, "%+v", t)
	require.Equal(w.t, w.hash[rep.Index], rep.StateHash, "state at index %d", rep.Index)
	return rep
}

func (w *world) tryRestore(t Target) (*RestoreReport, error) {
	w.t.Helper()
	return w.restoreWith(t, RestoreOptions{})
}

func (w *world) restoreWith(t Target, ro RestoreOptions) (*RestoreReport, error) {
	w.t.Helper()
	p, err := w.repo.Plan(bg, t)
	if err != nil {
		return nil, err
	}
	o := w.engineOptions()
	o.FS = vfs.NewMem()
	ro.Dir, ro.Engine = "restored", o
	rep, err := w.repo.Restore(bg, p, ro)
	names, lerr := o.FS.List("")
	require.NoError(w.t, lerr)
	if err != nil {
		require.Empty(w.t, names, "a failed restore leaves nothing")
		return nil, err
	}
	require.Equal(w.t, []string{"restored"}, names)
	return rep, nil
}

func TestFullBackupRestoresTheExactState(t *testing.T) {
	w := newWorld(t, 1)
	w.fill(20000)
	w.write(200)
	l := w.backup(Full)
	require.Equal(t, Full, l.Kind)
	require.Equal(t, uint64(1), l.Seq)
	w.write(50)
	rep := w.restore(Target{})
	require.Equal(t, l.Index, rep.Index)
	require.True(t, rep.Proven)
	require.Greater(t, len(l.Packs), 1)
}

func TestEmptyStoreCanBeBackedUpAndRestored(t *testing.T) {
	w := newWorld(t, 2)
	_, w.hash[0] = w.s.StateHash()
	w.backup(Full)
	w.restore(Target{})
}

func TestIncrementalsHoldWhatChangedAndRestoreMergesThem(t *testing.T) {
	w := newWorld(t, 3)
	w.fill(6000)
	full := w.backup(Auto)
	require.Equal(t, Full, full.Kind)
	var all []*Link
	for i := range 5 {
		w.write(20 + i)
		l := w.backup(Auto)
		require.Equal(t, Incremental, l.Kind)
		require.Less(t, l.NewBytes, full.NewBytes/4)
		require.LessOrEqual(t, l.Rows, uint64(4*(20+i)))
		all = append(all, l)
	}
	same := w.backup(Auto)
	require.Equal(t, all[4].Seq, same.Seq, "nothing changed, nothing is stored")
	for _, l := range append(all, full) {
		rep := w.restore(Target{Seq: l.Seq})
		require.Equal(t, l.Index, rep.Index)
		require.True(t, rep.Proven)
	}
}

func TestAnIncrementalNeedsTheLogSinceItsParent(t *testing.T) {
	w := newWorld(t, 22)
	require.NoError(t, w.s.Close())
	o := w.engineOptions()
	o.RetainLog = -1
	var err error
	w.s, err = engine.Open("short", o)
	require.NoError(t, err)
	grow := func() {
		for range 4 {
			_, err := w.s.Update(bg, func(tx *engine.Tx) error { return tx.Put("t", []byte("k"), make([]byte, 100<<10)) })
			require.NoError(t, err)
			_, err = w.s.Checkpoint()
			require.NoError(t, err)
		}
		index, hash := w.s.StateHash()
		w.hash[index] = hash
	}
	grow()
	parent := w.backup(Full)
	w.s.PinLog("backup", parent.Index)
	grow()
	require.Equal(t, Incremental, w.backup(Incremental).Kind, "with the log pinned")
	w.s.UnpinLog("backup")
	grow()
	_, err = w.tryBackup(Incremental)
	require.ErrorIs(t, err, ErrNoHistory)
	require.Equal(t, Full, w.backup(Auto).Kind)
	require.Empty(t, w.names(folderSessions))
	w.restore(Target{})
}

func TestSecondFullStoresOnlyTheChunksThatChanged(t *testing.T) {
	w := newWorld(t, 4)
	w.fill(20000)
	first := w.backup(Full)
	w.write(5)
	second := w.backup(Full)
	require.Less(t, second.NewBytes, first.NewBytes/5)
	require.Greater(t, second.Chunks, 10*second.NewChunks/2)
	w.restore(Target{Seq: first.Seq})
	w.restore(Target{Seq: second.Seq})
}

func TestRestoreToEveryIndex(t *testing.T) {
	w := newWorld(t, 5)
	w.write(10)
	w.ship()
	w.backup(Full)
	for range 4 {
		w.write(7)
		w.ship()
		if w.rng.IntN(2) == 0 {
			w.backup(Incremental)
		}
	}
	base := uint64(10)
	for i := base; i <= w.s.AppliedIndex(); i += 3 {
		rep := w.restore(Target{Index: i})
		require.Equal(t, i, rep.Index)
		other, err := w.restoreWith(Target{Index: i}, RestoreOptions{replay: true})
		require.NoError(t, err)
		require.Equal(t, rep.StateHash, other.StateHash, "folded and replayed")
		require.Equal(t, []uint64{rep.Entries, rep.Rows}, []uint64{other.Entries, other.Rows})
	}
	rep := w.restore(Target{})
	require.Equal(t, w.s.AppliedIndex(), rep.Index)
	_, err := w.tryRestore(Target{Index: w.s.AppliedIndex() + 1})
	require.ErrorIs(t, err, ErrNotReached)
	_, err = w.tryRestore(Target{Index: base - 1})
	require.ErrorIs(t, err, ErrNoBackup)
	_, err = w.tryRestore(Target{Index: 3, Seq: 1})
	require.ErrorIs(t, err, ErrInvalid)
}

func TestRestoreToATimeStopsBeforeTheFirstNewerChange(t *testing.T) {
	w := newWorld(t, 6)
	w.write(5)
	w.backup(Full)
	w.write(30)
	w.ship()
	w.write(10)
	w.ship()
	for _, i := range []uint64{5, 6, 20, 35, 36, 44} {
		rep := w.restore(Target{Time: w.times[i]})
		require.Equal(t, i, rep.Index)
		rep = w.restore(Target{Time: w.times[i+1].Add(-time.Millisecond)})
		require.Equal(t, i, rep.Index)
	}
	_, err := w.tryRestore(Target{Time: w.times[45].Add(time.Hour)})
	require.ErrorIs(t, err, ErrNotReached)
	_, err = w.tryRestore(Target{Time: w.times[1]})
	require.ErrorIs(t, err, ErrNoBackup)
}

func TestAGapInTheArchiveIsRefusedForEveryTarget(t *testing.T) {
	w := newWorld(t, 7)
	w.write(5)
	w.backup(Full)
	var names []string
	for range 4 {
		w.write(5)
		w.ship()
	}
	require.NoError(t, w.disk.List(bg, folderArchive, func(i store.Info) error { names = append(names, i.Name); return nil }))
	require.Len(t, names, 4)
	require.NoError(t, w.disk.Delete(bg, names[2]))
	for _, target := range []Target{{}, {Index: 22}, {Time: w.times[22]}} {
		_, err := w.tryRestore(target)
		var g *GapError
		require.ErrorAs(t, err, &g, "%+v", target)
		require.ErrorIs(t, err, ErrGap)
		require.Equal(t, uint64(16), g.From)
		require.Equal(t, uint64(20), g.To)
		require.Equal(t, uint64(15), g.Reachable)
	}
	w.restore(Target{Index: 15})
	w.restore(Target{Seq: 1})
}

func TestArchiversOfTwoNodesShareOneArchive(t *testing.T) {
	w := newWorld(t, 8)
	w.write(3)
	w.backup(Full)
	other, err := w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	for i := range 6 {
		w.write(4)
		a := w.ar
		if i%2 == 1 {
			a = other
		}
		_, err := a.Ship(bg, w.s.Log(), w.s.AppliedIndex())
		require.NoError(t, err)
	}
	again, err := w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	require.Equal(t, w.s.AppliedIndex(), again.Last())
	w.restore(Target{})
}

type shortLog struct {
	*wal.Log
	first uint64
}

func (l shortLog) FirstIndex() uint64 { return l.first }

func TestAnArchiverThatFellBehindTheLogSaysSo(t *testing.T) {
	w := newWorld(t, 9)
	w.write(5)
	w.ship()
	w.write(5)
	_, err := w.ar.Ship(bg, shortLog{w.s.Log(), 8}, 10)
	var g *GapError
	require.ErrorAs(t, err, &g)
	require.Equal(t, uint64(6), g.From)
	require.Equal(t, uint64(7), g.To)
}

func TestARestoredStoreBeginsANewLife(t *testing.T) {
	w := newWorld(t, 10)
	w.write(10)
	w.backup(Full)
	w.write(5)
	w.ship()
	p, err := w.repo.Plan(bg, Target{Index: 12})
	require.NoError(t, err)
	_, err = w.repo.Restore(bg, p, RestoreOptions{Dir: "second", Engine: w.engineOptions()})
	require.NoError(t, err)
	old := w.life()
	require.NoError(t, w.s.Close())
	w.s, err = engine.Open("second", w.engineOptions())
	require.NoError(t, err)
	require.NotEqual(t, old, w.life())
	w.write(10) // indexes 13.. again, with other content
	_, err = w.tryBackup(Incremental)
	require.ErrorIs(t, err, ErrNoParent)
	l := w.backup(Auto)
	require.Equal(t, Full, l.Kind)
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	w.write(4)
	w.ship()
	w.restore(Target{})
	rep, err := w.tryRestore(Target{Life: old.String()})
	require.NoError(t, err)
	require.Equal(t, uint64(15), rep.Index)
}

func TestInPlaceRestoreKeepsTheOldStoreAside(t *testing.T) {
	w := newWorld(t, 11)
	w.write(10)
	w.backup(Full)
	w.write(5)
	p, err := w.repo.Plan(bg, Target{})
	require.NoError(t, err)
	o := RestoreOptions{Dir: "data", Engine: w.engineOptions()}
	_, err = w.repo.Restore(bg, p, o)
	require.ErrorIs(t, err, ErrInvalid, "not empty")
	o.Replace = true
	_, err = w.repo.Restore(bg, p, o)
	require.ErrorIs(t, err, ErrInvalid, "in use")
	require.NoError(t, w.fs.MkdirAll("home/documents", 0o700))
	foreign := o
	foreign.Dir = "home"
	_, err = w.repo.Restore(bg, p, foreign)
	require.ErrorIs(t, err, ErrInvalid, "not a store")
	require.NoError(t, w.s.Close())
	rep, err := w.repo.Restore(bg, p, o)
	require.NoError(t, err)
	for dir, want := range map[string]uint64{"data": 10, rep.Aside: 15} {
		s, err := engine.Open(dir, w.engineOptions())
		require.NoError(t, err)
		require.Equal(t, want, s.AppliedIndex())
		require.NoError(t, s.Close())
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t, 12)
	_, err := Open(bg, w.disk, Options{})
	require.ErrorIs(t, err, ErrKeyRequired)
	_, err = Open(bg, w.disk, Options{Secret: bytes.Repeat([]byte{1}, 32)})
	require.ErrorIs(t, err, ErrWrongKey)
	_, err = Open(bg, w.disk, Options{Secret: []byte("a passphrase nobody set")})
	require.ErrorIs(t, err, ErrWrongKey)
	r, err := Open(bg, w.disk, w.options())
	require.NoError(t, err)
	require.Equal(t, w.repo.ID(), r.ID())
	_, err = Init(bg, w.disk, InitOptions{Options: w.options(), KDF: keys.File})
	require.ErrorIs(t, err, ErrIsRepo)

	empty, err := store.CreateDir(vfs.NewMem(), "x")
	require.NoError(t, err)
	_, err = Open(bg, empty, w.options())
	require.ErrorIs(t, err, ErrNotRepo)
	_, err = Init(bg, empty, InitOptions{})
	require.ErrorIs(t, err, ErrInvalid, "neither a secret nor the word that none is wanted")
	plain, err := Init(bg, empty, InitOptions{Options: Options{Plain: true}})
	require.NoError(t, err)
	require.False(t, plain.Encrypted())
	_, err = Open(bg, empty, Options{})
	require.ErrorIs(t, err, ErrNotEncrypted)
	_, err = Open(bg, empty, w.options())
	require.ErrorIs(t, err, ErrNotEncrypted)
	_, err = Open(bg, empty, Options{Plain: true})
	require.NoError(t, err)
}

func TestPlainRepositoryWorksLikeASealedOne(t *testing.T) {
	w := newWorld(t, 13)
	var err error
	w.disk, err = store.CreateDir(vfs.NewMem(), "plain")
	require.NoError(t, err)
	w.repo, err = Init(bg, w.disk, InitOptions{Options: Options{Plain: true, Now: w.clock.Now}})
	require.NoError(t, err)
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	w.fill(1000)
	w.backup(Full)
	w.write(5)
	w.backup(Incremental)
	w.write(5)
	w.ship()
	w.restore(Target{})
}

func TestRotationMixesEpochsInOneChain(t *testing.T) {
	w := newWorld(t, 14)
	w.fill(500)
	w.backup(Full)
	second, err := Open(bg, w.disk, w.options()) // does not know the next epoch yet
	require.NoError(t, err)
	require.NoError(t, w.repo.Rotate(bg))
	require.Equal(t, uint32(2), w.repo.Epoch())
	w.write(10)
	w.backup(Incremental)
	slot, err := w.repo.AddSlot(bg, bytes.Repeat([]byte{3}, 32), keys.File, "second key file")
	require.NoError(t, err)
	require.NoError(t, w.repo.Rotate(bg))
	w.write(10)
	w.backup(Incremental)
	w.restore(Target{})
	w.repo = second
	w.restore(Target{})
	o := w.options()
	o.Secret = bytes.Repeat([]byte{3}, 32)
	w.repo, err = Open(bg, w.disk, o)
	require.NoError(t, err)
	w.restore(Target{})
	require.NoError(t, w.repo.RemoveSlot(bg, slot.ID))
	_, err = Open(bg, w.disk, o)
	require.ErrorIs(t, err, ErrWrongKey)
	slots, err := w.repo.Slots(bg)
	require.NoError(t, err)
	require.ErrorIs(t, w.repo.RemoveSlot(bg, slots[0].ID), ErrInvalid, "the last slot stays")
}

// Nothing in the repository gives the content away.
func TestNoPlaintextInTheRepository(t *testing.T) {
	w := newWorld(t, 15)
	const canary = "CANARY-5f3a9c-canary"
	_, err := w.s.Update(bg, func(tx *engine.Tx) error { return tx.Put(canaryTable, []byte(canary), []byte(canary+canary)) },
		engine.WithActor(canary), engine.WithLabel(canary))
	require.NoError(t, err)
	w.backup(Full)
	w.ship()
	require.NoError(t, w.disk.List(bg, "", func(i store.Info) error {
		b, _, err := w.disk.Get(bg, i.Name)
		require.NoError(t, err)
		require.False(t, bytes.Contains(b, []byte(canary)), i.Name)
		require.False(t, bytes.Contains(b, []byte(canaryTable)), i.Name)
		require.False(t, bytes.Contains(b, keyFile), i.Name)
		return nil
	}))
}

const canaryTable = "canary_table_name"

func TestACancelledBackupChangesNothing(t *testing.T) {
	w := newWorld(t, 16)
	w.fill(3000)
	w.backup(Full)
	w.write(5)
	src, err := EngineSource(w.s, object.ID{})
	require.NoError(t, err)
	defer src.Close()
	ctx, cancel := context.WithCancel(bg)
	_, err = w.repo.Backup(ctx, src, BackupOptions{Type: Full, Progress: func(rows, _ uint64) { cancel() }})
	require.True(t, errors.Is(err, context.Canceled), "%v", err)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	require.Len(t, c.Links, 1)
	w.backup(Incremental)
	w.restore(Target{})
}

func TestTwoBackupsAtOnceBothCount(t *testing.T) {
	w := newWorld(t, 17)
	w.fill(2000)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = w.tryBackup(Full) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	require.Len(t, c.Links, 4)
	for _, l := range c.Links {
		w.restore(Target{Seq: l.Seq})
	}
}

func TestABackupUnderLoadIsTheStateAtItsIndex(t *testing.T) {
	w := newWorld(t, 18)
	w.fill(5000)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(18, uint64(g)))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_, err := w.s.Update(bg, func(tx *engine.Tx) error {
					return tx.Put("bulk", fmt.Appendf(nil, "key-%06d", rng.IntN(6000)), fmt.Appendf(nil, "%d by %d", i, g))
				})
				if err != nil {
					t.Errorf("write during the backup: %v", err)
					return
				}
			}
		})
	}
	var links []*Link
	for _, kind := range []string{Full, Incremental, Incremental, Full} {
		l := w.backup(kind)
		hash, ok := w.s.StateHashAt(l.Index)
		if ok { // the engine remembers the newest few thousand
			require.Equal(t, fmt.Sprintf("%x", hash), l.StateHash)
		}
		links = append(links, l)
	}
	close(stop)
	wg.Wait()
	for _, l := range links {
		rep, err := w.tryRestore(Target{Seq: l.Seq})
		require.NoError(t, err)
		require.True(t, rep.Proven)
	}
}

func TestAChainOfHundredsIsCheckedWithoutReadingData(t *testing.T) {
	w := newWorld(t, 19)
	w.fill(500)
	w.backup(Full)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	for range 300 {
		last := c.Links[len(c.Links)-1]
		inv := Inventory{Kind: Full, Life: last.Life, Index: last.Index, Packs: last.Packs, Lists: last.Lists}
		l, err := w.repo.commit(bg, c, inv, last.Details, func(*Link) error { return nil })
		require.NoError(t, err)
		c.Links = append(c.Links, l)
	}
	counted := &counting{Store: w.disk}
	r, err := Open(bg, counted, w.options())
	require.NoError(t, err)
	counted.gets, counted.ranges = 0, 0
	c, err = r.Chain(bg)
	require.NoError(t, err)
	require.Len(t, c.Links, 301)
	require.LessOrEqual(t, counted.gets, 305, "one read for each link and for the one that is not there, the head, and both copies of the table of shards")
	require.Zero(t, counted.ranges)
}

// counting counts reads.
type counting struct {
	store.Store
	gets, ranges int
}

func (c *counting) Get(ctx context.Context, name string) ([]byte, store.Version, error) {
	c.gets++
	return c.Store.Get(ctx, name)
}

func (c *counting) GetRange(ctx context.Context, name string, off, n int64) ([]byte, error) {
	c.ranges++
	return c.Store.GetRange(ctx, name, off, n)
}

// twice is a log in which an idempotency key that the backup knows comes again, which no store would have placed.
type twice struct {
	*wal.Log
	at   uint64
	data []byte
}

func (l twice) Iterate(from uint64, fn func(wal.Entry) error) error {
	return l.Log.Iterate(from, func(e wal.Entry) error {
		if e.Index == l.at {
			e.Data = l.data
		}
		return fn(e)
	})
}

func TestLogThatCannotBeFoldedIsReplayed(t *testing.T) {
	w := newWorld(t, 17)
	w.write(8)
	w.ship()
	w.backup(Full)
	known, err := w.s.Log().Get(3)
	require.NoError(t, err)
	known.Data = append([]byte{}, known.Data...)
	w.write(8)
	_, err = w.ar.Ship(bg, twice{w.s.Log(), 12, known.Data}, 16)
	require.NoError(t, err)
	folded, err := w.restoreWith(Target{}, RestoreOptions{})
	require.NoError(t, err)
	replayed, err := w.restoreWith(Target{}, RestoreOptions{replay: true})
	require.NoError(t, err)
	require.Equal(t, uint64(16), folded.Index)
	require.Equal(t, replayed.StateHash, folded.StateHash)
	require.NotEqual(t, w.hash[16], folded.StateHash, "entry 12 did not count")
	require.Equal(t, uint64(8), folded.Entries)
}
