package backupfmt

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// history makes a repository with everything in it.
func history(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed)
	w.fill(9000)
	w.backup(Full)
	for range 3 {
		w.write(10)
		w.ship()
		w.backup(Incremental)
	}
	w.write(4)
	w.ship()
	w.backup(Full)
	w.write(6)
	w.ship()
	return w
}

// copyOf is an independent copy of the repository.
func (w *world) copyOf() store.Store {
	w.t.Helper()
	c, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(w.t, err)
	for _, n := range w.names("") {
		b, _, err := w.disk.Get(bg, n)
		require.NoError(w.t, err)
		require.NoError(w.t, c.Create(bg, n, b))
	}
	return c
}

func TestLostPiecesOfTheArchiveThatABackupRecordedAreNoticed(t *testing.T) {
	w := newWorld(t, 61)
	w.write(5)
	w.backup(Full)
	w.write(5)
	w.ship()
	src, err := EngineSource(w.s, object.ID{})
	require.NoError(t, err)
	defer src.Close()
	w.write(5)
	_, err = w.repo.Backup(bg, src, BackupOptions{Type: Incremental, Archive: w.ar})
	require.NoError(t, err)
	rep, err := Scrub(bg, w.disk, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
	piece := w.names(folderArchive)[0]
	b, _, err := w.disk.Get(bg, piece)
	require.NoError(t, err)
	require.NoError(t, w.disk.Delete(bg, piece))
	rep, err = Scrub(bg, w.disk, VerifyOptions{})
	require.NoError(t, err)
	require.Len(t, rep.Damage, 1)
	require.Equal(t, Damage{Kind: "missing", Object: piece, Reason: "backup 2 recorded it", From: 1, To: 10}, rep.Damage[0])
	// Another sound piece of the same entries in its place.
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	w.ship()
	again, _, err := w.disk.Get(bg, piece)
	require.NoError(t, err)
	require.NotEqual(t, b, again)
	rep, err = Scrub(bg, w.disk, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Len(t, rep.Damage, 1)
	require.Equal(t, "replayed", rep.Damage[0].Kind)
}

func TestConfigurationCannotBeChangedBehindTheOwnersBack(t *testing.T) {
	w := history(t, 62)
	for _, change := range []func(*config){
		func(c *config) { c.Encryption = encryptNone },
		func(c *config) { c.Created = c.Created.Add(1e9) },
		func(c *config) { c.Repo = strings.Repeat("ab", 16) },
	} {
		st := w.copyOf()
		b, _, err := st.Get(bg, nameConfig)
		require.NoError(t, err)
		c, err := parseConfig(b)
		require.NoError(t, err)
		change(&c)
		b, err = c.encode()
		require.NoError(t, err)
		put(t, st, nameConfig, b)
		_, err = Open(bg, st, w.options())
		require.True(t, errors.Is(err, ErrWrongKey) || errors.Is(err, ErrNotEncrypted), "%v", err)
		rep, err := Scrub(bg, st, VerifyOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, rep.Damage, "the two copies differ")
	}
}

func put(t *testing.T, st store.Store, name string, b []byte) {
	t.Helper()
	require.NoError(t, st.Delete(bg, name))
	require.NoError(t, st.Create(bg, name, b))
}

func TestASoundRepositoryVerifiesWithAndWithoutTheKey(t *testing.T) {
	w := history(t, 50)
	for _, data := range []bool{false, true} {
		rep, err := Scrub(bg, w.disk, VerifyOptions{ReadData: data})
		require.NoError(t, err)
		require.Empty(t, rep.Damage)
		require.True(t, rep.Keyless)
		require.Len(t, rep.Chain.Links, 5)
		rep, err = w.repo.Verify(bg, VerifyOptions{ReadData: data})
		require.NoError(t, err)
		require.Empty(t, rep.Damage)
		require.Empty(t, rep.Stray)
	}
}

// damages is how many random damages are tried: ERLMCP_TEST_BACKUP_DAMAGES, else few.
func damages(t *testing.T) int {
	t.Helper()
	n := 60
	if text := os.Getenv("ERLMCP_TEST_BACKUP_DAMAGES"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	return n
}

// hurt damages one object in a random way and says how; "" if it did not. again puts everything back.
func (w *world) hurt(rng *rand.Rand, all []string, foreign map[string][]byte, was map[string][]byte) (name, how string, again func()) {
	w.t.Helper()
	name = all[rng.IntN(len(all))]
	b := bytes.Clone(was[name])
	other := all[rng.IntN(len(all))]
	again = func() { put(w.t, w.disk, name, was[name]); put(w.t, w.disk, other, was[other]) }
	switch rng.IntN(8) {
	case 0:
		b[rng.IntN(len(b))] ^= byte(1 << rng.IntN(8))
		how = "flipped"
	case 1:
		b = b[:rng.IntN(len(b))]
		how = "cut"
	case 2:
		at := rng.IntN(len(b))
		end := at + 1 + rng.IntN(len(b)-at)
		clear(b[at:end])
		if !bytes.Equal(b, was[name]) {
			how = "zeroed"
		}
	case 3:
		b = append(b, byte(rng.Uint32()))
		how = "grown"
	case 4:
		require.NoError(w.t, w.disk.Delete(bg, name))
		return name, "deleted", again
	case 5:
		if bytes.Equal(was[name], was[other]) {
			return name, "", again
		}
		put(w.t, w.disk, other, was[name])
		b, how = was[other], "swapped with "+other
	case 6:
		// An older or other object of the same kind in its place, as by a replay.
		if other == name || bytes.Equal(was[name], was[other]) || path.Dir(other) != path.Dir(name) {
			return name, "", again
		}
		b, how = was[other], "replayed from "+other
	case 7:
		f, ok := foreign[path.Dir(name)]
		if !ok || name == nameLedger {
			return name, "", again
		}
		b, how = f, "from another repository"
	}
	if how != "" {
		put(w.t, w.disk, name, b)
	}
	return name, how, again
}

// TestRandomDamageIsFound hurts stored objects at random: bits flipped, cut, zeroed, grown, deleted, swapped, replayed, mixed with
// another repository. All of it is found without the key and with it, it is healed as far as the parity was made for, and it is never said that
// something is lost that a restore can still read.
func TestRandomDamageIsFound(t *testing.T) {
	w := history(t, 51)
	stranger := brief(t, 151)
	foreign := map[string][]byte{}
	for _, n := range stranger.names("") {
		b, _, err := stranger.disk.Get(bg, n)
		require.NoError(t, err)
		foreign[path.Dir(n)] = b
		if n == nameHead || n == nameConfig {
			foreign[n] = b
		}
	}
	delete(foreign, ".")
	all := w.names("")
	was := tree(t, w.disk)
	pieces := w.names(folderArchive)
	rng := rand.New(rand.NewPCG(51, 9))
	found, healed := map[string]int{}, 0
	for trial := 0; trial < damages(t); {
		name, how, again := w.hurt(rng, all, foreign, was)
		// Nothing names the newest piece of the archive yet: see the threat model.
		if how == "" || name == nameLedger || how == "deleted" && name == pieces[len(pieces)-1] {
			again()
			continue
		}
		trial++
		kind, _, _ := strings.Cut(how, " ")
		found[kind]++
		rep, err := Scrub(bg, w.disk, VerifyOptions{ReadData: true, NoLedger: true})
		if err != nil {
			require.True(t, strings.HasPrefix(name, nameConfig), "trial %d: %s %s: %v", trial, name, how, err)
		} else {
			require.NotEmpty(t, rep.Damage, "trial %d: %s %s", trial, name, how)
		}
		if r, err := Open(bg, w.disk, w.options()); err == nil {
			keyed, err := r.Verify(bg, VerifyOptions{ReadData: true, NoLedger: true})
			require.NoError(t, err, "trial %d: %s %s", trial, name, how)
			require.NotEmpty(t, keyed.Damage, "trial %d: %s %s, with the key", trial, name, how)
		}
		if how == "flipped" || how == "grown" {
			require.False(t, rep.Lost(), "trial %d: %s: one bit can be healed: %+v", trial, name, rep.Damage)
		}
		if rep != nil && !rep.Lost() {
			healed++
			rep, err = Scrub(bg, w.disk, VerifyOptions{ReadData: true, Heal: true, NoLedger: true})
			require.NoError(t, err)
			require.True(t, slices.ContainsFunc(rep.Damage, func(d Damage) bool { return d.Written || d.Object == nameHead }), "it says what it healed: %s %s", name, how)
			b, _, err := w.disk.Get(bg, name)
			if err == nil {
				require.True(t, bytes.Equal(b, was[name]), "trial %d: %s %s was not healed to what it was", trial, name, how)
			}
		}
		again()
	}
	require.Equal(t, was, tree(t, w.disk))
	t.Logf("%d damages, all found with and without the key: %v; %d healed byte by byte from parity or second copies", damages(t), found, healed)
}

// One sound object of every kind in the place of one of every other kind, and of its own.
func TestAnObjectInThePlaceOfAnotherIsFound(t *testing.T) {
	w := history(t, 64)
	kinds := map[string][]string{}
	for _, n := range w.names("") {
		if !strings.HasSuffix(n, secondCopy) {
			folder, _, _ := strings.Cut(n, "/")
			kinds[folder] = append(kinds[folder], n)
		}
	}
	require.GreaterOrEqual(t, len(kinds), 8, "%v", kinds)
	for _, from := range slices.Sorted(maps.Keys(kinds)) {
		b, _, err := w.disk.Get(bg, kinds[from][0])
		require.NoError(t, err)
		for _, to := range slices.Sorted(maps.Keys(kinds)) {
			place := kinds[to][len(kinds[to])-1]
			if place == kinds[from][0] {
				continue
			}
			st := w.copyOf()
			_, v, err := st.Get(bg, place)
			require.NoError(t, err)
			_, err = st.Replace(bg, place, b, v)
			require.NoError(t, err)
			rep, err := Scrub(bg, st, VerifyOptions{ReadData: true})
			if err == nil {
				require.False(t, rep.OK(), "%s in the place of %s", kinds[from][0], place)
			}
		}
	}
}

func TestTheCheapCheckFindsMissingAndTruncatedObjects(t *testing.T) {
	w := history(t, 52)
	archive := w.names(folderArchive)
	for _, name := range w.names("") {
		if name == archive[len(archive)-1] || name == nameLedger {
			continue
		}
		c := w.copyOf()
		b, _, err := c.Get(bg, name)
		require.NoError(t, err)
		require.NoError(t, c.Delete(bg, name))
		rep, err := Scrub(bg, c, VerifyOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, rep.Damage, "%s deleted", name)
		if strings.HasPrefix(name, folderArchive) {
			continue
		}
		put(t, c, name, b[:len(b)-1])
		rep, err = Scrub(bg, c, VerifyOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, rep.Damage, "%s truncated", name)
	}
}

func TestDamageNamesTheBackupsAndTheLogItCosts(t *testing.T) {
	w := history(t, 53)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	inc, err := c.Backup(3) // the second incremental
	require.NoError(t, err)
	st := w.copyOf()
	require.NoError(t, st.Delete(bg, inc.Packs[0].Name))
	rep, err := Scrub(bg, st, VerifyOptions{})
	require.NoError(t, err)
	require.Len(t, rep.Damage, 1)
	require.Equal(t, "missing", rep.Damage[0].Kind)
	require.Equal(t, []uint64{3, 4}, rep.Damage[0].Backups, "itself and what builds on it")

	archive := w.names(folderArchive)
	st = w.copyOf()
	require.NoError(t, st.Delete(bg, archive[1]))
	rep, err = Scrub(bg, st, VerifyOptions{})
	require.NoError(t, err)
	require.Len(t, rep.Damage, 1)
	require.Equal(t, "gap", rep.Damage[0].Kind)
	first, _ := parseNumber(archive[1])
	next, _ := parseNumber(archive[2])
	require.Equal(t, []uint64{first, next - 1}, []uint64{rep.Damage[0].From, rep.Damage[0].To})
}

func TestRolledBackAndReplayedChainsAreNamed(t *testing.T) {
	w := history(t, 54)
	oldHead, _, err := w.disk.Get(bg, nameHead)
	require.NoError(t, err)
	oldManifest, _, err := w.disk.Get(bg, manifestName(5))
	require.NoError(t, err)
	w.write(3)
	w.backup(Incremental) // 6

	kind := func(st store.Store) string {
		r, err := Open(bg, st, w.options())
		require.NoError(t, err)
		_, err = r.Chain(bg)
		var d *DamageError
		require.ErrorAs(t, err, &d)
		require.ErrorIs(t, err, ErrDamaged)
		rep, err := Scrub(bg, st, VerifyOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, rep.Damage, d.Kind)
		return d.Kind
	}
	st := w.copyOf()
	require.NoError(t, st.Delete(bg, manifestName(6)))
	require.Equal(t, "rolled-back", kind(st), "the newest link is gone")
	st = w.copyOf()
	require.NoError(t, st.Delete(bg, manifestName(3)))
	require.Equal(t, "missing", kind(st))
	st = w.copyOf()
	put(t, st, manifestName(6), oldManifest)
	require.Equal(t, "replayed", kind(st), "an older link in the place of the newest")
	st = w.copyOf()
	two, _, err := st.Get(bg, manifestName(2))
	require.NoError(t, err)
	three, _, err := st.Get(bg, manifestName(3))
	require.NoError(t, err)
	put(t, st, manifestName(2), three)
	put(t, st, manifestName(3), two)
	require.Equal(t, "replayed", kind(st), "reordered")
	st = w.copyOf()
	require.NoError(t, st.Delete(bg, nameHead))
	require.NoError(t, st.Delete(bg, manifestName(1)))
	require.Equal(t, "missing", kind(st), "no head and no beginning")

	st = w.copyOf()
	put(t, st, nameHead, oldHead)
	b, _, err := st.Get(bg, manifestName(6))
	require.NoError(t, err)
	require.NoError(t, st.Delete(bg, manifestName(6)))
	require.NoError(t, st.Create(bg, manifestName(7), b))
	rep, err := Scrub(bg, st, VerifyOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, rep.Damage, "a link behind a gap")

	// An older head alone loses nothing: the chain goes on from there.
	st = w.copyOf()
	put(t, st, nameHead, oldHead)
	r, err := Open(bg, st, w.options())
	require.NoError(t, err)
	c, err := r.Chain(bg)
	require.NoError(t, err)
	require.Equal(t, uint64(6), c.Head)
}

func TestRepositoriesDoNotMix(t *testing.T) {
	a, b := history(t, 55), history(t, 56)
	st := a.copyOf()
	foreign, _, err := b.disk.Get(bg, manifestName(3))
	require.NoError(t, err)
	put(t, st, manifestName(3), foreign)
	r, err := Open(bg, st, a.options())
	require.NoError(t, err)
	_, err = r.Chain(bg)
	require.ErrorIs(t, err, ErrDamaged)
	rep, err := Scrub(bg, st, VerifyOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, rep.Damage)
}

func TestARestoreReadsThroughDamageThatCanBeHealed(t *testing.T) {
	w := history(t, 57)
	st := w.copyOf()
	for _, n := range w.names("") {
		b, _, err := st.Get(bg, n)
		require.NoError(t, err)
		if strings.HasPrefix(n, folderKeys) || strings.HasPrefix(n, folderEpochs) || n == nameConfig || n == nameConfig+secondCopy {
			continue
		}
		b[len(b)/3] ^= 0x40
		put(t, st, n, b)
	}
	var err error
	w.repo, err = Open(bg, st, w.options())
	require.NoError(t, err)
	w.restore(Target{})
	w.restore(Target{Seq: 3})
}

func TestADamagedBackupIsNeverRestoredWrongly(t *testing.T) {
	w := history(t, 58)
	rng := rand.New(rand.NewPCG(58, 2))
	for trial := range 30 {
		st := w.copyOf()
		for range 1 + rng.IntN(3) {
			names := w.names([]string{folderPacks, folderLists, folderManifest, folderArchive}[rng.IntN(4)])
			name := names[rng.IntN(len(names))]
			b, _, err := st.Get(bg, name)
			require.NoError(t, err)
			at := rng.IntN(len(b))
			for i := at; i < min(len(b), at+1+rng.IntN(len(b))); i++ {
				b[i] = byte(rng.Uint32())
			}
			put(t, st, name, b)
		}
		good := w.repo
		var err error
		w.repo, err = Open(bg, st, w.options())
		require.NoError(t, err)
		rep, err := w.tryRestore(Target{})
		if err == nil {
			require.Equal(t, w.hash[rep.Index], rep.StateHash, "trial %d", trial)
			require.Equal(t, w.s.AppliedIndex(), rep.Index)
		} else {
			require.ErrorIs(t, err, ErrDamaged, "trial %d", trial)
		}
		w.repo = good
	}
}

func TestABudgetCoversEverythingInTurns(t *testing.T) {
	w := newWorld(t, 59)
	w.fill(40000)
	w.backup(Full)
	for range 6 {
		w.write(30)
		w.backup(Incremental)
	}
	runs := 0
	for ; ; runs++ {
		rep, err := w.repo.Verify(bg, VerifyOptions{ReadData: true, Budget: 0.2})
		require.NoError(t, err)
		require.True(t, rep.OK())
		require.Less(t, runs, 12)
		if !rep.Oldest.IsZero() {
			break
		}
	}
	require.GreaterOrEqual(t, runs, 2, "one run does not read it all")
	_, err := w.repo.Verify(bg, VerifyOptions{Budget: 0.5})
	require.ErrorIs(t, err, ErrInvalid)
}

func TestPassphraseRepositoryOnDisk(t *testing.T) {
	w := newWorld(t, 60)
	var err error
	w.disk, err = store.CreateDir(nil, t.TempDir())
	require.NoError(t, err)
	o := w.options()
	o.Secret = []byte("correct horse battery staple")
	w.repo, err = Init(bg, w.disk, InitOptions{Options: o, KDF: keys.Compatible})
	require.NoError(t, err)
	w.fill(500)
	w.backup(Full)
	w.repo, err = Open(bg, w.disk, o)
	require.NoError(t, err)
	w.restore(Target{})
	rep, err := Scrub(bg, w.disk, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.True(t, rep.OK(), fmt.Sprint(rep.Damage))
}
