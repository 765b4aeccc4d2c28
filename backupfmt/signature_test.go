package backupfmt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/sign"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// signer is a signing key made of one byte.
func signer(t *testing.T, seed byte) *sign.PrivateKey {
	t.Helper()
	p, err := sign.Generate(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)))
	require.NoError(t, err)
	return p
}

// as opens the repository as somebody with these keys would.
func (w *world) as(key *sign.PrivateKey, trust ...*sign.PrivateKey) *Repo {
	w.t.Helper()
	o := w.options()
	o.Signer = key
	for _, k := range trust {
		o.Trust = append(o.Trust, k.Public())
	}
	r, err := Open(bg, w.disk, o)
	require.NoError(w.t, err)
	return r
}

// become lets the world go on with other keys.
func (w *world) become(r *Repo) {
	w.t.Helper()
	w.repo = r
	var err error
	w.ar, err = r.OpenArchive(bg, w.life())
	require.NoError(w.t, err)
}

// signed is a world with a repository that is signed from its first link on.
func signedWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(t, seed)
	w.become(w.as(signer(t, 1)))
	_, err := w.repo.BeginSigning(bg)
	require.NoError(t, err)
	w.fill(1500)
	w.backup(Full)
	w.write(5)
	w.ship()
	w.backup(Incremental)
	w.write(4)
	w.ship()
	w.write(4)
	w.ship()
	w.backup(Incremental)
	w.write(3)
	w.ship()
	_, err = w.repo.Drill(bg, func() DrillOptions { o, _ := w.drillOptions(); return o }())
	require.NoError(t, err)
	return w
}

// verdict is what somebody who only trusts these keys finds, with the encryption key and without.
func (w *world) verdict(trust ...*sign.PrivateKey) (with, without []Damage) {
	w.t.Helper()
	v, err := w.as(nil, trust...).Verify(bg, VerifyOptions{ReadData: true, NoLedger: true})
	require.NoError(w.t, err)
	var t sign.Trust
	for _, k := range trust {
		t = append(t, k.Public())
	}
	r, err := OpenKeyless(bg, w.disk, t)
	require.NoError(w.t, err)
	k, err := r.Verify(bg, VerifyOptions{NoLedger: true})
	require.NoError(w.t, err)
	return v.Damage, k.Damage
}

// sound: a verifier finds nothing wrong, and restores everything.
func (w *world) soundFor(trust ...*sign.PrivateKey) {
	w.t.Helper()
	with, without := w.verdict(trust...)
	require.Empty(w.t, with)
	require.Empty(w.t, without)
	was := w.repo
	w.repo = w.as(nil, trust...)
	w.everythingRestores()
	w.repo = was
}

// refused: a verifier refuses the chain with one error, which names the object.
func (w *world) refused(name string, trust ...*sign.PrivateKey) *DamageError {
	w.t.Helper()
	r := w.as(nil, trust...)
	_, err := r.Chain(bg)
	require.ErrorIs(w.t, err, ErrUnsigned)
	var d *DamageError
	require.ErrorAs(w.t, err, &d)
	require.Equal(w.t, name, d.Object, d.Error())
	_, err = r.Plan(bg, Target{})
	require.ErrorIs(w.t, err, ErrUnsigned)
	found, _ := w.verdict(trust...)
	require.NotEmpty(w.t, found)
	require.Equal(w.t, name, found[0].Object)
	_, err = w.as(nil).Plan(bg, Target{})
	require.NoError(w.t, err, "to whoever does not ask for signatures the forgery is sound: it was made with the key")
	return d
}

// forge puts an object in the place of another, as somebody with the encryption key can.
func (w *world) forge(name string, kind object.Kind, change func(clear, extra, frame []byte) (c, e, f []byte)) {
	w.t.Helper()
	r := w.as(nil)
	b, v, err := w.disk.Get(bg, name)
	require.NoError(w.t, err)
	c, err := r.openBytes(bg, name, b, kind, nil)
	require.NoError(w.t, err)
	var frame []byte
	if len(c.Places) > 0 {
		frame, err = c.Frame(0)
		require.NoError(w.t, err)
	}
	clear, extra, frame := change(c.Clear, c.Extra, frame)
	frames := [][]byte{}
	if frame != nil {
		frames = append(frames, frame)
	}
	b, _, err = r.sealAs(kind, c.Header.ID, clear, extra, frames...)
	require.NoError(w.t, err)
	_, err = w.disk.Replace(bg, name, b, v)
	require.NoError(w.t, err)
}

// points lets the head name a link again that was changed.
func (w *world) points(seq uint64) {
	w.t.Helper()
	l, err := w.as(nil).link(bg, seq)
	require.NoError(w.t, err)
	w.forge(nameHead, object.Head, func(_, e, f []byte) ([]byte, []byte, []byte) {
		m, err := json.Marshal(headMark{Seq: seq, Digest: hex.EncodeToString(l.Digest[:])})
		require.NoError(w.t, err)
		return m, nil, f
	})
}

func stripped(clear, _, frame []byte) (c, e, f []byte) {
	bare, _ := sign.Detach(clear)
	return bare, nil, frame
}

func (w *world) newest() uint64 {
	w.t.Helper()
	c, err := w.as(nil).Chain(bg)
	require.NoError(w.t, err)
	return c.Head
}

func TestASignedRepositoryDoesEverythingAndStaysSigned(t *testing.T) {
	w := signedWorld(t, 200)
	one := signer(t, 1)
	w.soundFor(one)
	_, err := w.repo.Consolidate(bg, 0, nil)
	require.NoError(t, err)
	for range 10 {
		w.write(1)
		w.ship()
	}
	require.NoError(t, w.repo.Rotate(bg))
	rep, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 3}})
	require.NoError(t, err)
	require.NotZero(t, rep.Seq)
	require.NotZero(t, rep.Merged.Into)
	w.soundFor(one)
	proofs, err := w.as(nil, one).Proofs(bg)
	require.NoError(t, err)
	require.Len(t, proofs, 1)

	copied, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(t, err)
	_, err = Mirror(bg, w.disk, copied, CopyOptions{Delete: true})
	require.NoError(t, err)
	w.disk = copied
	w.soundFor(one)

	// A rekey seals everything anew and signs nothing again, but its own link and fences.
	o := w.rekeyOptions()
	_, err = ChangeMaster(bg, w.disk, o)
	require.ErrorIs(t, err, ErrSignKey)
	require.Zero(t, w.as(nil).Generation(), "nothing was begun")
	o.Signer = one
	_, err = ChangeMaster(bg, w.disk, o)
	require.NoError(t, err)
	trusting := w.newOptions()
	trusting.Trust = sign.Trust{one.Public()}
	r, err := Open(bg, w.disk, trusting)
	require.NoError(t, err)
	v, err := r.Verify(bg, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, v.Damage)
	require.Empty(t, v.Unsigned)
	require.Equal(t, uint64(1), v.Signing.From)
	w.repo = r
	w.everythingRestores()
}

func TestWithoutAKeyNothingCanBeAddedToASignedRepository(t *testing.T) {
	w := signedWorld(t, 201)
	w.write(2)
	before := w.names("")
	r := w.as(nil)
	w.repo = r
	_, err := w.tryBackup(Full)
	require.ErrorIs(t, err, ErrSignKey)
	_, err = r.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.ErrorIs(t, err, ErrSignKey)
	_, err = r.Consolidate(bg, 0, nil)
	require.ErrorIs(t, err, ErrSignKey)
	_, err = r.Drill(bg, func() DrillOptions { o, _ := w.drillOptions(); return o }())
	require.ErrorIs(t, err, ErrSignKey)
	ar, err := r.OpenArchive(bg, w.life())
	require.NoError(t, err)
	_, err = ar.Ship(bg, w.s.Log(), w.s.AppliedIndex())
	require.ErrorIs(t, err, ErrSignKey)
	require.Equal(t, before, w.names(""))
	w.restore(Target{}) // reading needs none
}

func TestSomebodyWithTheEncryptionKeyCannotForgeWhatWasSigned(t *testing.T) {
	one, evil := signer(t, 1), signer(t, 9)
	for name, attack := range map[string]func(w *world) (refused string){
		"the newest link without its signature": func(w *world) string {
			seq := w.newest()
			w.forge(manifestName(seq), object.Manifest, stripped)
			w.points(seq)
			return manifestName(seq)
		},
		"all links and the head without signatures": func(w *world) string {
			parent := ""
			newest := w.newest()
			for seq := uint64(1); seq <= newest; seq++ {
				w.forge(manifestName(seq), object.Manifest, func(clear, _, frame []byte) ([]byte, []byte, []byte) {
					var inv Inventory
					require.NoError(w.t, json.Unmarshal(clear, &inv))
					inv.Parent, inv.Signing = parent, nil
					if inv.Kind == BeginSign {
						inv.Kind = Rekey
					}
					b, err := json.Marshal(inv)
					require.NoError(w.t, err)
					return b, nil, frame
				})
				l, err := w.as(nil).link(bg, seq)
				require.NoError(w.t, err)
				parent = hex.EncodeToString(l.Digest[:])
			}
			w.points(newest)
			return manifestName(newest)
		},
		"another history, signed with another key": func(w *world) string {
			w.repo = w.as(evil)
			_, err := w.repo.BeginSigning(bg)
			require.NoError(w.t, err)
			l := w.backup(Full)
			return manifestName(l.Seq)
		},
		"other content behind a good signature": func(w *world) string {
			seq := w.newest()
			w.forge(manifestName(seq), object.Manifest, func(c, e, f []byte) ([]byte, []byte, []byte) {
				return c, e, bytes.Replace(f, []byte(`"term":`), []byte(`"term":9`), 1)
			})
			w.points(seq)
			return manifestName(seq)
		},
		"the head without its signature": func(w *world) string {
			w.forge(nameHead, object.Head, stripped)
			return nameHead
		},
		"a signature of another object": func(w *world) string {
			seq := w.newest()
			other, _, err := w.disk.Get(bg, manifestName(seq-1))
			require.NoError(w.t, err)
			c, err := object.Inspect(other, object.Manifest, w.repo.id, nil)
			require.NoError(w.t, err)
			_, sig := sign.Detach(c.Clear)
			require.NotNil(w.t, sig)
			w.forge(manifestName(seq), object.Manifest, func(mine, e, f []byte) ([]byte, []byte, []byte) {
				return append(bytes.Clone(mine[:len(mine)-256-2]), c.Clear[len(c.Clear)-256-2:]...), e, f
			})
			w.points(seq)
			return manifestName(seq)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := signedWorld(t, 202)
			w.soundFor(one)
			w.refused(attack(w), one)
		})
	}
	t.Run("a wrong key", func(t *testing.T) {
		w := signedWorld(t, 203)
		d := w.refused(manifestName(w.newest()), evil)
		require.Contains(t, d.Error(), one.Public().String())
	})
}

func TestWhatIsNotSignedOfLogAndProofsIsNamedAndNotUsed(t *testing.T) {
	one := signer(t, 1)
	w := signedWorld(t, 204)
	pieces := w.names(folderArchive)
	last := pieces[len(pieces)-1]
	w.forge(last, object.Archive, stripped)
	with, without := w.verdict(one)
	require.Len(t, with, 1)
	require.Equal(t, "unsigned", with[0].Kind)
	require.Equal(t, last, with[0].Object)
	require.NotZero(t, with[0].From)
	require.Equal(t, with, without)
	_, err := w.as(nil, one).Plan(bg, Target{})
	require.ErrorIs(t, err, ErrUnsigned)
	require.ErrorContains(t, err, last)
	c, err := w.as(nil, one).Chain(bg)
	require.NoError(t, err)
	was := w.repo
	w.repo = w.as(nil, one)
	w.restore(Target{Seq: c.Head}) // what does not need it is not kept from anybody
	w.repo = was
	_, err = w.as(one).MergeArchive(bg)
	require.NoError(t, err)
	with, _ = w.verdict(one)
	require.Len(t, with, 1, "nobody signs what was not signed")

	w = signedWorld(t, 205)
	proof := w.names(folderProofs)[0]
	w.forge(proof, object.Proof, stripped)
	with, _ = w.verdict(one)
	require.Len(t, with, 1)
	require.Equal(t, proof, with[0].Object)
	_, err = w.as(nil, one).Proofs(bg)
	require.ErrorIs(t, err, ErrUnsigned)
}

func TestSignaturesThatBeginMidwayCannotBeStrippedAsIfTheyHadBegunLater(t *testing.T) {
	one := signer(t, 1)
	w := brief(t, 206)
	_, err := w.repo.Drill(bg, func() DrillOptions { o, _ := w.drillOptions(); return o }())
	require.NoError(t, err)
	before := tree(t, w.disk)
	_, err = w.as(nil, one).Chain(bg)
	require.ErrorIs(t, err, ErrUnsigned)
	w.become(w.as(one, one))
	_, err = w.tryBackup(Full)
	require.Error(t, err, "to begin must be said")
	running := w.ar // a server that does not know yet
	running.r = w.as(nil)
	begun, err := w.repo.BeginSigning(bg)
	require.NoError(t, err)
	w.write(2)
	_, err = running.Ship(bg, w.s.Log(), w.s.AppliedIndex())
	require.ErrorIs(t, err, ErrSignKey, "the fence stops it")
	w.become(w.as(one))
	w.write(3)
	w.ship()
	l := w.backup(Auto)
	require.Equal(t, Full, l.Kind, "nothing that is signed builds on what is not")
	w.write(3)
	w.ship()
	require.Equal(t, Incremental, w.backup(Auto).Kind)
	w.write(2)
	w.ship()

	r := w.as(nil, one)
	v, err := r.Verify(bg, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, v.Damage)
	require.Equal(t, begun.Seq, v.Signing.From)
	require.NotEmpty(t, v.Unsigned)
	w.repo = r
	require.Equal(t, w.ar.Last(), w.restore(Target{}).Index)
	_, err = r.Plan(bg, Target{Seq: begun.Seq - 1})
	require.ErrorIs(t, err, ErrUnsigned, "what is older counts for those only who do not ask")
	w.repo = w.as(nil)
	w.everythingRestores()
	_, err = r.Proofs(bg)
	require.NoError(t, err)

	t.Run("an older state that was not signed", func(t *testing.T) {
		old, err := store.CreateDir(vfs.NewMem(), "old")
		require.NoError(t, err)
		for name, b := range before {
			require.NoError(t, old.Create(bg, name, b))
		}
		w := *w
		w.t, w.disk = t, old
		w.refused(manifestName(begun.Seq-1), one)
	})
	t.Run("a later beginning", func(t *testing.T) {
		w.forge(manifestName(begun.Seq), object.Manifest, func(clear, _, f []byte) ([]byte, []byte, []byte) {
			bare, _ := sign.Detach(clear)
			return bytes.Replace(bare, []byte(`"from":`), []byte(`"from":9`), 1), nil, f
		})
		require.ErrorIs(t, func() error { _, err := w.as(nil, one).Chain(bg); return err }(), ErrDamaged)
	})
}

func TestSigningKeysAreRotated(t *testing.T) {
	one, two := signer(t, 1), signer(t, 2)
	w := signedWorld(t, 207)
	w.repo = w.as(two)
	_, err := w.tryBackup(Full)
	require.ErrorIs(t, err, ErrUnsigned, "a signer does not build on what it does not trust")
	w.become(w.as(two, one))
	w.write(2)
	w.ship()
	l := w.backup(Full)
	w.soundFor(one, two)
	w.refused(manifestName(l.Seq), one)
	// The old key leaked: what follows counts, and what it signed no longer does.
	w.become(w.as(two))
	begun, err := w.repo.BeginSigning(bg)
	require.NoError(t, err)
	w.become(w.as(two))
	w.write(2)
	w.ship()
	l = w.backup(Full)
	v, err := w.as(nil, two).Verify(bg, VerifyOptions{})
	require.NoError(t, err)
	require.Empty(t, v.Damage)
	require.Equal(t, begun.Seq, v.Signing.From)
	w.repo = w.as(nil, two)
	w.restore(Target{})
	_, err = w.repo.Plan(bg, Target{Seq: 2})
	require.ErrorIs(t, err, ErrUnsigned)
	w.refused(manifestName(l.Seq), one)
}

func TestAReplayedHeadTakesNothingBack(t *testing.T) {
	one := signer(t, 1)
	w := signedWorld(t, 208)
	old, _, err := w.disk.Get(bg, nameHead)
	require.NoError(t, err)
	w.write(2)
	w.ship()
	l := w.backup(Full)
	_, v, err := w.disk.Get(bg, nameHead)
	require.NoError(t, err)
	_, err = w.disk.Replace(bg, nameHead, old, v)
	require.NoError(t, err)
	c, err := w.as(nil, one).Chain(bg)
	require.NoError(t, err)
	require.Equal(t, l.Seq, c.Head)
	w.soundFor(one)
}

func TestWithoutASigningKeyARepositoryIsWhatItAlwaysWas(t *testing.T) {
	w := brief(t, 209)
	for name, b := range tree(t, w.disk) {
		require.NotContains(t, string(b), `"signature"`, name)
		require.NotContains(t, string(b), `"signing"`, name)
	}
	v, err := w.repo.Verify(bg, VerifyOptions{})
	require.NoError(t, err)
	require.Nil(t, v.Signing)
	require.Empty(t, v.Unsigned)
}

func TestARepositoryWithoutEncryptionCanBeSigned(t *testing.T) {
	w := newWorld(t, 210)
	var err error
	w.disk, err = store.CreateDir(vfs.NewMem(), "plain")
	require.NoError(t, err)
	o := Options{Plain: true, Now: w.clock.Now, Signer: signer(t, 1)}
	w.repo, err = Init(bg, w.disk, InitOptions{Options: o, KDF: keys.KDF{}})
	require.NoError(t, err)
	_, err = w.repo.BeginSigning(bg)
	require.NoError(t, err)
	w.fill(300)
	w.backup(Full)
	w.repo, err = Open(bg, w.disk, Options{Plain: true, Trust: sign.Trust{signer(t, 1).Public()}})
	require.NoError(t, err)
	w.restore(Target{})
	evil, err := Open(bg, w.disk, Options{Plain: true, Signer: signer(t, 9)})
	require.NoError(t, err)
	_, err = evil.BeginSigning(bg)
	require.NoError(t, err)
	_, err = w.repo.Plan(bg, Target{})
	require.ErrorIs(t, err, ErrUnsigned)
}

// TestToBeginSigningMayBeKilledAnywhere: nothing that is stored is harmed, and the same call gets through.
func TestToBeginSigningMayBeKilledAnywhere(t *testing.T) {
	origin := brief(t, 211)
	one := signer(t, 1)
	points := 0
	for n := 0; ; n++ {
		w := origin.sharedBy(-1)
		o := w.options()
		o.Signer = one
		r, err := Open(bg, newFaulty(w.disk, n), o)
		require.NoError(t, err)
		_, err = r.BeginSigning(bg)
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errKilled)
		points++
		w.repo = w.as(nil)
		w.whole(w.ar.Last())
		_, err = w.as(one).BeginSigning(bg)
		require.NoError(t, err)
		w.become(w.as(one))
		w.ship()
		w.backup(Full)
		with, without := w.verdict(one)
		require.Empty(t, with)
		require.Empty(t, without)
		w.repo = w.as(nil, one)
		w.restore(Target{})
	}
	require.GreaterOrEqual(t, points, 3, "fence, link, head")
}
