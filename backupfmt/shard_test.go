package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// fleet are the places of a repository; those that are away cannot be opened.
type fleet struct {
	t     *testing.T
	first store.Store
	fs    vfs.FS
	away  map[string]bool
	wrap  func(location string, st store.Store) store.Store // may be nil
}

var errAway = errors.New("no such host")

func (f *fleet) place(_ context.Context, location string) (store.Store, error) {
	if f.away[location] {
		return nil, errAway
	}
	d, err := store.OpenDir(f.fs, location)
	if err == nil && f.wrap != nil {
		return f.wrap(location, d), nil
	}
	return d, err
}

func (f *fleet) open() *shard.Store {
	f.t.Helper()
	st, err := shard.Open(bg, f.first, f.place)
	require.NoError(f.t, err)
	s, ok := st.(*shard.Store)
	require.True(f.t, ok)
	return s
}

// spread gives the repository of a world two more places.
func spread(t *testing.T, w *world) (*fleet, []shard.Place) {
	t.Helper()
	f := &fleet{t: t, first: w.disk, fs: vfs.NewMem(), away: map[string]bool{}}
	var places []shard.Place
	for _, location := range []string{"second", "third"} {
		d, err := store.CreateDir(f.fs, location)
		require.NoError(t, err)
		p, err := shard.Add(bg, f.first, d, location, w.clock.Now(), w.repo.AnnounceShards(bg, false))
		require.NoError(t, err)
		places = append(places, p)
	}
	w.over(f)
	return f, places
}

// over lets the world go on with the repository as a new process would open it.
func (w *world) over(f *fleet) {
	w.t.Helper()
	w.disk = f.open()
	var err error
	if w.repo, err = Open(bg, w.disk, w.options()); errors.Is(err, ErrWrongKey) {
		w.repo, err = Open(bg, w.disk, w.newOptions())
	}
	require.NoError(w.t, err)
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(w.t, err)
}

// several makes full backups that share nothing, each with a pack of its own.
func (w *world) several(n int) {
	w.t.Helper()
	for range n {
		w.fill(600)
		w.backup(Full)
	}
}

// only closes all places but one; "" opens all.
func (w *world) only(f *fleet, id string) {
	w.t.Helper()
	for _, closed := range []bool{false, true} { // one must always be open
		for _, p := range f.open().Places() {
			if (id != "" && p.ID != id) == closed {
				require.NoError(w.t, shard.Close(bg, f.first, p.ID, closed, w.repo.AnnounceShards(bg, false)))
			}
		}
	}
	w.over(f)
}

func (f *fleet) held() map[string]int {
	f.t.Helper()
	all, err := f.open().Survey(bg)
	require.NoError(f.t, err)
	out := map[string]int{}
	for _, h := range all {
		out[h.Location] = h.Packs
	}
	return out
}

func soundStore(t *testing.T, w *world) {
	t.Helper()
	v, err := w.repo.Verify(bg, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, v.Damage)
}

func TestPacksAreSpreadOverPlacesAndEverythingWorksAsBefore(t *testing.T) {
	w := newWorld(t, 300)
	w.fill(600)
	w.backup(Full)
	f, places := spread(t, w)
	require.Equal(t, map[string]int{"": len(w.names(folderPacks)), "second": 0, "third": 0}, f.held(), "old packs stay where they are")
	for _, p := range places {
		w.only(f, p.ID)
		w.several(2)
	}
	w.only(f, "")
	w.several(3)
	w.write(10)
	w.ship()
	w.backup(Incremental)
	w.write(5)
	w.ship()
	held := f.held()
	require.NotZero(t, held["second"])
	require.NotZero(t, held["third"])
	w.everythingRestores()
	soundStore(t, w)
	_, err := w.repo.Consolidate(bg, 0, nil)
	require.NoError(t, err)
	_, err = ChangeMaster(bg, w.disk, w.rekeyOptions())
	require.NoError(t, err)
	w.repo, err = Open(bg, w.disk, w.newOptions())
	require.NoError(t, err)
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	w.everythingRestores()
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.NoError(t, err)
	w.only(f, places[0].ID)
	w.several(2)
	w.only(f, "")
	w.ship()
	soundStore(t, w)

	// A copy is one tree, or has places of its own.
	one, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(t, err)
	_, err = Mirror(bg, w.disk, one, CopyOptions{Delete: true})
	require.NoError(t, err)
	got, want := tree(t, one), tree(t, w.disk)
	for _, own := range []string{"shards", "shards.2", nameShards, nameLedger} {
		delete(want, own)
		require.NotContains(t, got, own)
	}
	require.Equal(t, want, got)

	// A place is emptied and forgotten.
	require.Error(t, f.open().Remove(bg, places[0].ID, false, w.repo.AnnounceShards(bg, false)), "it holds packs")
	require.NoError(t, shard.Close(bg, f.first, places[0].ID, true, w.repo.AnnounceShards(bg, false)))
	moved, _, err := f.open().Rebalance(bg, nil)
	require.NoError(t, err)
	require.NotZero(t, moved)
	require.NoError(t, f.open().Remove(bg, places[0].ID, false, w.repo.AnnounceShards(bg, false)))
	require.NotContains(t, f.held(), "second")
	w.repo, err = Open(bg, f.open(), w.newOptions())
	require.NoError(t, err)
	w.everythingRestores()
	soundStore(t, w)
	require.Equal(t, want, func() map[string][]byte {
		m := tree(t, f.open())
		for _, own := range []string{"shards", "shards.2", nameShards, nameLedger} {
			delete(m, own)
		}
		return m
	}(), "moving changes no byte")
}

func TestALostPlaceIsNamedWithWhatItCostsAndBackupsGoOn(t *testing.T) {
	w := newWorld(t, 301)
	w.fill(300)
	early := w.backup(Full) // before there were shards
	f, places := spread(t, w)
	w.only(f, places[0].ID)
	w.several(2)
	w.write(8)
	w.ship()
	last := w.backup(Incremental)
	w.only(f, "")
	saved, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(t, err)
	_, err = Copy(bg, w.disk, saved, nil)
	require.NoError(t, err)

	f.away["second"] = true
	w.over(f)
	v, err := w.repo.Verify(bg, VerifyOptions{})
	require.NoError(t, err)
	require.True(t, v.Lost())
	n := slices.IndexFunc(v.Damage, func(d Damage) bool { return d.Object == "shard "+places[0].ID })
	require.GreaterOrEqual(t, n, 0, "%v", v.Damage)
	require.Contains(t, v.Damage[n].Reason, "second")
	var costs []uint64
	for _, d := range v.Damage {
		costs = append(costs, d.Backups...)
	}
	require.Contains(t, costs, last.Seq)
	require.NotContains(t, costs, early.Seq)
	_, err = w.tryRestore(Target{Seq: last.Seq})
	require.ErrorIs(t, err, shard.ErrUnreachable)
	require.ErrorContains(t, err, places[0].ID)
	require.ErrorContains(t, err, "second")
	w.restore(Target{Seq: early.Seq}) // it needs nothing from there
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.ErrorIs(t, err, shard.ErrUnreachable, "nothing is taken for garbage because its users cannot be seen")

	w.write(5)
	w.ship()
	full := w.backup(Full)
	w.restore(Target{Seq: full.Seq}) // it shares nothing that is away
	f.away["second"] = false
	w.over(f)
	w.everythingRestores()
	soundStore(t, w)

	// Gone for good: a copy brings back what was there.
	f.fs = func() vfs.FS { // the disk of "second" is empty now, and its folder still there
		fresh := vfs.NewMem()
		third, err := store.CreateDir(fresh, "third")
		require.NoError(t, err)
		old, err := store.OpenDir(f.fs, "third")
		require.NoError(t, err)
		for name, b := range tree(t, old) {
			require.NoError(t, third.Create(bg, name, b))
		}
		_, err = store.CreateDir(fresh, "second")
		require.NoError(t, err)
		return fresh
	}()
	w.over(f)
	_, err = w.tryRestore(Target{Seq: last.Seq})
	require.ErrorContains(t, err, "is it mounted?")
	require.Error(t, f.open().Remove(bg, places[0].ID, false, w.repo.AnnounceShards(bg, false)))
	require.NoError(t, f.open().Remove(bg, places[0].ID, true, w.repo.AnnounceShards(bg, false)))
	w.over(f)
	_, err = Copy(bg, saved, w.disk, nil)
	require.NoError(t, err)
	w.restore(Target{Seq: last.Seq})
	w.restore(Target{Seq: full.Seq})
}

// dying is a place that fails for ever from the nth change on.
type dying struct {
	store.Store
	left *int
}

var errDead = errors.New("killed")

func (d dying) spend() error {
	if *d.left--; *d.left < 0 {
		return errDead
	}
	return nil
}

func (d dying) Create(ctx context.Context, name string, b []byte) error {
	if err := d.spend(); err != nil {
		return err
	}
	return d.Store.Create(ctx, name, b)
}

func (d dying) Delete(ctx context.Context, name string) error {
	if err := d.spend(); err != nil {
		return err
	}
	return d.Store.Delete(ctx, name)
}

func TestARebalanceThatIsKilledAnywhereLosesNothing(t *testing.T) {
	w := newWorld(t, 302)
	w.several(5)
	l := w.backup(Full)
	packs := len(w.names(folderPacks))
	require.Greater(t, packs, 3)
	f, _ := spread(t, w)
	require.NoError(t, shard.Close(bg, f.first, shard.First, true, w.repo.AnnounceShards(bg, false)))
	for n, done := 0, false; !done; n++ {
		left := n
		g := *f
		g.wrap = func(_ string, st store.Store) store.Store { return dying{st, &left} }
		g.first = dying{f.first, &left}
		_, _, err := g.open().Rebalance(bg, nil)
		done = err == nil
		if !done {
			require.ErrorIs(t, err, errDead)
		}
		w.over(f)
		require.Len(t, w.names(folderPacks), packs, "each is listed once")
		w.restore(Target{Seq: l.Seq})
	}
	require.Zero(t, f.held()[""])
	soundStore(t, w)
}

func TestTheTableOfPlacesSurvivesDamageOfOneCopyAndRefusesNonsense(t *testing.T) {
	w := newWorld(t, 303)
	f, _ := spread(t, w)
	b, v, err := f.first.Get(bg, "shards")
	require.NoError(t, err)
	_, err = f.first.Replace(bg, "shards", []byte(strings.Replace(string(b), "second", "sesame", 1)), v)
	require.NoError(t, err)
	require.Equal(t, "second", f.open().Places()[1].Location)
	b, v, err = f.first.Get(bg, "shards.2")
	require.NoError(t, err)
	_, err = f.first.Replace(bg, "shards.2", b[:len(b)/2], v)
	require.NoError(t, err)
	_, err = shard.Open(bg, f.first, f.place)
	require.ErrorIs(t, err, shard.ErrDamaged)

	w = newWorld(t, 304)
	f, places := spread(t, w)
	d, err := f.place(bg, "second")
	require.NoError(t, err)
	_, err = shard.Add(bg, f.first, d, "second", w.clock.Now(), w.repo.AnnounceShards(bg, false))
	require.ErrorIs(t, err, shard.ErrInvalid, "it is not empty")
	require.ErrorIs(t, shard.Close(bg, f.first, "nobody", true, w.repo.AnnounceShards(bg, false)), shard.ErrInvalid)
	require.NoError(t, shard.Close(bg, f.first, shard.First, true, w.repo.AnnounceShards(bg, false)))
	require.NoError(t, shard.Close(bg, f.first, places[0].ID, true, w.repo.AnnounceShards(bg, false)))
	require.ErrorIs(t, shard.Close(bg, f.first, places[1].ID, true, w.repo.AnnounceShards(bg, false)), shard.ErrInvalid, "somebody must take packs")
	require.ErrorIs(t, f.open().Remove(bg, shard.First, true, w.repo.AnnounceShards(bg, false)), shard.ErrInvalid)
	// Places that were swapped are not what the table says.
	second := d
	mark, v, err := second.Get(bg, "shard")
	require.NoError(t, err)
	_, err = second.Replace(bg, "shard", []byte(strings.Replace(string(mark), places[0].ID, places[1].ID, 1)), v)
	require.NoError(t, err)
	_, _, err = f.open().Rebalance(bg, nil)
	require.ErrorIs(t, err, shard.ErrUnreachable)
	require.ErrorContains(t, err, "another shard")
}

func TestAStoreOfPlacesConforms(t *testing.T) {
	w := newWorld(t, 305)
	f, _ := spread(t, w)
	st := f.open()
	for i := range 40 {
		name := fmt.Sprintf("packs/s/%02d", i)
		require.NoError(t, st.Create(bg, name, []byte(name)))
		require.ErrorIs(t, st.Create(bg, name, []byte("other")), store.ErrExists)
		b, v, err := st.Get(bg, name)
		require.NoError(t, err)
		require.Equal(t, name, string(b))
		v2, err := st.Replace(bg, name, []byte("again"), v)
		require.NoError(t, err)
		_, err = st.Replace(bg, name, []byte("lost"), v)
		require.ErrorIs(t, err, store.ErrChanged)
		_, err = st.Replace(bg, name, []byte(name), v2)
		require.NoError(t, err)
		i, err := st.Stat(bg, name)
		require.NoError(t, err)
		require.Equal(t, int64(len(name)), i.Size)
	}
	names := w.names("")
	require.True(t, slices.IsSorted(names))
	require.Len(t, w.names(folderPacks), 40)
	require.NoError(t, st.Delete(bg, "packs/s/07"))
	_, _, err := st.Get(bg, "packs/s/07")
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Len(t, w.names(folderPacks), 39)
	require.ErrorIs(t, st.List(bg, "packs/", func(store.Info) error { return errDead }), errDead)
}

// Whoever can write to the first place, but has not the key, cannot send packs elsewhere, hide places, or take the place of the owner.
func TestATableThatTheOwnerDidNotWriteIsRefused(t *testing.T) {
	w := newWorld(t, 310)
	w.fill(300)
	w.backup(Full)
	f, places := spread(t, w)
	table, _, err := f.first.Get(bg, "shards")
	require.NoError(t, err)
	auth, _, err := f.first.Get(bg, nameShards)
	require.NoError(t, err)
	write := func(table, auth []byte) {
		for name, b := range map[string][]byte{"shards": table, "shards.2": table, nameShards: auth} {
			require.NoError(t, f.first.Delete(bg, name))
			if b != nil {
				require.NoError(t, f.first.Create(bg, name, b))
			}
		}
	}
	// A table of somebody who knows the format, made with the tools.
	evil := newWorld(t, 311)
	elsewhere, evilPlaces := spread(t, evil)
	other, _, err := elsewhere.first.Get(bg, "shards")
	require.NoError(t, err)
	otherAuth, _, err := elsewhere.first.Get(bg, nameShards)
	require.NoError(t, err)
	require.NoError(t, shard.Close(bg, elsewhere.first, evilPlaces[0].ID, true, func(string, string) error { return nil }))
	for what, forged := range map[string][2][]byte{
		"another table":          {other, auth},
		"of another repository":  {other, otherAuth},
		"nothing vouches for it": {table, nil},
		"vouched for by another": {table, otherAuth},
	} {
		write(forged[0], forged[1])
		st, err := shard.Open(bg, f.first, f.place)
		require.NoError(t, err)
		r, err := Open(bg, st, w.options())
		require.NoError(t, err)
		_, err = r.Chain(bg)
		require.ErrorIs(t, err, ErrDamaged, what)
		_, err = r.Plan(bg, Target{})
		require.Error(t, err, what)
		_, err = r.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
		require.Error(t, err, what)
		require.Error(t, shard.Close(bg, f.first, shard.First, true, r.AnnounceShards(bg, false)), "%s is not made right by the next change", what)
		v, err := r.Verify(bg, VerifyOptions{NoLedger: true})
		require.NoError(t, err)
		require.NotEmpty(t, v.Damage, what)
	}
	// The owner may say that it is right, after all.
	write(table, nil)
	w.disk = f.open()
	w.reopen(-1)
	require.NoError(t, w.repo.AcceptShards(bg))
	w.over(f)
	w.restore(Target{})
	// A table that was put right between the opening and the look at it does not help who opened another.
	now, _, err := f.first.Get(bg, nameShards)
	require.NoError(t, err)
	write(other, now)
	st, err := shard.Open(bg, f.first, elsewhere.place)
	require.NoError(t, err)
	write(table, now)
	r, err := Open(bg, st, w.options())
	require.NoError(t, err)
	_, err = r.Chain(bg)
	require.ErrorIs(t, err, ErrShards)
	// A process that is at work goes on when a place is added.
	w.over(f)
	w.restore(Target{})
	require.NoError(t, shard.Close(bg, f.first, places[0].ID, true, w.repo.AnnounceShards(bg, false)))
	require.NoError(t, shard.Close(bg, f.first, places[0].ID, false, w.repo.AnnounceShards(bg, false)))
	w.write(3)
	w.backup(Full)
	soundStore(t, w)
}

// TestAChangeOfTheTableMayBeKilledAnywhere: the table before or the table behind is the right one, and the same call gets through.
func TestAChangeOfTheTableMayBeKilledAnywhere(t *testing.T) {
	points := 0
	for n := 0; ; n++ {
		w := brief(t, 312)
		f, places := spread(t, w)
		r, err := Open(bg, newFaulty(f.open(), n), w.options())
		require.NoError(t, err)
		err = shard.Close(bg, newFaultyFrom(r.st.(*faulty), f.first), places[0].ID, true, r.AnnounceShards(bg, false))
		w.over(f)
		w.restoresAll()
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errKilled)
		points++
		require.NoError(t, shard.Close(bg, f.first, places[0].ID, true, w.repo.AnnounceShards(bg, false)))
		w.over(f)
		w.backup(Full)
		soundStore(t, w)
	}
	require.Equal(t, 4, points)
}

// newFaultyFrom is another store that dies with the first one.
func newFaultyFrom(f *faulty, st store.Store) store.Store { return &fateful{faulty: f, st: st} }

type fateful struct {
	*faulty
	st store.Store
}

func (f *fateful) Get(ctx context.Context, name string) ([]byte, store.Version, error) {
	return f.st.Get(ctx, name)
}

func (f *fateful) Replace(ctx context.Context, name string, b []byte, v store.Version) (store.Version, error) {
	if err := f.step(); err != nil {
		return "", err
	}
	return f.st.Replace(ctx, name, b, v)
}

func TestTheTableOfASignedRepositoryIsSigned(t *testing.T) {
	w := newWorld(t, 313)
	w.fill(300)
	w.backup(Full)
	f, places := spread(t, w)
	before, _, err := f.first.Get(bg, nameShards)
	require.NoError(t, err)
	one := signer(t, 1)
	_, err = w.as(one).BeginSigning(bg)
	require.NoError(t, err)
	w.become(w.as(one))
	w.several(2)
	w.repo = w.as(nil, one)
	w.restore(Target{})
	w.become(w.as(one))
	require.NoError(t, shard.Close(bg, f.first, places[0].ID, true, w.repo.AnnounceShards(bg, false)))
	w.disk = f.open()
	// Somebody who has the encryption key, and not that one.
	require.ErrorIs(t, shard.Close(bg, f.first, places[0].ID, false, w.as(nil).AnnounceShards(bg, false)), ErrSignKey)
	put(t, f.first, nameShards, before)
	_, err = w.as(nil, one).Plan(bg, Target{})
	require.ErrorIs(t, err, ErrUnsigned)
}
