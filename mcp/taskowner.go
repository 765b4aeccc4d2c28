package mcp

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/erlmcp/erlmcp/engine"
)

// This file decides which runtime may hold leases. A runtime is an owner: one
// row "o" with a counter that it raises while it lives. Another runtime that
// sees the counter stand still for a lease time, by its own clock, removes the
// row and thereby takes over. Whether it was right does not matter for safety:
// the removed owner cannot raise its counter any more, and each of its tasks
// gets a new fencing token before anybody else runs it.

// register makes owner known and deposes the earlier owners of the same node:
// a data directory belongs to one process, so they are dead.
func (s taskStore) register(owner, node string) error {
	return s.update("task owner", workerActor, func(tx *engine.Tx) error {
		var bad error
		err := tx.Scan(tableQueue, engine.Prefix([]byte{'o'}), func(key, value []byte) bool {
			var entry ownerEntry
			if json.Unmarshal(value, &entry) != nil || entry.Node == node {
				bad = tx.Delete(tableQueue, key)
			}
			return bad == nil
		})
		if err := errors.Join(err, bad); err != nil {
			return err
		}
		return putJSON(tx, tableQueue, ownerKey(owner), ownerEntry{Node: node})
	})
}

// beat raises the owner's counter. errLeaseLost: another runtime has taken over.
func (s taskStore) beat(owner string) error {
	return s.update("task owner", workerActor, func(tx *engine.Tx) error {
		var entry ownerEntry
		found, err := getJSON(tx, tableQueue, ownerKey(owner), &entry)
		if err != nil {
			return err
		}
		if !found {
			return errLeaseLost
		}
		entry.Beat++
		return putJSON(tx, tableQueue, ownerKey(owner), entry)
	})
}

// certain is errLeaseLost when another runtime has taken the task over. Only a
// process that could not prove itself for most of a lease time has to ask: it
// was frozen or cut off, and others may have gone on with its tasks. Their
// writes fence its results; this keeps it from doing the work once more.
func (tr *taskRunner) certain(ctx context.Context, f fence) error {
	if tr.limits.Node == "" {
		return nil
	}
	tr.mu.Lock()
	sure := tr.owner == f.owner && tr.rt.opts.Now().Sub(tr.proven) < tr.limits.Lease*2/3
	tr.mu.Unlock()
	if sure {
		return nil
	}
	return tr.store.store.View(ctx, f.check)
}

// depose removes an owner whose counter still is beat; "" any counter.
func (s taskStore) depose(owner string, beat uint64) error {
	return s.update("task owner lost", workerActor, func(tx *engine.Tx) error {
		var entry ownerEntry
		found, err := getJSON(tx, tableQueue, ownerKey(owner), &entry)
		if err != nil || !found || entry.Beat != beat {
			return err
		}
		return tx.Delete(tableQueue, ownerKey(owner))
	})
}

// resign removes owner itself, after it returned its leases.
func (s taskStore) resign(owner string) error {
	return s.update("task owner", workerActor, func(tx *engine.Tx) error {
		return tx.Delete(tableQueue, ownerKey(owner))
	})
}

// queueView is what a scan of mcp_task_queue saw.
type queueView struct {
	ready  []readyTask           // due now, first come first
	due    int                   // all that are due now, listed in ready or not
	later  int                   // waiting for a time or for answers
	next   int64                 // when the first of those is due; 0: none
	by     map[string]int        // tasks that have not ended, by principal
	leases map[string]leaseEntry // task -> lease
	owners map[string]ownerEntry
}

// readyTask is one row "r".
type readyTask struct {
	due       int64
	id        string
	tool      string
	principal string
}

// survey reads the queue as this node has applied it. At most limit tasks that
// are due are returned, all of tools that known accepts.
func (s taskStore) survey(ctx context.Context, limit int, known func(tool string) bool) (v queueView, err error) {
	err = s.store.ViewLocal(ctx, func(tx *engine.Tx) error {
		v = queueView{by: make(map[string]int), leases: make(map[string]leaseEntry), owners: make(map[string]ownerEntry)}
		now := tx.Now().UnixMilli()
		var bad error
		err := tx.Scan(tableQueue, engine.Range{Lo: []byte{'l'}, Hi: []byte{'s'}}, func(key, value []byte) bool {
			switch key[0] {
			case 'l':
				var lease leaseEntry
				bad = json.Unmarshal(value, &lease)
				v.leases[string(key[1:])] = lease
				v.by[lease.Principal]++
			case 'o':
				var owner ownerEntry
				bad = json.Unmarshal(value, &owner)
				v.owners[string(key[1:])] = owner
			case 'r':
				due, id, ok := splitTimedKey(key)
				if !ok {
					return true
				}
				tool, principal := splitReady(value)
				v.by[principal]++
				if due > now {
					if v.next == 0 {
						v.next = due
					}
					v.later++
					return true
				}
				if v.due++; len(v.ready) < limit && known(tool) {
					v.ready = append(v.ready, readyTask{due: due, id: id, tool: tool, principal: principal})
				}
			}
			return bad == nil
		})
		return errors.Join(err, bad)
	})
	return v, err
}
