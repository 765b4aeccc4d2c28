package tcps_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of TestRandomOperationsKeepTheInvariants (0: the fixed set)")
	stepsFlag = flag.Int("steps", 250, "operations per seed")
)

// model is a plain restatement of the rules: what the ledger must look like.
type model struct {
	orders map[string]*modelOrder
	ids    []string // in order of creation
	events map[string]*modelEvent
	evIDs  []string
	limit  map[tcps.Bucket]int
}

type modelOrder struct {
	bucket   tcps.Bucket
	priority int
	status   tcps.Status
	deps     []string
	sku      string
}

type modelEvent struct {
	sku, order string
	open       bool
}

func (m *model) final(id string) bool { return m.orders[id].status.Final() }

func (m *model) waits(id string) bool {
	return slices.ContainsFunc(m.orders[id].deps, func(d string) bool { return !m.final(d) })
}

func (m *model) stopped(id string) bool {
	for _, e := range m.events {
		if e.open && (e.order == id || m.orders[id].sku != "" && e.sku == m.orders[id].sku) {
			return true
		}
	}
	return false
}

// settle restates the rule "blocked if and only if something blocks".
func (m *model) settle() {
	for id, o := range m.orders {
		held := m.waits(id) || m.stopped(id)
		switch {
		case held && (o.status == tcps.StatusQueued || o.status == tcps.StatusInProgress):
			o.status = tcps.StatusBlocked
		case !held && o.status == tcps.StatusBlocked:
			o.status = tcps.StatusQueued
		}
	}
}

func (m *model) running(b tcps.Bucket) int {
	n := 0
	for _, o := range m.orders {
		if o.bucket == b && o.status == tcps.StatusInProgress {
			n++
		}
	}
	return n
}

// reaches reports whether from depends on to, directly or not.
func (m *model) reaches(from, to string) bool {
	if from == to {
		return true
	}
	return slices.ContainsFunc(m.orders[from].deps, func(d string) bool { return m.reaches(d, to) })
}

func (m *model) queue(b tcps.Bucket) []string {
	out := []string{}
	for _, id := range m.ids {
		if o := m.orders[id]; o.bucket == b && o.status == tcps.StatusQueued {
			out = append(out, id)
		}
	}
	slices.SortStableFunc(out, func(x, y string) int { return m.orders[y].priority - m.orders[x].priority })
	return out
}

// TestRandomOperationsKeepTheInvariants drives the ledger and the model with the
// same random operations and compares verdicts and states. Reproduce a failure
// with -seed N.
func TestRandomOperationsKeepTheInvariants(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			d := &driver{bench: start(t), r: rand.New(rand.NewPCG(seed, 7)), m: &model{
				orders: map[string]*modelOrder{}, events: map[string]*modelEvent{}, limit: map[tcps.Bucket]int{},
			}}
			for _, w := range mustAll(d.bench) {
				d.m.limit[w.Bucket] = w.Limit
			}
			for step := range *stepsFlag {
				name := d.step()
				d.compare(fmt.Sprintf("seed %d step %d: %s", seed, step, name), step%50 == 49)
				d.clock.advance(time.Duration(d.r.IntN(3)) * time.Millisecond)
				if step%100 == 99 {
					d.restart()
				}
			}
			d.sound()
		})
	}
}

type driver struct {
	*bench
	r *rand.Rand
	m *model
}

func pickOne[T any](r *rand.Rand, list []T) (T, bool) {
	if len(list) == 0 {
		return *new(T), false
	}
	return list[r.IntN(len(list))], true
}

// verdict checks that the ledger refused exactly with one of the codes, or
// accepted if there are none.
func (d *driver) verdict(what string, err error, codes ...tcps.Code) string {
	d.t.Helper()
	if len(codes) == 0 {
		require.NoError(d.t, err, what)
		return what
	}
	var e *tcps.Error
	require.True(d.t, errors.As(err, &e), "%s: want %v, got %v", what, codes, err)
	require.Contains(d.t, codes, e.Code, "%s: %s", what, e.Message)
	return what + " refused"
}

func (d *driver) step() string {
	id, any := pickOne(d.r, d.m.ids)
	if !any || d.r.IntN(100) < 25 {
		return d.create()
	}
	switch d.r.IntN(9) {
	case 0, 1:
		return d.start(id)
	case 2:
		return d.complete(id)
	case 3:
		return d.cancel(id)
	case 4:
		return d.depend(id)
	case 5:
		return d.trigger(id)
	case 6:
		return d.resolve()
	case 7:
		return d.dequeue()
	}
	return d.limit()
}

func (d *driver) create() string {
	b, _ := pickOne(d.r, tcps.Buckets()[:3])
	in := tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s"}, Bucket: string(b), Priority: 1 + d.r.IntN(10)}
	if d.r.IntN(3) == 0 {
		in.SKUID = skuName(d.r.IntN(4))
	}
	for range d.r.IntN(3) {
		if dep, ok := pickOne(d.r, d.m.ids); ok && !slices.Contains(in.Dependencies, dep) {
			in.Dependencies = append(in.Dependencies, dep)
		}
	}
	w, err := d.CreateWorkOrder(d.ctx, in)
	name := d.verdict("create", err)
	d.m.orders[w.ID] = &modelOrder{b, w.Priority, tcps.StatusQueued, in.Dependencies, in.SKUID}
	d.m.ids = append(d.m.ids, w.ID)
	d.m.settle()
	return name
}

// startVerdict is what starting an order must answer.
func (d *driver) startVerdict(id string) []tcps.Code {
	o := d.m.orders[id]
	switch {
	case o.status == tcps.StatusInProgress || o.status == tcps.StatusCompleted:
		return []tcps.Code{tcps.CodeAlreadyStarted}
	case o.status == tcps.StatusCancelled:
		return []tcps.Code{tcps.CodeInvalidTransition}
	case d.m.waits(id):
		return []tcps.Code{tcps.CodeBlockedByDependencies}
	case d.m.stopped(id):
		return []tcps.Code{tcps.CodeBlockedByAndons}
	case d.m.running(o.bucket) >= d.m.limit[o.bucket]:
		return []tcps.Code{tcps.CodeWIPLimit}
	}
	return nil
}

func (d *driver) start(id string) string {
	want := d.startVerdict(id)
	_, err := d.StartWorkOrder(d.ctx, tcps.StartWorkOrderInput{ID: id})
	if want == nil {
		d.m.orders[id].status = tcps.StatusInProgress
	}
	return d.verdict("start", err, want...)
}

func (d *driver) complete(id string) string {
	o := d.m.orders[id]
	sku := o.sku
	if sku == "" {
		sku = "SKU-of-" + id
	}
	var want []tcps.Code
	switch {
	case o.status == tcps.StatusBlocked && d.m.stopped(id):
		want = []tcps.Code{tcps.CodeBlockedByAndons}
	case o.status != tcps.StatusInProgress:
		want = []tcps.Code{tcps.CodeInvalidTransition}
	}
	_, err := d.CompleteWorkOrder(d.ctx, tcps.CompleteWorkOrderInput{ID: id, SKUID: sku})
	if want == nil {
		o.status, o.sku = tcps.StatusCompleted, sku
		d.m.settle()
	}
	return d.verdict("complete", err, want...)
}

func (d *driver) cancel(id string) string {
	var want []tcps.Code
	if d.m.final(id) {
		want = []tcps.Code{tcps.CodeInvalidTransition}
	}
	_, err := d.CancelWorkOrder(d.ctx, tcps.CancelWorkOrderInput{ID: id, Reason: "random"})
	if want == nil {
		d.m.orders[id].status = tcps.StatusCancelled
		d.m.settle()
	}
	return d.verdict("cancel", err, want...)
}

func (d *driver) depend(id string) string {
	on, _ := pickOne(d.r, d.m.ids)
	o := d.m.orders[id]
	var want []tcps.Code
	switch {
	case slices.Contains(o.deps, on):
	case o.status.Final():
		want = []tcps.Code{tcps.CodeInvalidTransition}
	case o.status == tcps.StatusInProgress:
		want = []tcps.Code{tcps.CodeAlreadyStarted}
	case d.m.reaches(on, id):
		want = []tcps.Code{tcps.CodeCircularDependency}
	default:
		o.deps = append(slices.Clone(o.deps), on)
		d.m.settle()
	}
	_, err := d.AddDependency(d.ctx, tcps.AddDependencyInput{ID: id, DependsOn: on})
	return d.verdict("depend", err, want...)
}

func (d *driver) trigger(id string) string {
	in := tcps.TriggerAndonInput{FailureType: "test_failure", SKUID: skuName(d.r.IntN(4)), Stage: "testing"}
	if d.r.IntN(2) == 0 {
		in.WorkOrderID = id
	}
	a, err := d.TriggerAndon(d.ctx, in)
	d.m.events[a.EventID] = &modelEvent{in.SKUID, in.WorkOrderID, true}
	d.m.evIDs = append(d.m.evIDs, a.EventID)
	d.m.settle()
	return d.verdict("trigger", err)
}

func (d *driver) resolve() string {
	id, ok := pickOne(d.r, d.m.evIDs)
	if !ok {
		return "resolve nothing"
	}
	var want []tcps.Code
	if !d.m.events[id].open {
		want = []tcps.Code{tcps.CodeAlreadyResolved}
	}
	d.m.events[id].open = false
	d.m.settle()
	_, err := d.ResolveAndon(d.ctx, resolution(id))
	return d.verdict("resolve", err, want...)
}

func (d *driver) dequeue() string {
	b, _ := pickOne(d.r, tcps.Buckets()[:3])
	want, head := tcps.DequeueOrder, ""
	q := d.m.queue(b)
	switch {
	case d.m.running(b) >= d.m.limit[b]:
		want = tcps.DequeueWIPLimit
	case len(q) == 0:
		want = tcps.DequeueEmpty
	default:
		head = q[0]
		d.m.orders[head].status = tcps.StatusInProgress
	}
	r, err := d.DequeueNext(d.ctx, tcps.DequeueNextInput{Bucket: string(b)})
	name := d.verdict("dequeue "+want, err)
	require.Equal(d.t, want, r.Outcome)
	if head != "" {
		require.Equal(d.t, head, r.WorkOrder.ID)
	}
	return name
}

func (d *driver) limit() string {
	b, _ := pickOne(d.r, tcps.Buckets()[:3])
	n := d.r.IntN(6)
	_, err := d.SetWIPLimit(d.ctx, tcps.SetWIPLimitInput{Bucket: string(b), Limit: n})
	d.m.limit[b] = n
	return d.verdict("limit", err)
}

// compare checks the ledger against the model: counts and queues always, every
// order now and then.
func (d *driver) compare(what string, all bool) {
	d.t.Helper()
	for _, b := range tcps.Buckets()[:3] {
		w, err := d.WIP(d.ctx, string(b))
		require.NoError(d.t, err, what)
		require.Equal(d.t, d.m.running(b), w.Current, what)
		require.Equal(d.t, d.m.queue(b), d.queued(b), what)
	}
	if !all {
		return
	}
	open := 0
	for _, e := range d.m.events {
		if e.open {
			open++
		}
	}
	n, err := d.CountOpenAndons(d.ctx)
	require.NoError(d.t, err)
	require.Equal(d.t, open, n, what)
	for id, o := range d.m.orders {
		w := d.get(id)
		require.Equal(d.t, o.status, w.Status, "%s: order %s", what, id)
		require.Equal(d.t, o.sku, w.SKUID, what)
	}
	d.sound()
}
