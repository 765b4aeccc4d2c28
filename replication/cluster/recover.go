package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/hashicorp/raft"
)

// Recovered says what Recover left.
type Recovered struct {
	Name      string `json:"name"`
	Index     uint64 `json:"index"`
	StateHash string `json:"state_hash"`
	Removed   []peer `json:"-"`
}

// Recover makes the member in dir the only one of its cluster, for good: for the day when a majority is lost for ever.
// Changes that only the lost members have are lost; changes that this member has and that were never acknowledged may
// become valid. The others join anew: with their old directories they would be a majority of the old cluster, and the leader that they
// elect would overwrite what this member goes on to do. So it gets a new authority and is a stranger to them, as they are to it.
// No process may use the directory.
func Recover(ctx context.Context, dir string, o engine.Options) (r Recovered, err error) {
	me, err := loadMember(dir)
	if err != nil {
		return r, err
	}
	if me.Rebuild != "" {
		return r, fmt.Errorf("%w: this member's own state cannot be trusted (%s); recover another member", ErrMember, me.Rebuild)
	}
	address, transport := raft.NewInmemTransport(raft.ServerAddress(me.Advertise))
	node, err := replication.New(replication.Options{
		ID: me.Name, Transport: transport, HandOver: -1,
		Restart: &raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(me.Name), Address: address}}},
	})
	if err != nil {
		return r, err
	}
	o.Committer = node.Start
	store, err := engine.Open(dir, o)
	if err != nil {
		return r, err
	}
	for {
		vctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err = store.View(vctx, func(*engine.Tx) error { return nil })
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, replication.ErrNotLeader) && !errors.Is(err, context.DeadlineExceeded) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err == nil {
		_, err = store.Update(ctx, func(tx *engine.Tx) error {
			return errors.Join(forgetRotation(tx), putHistory(tx, true), putEvent(tx, Event{Time: tx.Now(), Kind: "recover", New: me.Name, Reason: "an operator made it the only member"}))
		}, engine.WithActor("cluster:"+me.Name), engine.WithLabel("cluster recover"))
	}
	r.Name = me.Name
	index, hash := store.StateHash()
	r.Index, r.StateHash = index, fmt.Sprintf("%x", hash)
	if err := errors.Join(err, store.Close()); err != nil {
		return r, err
	}
	if err := estrange(dir, me.Name, o.Now); err != nil {
		return r, err
	}
	me.Peers, me.First, me.Founders, me.Voter = nil, false, nil, true
	return r, me.save(dir)
}

// estrange gives the member an authority of its own.
func estrange(dir, name string, clock func() time.Time) error {
	now := time.Now
	if clock != nil {
		now = clock
	}
	a, err := trust.NewAuthority(now())
	if err != nil {
		return err
	}
	id, err := identityOf(a, name, now())
	if err != nil {
		return err
	}
	return id.Save(filepath.Join(dir, Folder))
}

// forgetRotation ends a rotation of the authority that the others would have had to follow.
func forgetRotation(tx *engine.Tx) error {
	var keys [][]byte
	err := tx.Scan(tableAuthority, engine.Range{}, func(k, _ []byte) bool {
		keys = append(keys, bytes.Clone(k))
		return true
	})
	for _, k := range keys {
		err = errors.Join(err, tx.Delete(tableAuthority, k))
	}
	return err
}
