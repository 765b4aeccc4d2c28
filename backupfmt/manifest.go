package backupfmt

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Kinds of links.
const (
	Full        = "full"
	Incremental = "incremental"
	Prune       = "prune"
	BeginSign   = "sign"  // from here on everything is signed, see Signing
	Rekey       = "rekey" // begins a generation of keys: whoever does not have them cannot continue the chain behind it
)

const (
	manifestVersion = 1
	movedVersion    = 2 // of a prune that moved something: a program that does not know that must not touch the repository
)

// Ref names an object and what it must be.
type Ref struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // of the stored bytes, hex
}

// Inventory is the part of a manifest that is readable without the key, so that a scrub knows what must be there. It is
// authenticated like the rest.
type Inventory struct {
	Version int       `json:"version"`
	Seq     uint64    `json:"seq"`
	Parent  string    `json:"parent"` // digest of link seq-1, hex; empty for 1
	Kind    string    `json:"kind"`
	Time    time.Time `json:"time"` // when the link was made
	Session string    `json:"session,omitempty"`

	Life      string    `json:"life,omitempty"`  // history the state belongs to, hex
	Index     uint64    `json:"index,omitempty"` // log index of the state
	StateTime time.Time `json:"state_time,omitzero"`
	Base      uint64    `json:"base,omitempty"`  // incremental: seq it builds on
	Since     uint64    `json:"since,omitempty"` // incremental: index of the base
	Lists     []Ref     `json:"lists,omitempty"`
	Packs     []Ref     `json:"packs,omitempty"`

	Archive *ArchiveMark `json:"archive,omitempty"` // newest piece of the archive of Life at the time

	Live    []Live         `json:"live,omitempty"`    // prune: every older link that still counts
	Aborted []string       `json:"aborted,omitempty"` // prune: sessions that can no longer commit
	Watched map[string]int `json:"watched,omitempty"` // prune: open sessions and how many objects they had

	Moved *Moved `json:"moved,omitempty"` // prune: where kept backups have their chunks, if not where they say

	Signing *Signing `json:"signing,omitempty"` // of a signed link
}

// Live is a link that a prune kept.
type Live struct {
	Seq    uint64 `json:"seq"`
	Digest string `json:"digest"`
}

// Details is the sealed part of a manifest.
type Details struct {
	Label      string            `json:"label,omitempty"`
	Term       uint64            `json:"term,omitempty"`
	LogID      string            `json:"log_id,omitempty"`
	Membership []byte            `json:"membership,omitempty"`
	StateHash  string            `json:"state_hash,omitempty"` // of the whole state at Index, hex
	Rows       uint64            `json:"rows,omitempty"`
	Removed    uint64            `json:"removed,omitempty"` // incremental: removals
	RawBytes   uint64            `json:"raw_bytes,omitempty"`
	NewBytes   uint64            `json:"new_bytes,omitempty"` // stored for this backup
	Chunks     uint64            `json:"chunks,omitempty"`
	NewChunks  uint64            `json:"new_chunks,omitempty"`
	Tables     map[string]uint64 `json:"tables,omitempty"`
}

// Link is a manifest in its place in the chain.
type Link struct {
	Inventory
	Details
	Digest object.Digest `json:"-"` // of its first form
	Size   int64         `json:"-"`
	fresh  uint32        // key epoch it was first sealed with; 0: not known, it was resealed
	sig    signature
	moved  bool // Lists and Packs are those of a prune behind it

	// Unchanged is set by Backup when it stored nothing because this link shows the state already.
	Unchanged bool `json:"-"`
}

// IsBackup reports whether the link is a full or incremental backup.
func (l *Link) IsBackup() bool { return l.Kind == Full || l.Kind == Incremental }

func (r *Repo) sealManifest(inv *Inventory, det *Details) ([]byte, object.Digest, error) {
	clear, err := json.Marshal(inv)
	if err != nil {
		return nil, object.Digest{}, fmt.Errorf("backup: encode manifest: %w", err)
	}
	frame, err := json.Marshal(det)
	if err != nil {
		return nil, object.Digest{}, fmt.Errorf("backup: encode manifest: %w", err)
	}
	b, _, d, err := r.sealSigned(object.Manifest, clear, frame)
	return b, d, err
}

// parseInventory decodes the clear section of a manifest and checks its form.
func parseInventory(name string, clear []byte) (inv Inventory, err error) {
	d := json.NewDecoder(bytes.NewReader(clear))
	if err := d.Decode(&inv); err != nil {
		return inv, &DamageError{Kind: "damaged", Object: name, Reason: "manifest does not decode", Cause: err}
	}
	if inv.Version > movedVersion {
		return inv, fmt.Errorf("%w: %s has version %d", ErrVersion, name, inv.Version)
	}
	seq, ok := parseNumber(name)
	if !ok || inv.Seq != seq || seq == 0 {
		return inv, &DamageError{Kind: "replayed", Object: name, Seq: inv.Seq, Reason: fmt.Sprintf("it is link %d of the chain", inv.Seq)}
	}
	bad := func(reason string) error {
		return &DamageError{Kind: "damaged", Object: name, Seq: seq, Reason: reason}
	}
	switch inv.Kind {
	case Full:
		if inv.Base != 0 || inv.Since != 0 {
			err = bad("a full backup with a base")
		}
	case Incremental:
		if inv.Base == 0 || inv.Base >= inv.Seq || inv.Since >= inv.Index {
			err = bad("an incremental backup with an impossible base")
		}
	case Prune, Rekey, BeginSign:
	default:
		err = bad(fmt.Sprintf("unknown kind %q", inv.Kind))
	}
	if merr := inv.Moved.check(&inv); merr != nil {
		err = bad(merr.Error())
	}
	return inv, err
}

// link reads one link.
func (r *Repo) link(ctx context.Context, seq uint64) (*Link, error) {
	name := manifestName(seq)
	c, err := r.open(ctx, name, object.Manifest, nil)
	if err != nil {
		return nil, err
	}
	l := &Link{Digest: c.Digest, Size: c.Header.Size()}
	if !c.Header.Resealed {
		l.fresh = c.Header.Epoch
	}
	if l.Inventory, err = parseInventory(name, c.Clear); err != nil {
		return nil, err
	}
	if l.sig, err = r.signed(name, c); err != nil {
		return nil, err
	}
	if r.keyless {
		return l, nil
	}
	frame, err := c.Frame(0)
	if err != nil {
		return nil, fmt.Errorf("backup: %s: %w", name, err)
	}
	if err := json.Unmarshal(frame, &l.Details); err != nil {
		return nil, &DamageError{Kind: "damaged", Object: name, Seq: seq, Reason: "manifest does not decode", Cause: err}
	}
	return l, nil
}

// headMark is the clear section of the head object.
type headMark struct {
	Seq    uint64 `json:"seq"`
	Digest string `json:"digest"`

	sig signature
}

// readHead returns the head and its version; a zero mark if there is none yet.
func (r *Repo) readHead(ctx context.Context) (headMark, store.Version, error) {
	var m headMark
	b, v, err := r.st.Get(ctx, nameHead)
	if errors.Is(err, store.ErrNotFound) {
		return m, "", nil
	}
	if err != nil {
		return m, v, err
	}
	c, err := r.openBytes(ctx, nameHead, b, object.Head, nil)
	if err != nil {
		return m, v, err
	}
	if err := json.Unmarshal(c.Clear, &m); err != nil || m.Seq == 0 {
		return m, v, &DamageError{Kind: "damaged", Object: nameHead, Reason: "it does not decode", Cause: err}
	}
	m.sig, err = r.signed(nameHead, c)
	return m, v, err
}

// moveHead lets the head point at a link, unless it is there or beyond already.
func (r *Repo) moveHead(ctx context.Context, to *Link) error {
	for {
		m, v, err := r.readHead(ctx)
		if err != nil || m.Seq >= to.Seq {
			return err
		}
		mark, err := json.Marshal(headMark{Seq: to.Seq, Digest: hex.EncodeToString(to.Digest[:])})
		if err != nil {
			return fmt.Errorf("backup: encode head: %w", err)
		}
		b, _, _, err := r.sealSigned(object.Head, mark)
		if err != nil {
			return err
		}
		if _, err = r.st.Replace(ctx, nameHead, b, v); !errors.Is(err, store.ErrChanged) {
			return err
		}
	}
}
