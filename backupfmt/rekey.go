package backupfmt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// RekeyOptions give a repository a new master key.
type RekeyOptions struct {
	Options                                         // opens the repository as it is
	New        []byte                               // passphrase or key file of the new generation; the same again protects only against who has the master key alone
	KDF        keys.KDF                             // of the new slot; zero: keys.Default
	Label      string                               // of the new slot
	OtherSlots bool                                 // other slots may go: their secrets are not known here, so they cannot open the new generation
	Progress   func(name string, done, total int64) // bytes; may be nil; called by one goroutine at a time
}

// RekeyReport says what a rekey did.
type RekeyReport struct {
	Resumed    bool // an interrupted rekey was carried on
	Nothing    bool // an earlier one had finished
	Objects    int  // sealed anew by this run
	Bytes      int64
	Generation uint32
	Epoch      uint32
	Removed    []string // slots and epochs of older generations
}

// ChangeMaster seals everything in a repository anew, under a new master key, and forgets the old one:
//
//	new slot ─ first epoch of the generation, which carries the old epoch keys ─ link "rekey", fences of the archive
//	─ every object resealed in its place ─ the epoch carries the old keys no longer ─ old epochs and slots are removed
//
// The epoch is the moment of truth: before it the repository opens with the old secret, from then on with the new one, and everything
// can be restored at every moment. It may be killed or cancelled anywhere: the same call carries it on. Backups and restores by
// processes that have the new secret may run meanwhile. A process that opened the repository before cannot add anything that counts:
// behind the link and the fences it gets ErrRekeyed.
//
// ErrDamaged: an object that is needed could not be sealed anew; everything else was, and the old epoch keys stay until it is repaired or pruned.
func ChangeMaster(ctx context.Context, st store.Store, o RekeyOptions) (*RekeyReport, error) {
	rep := &RekeyReport{}
	r, err := beginRekey(ctx, st, &o, rep)
	if err != nil || rep.Nothing {
		return rep, err
	}
	k := &rekeyer{r: r, o: o, rep: rep}
	for _, step := range []func(context.Context) error{k.fenceChain, k.fenceArchives, k.reseal, k.finish} {
		if err := step(ctx); err != nil {
			return rep, err
		}
	}
	rep.Generation, rep.Epoch = r.Generation(), r.Epoch()
	return rep, nil
}

// beginRekey opens the repository with the keys of the new generation, and makes that if nobody did.
func beginRekey(ctx context.Context, st store.Store, o *RekeyOptions, rep *RekeyReport) (*Repo, error) {
	if o.KDF == (keys.KDF{}) {
		o.KDF = keys.Default
	}
	if len(o.New) == 0 {
		return nil, fmt.Errorf("%w: no new passphrase or key file", ErrInvalid)
	}
	opened := o.Options
	opened.Secret = o.New
	r, newErr := Open(ctx, st, opened)
	if newErr == nil {
		left, err := r.leftovers(ctx)
		if err != nil {
			return nil, err
		}
		if rep.Resumed = r.Rekeying() || len(left) > 0; rep.Resumed {
			return r, nil
		}
	}
	old, err := Open(ctx, st, o.Options)
	switch {
	case errors.Is(err, ErrWrongKey) && newErr == nil:
		rep.Nothing, rep.Generation, rep.Epoch = true, r.Generation(), r.Epoch()
		return r, nil
	case err != nil:
		return nil, err
	case !old.Encrypted():
		return nil, ErrNotEncrypted
	}
	if err := old.nextGeneration(ctx, o); err != nil {
		return nil, err
	}
	return Open(ctx, st, opened)
}

// leftovers are the objects of key slots and epochs of older generations, and of generations that never began with a slot of ours.
func (r *Repo) leftovers(ctx context.Context) ([]string, error) {
	var out []string
	slots, err := r.Slots(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		if s.Generation < r.Generation() {
			out = append(out, folderKeys+s.ID)
		}
	}
	epochs, err := r.readEpochs(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range epochs {
		if e.Generation < r.Generation() {
			out = append(out, epochName(e.Epoch))
		}
	}
	return out, nil
}

func epochName(n uint32) string { return fmt.Sprintf("%s%08d", folderEpochs, n) }

// nextGeneration makes the slot and the first epoch of a new generation. The epoch's name can be taken once: of several that try one wins.
func (r *Repo) nextGeneration(ctx context.Context, o *RekeyOptions) error {
	slots, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	others := 0
	for _, s := range slots {
		if s.Generation == r.Generation() {
			others++
		}
	}
	if others > 1 && !o.OtherSlots {
		return fmt.Errorf("%w: %d slots open the repository; their passphrases are not known here, so all but the new one would go: say that they may, and add them again afterwards", ErrInvalid, others)
	}
	next, err := r.master.Next(r.o.Rand)
	if err != nil {
		return err
	}
	slot, err := next.NewSlot(o.New, o.KDF, o.Label, r.o.Now(), r.o.Rand)
	if err != nil {
		return err
	}
	b, err := slot.Encode()
	if err != nil {
		return err
	}
	if err := createTwice(ctx, r.st, folderKeys+slot.ID, b); err != nil {
		return err
	}
	for {
		err := r.firstOf(ctx, next)
		if !errors.Is(err, store.ErrExists) {
			return err
		}
		// Somebody rotated, or was faster with a generation of his own: then the slot is of no use.
		if err := r.loadEpochs(ctx); err != nil {
			return errors.Join(err, r.removeTwice(ctx, folderKeys+slot.ID))
		}
	}
}

// firstOf stores the first epoch of a generation.
func (r *Repo) firstOf(ctx context.Context, next *keys.Master) error {
	r.mu.Lock()
	number := r.epoch + 1
	c := keys.Carried{ChunkKey: [32]byte(r.chunkKey), Epochs: map[uint32]*[32]byte{}}
	for n, key := range r.epochs {
		c.Epochs[n] = key
	}
	r.mu.Unlock()
	var key [32]byte
	if _, err := io.ReadFull(r.o.Rand, key[:]); err != nil {
		return fmt.Errorf("backup: random key: %w", err)
	}
	e, err := next.WrapEpoch(number, &key, &c, r.o.Now(), r.o.Rand)
	if err != nil {
		return err
	}
	b, err := e.Encode()
	if err != nil {
		return err
	}
	return createTwice(ctx, r.st, epochName(number), b)
}

func (r *Repo) removeTwice(ctx context.Context, name string) error {
	if err := r.st.Delete(ctx, name); err != nil {
		return err
	}
	return r.st.Delete(ctx, name+secondCopy)
}

type rekeyer struct {
	r   *Repo
	o   RekeyOptions
	rep *RekeyReport

	mu   sync.Mutex
	done int64
	bad  error // an object that is needed and could not be sealed anew
}

// fenceChain adds a link that only the new generation can read, unless there is one: a link can only follow what its writer has read.
func (k *rekeyer) fenceChain(ctx context.Context) error {
	c, err := k.r.chain(ctx, k.r.fresh)
	if err != nil {
		return err
	}
	for _, l := range c.Links {
		if l.fresh >= k.r.first {
			return k.r.moveHead(ctx, c.Links[len(c.Links)-1])
		}
	}
	_, err = k.r.commit(ctx, c, Inventory{Kind: Rekey}, Details{}, func(*Link) error { return nil })
	return err
}

// fenceArchives takes the name of the next piece of every life.
func (k *rekeyer) fenceArchives(ctx context.Context) error {
	c, err := k.r.Chain(ctx)
	if err != nil {
		return err
	}
	begins := map[string]uint64{} // life -> first entry of its archive, if it has none yet
	for _, l := range c.Backups("") {
		if _, ok := begins[l.Life]; !ok {
			begins[l.Life] = l.Index + 1
		}
	}
	err = k.r.st.List(ctx, folderArchive, func(i store.Info) error {
		if _, ok := begins[sessionOf(i.Name)]; !ok {
			begins[sessionOf(i.Name)] = 0
		}
		return nil
	})
	if err != nil {
		return err
	}
	for life, first := range begins {
		if err := k.fenceArchive(ctx, life, first); err != nil {
			return err
		}
	}
	return nil
}

func (k *rekeyer) fenceArchive(ctx context.Context, life string, first uint64) error {
	id, err := parseID(life)
	if err != nil {
		return nil //nolint:nilerr // not ours
	}
	for {
		a, err := k.r.OpenArchive(ctx, id)
		if err != nil {
			return err
		}
		a.StartAfter(first - 1)
		p := Piece{Version: manifestVersion, Life: life, First: a.next, Last: a.next - 1, Prev: a.prev, Fence: true}
		clear, err := json.Marshal(&p)
		if err != nil {
			return fmt.Errorf("backup: encode archive: %w", err)
		}
		b, _, _, err := k.r.sealOne(object.Archive, clear)
		if err != nil {
			return err
		}
		name := archiveName(id, p.First)
		if err = k.r.st.Create(ctx, name, b); !errors.Is(err, store.ErrExists) {
			return err
		}
		// A fence of an earlier run, or a piece that was shipped meanwhile: then the fence belongs behind it.
		c, have, err := k.r.piece(ctx, name)
		if err != nil {
			return err
		}
		if have.Fence {
			if c.Header.Epoch >= k.r.first && !c.Header.Resealed {
				return nil
			}
			if err := k.replace(ctx, name, b); err != nil {
				return err
			}
		}
	}
}

// replace puts a fence of this generation in the place of an older one.
func (k *rekeyer) replace(ctx context.Context, name string, b []byte) error {
	have, v, err := k.r.st.Get(ctx, name)
	if err != nil {
		return err
	}
	c, err := k.r.openBytes(ctx, name, have, object.Archive, nil)
	if err != nil {
		return err
	}
	if p, err := parsePiece(name, c.Clear); err != nil || !p.Fence {
		return err
	}
	if _, err = k.r.st.Replace(ctx, name, b, v); errors.Is(err, store.ErrChanged) {
		return nil // looked at again
	}
	return err
}

// sealedKinds says what is kept where.
var sealedKinds = []struct {
	folder string
	kind   object.Kind
}{
	{folderManifest, object.Manifest},
	{folderLists, object.List},
	{folderPacks, object.Pack},
	{folderArchive, object.Archive},
	{folderProofs, object.Proof},
}

// reseal seals everything anew that is of an older generation, until a look at all objects finds nothing.
func (k *rekeyer) reseal(ctx context.Context) error {
	needed, err := k.needed(ctx)
	if err != nil {
		return err
	}
	for {
		before := k.rep.Objects
		if err := k.pass(ctx, needed); err != nil {
			return err
		}
		if k.bad != nil {
			return k.bad
		}
		if k.rep.Objects == before {
			return nil
		}
	}
}

// needed are the objects that the chain names. What is not among them and cannot be opened is garbage.
func (k *rekeyer) needed(ctx context.Context) (map[string]bool, error) {
	c, err := k.r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	need := map[string]bool{nameHead: true}
	for _, l := range c.Links {
		need[manifestName(l.Seq)] = true
		for _, refs := range [][]Ref{l.Packs, l.Lists} {
			for _, ref := range refs {
				need[ref.Name] = true
			}
		}
	}
	return need, nil
}

type resealable struct {
	store.Info
	kind object.Kind
}

func (k *rekeyer) pass(ctx context.Context, needed map[string]bool) error {
	var todo []resealable
	var total int64
	add := func(i store.Info, kind object.Kind) error {
		todo = append(todo, resealable{i, kind})
		total += i.Size
		return nil
	}
	head, err := k.r.st.Stat(ctx, nameHead)
	if err != nil {
		return err
	}
	_ = add(head, object.Head)
	for _, f := range sealedKinds {
		if err := k.r.st.List(ctx, f.folder, func(i store.Info) error { return add(i, f.kind) }); err != nil {
			return err
		}
	}
	k.done = 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2) // two packs in memory
	for _, t := range todo {
		g.Go(func() error {
			err := k.one(ctx, t)
			if err != nil && ctx.Err() == nil && lostObject(err) {
				if err = k.spoiled(t.Name, needed, err); err == nil {
					return nil
				}
			}
			k.told(t, total)
			return err
		})
	}
	return g.Wait()
}

func lostObject(err error) bool {
	return errors.Is(err, object.ErrDamaged) || errors.Is(err, object.ErrForged) || errors.Is(err, object.ErrNotObject) ||
		errors.Is(err, object.ErrNoKey) || errors.Is(err, object.ErrUnhealable) || errors.Is(err, ErrDamaged)
}

// spoiled notes an object that cannot be sealed anew; it only matters if it is needed.
func (k *rekeyer) spoiled(name string, needed map[string]bool, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if (needed[name] || strings.HasPrefix(name, folderArchive)) && k.bad == nil {
		k.bad = &DamageError{Kind: "damaged", Object: name, Reason: "it cannot be sealed anew; repair it, or prune what needs it, and run the rekey again", Cause: err}
	}
	return nil
}

func (k *rekeyer) told(t resealable, total int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done += t.Size
	if k.o.Progress != nil {
		k.o.Progress(t.Name, k.done, total)
	}
}

// one seals an object anew in its place. The replacement is conditional: what changed meanwhile is looked at again.
func (k *rekeyer) one(ctx context.Context, t resealable) error {
	head, err := k.r.st.GetRange(ctx, t.Name, 0, min(t.Size, object.HeaderSize))
	switch {
	case errors.Is(err, store.ErrNotFound): // pruned
		return nil
	case err != nil:
		return err
	}
	if h, err := object.ParseHeader(head); err == nil && h.Epoch >= k.r.first {
		return nil
	}
	epoch, key := k.r.sealing()
	for {
		b, v, err := k.r.st.Get(ctx, t.Name)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		good, err := sound(t.Name, b)
		if err != nil {
			return err
		}
		if h, err := object.ParseHeader(good); err != nil || h.Epoch >= k.r.first {
			return err
		}
		again, err := object.Reseal(good, t.kind, k.r.id, k.r.opening(ctx), epoch, key)
		if err != nil {
			return err
		}
		_, err = k.r.st.Replace(ctx, t.Name, again, v)
		if errors.Is(err, store.ErrChanged) {
			continue
		}
		if err == nil {
			k.mu.Lock()
			k.rep.Objects++
			k.rep.Bytes += int64(len(again))
			k.mu.Unlock()
		}
		return err
	}
}

// finish forgets the old keys: first the new generation stops carrying them, then they are removed.
func (k *rekeyer) finish(ctx context.Context) error {
	if err := k.dropCarried(ctx); err != nil {
		return err
	}
	if err := k.r.loadEpochs(ctx); err != nil {
		return err
	}
	left, err := k.r.leftovers(ctx)
	if err != nil {
		return err
	}
	junk, err := k.lateSlots(ctx)
	if err != nil {
		return err
	}
	for _, name := range append(left, junk...) {
		if err := k.r.removeTwice(ctx, name); err != nil {
			return err
		}
		k.rep.Removed = append(k.rep.Removed, name)
	}
	return nil
}

// dropCarried writes both copies of the first epoch without the old keys.
func (k *rekeyer) dropCarried(ctx context.Context) error {
	r := k.r
	r.mu.Lock()
	first, key := r.first, r.epochs[r.first]
	c := keys.Carried{ChunkKey: [32]byte(r.chunkKey)}
	r.mu.Unlock()
	e, err := r.master.WrapEpoch(first, key, &c, r.o.Now(), r.o.Rand)
	if err != nil {
		return err
	}
	names := []string{epochName(first), epochName(first) + secondCopy}
	var have [2][]byte
	var versions [2]store.Version
	for i, name := range names {
		if have[i], versions[i], err = r.st.Get(ctx, name); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if was, err := keys.ParseEpoch(have[i]); err == nil {
			if carried, err := r.master.OpenCarried(was); err == nil && carried != nil && len(carried.Epochs) == 0 {
				e = was // written by an earlier run: the other copy becomes the same
			}
		}
	}
	b, err := e.Encode()
	if err != nil {
		return err
	}
	for i, name := range names {
		if bytes.Equal(have[i], b) {
			continue
		}
		if _, err := r.st.Replace(ctx, name, b, versions[i]); err != nil {
			return err
		}
	}
	return nil
}

// lateSlots are slots that open with the new secret and hold another master key: made by runs that died, or came second.
func (k *rekeyer) lateSlots(ctx context.Context) ([]string, error) {
	slots, err := k.r.Slots(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range slots {
		if s.Generation < k.r.Generation() {
			continue
		}
		if m, err := s.Open(k.r.ctx, k.o.New); err == nil && !m.Same(k.r.master) {
			out = append(out, folderKeys+s.ID)
		}
	}
	return out, nil
}
