package tcps_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

// clock is a clock that tests move by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// bench is a ledger on a store in memory with a hand-moved clock.
type bench struct {
	*tcps.Ledger
	t     *testing.T
	ctx   context.Context
	fs    vfs.FS
	store *engine.Store
	clock *clock
	rand  *rand.ChaCha8
	opts  tcps.Options
}

func start(t *testing.T) *bench { return startWith(t, tcps.Options{}) }

func startWith(t *testing.T, o tcps.Options) *bench {
	t.Helper()
	b := &bench{
		t: t, ctx: tcps.WithActor(context.Background(), "tester"), fs: vfs.NewMem(),
		clock: &clock{t: time.Date(2026, 1, 26, 10, 0, 0, 0, time.UTC)},
		rand:  rand.NewChaCha8([32]byte{1, 2, 3}), opts: o,
	}
	b.opts.Rand = b.rand
	b.open()
	t.Cleanup(func() { require.NoError(t, b.store.Close()) })
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	b.store, err = engine.Open("data", engine.Options{
		FS: b.fs, SegmentSize: 1 << 20, MemTableSize: 1 << 20, Indexes: tcps.Indexes(), Now: b.clock.now, SweepInterval: -1,
	})
	require.NoError(b.t, err)
	b.Ledger, err = tcps.New(b.store, b.opts)
	require.NoError(b.t, err)
}

func (b *bench) restart() {
	b.t.Helper()
	require.NoError(b.t, b.store.Close())
	b.open()
}

// order creates a work order for an internal request in a bucket.
func (b *bench) order(bucket tcps.Bucket, mod ...func(*tcps.CreateWorkOrderInput)) tcps.WorkOrder {
	b.t.Helper()
	in := tcps.CreateWorkOrderInput{
		Signal: tcps.PullSignal{Type: tcps.SignalInternalRequest, Source: "planning", Description: "do the thing"},
		Bucket: string(bucket),
	}
	for _, m := range mod {
		m(&in)
	}
	w, err := b.CreateWorkOrder(b.ctx, in)
	require.NoError(b.t, err)
	return w
}

func (b *bench) begin(id string) tcps.WorkOrder {
	b.t.Helper()
	w, err := b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: id})
	require.NoError(b.t, err)
	return w
}

func (b *bench) running(bucket tcps.Bucket, mod ...func(*tcps.CreateWorkOrderInput)) tcps.WorkOrder {
	b.t.Helper()
	return b.begin(b.order(bucket, mod...).ID)
}

func (b *bench) complete(id, sku string) tcps.WorkOrder {
	b.t.Helper()
	w, err := b.CompleteWorkOrder(b.ctx, tcps.CompleteWorkOrderInput{ID: id, SKUID: sku})
	require.NoError(b.t, err)
	return w
}

func (b *bench) get(id string) tcps.WorkOrder {
	b.t.Helper()
	w, err := b.GetWorkOrder(b.ctx, id)
	require.NoError(b.t, err)
	return w
}

// andon raises an event of low severity unless changed.
func (b *bench) andon(sku string, mod ...func(*tcps.TriggerAndonInput)) tcps.Andon {
	b.t.Helper()
	in := tcps.TriggerAndonInput{FailureType: "test_failure", SKUID: sku, Stage: "testing"}
	for _, m := range mod {
		m(&in)
	}
	a, err := b.TriggerAndon(b.ctx, in)
	require.NoError(b.t, err)
	return a
}

func resolution(id string) tcps.ResolveAndonInput {
	return tcps.ResolveAndonInput{
		EventID: id, RootCause: "the mock clock ran backwards", FixApplied: "monotonic clock", PreventionAdded: "a test for it",
		FixVerified: true, RCAID: "5w-20260126-001", Resolver: "dana",
	}
}

func (b *bench) resolve(id string) tcps.Andon {
	b.t.Helper()
	a, err := b.ResolveAndon(b.ctx, resolution(id))
	require.NoError(b.t, err)
	return a
}

// refused checks code and field of a refusal and returns it.
func refused(t *testing.T, err error, code tcps.Code, field string) *tcps.Error {
	t.Helper()
	require.Error(t, err)
	var e *tcps.Error
	require.ErrorAs(t, err, &e, "%v", err)
	require.Equal(t, code, e.Code, e.Message)
	require.Equal(t, field, e.Field, e.Message)
	require.NotEmpty(t, e.Message)
	return e
}

// sound checks that VerifyAll finds nothing.
func (b *bench) sound() tcps.VerifyReport {
	b.t.Helper()
	rep, err := b.VerifyAll(b.ctx)
	require.NoError(b.t, err)
	require.Empty(b.t, rep.Findings)
	require.True(b.t, rep.Valid)
	return rep
}

// corrupt writes bytes into a table behind the ledger's back.
func (b *bench) corrupt(table, key string, value []byte) {
	b.t.Helper()
	_, err := b.store.Update(context.Background(), func(tx *engine.Tx) error {
		if value == nil {
			return tx.Delete(table, []byte(key))
		}
		return tx.Put(table, []byte(key), value)
	})
	require.NoError(b.t, err)
}

func (b *bench) raw(table, key string) []byte {
	b.t.Helper()
	var out []byte
	require.NoError(b.t, b.store.View(context.Background(), func(tx *engine.Tx) error {
		v, err := tx.Get(table, []byte(key))
		out = v
		return err
	}))
	return out
}

func skuName(i int) string { return fmt.Sprintf("SKU-%03d", i) }

// seal gives a document a right checksum, independently of the package.
func seal(t *testing.T, doc map[string]any) []byte {
	t.Helper()
	delete(doc, "checksum")
	body, err := json.Marshal(doc)
	require.NoError(t, err)
	body, err = tcps.CanonicalJSON(body)
	require.NoError(t, err)
	sum := sha256.Sum256(body)
	doc["checksum"] = hex.EncodeToString(sum[:])
	body, err = json.Marshal(doc)
	require.NoError(t, err)
	body, err = tcps.CanonicalJSON(body)
	require.NoError(t, err)
	return body
}
