package backupfmt

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/snapshot"
)

// MaxChain is how many incrementals may follow a full backup before Auto takes a new full one.
const MaxChain = 24

// Auto lets Backup choose: incremental if possible, else full.
const Auto = "auto"

// BackupOptions of one backup.
type BackupOptions struct {
	Type     string                 // Full, Incremental, Auto (default)
	Label    string                 // stored sealed
	MaxChain int                    // incrementals that may follow a full backup; 0: MaxChain
	Fresh    bool                   // a full backup shares nothing with older ones: after damage that cannot be repaired
	Archive  *Archive               // of the same life: its end is recorded, so that its loss would be noticed; may be nil
	Progress func(rows, raw uint64) // called now and then by the backup's goroutine; may be nil
}

// Backup stores the state of src. When it returns, the backup is durable and part of the chain; if it fails or is cancelled at
// any time, nothing changed but objects that the next prune removes; only an error of the very last steps, moving the head and
// taking the session away, comes when the backup counts already. A Backup without changes since its parent returns the
// parent, Unchanged, and stores nothing.
func (r *Repo) Backup(ctx context.Context, src Source, o BackupOptions) (*Link, error) {
	c, err := r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.writable(c); err != nil {
		return nil, err
	}
	st := src.State()
	if o.MaxChain <= 0 {
		o.MaxChain = MaxChain
	}
	parent, why := r.parentFor(c, &st, o.MaxChain)
	switch o.Type {
	case Full:
		return r.backup(ctx, c, src, nil, o)
	case Incremental:
		if parent == nil {
			return nil, why
		}
	case Auto, "":
		if parent == nil || errors.Is(why, ErrTooMany) {
			return r.backup(ctx, c, src, nil, o)
		}
	default:
		return nil, fmt.Errorf("%w: backup type %q", ErrInvalid, o.Type)
	}
	if parent.Index == st.Index {
		same := *parent
		same.Unchanged = true
		return &same, nil
	}
	l, err := r.backup(ctx, c, src, parent, o)
	if o.Type != Incremental && (errors.Is(err, ErrNoHistory) || errors.Is(err, ErrTooMany)) {
		return r.backup(ctx, c, src, nil, o)
	}
	return l, err
}

// parentFor finds what an incremental would build on; if there is nothing, or too long a chain, why.
func (r *Repo) parentFor(c *Chain, st *State, most int) (*Link, error) {
	all := c.Backups(st.Life.String())
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: history %s", ErrNoParent, st.Life)
	}
	parent := all[0]
	for _, l := range all {
		if l.Index >= parent.Index {
			parent = l
		}
	}
	if parent.Index > st.Index {
		return nil, fmt.Errorf("%w: the newest backup is of index %d, the store is at %d", ErrNoParent, parent.Index, st.Index)
	}
	run, err := c.Run(parent)
	if err != nil {
		return nil, err
	}
	if r.allSigned(run) != nil {
		return nil, fmt.Errorf("%w: the newest backup of history %s is from before the repository was signed", ErrNoParent, st.Life)
	}
	if len(run) > most {
		return parent, fmt.Errorf("%w: %d incrementals follow the last full backup", ErrTooMany, len(run)-1)
	}
	return parent, nil
}

// session announces a backup, so that a prune leaves its objects alone.
func (r *Repo) session(ctx context.Context, kind string) (string, error) {
	var token [16]byte
	if _, err := io.ReadFull(r.o.Rand, token[:]); err != nil {
		return "", fmt.Errorf("backup: random session: %w", err)
	}
	name := hex.EncodeToString(token[:])
	b, err := json.Marshal(sessionMark{Began: r.o.Now().UTC().Format(time.RFC3339), Format: packIndexFormat, Kind: kind, Session: name})
	if err != nil {
		return "", fmt.Errorf("backup: encode session: %w", err)
	}
	return name, r.st.Create(ctx, folderSessions+name, b)
}

// backup stores one run and commits it; parent nil: a full one.
func (r *Repo) backup(ctx context.Context, c *Chain, src Source, parent *Link, o BackupOptions) (*Link, error) {
	kind := Full
	if parent != nil {
		kind = Incremental
	}
	token, err := r.session(ctx, kind)
	if err != nil {
		return nil, err
	}
	l, err := r.store(ctx, c, src, parent, token, o)
	if errors.Is(err, ErrNoHistory) || errors.Is(err, ErrTooMany) {
		return nil, errors.Join(err, r.st.Delete(ctx, folderSessions+token)) // found out before anything was stored
	}
	if err != nil {
		// The session object stays: its packs are only known to be garbage once a prune has fenced it.
		return nil, err
	}
	// The link counts from here on; a session that stays behind only makes the next prune look at it.
	return l, r.st.Delete(ctx, folderSessions+token)
}

func (r *Repo) store(ctx context.Context, c *Chain, src Source, parent *Link, token string, o BackupOptions) (*Link, error) {
	st := src.State()
	inv := Inventory{
		Kind: Full, Session: token, Life: st.Life.String(), Index: st.Index, StateTime: st.Time,
	}
	if o.Archive.lifeOf() == inv.Life {
		inv.Archive = o.Archive.mark()
	}
	var base *baseCursor
	var needs uint64 // a link that must still be there at the end
	frame := frameSize
	if parent != nil {
		inv.Kind, inv.Base, inv.Since, needs = Incremental, parent.Seq, parent.Index, parent.Seq
		frame = deltaFrameSize
	} else if last := lastFull(c); last != nil && !o.Fresh {
		whole, err := r.present(ctx, last)
		if err != nil {
			return nil, err
		}
		if whole {
			base = &baseCursor{packs: last.Packs, items: &itemReader{r: r, ctx: ctx, link: last}}
			needs = last.Seq
		}
	}
	w, err := r.newRunWriter(ctx, token, base, frame)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		if w.found, err = r.findUnfinished(ctx, c, token); err != nil {
			return nil, err
		}
	}
	add := func(e *snapshot.Entry) error {
		if o.Progress != nil && w.stats.Rows%4096 == 0 {
			o.Progress(w.stats.Rows, w.stats.Raw)
		}
		return w.Add(e)
	}
	hash := st.Hash
	if parent == nil {
		hash, err = hashedRows(ctx, src, add)
	} else {
		err = src.Changed(ctx, parent.Index, add)
	}
	if err != nil {
		w.abandon()
		return nil, err
	}
	if inv.Packs, inv.Lists, err = w.Finish(); err != nil {
		return nil, err
	}
	if hash != st.Hash {
		return nil, fmt.Errorf("%w: the rows that were read have state hash %x, the store says %x; nothing was committed", ErrDamaged, hash, st.Hash)
	}
	det := Details{
		Label: o.Label, Term: st.Term, LogID: hex.EncodeToString(st.LogID[:]), Membership: st.Membership,
		StateHash: hex.EncodeToString(st.Hash[:]), Rows: w.stats.Rows, Removed: w.stats.Removed, RawBytes: w.stats.Raw,
		NewBytes: w.stats.Stored, Chunks: w.stats.Chunks, NewChunks: w.stats.NewChunks, Tables: w.stats.Tables,
	}
	return r.commit(ctx, c, inv, det, func(newer *Link) error {
		return errors.Join(fence(newer, token, needs), w.found.fence(newer), r.stillThere(ctx, newer, w.old))
	})
}

// hashedRows calls fn for every row of a source and returns the state hash of the rows.
func hashedRows(ctx context.Context, src Source, fn func(*snapshot.Entry) error) ([32]byte, error) {
	hash := snapshot.NewHashing()
	err := src.Rows(ctx, func(e *snapshot.Entry) error { hash.Add(e); return fn(e) })
	return hash.Sum(), err
}

// present reports whether everything that a backup names is there and not truncated. A new backup must not share what is lost: it
// would not restore either.
func (r *Repo) present(ctx context.Context, l *Link) (bool, error) {
	st := r.st
	if view, away := shard.Partial(ctx, st); len(away) > 0 {
		st = view
	}
	missing := map[string]int64{}
	for _, refs := range [][]Ref{l.Packs, l.Lists} {
		for _, ref := range refs {
			missing[ref.Name] = ref.Size
		}
	}
	for _, folder := range []string{folderPacks, folderLists} {
		err := st.List(ctx, folder, func(i store.Info) error {
			if size, ok := missing[i.Name]; ok && i.Size >= size { // a rekey makes objects larger
				delete(missing, i.Name)
			}
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return len(missing) == 0, nil
}

// lastFull is the newest full backup of any history: its chunks may be shared.
func lastFull(c *Chain) *Link {
	for _, l := range slices.Backward(c.Links) {
		if l.Kind == Full {
			return l
		}
	}
	return nil
}

// fence refuses to go on if a prune gave the session up or removed the link that is needed.
func fence(newer *Link, token string, needs uint64) error {
	if newer.Kind != Prune {
		return nil
	}
	if slices.Contains(newer.Aborted, token) {
		return fmt.Errorf("%w: prune %d took this backup for abandoned", ErrFenced, newer.Seq)
	}
	if needs != 0 && !slices.ContainsFunc(newer.Live, func(v Live) bool { return v.Seq == needs }) {
		return fmt.Errorf("%w: prune %d removed backup %d, which this one shares data with", ErrFenced, newer.Seq, needs)
	}
	return nil
}
