package backupfmt

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/sign"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// VerifyOptions of one verification.
type VerifyOptions struct {
	// ReadData reads every object and checks every byte. Without it only the chain is read, and of everything else existence and size.
	ReadData bool
	// Budget, in (0,1), reads that share of the stored bytes only: what was checked longest ago. 0 or 1 reads all. A ledger in
	// the repository remembers, so that coverage is a fact and not luck. Needs ReadData.
	Budget float64
	// Heal writes objects that could be restored from their parity or copy back to the store.
	Heal bool
	// NoLedger leaves the ledger as it is: nothing at all is written.
	NoLedger bool
	Progress func(object string, done, total int64) // bytes; may be nil
}

// Damage is something that is wrong, and what it costs.
type Damage struct {
	Kind    string   `json:"kind"` // as in DamageError
	Object  string   `json:"object"`
	Reason  string   `json:"reason"`
	Backups []uint64 `json:"backups,omitempty"` // that cannot be restored because of it
	From    uint64   `json:"from,omitempty"`    // log entries that are lost
	To      uint64   `json:"to,omitempty"`
	Healed  bool     `json:"healed,omitempty"`  // nothing is lost: it was restored, and written back if asked for
	Written bool     `json:"written,omitempty"` // and written back
}

// VerifyReport is the result of a verification.
type VerifyReport struct {
	Keyless  bool
	Chain    *Chain // as far as it could be read
	Objects  int
	Bytes    int64
	Read     int // objects of which every byte was read
	BytesSum int64
	Stray    []string  // objects that nothing refers to; normal while a backup runs and until the next prune
	Oldest   time.Time // when the object was checked that was checked longest ago; zero: some never were
	Gaps     []Gap     // parts of the log that were never archived; known, and no damage

	Signing  *Signing // since when the repository is signed; nil: signatures were not looked at
	Unsigned []string // objects from before that, which do not count; no damage
	Damage   []Damage
}

// Gap is a range of log entries that the archive went on without, see Archive.SkipTo.
type Gap struct {
	Life string `json:"life"`
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// OK reports whether nothing is lost and nothing needs to be done.
func (r *VerifyReport) OK() bool { return len(r.Damage) == 0 }

// Lost reports whether something is damaged that could not be healed.
func (r *VerifyReport) Lost() bool {
	return slices.ContainsFunc(r.Damage, func(d Damage) bool { return !d.Healed })
}

// Scrub verifies a repository without its key. It finds every damage; what it cannot find is a forgery by somebody who may write to the
// store and makes everything consistent again: for that see Repo.Verify. It always reads the store, never a cache.
func Scrub(ctx context.Context, st store.Store, o VerifyOptions) (*VerifyReport, error) {
	r, err := OpenKeyless(ctx, st, nil)
	if err != nil {
		return nil, err
	}
	return r.Verify(ctx, o)
}

// OpenKeyless opens what can be read without a key, for Chain and Verify: as trustworthy as the store. With trust the signatures of the chain and of
// the archive are verified, as far as they cover what is not sealed.
func OpenKeyless(ctx context.Context, st store.Store, trust sign.Trust) (*Repo, error) {
	r := &Repo{st: st, o: Options{Trust: trust}.withDefaults(), trust: trust, keyless: true}
	var c config
	err := getEither(ctx, st, nameConfig, func(b []byte) (err error) { c, err = parseConfig(b); return err })
	switch {
	case errors.Is(err, ErrVersion):
		return nil, err
	case errors.Is(err, store.ErrNotFound) && !errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("%w: %s has no config", ErrNotRepo, st)
	case err != nil:
		return nil, fmt.Errorf("backup: open %s: %w", st, err)
	}
	r.id, err = parseID(c.Repo)
	return r, err
}

// Verify checks the repository: that the chain is whole and authentic, that everything it names is there with the right size, and with
// ReadData that every byte is what was stored. Damage is in the report; an error means that the verification itself failed.
func (r *Repo) Verify(ctx context.Context, o VerifyOptions) (*VerifyReport, error) {
	if o.Budget < 0 || o.Budget > 1 || o.Budget > 0 && !o.ReadData {
		return nil, fmt.Errorf("%w: budget %v", ErrInvalid, o.Budget)
	}
	view, away := shard.Partial(ctx, r.st)
	if len(away) > 0 {
		r = r.at(view)
	}
	v := &verifier{
		r: r, o: o, rep: &VerifyReport{Keyless: r.keyless}, have: map[string]int64{}, refs: map[string]Ref{}, users: map[string][]uint64{},
		checked: map[string]bool{}, pieces: map[string]*checkedPiece{},
	}
	for _, step := range []func(context.Context) error{v.list, v.small, v.chain, v.references, v.data, v.archive, v.finish} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	for _, e := range away {
		v.damage(Damage{Kind: "missing", Object: "shard " + e.ID, Reason: e.Error()})
	}
	return v.rep, nil
}

type verifier struct {
	r       *Repo
	o       VerifyOptions
	rep     *VerifyReport
	have    map[string]int64    // everything in the store
	order   []string            // its names
	refs    map[string]Ref      // what manifests name
	users   map[string][]uint64 // which backups need it
	checked map[string]bool     // reported or verified by an earlier step
	pieces  map[string]*checkedPiece
	ledger  *ledger
}

type checkedPiece struct {
	p      *Piece
	digest object.Digest
}

func (v *verifier) damage(d Damage) {
	d.Backups = v.dependents(d.Backups)
	v.rep.Damage = append(v.rep.Damage, d)
	v.checked[d.Object] = true
}

// reported: an object that is as sound as its checksums say may still be in the wrong place, so "checked" is not enough.
func (v *verifier) reported(name string) bool {
	return slices.ContainsFunc(v.rep.Damage, func(d Damage) bool { return d.Object == name })
}

// fail turns an error into damage if it is one; other errors are returned.
func (v *verifier) fail(name string, users []uint64, err error) error {
	var d *DamageError
	switch {
	case err == nil:
	case errors.As(err, &d):
		v.damage(Damage{Kind: d.Kind, Object: d.Object, Reason: d.Reason, Backups: users})
	case errors.Is(err, store.ErrNotFound):
		v.damage(Damage{Kind: "missing", Object: name, Reason: "it is gone", Backups: users})
	case errors.Is(err, object.ErrNoKey):
		v.damage(Damage{Kind: "forged", Object: name, Reason: "it is sealed with a key that the repository does not have, or no longer", Backups: users})
	case errors.Is(err, object.ErrDamaged), errors.Is(err, object.ErrForged), errors.Is(err, object.ErrNotObject), errors.Is(err, object.ErrUnhealable),
		errors.Is(err, ErrDamaged), errors.Is(err, keys.ErrDamaged), errors.Is(err, store.ErrShort):
		v.damage(Damage{Kind: "damaged", Object: name, Reason: err.Error(), Backups: users})
	default:
		return err
	}
	return nil
}

// dependents adds the backups that build on damaged ones.
func (v *verifier) dependents(seqs []uint64) []uint64 {
	if v.rep.Chain == nil || len(seqs) == 0 {
		return seqs
	}
	out := slices.Clone(seqs)
	for _, l := range v.rep.Chain.Backups("") { // ascending: a base comes before what builds on it
		if l.Kind == Incremental && slices.Contains(out, l.Base) && !slices.Contains(out, l.Seq) {
			out = append(out, l.Seq)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (v *verifier) list(ctx context.Context) error {
	return v.r.st.List(ctx, "", func(i store.Info) error {
		v.have[i.Name] = i.Size
		v.order = append(v.order, i.Name)
		v.rep.Objects++
		v.rep.Bytes += i.Size
		return nil
	})
}

// small checks what has two copies: configuration, key slots, epochs.
func (v *verifier) small(ctx context.Context) error {
	names := map[string]bool{nameConfig: true}
	for _, n := range v.order {
		if strings.HasPrefix(n, folderKeys) || strings.HasPrefix(n, folderEpochs) {
			names[strings.TrimSuffix(n, secondCopy)] = true
		}
	}
	var epochs []*keys.Epoch
	for n := range names {
		parse := func(b []byte) error { _, err := parseConfig(b); return err }
		switch {
		case strings.HasPrefix(n, folderKeys):
			parse = func(b []byte) error { _, err := keys.ParseSlot(b); return err }
		case strings.HasPrefix(n, folderEpochs):
			parse = func(b []byte) error {
				e, err := keys.ParseEpoch(b)
				if err == nil {
					epochs = append(epochs, e)
				}
				return err
			}
		}
		if err := v.copies(ctx, n, parse); err != nil {
			return err
		}
	}
	v.epochs(epochs)
	return nil
}

// epochs checks that those of the newest generation are all there: from its first one, which is number 1 or carries something, to the newest.
func (v *verifier) epochs(found []*keys.Epoch) {
	gen := generationOf(found)
	first, top, have := uint32(1), uint32(0), map[uint32]bool{}
	begun := gen == 0
	for _, e := range found {
		if e.Generation != gen {
			continue
		}
		have[e.Epoch] = true
		top = max(top, e.Epoch)
		if e.Carried != "" {
			first, begun = e.Epoch, true
		}
	}
	if want := int(top) + 1 - int(first); len(have) < want || !begun {
		v.damage(Damage{Kind: "missing", Object: folderEpochs, Reason: fmt.Sprintf("%d key epochs are there, %d were made", len(have), max(want, len(have)+1))})
	}
}

func (v *verifier) copies(ctx context.Context, name string, parse func([]byte) error) error {
	var good []byte
	bad := map[string]error{}
	for _, n := range []string{name, name + secondCopy} {
		v.checked[n] = true
		b, _, err := v.r.st.Get(ctx, n)
		if err == nil {
			err = parse(b)
		}
		switch {
		case err == nil && good != nil && !bytes.Equal(good, b) && !v.ending(name):
			v.damage(Damage{Kind: "replayed", Object: n, Reason: "its two copies are sound, but differ"})
		case err == nil:
			good = b
		case errors.Is(err, store.ErrNotFound), errors.Is(err, ErrDamaged), errors.Is(err, keys.ErrDamaged):
			bad[n] = err
		default:
			return err
		}
	}
	for n, err := range bad {
		d := Damage{Kind: "damaged", Object: n, Reason: err.Error(), Healed: good != nil}
		if errors.Is(err, store.ErrNotFound) {
			d.Kind, d.Reason = "missing", "it is gone"
		}
		if good != nil && v.o.Heal {
			if err := v.rewrite(ctx, n, good); err != nil {
				return err
			}
			d.Written = true
		}
		v.damage(d)
	}
	return nil
}

// ending: the two copies of the first epoch of a generation differ for a moment while a rekey ends, which then removes the older epochs.
func (v *verifier) ending(name string) bool {
	if !strings.HasPrefix(name, folderEpochs) {
		return false
	}
	for _, n := range v.order {
		if strings.HasPrefix(n, folderEpochs) && strings.TrimSuffix(n, secondCopy) < name {
			return true
		}
	}
	return false
}

// rewrite puts sound bytes in the place of damaged ones.
func (v *verifier) rewrite(ctx context.Context, name string, good []byte) error {
	_, ver, err := v.r.st.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return v.r.st.Create(ctx, name, good)
	}
	if err != nil {
		return err
	}
	_, err = v.r.st.Replace(ctx, name, good, ver)
	return err
}

// chain reads every manifest by itself, so that one bad link does not hide another, and then the chain as a whole.
func (v *verifier) chain(ctx context.Context) error {
	var readable []*Link
	for _, n := range v.order {
		if n != nameHead && n != nameShards && !strings.HasPrefix(n, folderManifest) && !strings.HasPrefix(n, folderProofs) {
			continue
		}
		if err := v.whole(ctx, n, nil, nil); err != nil {
			return err
		}
		if seq, ok := parseNumber(n); ok && strings.HasPrefix(n, folderManifest) {
			l, err := v.r.link(ctx, seq)
			if err == nil {
				readable = append(readable, l)
			} else if v.checked[n] {
				continue
			} else if err := v.fail(n, nil, err); err != nil {
				return err
			}
			v.checked[n] = true
		}
	}
	v.checked[nameHead] = true
	c, err := v.r.chain(ctx, v.r.fresh)
	if err == nil {
		v.rep.Chain, v.rep.Signing = c, c.Signing
		if err := v.proofs(ctx); err != nil {
			return err
		}
		if _, ok := v.have[nameHead]; !ok && c.Head > 0 {
			v.damage(Damage{Kind: "missing", Object: nameHead, Reason: "it is gone; the chain is whole, the next backup writes it again", Healed: true})
		}
		return nil
	}
	v.rep.Chain = &Chain{Links: readable}
	var d *DamageError
	if errors.As(err, &d) && v.reported(d.Object) && d.Kind != "rolled-back" && d.Kind != "replayed" && d.Kind != "missing" && d.Kind != "unsigned" {
		return nil // reported with the object itself
	}
	return v.fail("chain", nil, err)
}

// references checks that everything the chain names is there with the right size.
func (v *verifier) references(ctx context.Context) error {
	live := map[string]bool{}
	for _, l := range v.rep.Chain.Links {
		live[manifestName(l.Seq)] = true
		for _, refs := range [][]Ref{l.Packs, l.Lists} {
			for _, ref := range refs {
				v.refs[ref.Name] = ref
				v.users[ref.Name] = append(v.users[ref.Name], l.Seq)
			}
		}
	}
	for name, ref := range v.refs {
		size, ok := v.have[name]
		switch {
		case !ok:
			v.damage(Damage{Kind: "missing", Object: name, Reason: "it is gone", Backups: v.users[name]})
		case size != ref.Size && !v.o.ReadData:
			if again, err := v.resealed(ctx, ref, size); err != nil {
				return err
			} else if again {
				continue
			}
			v.damage(Damage{Kind: "damaged", Object: name, Reason: fmt.Sprintf("%d bytes instead of %d", size, ref.Size), Backups: v.users[name]})
		}
	}
	for _, n := range v.order {
		_, named := v.refs[n]
		seq, _ := parseNumber(n)
		switch {
		case strings.HasPrefix(n, folderManifest) && seq > v.rep.Chain.Head && v.rep.Chain.Head > 0:
			v.damage(Damage{
				Kind: "missing", Object: manifestName(v.rep.Chain.Head + 1), Reason: fmt.Sprintf("link %d exists, but not the one after the newest of the chain", seq),
			})
		case strings.HasPrefix(n, folderManifest) && !live[n], strings.HasPrefix(n, folderSessions):
			v.rep.Stray = append(v.rep.Stray, n)
		case (strings.HasPrefix(n, folderPacks) || strings.HasPrefix(n, folderLists)) && !named:
			v.rep.Stray = append(v.rep.Stray, n)
		}
	}
	return nil
}

// resealed: an object that a rekey sealed anew is larger than the manifest says; its header tells by how much.
func (v *verifier) resealed(ctx context.Context, ref Ref, size int64) (bool, error) {
	b, err := v.r.st.GetRange(ctx, ref.Name, 0, object.HeaderSize)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrShort) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	h, err := object.ParseHeader(b)
	return err == nil && h.Resealed && h.Size() == size && h.FirstSize() == ref.Size, nil
}

// data reads packs and lists, all or those that are due.
func (v *verifier) data(ctx context.Context) error {
	if !v.o.ReadData {
		return nil
	}
	var err error
	if v.ledger, err = v.r.readLedger(ctx); err != nil {
		return err
	}
	var todo []string
	var total, sum int64
	for name := range v.refs {
		if size, ok := v.have[name]; ok {
			todo = append(todo, name)
			total += size
		}
	}
	v.ledger.sort(todo)
	if v.o.Budget > 0 && v.o.Budget < 1 {
		limit := int64(v.o.Budget*float64(total)) + 1
		for n, name := range todo {
			if sum += v.have[name]; sum >= limit {
				todo = todo[:n+1]
				total = sum
				break
			}
		}
	}
	var done int64
	for _, name := range todo {
		ref := v.refs[name]
		if err := v.whole(ctx, name, v.users[name], &ref); err != nil {
			return err
		}
		done += v.have[name]
		v.ledger.Checked[name] = v.r.o.Now().Unix()
		if v.o.Progress != nil {
			v.o.Progress(name, done, total)
		}
	}
	return nil
}

// whole reads an object to its last byte and compares it with its own digest and with the one that was recorded for it.
func (v *verifier) whole(ctx context.Context, name string, users []uint64, ref *Ref) error {
	b, _, err := v.r.st.Get(ctx, name)
	if err != nil {
		return v.fail(name, users, err)
	}
	v.rep.Read++
	v.rep.BytesSum += int64(len(b))
	h, err := object.Check(b)
	if err != nil {
		reason := err.Error()
		if h, err = object.Heal(b); err != nil {
			return v.fail(name, users, err)
		}
		d := Damage{Kind: "damaged", Object: name, Reason: reason, Healed: true}
		if v.o.Heal {
			if err := v.rewrite(ctx, name, h.Healed); err != nil {
				return err
			}
			d.Written = true
		}
		v.damage(d)
	}
	if ref != nil && hex.EncodeToString(h.Identity[:]) != ref.Digest {
		v.damage(Damage{Kind: "replayed", Object: name, Reason: "it is sound, but not the object that the manifest names", Backups: users})
	}
	if p := v.pieces[name]; p != nil {
		p.digest = h.Identity
	}
	return nil
}

// outdated takes back what was found missing because a prune took it away during the verification.
func (v *verifier) outdated(ctx context.Context) error {
	gone := func(d Damage) bool {
		return d.Kind == "missing" && hasAnyPrefix(d.Object, []string{folderPacks, folderLists, folderManifest})
	}
	if v.rep.Chain.Head == 0 || !slices.ContainsFunc(v.rep.Damage, gone) {
		return nil
	}
	c, err := v.r.chain(ctx, v.r.fresh)
	if errors.Is(err, ErrDamaged) {
		return nil // the damage stands
	}
	if err != nil || !slices.ContainsFunc(c.Links, func(l *Link) bool { return l.Kind == Prune && l.Seq > v.rep.Chain.Head }) {
		return err
	}
	named := map[string]bool{}
	for _, l := range c.Links {
		named[manifestName(l.Seq)] = true
		for _, refs := range [][]Ref{l.Packs, l.Lists} {
			for _, ref := range refs {
				named[ref.Name] = true
			}
		}
	}
	v.rep.Damage = slices.DeleteFunc(v.rep.Damage, func(d Damage) bool { return gone(d) && !named[d.Object] })
	return nil
}

func (v *verifier) finish(ctx context.Context) error {
	if err := v.outdated(ctx); err != nil {
		return err
	}
	slices.SortStableFunc(v.rep.Damage, func(a, b Damage) int { return strings.Compare(a.Object, b.Object) })
	if v.ledger == nil {
		return nil
	}
	for name := range v.ledger.Checked {
		if _, ok := v.refs[name]; !ok {
			delete(v.ledger.Checked, name)
		}
	}
	v.rep.Oldest = v.ledger.oldest(v.refs)
	if v.o.NoLedger {
		return nil
	}
	return v.ledger.save(ctx, v.r.st)
}
