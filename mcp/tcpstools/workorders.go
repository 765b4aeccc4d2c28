package tcpstools

import (
	"context"

	"github.com/erlmcp/erlmcp/tcps"
)

type (
	createIn struct {
		tcps.CreateWorkOrderInput
		Keyed
	}
	releaseIn struct {
		tcps.ReleaseWorkOrderInput
		Keyed
	}
	startIn struct {
		tcps.StartWorkOrderInput
		Keyed
	}
	progressIn struct {
		tcps.ProgressWorkOrderInput
		Keyed
	}
	completeIn struct {
		tcps.CompleteWorkOrderInput
		Keyed
	}
	cancelIn struct {
		tcps.CancelWorkOrderInput
		Keyed
	}
	dependencyIn struct {
		tcps.AddDependencyInput
		Keyed
	}
	reorderIn struct {
		tcps.ReorderQueueInput
		Keyed
	}
	nextIn struct {
		tcps.DequeueNextInput
		Keyed
	}
	orderIn struct {
		ID string `json:"id" jsonschema:"id of the work order, e.g. WO-1769421600000000-000001"`
	}
	queueIn struct {
		Bucket string `json:"bucket" jsonschema:"security, reliability, compliance, cost, features or technical_debt"`
		Limit  int    `json:"limit,omitempty" jsonschema:"most orders to return, 1 to 1000, default 50; depth always counts all"`
	}
)

func (t *tools) addWorkOrderTools() {
	l := t.ledger
	add(t, adds, "work_order_create", "Create work order",
		"Turn a demand (issue, pull request, CVE, marketplace event, internal request) into a work order. The ledger chooses bucket, priority and deadline from the signal and queues the order. Use it for every new piece of work; a second open order for the same source is refused. A CVE also raises an andon event.",
		func(ctx context.Context, in createIn) (tcps.WorkOrder, error) {
			return l.CreateWorkOrder(ctx, in.CreateWorkOrderInput)
		})
	add(t, reads, "work_order_get", "Get work order",
		"Everything about one work order at one moment: the order, its standing against the SLA, dependencies, receipts and andon events. Use it before deciding about an order.",
		func(ctx context.Context, in orderIn) (tcps.WorkOrderStatusView, error) {
			return l.WorkOrderStatus(ctx, in.ID)
		})
	add(t, reads, "work_order_list", "List work orders",
		"Work orders, newest first, optionally of one status or bucket. Pass next_cursor as cursor for the next page. For what to do next use work_order_queue instead.",
		l.ListWorkOrders)
	add(t, adds, "work_order_release", "Release work order",
		"Put a pending work order (one created with hold) into the queue of its bucket.",
		func(ctx context.Context, in releaseIn) (tcps.WorkOrder, error) {
			return l.ReleaseWorkOrder(ctx, in.ReleaseWorkOrderInput)
		})
	add(t, changes, "work_order_start", "Start work order",
		"Start one particular queued order; it takes a WIP slot of its bucket. To take whatever is next use work_order_next. Refused with wip_limit, blocked_by_dependencies, blocked_by_andons or already_started.",
		func(ctx context.Context, in startIn) (tcps.WorkOrder, error) {
			return l.StartWorkOrder(ctx, in.StartWorkOrderInput)
		})
	add(t, changes, "work_order_progress", "Report a finished stage",
		"Report that an order in progress finished a stage, with the evidence its quality gate judges. Missing evidence is refused (gate_not_run, details.missing names it). Failing evidence stops the line: the order is blocked and an andon event is raised (gate_failed).",
		func(ctx context.Context, in progressIn) (tcps.ProgressResult, error) {
			return l.ProgressWorkOrder(ctx, in.ProgressWorkOrderInput)
		})
	add(t, changes, "work_order_complete", "Complete work order",
		"Finish an order in progress and name the product (SKU) it made. Frees its WIP slot and unblocks the orders that wait for it. Refused while an andon event is open on the SKU or a receipt failed.",
		func(ctx context.Context, in completeIn) (tcps.WorkOrder, error) {
			return l.CompleteWorkOrder(ctx, in.CompleteWorkOrderInput)
		})
	add(t, changes, "work_order_cancel", "Cancel work order",
		"End an order without a product, for good. Orders that wait for it may start. Give the reason; it is kept.",
		func(ctx context.Context, in cancelIn) (tcps.WorkOrder, error) {
			return l.CancelWorkOrder(ctx, in.CancelWorkOrderInput)
		})
	add(t, changes, "work_order_add_dependency", "Add dependency",
		"Make one order wait until another is completed or cancelled. A queued order becomes blocked. Circles are refused.",
		func(ctx context.Context, in dependencyIn) (tcps.WorkOrder, error) {
			return l.AddDependency(ctx, in.AddDependencyInput)
		})
	add(t, reads, "work_order_queue", "Show queue",
		"The queue of one bucket, next order first. Blocked orders are not in it.",
		t.queue)
	add(t, changes, "work_order_reorder", "Reorder queue",
		"Put the queue of a bucket into another order. ids must be exactly the queued orders, else invalid_queue_order.",
		func(ctx context.Context, in reorderIn) (tcps.QueueView, error) {
			return l.ReorderQueue(ctx, in.ReorderQueueInput)
		})
	add(t, changes, "work_order_next", "Take the next work order",
		"Take the next order of a bucket and start it in one step: the usual way to get work. outcome is order, empty (nothing waits) or wip_limit (finish something first). Two callers never get the same order.",
		func(ctx context.Context, in nextIn) (tcps.DequeueResult, error) {
			return l.DequeueNext(ctx, in.DequeueNextInput)
		})
}

// defaultQueue is how many orders of a queue a model sees unless it asks for
// more: enough to plan, little enough to read.
const defaultQueue = 50

func (t *tools) queue(ctx context.Context, in queueIn) (tcps.QueueView, error) {
	limit := in.Limit
	if limit == 0 {
		limit = defaultQueue
	}
	if limit < 1 || limit > 1000 {
		return tcps.QueueView{}, &tcps.Error{
			Code: tcps.CodeInvalidField, Field: "limit", Message: "limit must be 1 to 1000",
		}
	}
	view, err := t.ledger.Queue(ctx, in.Bucket)
	if err == nil && len(view.WorkOrders) > limit {
		view.WorkOrders = view.WorkOrders[:limit]
	}
	return view, err
}
