package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
)

// record is what a client knows of one work order or andon event, as acknowledged.
type record struct {
	name     string // source of an order, SKU of an event: chosen by the client, unique
	id       string
	status   string
	revision uint64
	receipts int
	stages   int  // finished, of an order
	dirty    bool // changed since the last comparison
}

// client is one member of the crowd.
type client struct {
	number  int
	rnd     *rand.Rand
	created int // names used so far
	orders  map[string]*record
	andons  map[string]*record
	active  []*record // orders that are not finished
	alarms  []*record // events that are not closed
	open    *call     // a change that was sent and is not answered
	recent  []done    // answered changes, for repeats
}

// done is a change with its answer.
type done struct {
	call   *call
	answer json.RawMessage
}

// call is one tool call in the making.
type call struct {
	tool    string
	args    map[string]any
	name    string  // of the record that it creates
	target  *record // that it changes or reads
	repeats *done   // it is an old change once more
}

// changes reports whether the call changes something when it is made for the first time.
func (c *call) changes() bool { return c.repeats == nil && c.args["idempotency_key"] != nil }

var (
	buckets = []string{"features", "reliability", "cost"}
	stages  = []struct {
		name     string
		evidence map[string]any
	}{
		{"requirements", nil},
		{"design", nil},
		{"implementation", map[string]any{"errors": 0}},
		{"testing", map[string]any{"total_tests": 100, "passed_tests": 100, "coverage": 0.9}},
	}
)

const (
	maxActive = 40 // orders that a client has under way at most; then it finishes some
	maxRecent = 16
)

// invent chooses what to do next: about one half changes, one tenth repeats, the rest reads.
func (c *client) invent() *call {
	switch dice := c.rnd.IntN(100); {
	case dice < 12 && len(c.active) < maxActive || len(c.orders) == 0:
		return c.create()
	case dice < 48 && len(c.active) > 0:
		return c.advance(c.active[c.rnd.IntN(len(c.active))])
	case dice < 54:
		return c.alarm()
	case dice < 64 && len(c.recent) > 0:
		old := c.recent[c.rnd.IntN(len(c.recent))]
		return &call{tool: old.call.tool, args: old.call.args, repeats: &old}
	case dice < 88 && len(c.active) > 0:
		r := c.active[c.rnd.IntN(len(c.active))]
		return &call{tool: "work_order_get", args: map[string]any{"id": r.id}, target: r}
	case dice < 92:
		return &call{tool: "work_order_list", args: map[string]any{"limit": 20}}
	case dice < 96:
		return &call{tool: "work_order_queue", args: map[string]any{"bucket": buckets[c.rnd.IntN(len(buckets))], "limit": 20}}
	default:
		return &call{tool: "andon_list", args: map[string]any{"unresolved": true, "limit": 50}}
	}
}

func (c *client) create() *call {
	name := c.fresh("order")
	return &call{tool: "work_order_create", name: name, args: map[string]any{
		"signal": map[string]any{"type": "internal_request", "source": name, "description": "made by a test: " + strings.Repeat("x", c.rnd.IntN(300))},
		"bucket": buckets[c.rnd.IntN(len(buckets))], "idempotency_key": name,
	}}
}

func (c *client) fresh(kind string) string {
	c.created++
	return fmt.Sprintf("c%d-%s-%d", c.number, kind, c.created)
}

// advance moves an order one step towards its end.
func (c *client) advance(r *record) *call {
	args := map[string]any{"id": r.id, "idempotency_key": fmt.Sprintf("%s-r%d", r.name, r.revision+1)}
	next := &call{args: args, target: r}
	switch {
	case c.rnd.IntN(20) == 0:
		next.tool, args["reason"] = "work_order_cancel", "the test says so"
	case r.status == "queued":
		next.tool, args["assigned_to"] = "work_order_start", fmt.Sprintf("client %d", c.number)
	case r.stages < len(stages):
		next.tool, args["stage"] = "work_order_progress", stages[r.stages].name
		if e := stages[r.stages].evidence; e != nil {
			args["evidence"] = e
		}
	default:
		next.tool, args["sku_id"] = "work_order_complete", "SKU-"+r.name
	}
	return next
}

// alarm stops a line or moves an open event one step towards its end.
func (c *client) alarm() *call {
	if len(c.alarms) == 0 || len(c.alarms) < 5 && c.rnd.IntN(3) == 0 {
		name := c.fresh("line")
		return &call{tool: "andon_trigger", name: name, args: map[string]any{
			"failure_type": "test_failure", "severity": "medium", "sku_id": name, "stage": "testing", "idempotency_key": name,
		}}
	}
	r := c.alarms[c.rnd.IntN(len(c.alarms))]
	args := map[string]any{"event_id": r.id, "idempotency_key": fmt.Sprintf("%s-r%d", r.name, r.revision+1)}
	next := &call{args: args, target: r}
	switch r.status {
	case "open":
		next.tool, args["assigned_to"] = "andon_acknowledge", fmt.Sprintf("client %d", c.number)
	case "investigating":
		next.tool = "andon_resolve"
		args["root_cause"], args["fix_applied"], args["prevention_added"] = "the test", "went on", "none"
	default:
		next.tool = "andon_close"
	}
	return next
}

// document is what is read of an answer: a work order, a result that holds one, or an andon event.
type document struct {
	ID       string   `json:"id"`
	EventID  string   `json:"event_id"`
	Status   string   `json:"status"`
	Revision uint64   `json:"revision"`
	Receipts []string `json:"receipts"`
	Stages   []string `json:"stages_completed"`
	Source   string   `json:"demand_signal"`
	SKU      string   `json:"sku_id"`
}

// documentOf reads the answer of a call that returns one order or event. work_order_get has receipts of its own beside the
// order's; only the order is read.
func documentOf(raw json.RawMessage) (document, error) {
	var outer struct {
		Order json.RawMessage `json:"work_order"`
	}
	if err := json.Unmarshal(raw, &outer); err == nil && outer.Order != nil {
		raw = outer.Order
	}
	var d document
	err := json.Unmarshal(raw, &d)
	if err == nil && d.Revision == 0 {
		err = fmt.Errorf("neither a work order nor an andon event: %s", raw)
	}
	return d, err
}

// acknowledge moves an answer into what must be true from now on, and returns what is wrong with it.
func (c *client) acknowledge(made *call, raw json.RawMessage) (problem string) {
	if made.repeats != nil {
		if !sameJSON(made.repeats.answer, raw) {
			return fmt.Sprintf("%s %v was answered by %s, and when it was repeated by %s", made.tool, made.args, made.repeats.answer, raw)
		}
		return ""
	}
	if !made.changes() && made.target == nil {
		return "" // a list; its content belongs to everybody
	}
	d, err := documentOf(raw)
	if err != nil {
		return err.Error()
	}
	if !made.changes() {
		return made.target.differs(d)
	}
	c.open = nil
	c.recent = append(c.recent, done{made, raw})
	c.recent = c.recent[max(0, len(c.recent)-maxRecent):]
	r := made.target
	switch {
	case r != nil && d.Revision <= r.revision:
		return fmt.Sprintf("%s %v was acknowledged and left revision %d", made.tool, made.args, r.revision)
	case r == nil:
		r = c.remember(made, d)
	}
	r.status, r.revision, r.receipts, r.stages, r.dirty = d.Status, d.Revision, len(d.Receipts), len(d.Stages), true
	drop := func(x *record) bool { return x == r }
	switch d.Status {
	case "completed", "cancelled":
		c.active = slices.DeleteFunc(c.active, drop)
	case "closed":
		c.alarms = slices.DeleteFunc(c.alarms, drop)
	}
	return ""
}

// remember begins the record of a new order or event.
func (c *client) remember(made *call, d document) *record {
	r := &record{name: made.name, id: d.ID}
	if d.EventID != "" {
		r.id = d.EventID
		c.andons[r.name] = r
		c.alarms = append(c.alarms, r)
		return r
	}
	c.orders[r.name] = r
	c.active = append(c.active, r)
	return r
}

// differs compares what the server says with what was acknowledged.
func (r *record) differs(d document) string {
	id := d.ID
	if d.EventID != "" {
		id = d.EventID
	}
	if id == r.id && d.Status == r.status && d.Revision == r.revision && len(d.Receipts) == r.receipts && len(d.Stages) == r.stages {
		return ""
	}
	return fmt.Sprintf("%s was acknowledged as %s %s, revision %d, %d receipts, %d stages, and is %s %s, revision %d, %d receipts, %d stages",
		r.name, r.id, r.status, r.revision, r.receipts, r.stages, id, d.Status, d.Revision, len(d.Receipts), len(d.Stages))
}

// sameJSON reports whether two documents mean the same.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
