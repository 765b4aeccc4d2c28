package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
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
// become valid. The others must never be started with their old directories again: they join anew.
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
			return errors.Join(putHistory(tx, true), putEvent(tx, Event{Time: tx.Now(), Kind: "recover", New: me.Name, Reason: "an operator made it the only member"}))
		}, engine.WithActor("cluster:"+me.Name), engine.WithLabel("cluster recover"))
	}
	r.Name = me.Name
	index, hash := store.StateHash()
	r.Index, r.StateHash = index, fmt.Sprintf("%x", hash)
	if err := errors.Join(err, store.Close()); err != nil {
		return r, err
	}
	me.Peers, me.First, me.Founders, me.Voter = nil, false, nil, true
	return r, me.save(dir)
}
