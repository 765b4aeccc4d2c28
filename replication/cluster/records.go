package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication/trust"
)

const (
	tableMembers = "cluster_members"
	tableEvents  = "cluster_events"
	tableTokens  = "cluster_tokens"

	maxEvents = 1000 // older ones are removed
)

// Record is what a member says about itself.
type Record struct {
	Name    string    `json:"name"`
	Address string    `json:"address"`
	URL     string    `json:"url,omitempty"`
	Version string    `json:"version,omitempty"`
	Voter   bool      `json:"voter"` // it is to vote
	Since   time.Time `json:"since"`
}

// Event is one line of the failover log.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // election, handover, join, promote, demote, remove, rebuild, authority
	Old      string    `json:"old,omitempty"`
	New      string    `json:"new,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Duration float64   `json:"duration_seconds,omitempty"` // election: from the last word of the old leader to the first act of the new one
}

// note writes an event; without a quorum it is only logged.
func (m *Member) note(e Event) {
	if e.Time.IsZero() {
		e.Time = m.o.Now().UTC()
	}
	m.log.Info("cluster event", "kind", e.Kind, "old", e.Old, "new", e.New, "reason", e.Reason, "seconds", e.Duration)
	m.mu.Lock()
	store := m.store
	m.mu.Unlock()
	if store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(internal(context.Background()), 2*time.Second)
	defer cancel()
	_, err := store.Update(ctx, func(tx *engine.Tx) error { return putEvent(tx, e) }, engine.WithActor("cluster:"+m.name), engine.WithLabel("cluster "+e.Kind))
	if err != nil {
		m.log.Warn("cluster event not stored", "kind", e.Kind, "error", err)
	}
}

func putEvent(tx *engine.Tx, e Event) error {
	next := uint64(1)
	err := tx.Scan(tableEvents, engine.Range{Reverse: true, Limit: 1}, func(key, _ []byte) bool {
		next = binary.BigEndian.Uint64(key) + 1
		return true
	})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if next > maxEvents {
		if err := tx.Delete(tableEvents, binary.BigEndian.AppendUint64(nil, next-maxEvents)); err != nil {
			return err
		}
	}
	return tx.Put(tableEvents, binary.BigEndian.AppendUint64(nil, next), raw)
}

// events reads the newest events, newest first, as this member has them.
func events(ctx context.Context, s *engine.Store, n int) (out []Event, err error) {
	err = s.ViewLocal(ctx, func(tx *engine.Tx) error {
		var bad error
		err := tx.Scan(tableEvents, engine.Range{Reverse: true, Limit: n}, func(_, v []byte) bool {
			var e Event
			bad = json.Unmarshal(v, &e)
			out = append(out, e)
			return bad == nil
		})
		return errors.Join(err, bad)
	})
	return out, err
}

func records(ctx context.Context, s *engine.Store) (map[string]Record, error) {
	out := map[string]Record{}
	err := s.ViewLocal(ctx, func(tx *engine.Tx) error {
		var bad error
		err := tx.Scan(tableMembers, engine.Range{}, func(k, v []byte) bool {
			var r Record
			bad = json.Unmarshal(v, &r)
			out[string(k)] = r
			return bad == nil
		})
		return errors.Join(err, bad)
	})
	return out, err
}

// putRecord stores what a member says, if it is news.
func (m *Member) putRecord(ctx context.Context, store *engine.Store, r Record) error {
	_, err := store.Update(internal(ctx), func(tx *engine.Tx) error {
		old, err := tx.Get(tableMembers, []byte(r.Name))
		var was Record
		switch {
		case errors.Is(err, engine.ErrNotFound):
		case err != nil:
			return err
		default:
			if err := json.Unmarshal(old, &was); err != nil {
				return err
			}
			r.Since = was.Since
		}
		if was == r {
			return nil
		}
		if r.Since.IsZero() {
			r.Since = tx.Now()
		}
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return tx.Put(tableMembers, []byte(r.Name), raw)
	}, engine.WithActor("cluster:"+m.name), engine.WithLabel("cluster member"))
	return err
}

// countUse counts the use of a token and refuses one too many.
func (m *Member) countUse(ctx context.Context, store *engine.Store, t trust.Token) error {
	if t.Uses == 0 {
		return nil
	}
	_, err := store.Update(internal(ctx), func(tx *engine.Tx) error {
		used := 0
		v, err := tx.Get(tableTokens, []byte(t.Nonce))
		if err == nil {
			used, err = strconv.Atoi(string(v))
		}
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			return err
		}
		if used >= t.Uses {
			return &refused{text: fmt.Sprintf("the join token was used %d times already, which is all it is for; make a new one: erlmcp cluster token", used)}
		}
		return tx.PutUntil(tableTokens, []byte(t.Nonce), strconv.AppendInt(nil, int64(used+1), 10), t.Expires.Add(time.Hour))
	}, engine.WithActor("cluster:"+m.name), engine.WithLabel("cluster token"))
	return err
}
