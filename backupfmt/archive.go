package backupfmt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/wal"
)

// Log is what is archived; *wal.Log is one.
type Log interface {
	FirstIndex() uint64
	// Iterate calls fn for entries from from on, ascending without gap; Data is valid during the call.
	Iterate(from uint64, fn func(wal.Entry) error) error
}

const (
	archiveFrame = 1 << 20 // decoded bytes of a frame of log
	archiveMost  = 8 << 20 // decoded bytes of an object
)

// Piece is what an archive object says about itself, readable without the key.
type Piece struct {
	Version   int       `json:"version"`
	Life      string    `json:"life"`
	First     uint64    `json:"first"`
	Last      uint64    `json:"last"`
	Prev      string    `json:"prev,omitempty"` // digest of the piece before it, hex; empty for the first of an archive
	FirstTime time.Time `json:"first_time,omitzero"`
	LastTime  time.Time `json:"last_time,omitzero"`
	// Restart: the entries between Prev's piece and this one were never archived, because the log no longer had them.
	Restart bool `json:"restart,omitempty"`
	// Fence: it holds nothing and takes the place of the next piece, so that whoever ships with keys from before a rekey finds it taken. The
	// next piece replaces it; until then Last is First-1.
	Fence bool `json:"fence,omitempty"`
	// A merged piece: how many it was made of, and what the piece behind the newest of them names as the one before it.
	Merged int    `json:"merged,omitempty"`
	Ends   string `json:"ends,omitempty"`

	name string
	sig  signature
}

// Archive is the stored log of one life. The pieces are linked by digest and lie end to end. One goroutine ships at a time;
// several processes may try: of two pieces that begin with the same entry one wins, and the other archiver goes on behind it.
type Archive struct {
	r    *Repo
	life object.ID

	mu   sync.Mutex
	next uint64 // first entry that is not archived; 0: nothing is
	prev string // digest of the newest piece
	last *Piece

	restart bool // the next piece begins behind a gap
	signed  bool // the newest piece, or fence, carries a signature: so must the next one
}

// OpenArchive finds the end of the archive of a life.
func (r *Repo) OpenArchive(ctx context.Context, life object.ID) (*Archive, error) {
	a := &Archive{r: r, life: life}
	var names []string // the newest two
	err := r.st.List(ctx, folderArchive+life.String()+"/", func(i store.Info) error {
		names = append(names[max(len(names)-1, 0):], i.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for n, name := range names {
		c, p, err := r.piece(ctx, name)
		if err != nil && n == len(names)-1 {
			return nil, err
		}
		switch {
		case err != nil: // it is not the newest one: damage that a verification names
		case p.Fence:
			a.next, a.prev, a.signed = p.First, p.Prev, p.sig.there
		default:
			a.took(p, c.Digest)
		}
	}
	return a, nil
}

func (a *Archive) took(p *Piece, d object.Digest) {
	a.next, a.prev, a.last, a.restart, a.signed = p.Last+1, p.end(d), p, false, p.sig.there
}

// StartAfter lets an archive that holds nothing begin with the entry after index: what comes before a life's first backup cannot be
// restored, so it need not be stored. An archive that holds something is left as it is.
func (a *Archive) StartAfter(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == 0 {
		a.next = index + 1
	}
}

// SkipTo gives up the entries before first, which the log no longer has: the archive goes on behind the gap, and the next piece says
// that it does. No moment inside the gap can be restored, nor any behind it that no later backup covers. Ship reports the
// gap (ErrGap) before this is the right thing to do.
func (a *Archive) SkipTo(first uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if first > a.next {
		a.next, a.restart = first, a.prev != ""
	}
}

// Last is the newest archived entry, 0 if there is none.
func (a *Archive) Last() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(a.next, 1) - 1
}

// Ship archives the entries of log up to and including upTo, which must be durable and committed. It returns the newest archived
// index; when it returns nil everything up to upTo is durable in the archive. With nothing new it makes no request. The first piece of
// an archive begins with the oldest entry the log has. ErrGap if the log no longer has the entry that must come next.
func (a *Archive) Ship(ctx context.Context, log Log, upTo uint64) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if a.next == 0 {
			if a.next = log.FirstIndex(); a.next == 0 {
				return 0, nil
			}
		}
		if a.next > upTo {
			return a.next - 1, nil
		}
		if err := a.shipPiece(ctx, log, upTo); err != nil {
			return a.next - 1, err
		}
	}
}

var errEnough = errors.New("backup: the piece is full")

// collector gathers entries for one piece.
type collector struct {
	p      Piece
	frames [][]byte
	cur    []byte
	size   int
}

func (c *collector) add(e wal.Entry) {
	if c.p.First == 0 {
		c.p.First = e.Index
	}
	c.p.Last = e.Index
	if t, ok := EntryTime(e); ok {
		if c.p.FirstTime.IsZero() {
			c.p.FirstTime = t
		}
		c.p.LastTime = t
	}
	before := len(c.cur)
	c.cur = binary.AppendUvarint(c.cur, e.Index)
	c.cur = binary.AppendUvarint(c.cur, e.Term)
	c.cur = append(c.cur, byte(e.Type))
	c.cur = appendString(c.cur, e.Data)
	c.size += len(c.cur) - before
	if len(c.cur) >= archiveFrame {
		c.frames, c.cur = append(c.frames, c.cur), nil
	}
}

func (a *Archive) shipPiece(ctx context.Context, log Log, upTo uint64) error {
	if a.signed && a.r.o.Signer == nil {
		return ErrSignKey
	}
	if first := log.FirstIndex(); first > a.next {
		return &GapError{From: a.next, To: first - 1, Reachable: a.next - 1}
	}
	col := collector{p: Piece{Version: manifestVersion, Life: a.life.String(), Prev: a.prev, Restart: a.restart}}
	err := log.Iterate(a.next, func(e wal.Entry) error {
		if e.Index > upTo || col.size >= archiveMost {
			return errEnough
		}
		if col.p.First == 0 && e.Index != a.next || col.p.First != 0 && e.Index != col.p.Last+1 {
			return &GapError{From: max(a.next, col.p.Last+1), To: e.Index - 1, Reachable: max(a.next-1, col.p.Last)}
		}
		col.add(e)
		return ctx.Err()
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if col.p.First == 0 {
		return fmt.Errorf("%w: the log ends before index %d", ErrInvalid, a.next)
	}
	if len(col.cur) > 0 {
		col.frames = append(col.frames, col.cur)
	}
	clear, err := json.Marshal(&col.p)
	if err != nil {
		return fmt.Errorf("backup: encode archive: %w", err)
	}
	b, _, digest, err := a.r.sealSigned(object.Archive, clear, col.frames...)
	if err != nil {
		return err
	}
	if err := a.place(ctx, archiveName(a.life, a.next), b); !errors.Is(err, store.ErrExists) {
		if err == nil {
			col.p.sig = a.r.ownSignature()
			a.took(&col.p, digest)
		}
		return err
	}
	// Another node was faster; its piece holds the same committed entries.
	c, p, err := a.r.piece(ctx, archiveName(a.life, a.next))
	if err != nil {
		return err
	}
	if a.r.o.Signer != nil && !p.sig.proven {
		return p.sig.unsigned(archiveName(a.life, a.next), 0)
	}
	a.took(p, c.Digest)
	return nil
}

// place stores a piece. A fence that has its name gives way, but only to somebody who can read it.
func (a *Archive) place(ctx context.Context, name string, piece []byte) error {
	for {
		err := a.r.st.Create(ctx, name, piece)
		if !errors.Is(err, store.ErrExists) {
			return err
		}
		b, v, gerr := a.r.st.Get(ctx, name)
		if gerr != nil {
			return gerr
		}
		c, gerr := a.r.openBytes(ctx, name, b, object.Archive, nil)
		if gerr != nil {
			return gerr
		}
		p, gerr := parsePiece(name, c.Clear)
		if gerr != nil {
			return gerr
		}
		if !p.Fence {
			return err
		}
		if sig, err := a.r.signed(name, c); err != nil || sig.there && a.r.o.Signer == nil {
			return errors.Join(err, ErrSignKey)
		} else if sig.there && !sig.proven {
			return sig.unsigned(name, 0)
		}
		if _, err := a.r.st.Replace(ctx, name, piece, v); !errors.Is(err, store.ErrChanged) {
			return err
		}
	}
}

// piece opens an archive object.
func (r *Repo) piece(ctx context.Context, name string) (*object.Content, *Piece, error) {
	c, err := r.open(ctx, name, object.Archive, nil)
	if err != nil {
		return nil, nil, err
	}
	p, err := parsePiece(name, c.Clear)
	if err == nil {
		p.sig, err = r.signed(name, c)
	}
	return c, p, err
}

func parsePiece(name string, clear []byte) (*Piece, error) {
	var p Piece
	if err := json.Unmarshal(clear, &p); err != nil {
		return nil, &DamageError{Kind: "damaged", Object: name, Reason: "it does not decode", Cause: err}
	}
	if p.Version > manifestVersion {
		return nil, fmt.Errorf("%w: %s has version %d", ErrVersion, name, p.Version)
	}
	life, err := parseID(p.Life)
	named := archiveName(life, p.First)
	if p.Ends != "" {
		named = mergedName(life, p.First, p.Last)
	}
	if err != nil || named != name || p.Last < p.First != p.Fence || p.Fence && p.Last+1 != p.First {
		return nil, &DamageError{Kind: "replayed", Object: name, Reason: fmt.Sprintf("it holds entries %d to %d of %s", p.First, p.Last, p.Life)}
	}
	p.name = name
	return &p, nil
}

// entries calls fn for the entries of a piece.
func entries(name string, c *object.Content, p *Piece, fn func(wal.Entry) error) error {
	next := p.First
	for i := range c.Places {
		raw, err := c.Frame(i)
		if err != nil {
			return fmt.Errorf("backup: %s: %w", name, err)
		}
		d := decoder{b: raw}
		for len(d.b) > 0 && !d.bad {
			e := wal.Entry{Index: d.number(1<<64 - 1), Term: d.number(1<<64 - 1), Type: wal.EntryType(d.byte()), Data: d.string()}
			if d.bad || e.Index != next {
				d.fail()
				break
			}
			next++
			if err := fn(e); err != nil {
				return err
			}
		}
		if d.bad {
			return &DamageError{Kind: "damaged", Object: name, Reason: fmt.Sprintf("entry %d does not decode", next)}
		}
	}
	if next != p.Last+1 {
		return &DamageError{Kind: "damaged", Object: name, Reason: fmt.Sprintf("it ends with entry %d instead of %d", next-1, p.Last)}
	}
	return nil
}
