package backupfmt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// The table of shards is read before there are keys, so it is not sealed. An object beside it is, and signed if the repository is: it names the
// digest of the table. Whoever reads the chain compares, and a table that it does not name is refused. It is written before a table is
// changed, and names both until that has happened, so that nobody has to put anything right after a crash.

// ErrShards: the table of shards is not one that the owner of the repository wrote. Always with a *DamageError.
var ErrShards = errors.New("backup: the table of shards is not the one that was written")

// tableMark is the clear section of the object.
type tableMark struct {
	Digest string `json:"digest"`
	Before string `json:"before,omitempty"` // the table that Digest takes the place of, until that has happened
}

func forgedTable(reason string, cause error) error {
	return &DamageError{Kind: "forged", Object: "shards", Reason: reason, Cause: errors.Join(ErrShards, cause)}
}

// tableMark reads which table is the right one; nil if nobody has said.
func (r *Repo) tableMark(ctx context.Context, signed bool) (*tableMark, store.Version, error) {
	b, v, err := r.st.Get(ctx, nameShards)
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, v, err
	}
	c, err := r.openBytes(ctx, nameShards, b, object.Table, nil)
	if errors.Is(err, object.ErrNoKey) {
		return nil, v, forgedTable("what vouches for it is sealed with a key that the repository does not have, or no longer", err)
	}
	if err != nil {
		return nil, v, err
	}
	sig, err := r.signed(nameShards, c)
	if err != nil {
		return nil, v, err
	}
	if signed && !sig.proven {
		return nil, v, sig.unsigned(nameShards, 0)
	}
	var m tableMark
	if err := json.Unmarshal(c.Clear, &m); err != nil || m.Digest == "" {
		return nil, v, &DamageError{Kind: "damaged", Object: nameShards, Reason: "it does not decode", Cause: err}
	}
	return &m, v, nil
}

// checkShards compares the table that is stored, and the one with which the store was opened, with the one that was written. A repository
// without a table is a copy, or lost it: then packs are missing, and that is said of them.
func (r *Repo) checkShards(ctx context.Context, c *Chain) error {
	now, err := shard.Digest(ctx, r.st)
	if err != nil {
		return err
	}
	opened := shard.Opened(r.st)
	if now == "" && opened == "" {
		return nil
	}
	m, _, err := r.tableMark(ctx, c.Signing != nil)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fits := func(digest string) bool { return digest == "" || digest == m.Digest || digest == m.Before }
	switch {
	case m == nil:
		return forgedTable("nothing vouches for it", nil)
	case !fits(now):
		return forgedTable("it is not the one that was written last", nil)
	case opened != r.table && !fits(opened):
		return forgedTable("it was another one when the repository was opened", nil)
	}
	r.table = opened // what was right when it was opened stays so for this process
	return nil
}

// AnnounceShards writes which table of shards is the right one, before and after it is changed: ErrShards if the one that is there is not. With accept
// the one that is there is taken as it is, whoever wrote it.
func (r *Repo) AnnounceShards(ctx context.Context, accept bool) shard.Announce {
	return func(before, after string) error {
		c, err := r.ownChain(ctx, r.fresh)
		if err == nil && !accept {
			err = r.checkShards(ctx, c)
		}
		if err == nil {
			err = r.writable(c)
		}
		if err != nil {
			return err
		}
		_, v, err := r.tableMark(ctx, c.Signing != nil)
		if err != nil && !accept {
			return err
		}
		m := tableMark{Digest: after}
		if before != after {
			m.Before = before
		}
		clear, err := json.Marshal(&m)
		if err != nil {
			return fmt.Errorf("backup: encode shards: %w", err)
		}
		b, _, _, err := r.sealSigned(object.Table, clear)
		if err != nil {
			return err
		}
		_, err = r.st.Replace(ctx, nameShards, b, v)
		return err
	}
}

// AcceptShards takes the table of shards as it is: ErrInvalid if there is none.
func (r *Repo) AcceptShards(ctx context.Context) error {
	now, err := shard.Digest(ctx, r.st)
	if err != nil {
		return err
	}
	if now == "" {
		return fmt.Errorf("%w: the repository has no shards", ErrInvalid)
	}
	return r.AnnounceShards(ctx, true)(now, now)
}
