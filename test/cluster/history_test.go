package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/erlmcp/erlmcp/test/process"
	"github.com/stretchr/testify/require"
)

// The history is what clients of all members saw: they write and read registers (the WIP limits of five buckets) through
// tools/call, while the test does harm. There must be an order of the operations, each between its call and its answer, in which
// every read returns what was written last.

// registers are the buckets that the history's clients use; work orders of the load go to another one.
var registers = []string{"security", "compliance", "cost", "features", "technical_debt"}

// registerOp is a read, or a write of a value.
type registerOp struct {
	key   string
	write bool
	value int
}

var registerModel = porcupine.Model{
	Partition: func(ops []porcupine.Operation) (parts [][]porcupine.Operation) {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range ops {
			k := o.Input.(registerOp).key
			byKey[k] = append(byKey[k], o)
		}
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return -1 },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(registerOp); in.write {
			return true, in.value
		}
		return output.(int) == state.(int), state
	},
	DescribeOperation: func(input, output any) string {
		if in := input.(registerOp); in.write {
			return fmt.Sprintf("%s = %d", in.key, in.value)
		}
		return fmt.Sprintf("%s is %v", input.(registerOp).key, output)
	},
}

// history is safe for concurrent use.
type history struct {
	began time.Time
	next  atomic.Int64 // value of the next write

	mu     sync.Mutex
	ops    []porcupine.Operation
	reads  int
	writes int
	open   int // writes without an answer
}

func newHistory() *history { return &history{began: time.Now()} }

func (h *history) now() int64 { return int64(time.Since(h.began)) }

// add takes an operation that was answered, or a write that was not: that one may happen at any time from its call on.
func (h *history) add(client int, in registerOp, call int64, out int, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ret := h.now()
	switch {
	case !answered:
		h.open++
		ret = math.MaxInt64
	case in.write:
		h.writes++
	default:
		h.reads++
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
}

// judge fails the test when no order explains what the clients saw.
func (h *history) judge(f *fleet) {
	f.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Greater(f.t, h.reads+h.writes, 10, "a history without operations would prove nothing")
	began := time.Now()
	verdict := porcupine.CheckOperationsTimeout(registerModel, h.ops, 60*time.Second)
	require.Equal(f.t, porcupine.Ok, verdict, "the history of %d operations is not linearizable", len(h.ops))
	f.t.Logf("history: %d reads, %d writes, %d writes without an answer: linearizable (checked in %v)", h.reads, h.writes, h.open, time.Since(began).Round(time.Millisecond))
}

// client works on one register after the other, through a member it chooses for each call, until ctx ends. A write goes to
// the next member, with its key, until one answers.
func (h *history) client(ctx context.Context, f *fleet, id int) error {
	rng := rand.New(rand.NewPCG(uint64(id), 7))
	for n := 0; ctx.Err() == nil; n++ {
		in := registerOp{key: registers[rng.IntN(len(registers))], write: n == 0 || rng.IntN(3) == 0}
		at := rng.IntN(len(f.nodes))
		if in.write {
			if err := h.write(ctx, f, id, at, in); err != nil {
				return err
			}
		} else {
			h.read(ctx, f, id, at, in)
		}
		select {
		case <-time.After(10 * time.Millisecond): // a history that can be checked in a second
		case <-ctx.Done():
		}
	}
	return nil
}

func (h *history) write(ctx context.Context, f *fleet, id, at int, in registerOp) error {
	in.value = int(h.next.Add(1) % 10_000) // what a WIP limit may be
	args := map[string]any{"bucket": in.key, "limit": in.value, "idempotency_key": fmt.Sprintf("register-%d-%d", h.began.UnixNano(), h.next.Add(1))}
	call := h.now()
	_, err := f.persist(ctx, at, "wip_set_limit", args)
	if err != nil && ctx.Err() == nil {
		return err
	}
	h.add(id, in, call, 0, err == nil)
	return nil
}

// read asks one member once; what is not answered tells nothing. Registers that were never written are left out.
func (h *history) read(ctx context.Context, f *fleet, id, at int, in registerOp) {
	c := f.callerOf(at)
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
	defer cancel()
	call := h.now()
	raw, err := c.Call(ctx, "wip_get", map[string]any{"bucket": in.key})
	var got struct{ Buckets []struct{ Limit int } }
	if err != nil || json.Unmarshal(raw, &got) != nil || len(got.Buckets) != 1 {
		return
	}
	h.add(id, in, call, got.Buckets[0].Limit, true)
}

// prepare writes every register once: its value before the first write is none of the model's business.
func (h *history) prepare(ctx context.Context, f *fleet) error {
	for _, key := range registers {
		if err := h.write(ctx, f, 0, 0, registerOp{key: key, write: true}); err != nil {
			return err
		}
	}
	return nil
}

// callerOf is nil while the member is not reachable for clients.
func (f *fleet) callerOf(at int) *process.Caller {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[at%len(f.nodes)].caller
}

// persist makes a change as docs/cluster.md tells clients to: the same request, with its idempotency key, goes to the next member
// until one answers.
func (f *fleet) persist(ctx context.Context, at int, tool string, args map[string]any) (json.RawMessage, error) {
	for ; ctx.Err() == nil; at++ {
		c := f.callerOf(at)
		if c == nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		cctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		raw, err := c.Call(cctx, tool, args)
		cancel()
		if err == nil {
			return raw, nil
		}
		var no *process.Refused
		if errors.As(err, &no) && !elsewhere[no.Code] {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, ctx.Err()
}

// elsewhere are the refusals after which the next member is asked.
var elsewhere = map[string]bool{"unavailable": true, "unknown_outcome": true, "overloaded": true, "timeout": true, "cancelled": true, "no_space": true, "conflict": true}

// TestTheJudgeFindsAStaleRead: the checker is worth what it refuses.
func TestTheJudgeFindsAStaleRead(t *testing.T) {
	op := func(client int, write bool, value int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: registerOp{key: "cost", write: write, value: value}, Call: call, Output: value, Return: ret}
	}
	good := []porcupine.Operation{op(1, true, 1, 0, 10), op(2, true, 2, 20, math.MaxInt64), op(3, false, 1, 30, 40), op(3, false, 2, 50, 60)}
	require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(registerModel, good, time.Minute))
	stale := append(good, op(4, false, 1, 70, 80))
	require.Equal(t, porcupine.Illegal, porcupine.CheckOperationsTimeout(registerModel, stale, time.Minute))
}
