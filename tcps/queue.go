package tcps

import (
	"context"
	"slices"

	"github.com/erlmcp/erlmcp/engine"
)

// QueueView is the queue of a bucket, next order first.
type QueueView struct {
	Bucket     Bucket      `json:"bucket"`
	Depth      int         `json:"depth"`
	WorkOrders []WorkOrder `json:"work_orders"` // the first 1000 at most
}

// Queue returns the queue of a bucket: higher priority first, first in first
// out among equals, unless ReorderQueue said otherwise. Blocked orders are not
// in it.
func (l *Ledger) Queue(ctx context.Context, bucket string) (QueueView, error) {
	b, err := ParseBucket(bucket)
	if err != nil {
		return QueueView{}, err
	}
	var v QueueView
	err = l.view(ctx, "queue", func(o *op) error {
		v, err = o.queue(b)
		return err
	})
	return v, err
}

func queueRange(b Bucket) engine.Range { return engine.Prefix(newKey(woQueue).text(string(b))) }

func (o *op) queue(b Bucket) (QueueView, error) {
	v := QueueView{Bucket: b, WorkOrders: []WorkOrder{}}
	r := queueRange(b)
	r.Limit = maxPage
	list, err := collect[WorkOrder](o, indexWorkOrders, TableWorkOrders, r, nil)
	if err != nil {
		return v, err
	}
	for _, w := range list {
		v.WorkOrders = append(v.WorkOrders, *w)
	}
	v.Depth = len(list)
	if v.Depth == maxPage {
		v.Depth, err = o.count(indexWorkOrders, queueRange(b), 0)
	}
	return v, err
}

// DequeueNextInput names the bucket to take work from.
type DequeueNextInput struct {
	Bucket     string `json:"bucket"`
	AssignedTo string `json:"assigned_to,omitempty" jsonschema:"who takes the order"`
}

// Outcomes of DequeueNext.
const (
	DequeueOrder    = "order"
	DequeueEmpty    = "empty"
	DequeueWIPLimit = "wip_limit"
)

// DequeueResult is the answer of DequeueNext.
type DequeueResult struct {
	Outcome   string     `json:"outcome"` // order, empty or wip_limit
	WorkOrder *WorkOrder `json:"work_order,omitempty"`
	WIP       WIP        `json:"wip"` // of the bucket, the new order included
}

// DequeueNext takes the next order of a bucket and starts it, in one step. An
// empty queue and a full bucket are answers, not errors. Two callers never get
// the same order.
func (l *Ledger) DequeueNext(ctx context.Context, in DequeueNextInput) (DequeueResult, error) {
	b, err := ParseBucket(in.Bucket)
	if err != nil {
		return DequeueResult{}, err
	}
	if err := checkText("assigned_to", in.AssignedTo, 200); err != nil {
		return DequeueResult{}, err
	}
	return mutate(ctx, l, "dequeue_next", in, func(o *op) (DequeueResult, error) {
		wip, err := o.wip(b, countAll)
		if err != nil {
			return DequeueResult{}, err
		}
		if wip.full() {
			return DequeueResult{Outcome: DequeueWIPLimit, WIP: wip}, nil
		}
		r := queueRange(b)
		r.Limit = 1
		head, err := collect[WorkOrder](o, indexWorkOrders, TableWorkOrders, r, nil)
		if err != nil {
			return DequeueResult{}, err
		}
		if len(head) == 0 {
			return DequeueResult{Outcome: DequeueEmpty, WIP: wip}, nil
		}
		w := head[0]
		if err := o.start(w, in.AssignedTo); err != nil {
			return DequeueResult{}, err
		}
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return DequeueResult{}, err
		}
		wip.Current++
		wip.derive()
		return DequeueResult{Outcome: DequeueOrder, WorkOrder: w, WIP: wip}, nil
	})
}

// ReorderQueueInput is the wanted order of a queue.
type ReorderQueueInput struct {
	Bucket string   `json:"bucket"`
	IDs    []string `json:"ids" jsonschema:"all queued orders of the bucket in the wanted order, next first"`
}

// slot is a place in a queue.
type slot struct {
	class    int
	position int64
}

// ReorderQueue puts the queue of a bucket into the given order. The ids must be
// exactly the queued ones, else invalid_queue_order. The places in the queue
// stay and the orders are dealt onto them, so later arrivals still find their
// place by priority.
func (l *Ledger) ReorderQueue(ctx context.Context, in ReorderQueueInput) (QueueView, error) {
	b, err := ParseBucket(in.Bucket)
	if err != nil {
		return QueueView{}, err
	}
	return mutate(ctx, l, "reorder_queue", in, func(o *op) (QueueView, error) {
		list, err := collect[WorkOrder](o, indexWorkOrders, TableWorkOrders, queueRange(b), nil)
		if err != nil {
			return QueueView{}, err
		}
		byID := make(map[string]*WorkOrder, len(list))
		current := make([]string, len(list))
		slots := make([]slot, len(list))
		for i, w := range list {
			byID[w.ID], current[i] = w, w.ID
			slots[i] = slot{w.QueueClass, w.QueuePosition}
			// Orders created in one microsecond share a place; spread them so that the new order holds.
			if i > 0 && slots[i].class == slots[i-1].class && slots[i].position <= slots[i-1].position {
				slots[i].position = slots[i-1].position + 1
			}
		}
		if !slices.Equal(slices.Sorted(slices.Values(in.IDs)), slices.Sorted(slices.Values(current))) {
			return QueueView{}, refuse(CodeInvalidQueueOrder, "ids must name each of the %d queued orders of bucket %s exactly once; read the queue again and repeat", len(current), b).
				on("ids").with("bucket", string(b)).with("queued", current)
		}
		for i, id := range in.IDs {
			w := byID[id]
			if (slot{w.QueueClass, w.QueuePosition}) == slots[i] {
				continue
			}
			w.QueueClass, w.QueuePosition = slots[i].class, slots[i].position
			if err := o.saveOrder(w, ActionUpdated); err != nil {
				return QueueView{}, err
			}
		}
		return o.queue(b)
	})
}
