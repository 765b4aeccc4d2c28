package tcps

import (
	"context"

	"github.com/erlmcp/erlmcp/engine"
)

// Entity is a kind of document in the change log.
type Entity string

// The entities of this version.
const (
	EntityWorkOrder Entity = "work_order"
	EntityAndon     Entity = "andon"
	EntityReceipt   Entity = "receipt"
	EntityKanban    Entity = "kanban"
)

// Entities returns all entities that have a history.
func Entities() []Entity {
	return []Entity{EntityWorkOrder, EntityAndon, EntityReceipt, EntityKanban}
}

// Action is what happened to an entity.
type Action string

// The actions.
const (
	ActionCreated  Action = "created"
	ActionUpdated  Action = "updated"
	ActionDeleted  Action = "deleted"
	ActionResolved Action = "resolved"
)

// Change is one entry of the change log. Entries are never modified and stay
// when their entity is deleted.
type Change struct {
	UUID      string `json:"uuid"`
	Entity    Entity `json:"entity"`
	EntityID  string `json:"entity_id"`
	Action    Action `json:"action"`
	Operation string `json:"operation"` // the ledger operation, e.g. start_work_order
	Revision  uint64 `json:"revision"`  // of the entity after the change
	Timestamp Time   `json:"timestamp"`
	Actor     string `json:"actor"`
	LogIndex  uint64 `json:"log_index,omitempty"` // of the transaction; known when read, not part of the stored document
	Checksum  string `json:"checksum"`
}

func (c *Change) docChecksum() *string { return &c.Checksum }
func (c *Change) docNormalise()        {}

// logChange appends to the change log. The write is blind and its key belongs
// to one revision of one entity, so it adds no conflict of its own.
func (o *op) logChange(e Entity, id string, a Action, revision uint64) error {
	uuid, err := o.uuid()
	if err != nil {
		return err
	}
	raw, err := seal(&Change{
		UUID: uuid, Entity: e, EntityID: id, Action: a, Operation: o.name,
		Revision: revision, Timestamp: o.at, Actor: o.actor,
	})
	if err != nil {
		return err
	}
	return o.tx.Put(TableChanges, changeKey(e, id, revision), raw)
}

// History returns the changes of one entity, newest first, at most limit of
// them (default 100, at most 1000). An unknown id has an empty history. A
// deleted entity keeps its history.
func (l *Ledger) History(ctx context.Context, e Entity, id string, limit int) ([]Change, error) {
	kind, ok := parseName(string(e), Entities(), map[string]Entity{"andon_event": EntityAndon})
	if !ok {
		return nil, invalid("entity", "%q is not one of %s", e, names(Entities()))
	}
	if err := checkID("entity_id", id); err != nil {
		return nil, err
	}
	n, err := pageSize(limit)
	if err != nil {
		return nil, err
	}
	out := []Change{}
	err = l.view(ctx, "history", func(o *op) error {
		r := engine.Prefix(changePrefix(kind, id))
		r.Reverse, r.Limit = true, n
		var keys [][]byte
		if err := o.tx.Scan(TableChanges, r, func(k, _ []byte) bool {
			keys = append(keys, append([]byte(nil), k...))
			return true
		}); err != nil {
			return err
		}
		for _, k := range keys {
			raw, index, err := o.tx.GetVersion(TableChanges, k)
			if err != nil {
				return err
			}
			var c Change
			if err := openAt(TableChanges, printableKey(k), raw, &c); err != nil {
				return err
			}
			c.LogIndex = index
			out = append(out, c)
		}
		return nil
	})
	return out, err
}
