package tcpstools

import (
	"context"

	"github.com/erlmcp/erlmcp/tcps"
)

type (
	wipIn struct {
		Bucket string `json:"bucket,omitempty" jsonschema:"one bucket; default all"`
	}
	wipOut struct {
		Buckets []tcps.WIP `json:"buckets"`
	}
	wipLimitIn struct {
		tcps.SetWIPLimitInput
		Keyed
	}
	slaIn struct {
		Hours float64 `json:"hours,omitempty" jsonschema:"warn about deadlines at most this many hours away; default 24"`
	}
	triggerIn struct {
		tcps.TriggerAndonInput
		Keyed
	}
	acknowledgeIn struct {
		tcps.AcknowledgeAndonInput
		Keyed
	}
	resolveIn struct {
		tcps.ResolveAndonInput
		Keyed
	}
	closeIn struct {
		tcps.CloseAndonInput
		Keyed
	}
	proceedIn struct {
		SKUID string `json:"sku_id" jsonschema:"the product"`
		Stage string `json:"stage" jsonschema:"the stage it wants to enter"`
	}
)

func (t *tools) addLineTools() {
	l := t.ledger
	add(t, reads, "wip_get", "Show work in progress",
		"Orders in progress against the WIP limit, per bucket. Use it to see where there is room to start work.",
		t.wip)
	add(t, changes, "wip_set_limit", "Set WIP limit",
		"Change how many orders of a bucket may be in progress at once. Running orders go on; new ones wait until there is room.",
		func(ctx context.Context, in wipLimitIn) (tcps.WIP, error) {
			return l.SetWIPLimit(ctx, in.SetWIPLimitInput)
		})
	add(t, reads, "sla_report", "SLA report",
		"Queued and running orders that are late or soon will be, earliest deadline first. A late security order raises an andon event within a minute.",
		func(ctx context.Context, in slaIn) (tcps.SLAReport, error) {
			if in.Hours == 0 {
				in.Hours = defaultSLAHours
			}
			return l.SLAReport(ctx, in.Hours)
		})
	add(t, reads, "production_report", "Production report",
		"Totals, lead time, throughput and SLA compliance of a period (default the last 30 days), and the ten most urgent open orders.",
		l.Report)
	add(t, changes, "andon_trigger", "Stop the line",
		"Report a defect and stop the line for a product: its orders are blocked until the event is resolved. Anybody may and should pull this cord; when in doubt, pull it.",
		func(ctx context.Context, in triggerIn) (tcps.Andon, error) {
			return l.TriggerAndon(ctx, in.TriggerAndonInput)
		})
	add(t, changes, "andon_acknowledge", "Acknowledge andon event",
		"Say who investigates an open andon event. The line stays stopped.",
		func(ctx context.Context, in acknowledgeIn) (tcps.Andon, error) {
			return l.AcknowledgeAndon(ctx, in.AcknowledgeAndonInput)
		})
	add(t, changes, "andon_resolve", "Resolve andon event",
		"Release the line: give root cause, fix and prevention. Critical and high events also need a finished root cause analysis (rca_id) and fix_verified; critical ones a person as resolver.",
		func(ctx context.Context, in resolveIn) (tcps.Andon, error) {
			return l.ResolveAndon(ctx, in.ResolveAndonInput)
		})
	add(t, changes, "andon_close", "Close andon event",
		"File a resolved andon event after review.",
		func(ctx context.Context, in closeIn) (tcps.Andon, error) {
			return l.CloseAndon(ctx, in.CloseAndonInput)
		})
	add(t, reads, "andon_list", "List andon events",
		"Andon events, oldest first, by status, severity, product or order; unresolved: true shows what stops the line now.",
		l.ListAndons)
	add(t, reads, "sku_can_proceed", "May the product proceed?",
		"Whether an unresolved andon event keeps a product from entering a stage, and which.",
		func(ctx context.Context, in proceedIn) (tcps.ProceedResult, error) {
			return l.CanProceed(ctx, in.SKUID, in.Stage)
		})
}

// defaultSLAHours is a working day ahead with its night.
const defaultSLAHours = 24

func (t *tools) wip(ctx context.Context, in wipIn) (wipOut, error) {
	if in.Bucket == "" {
		all, err := t.ledger.WIPAll(ctx)
		return wipOut{Buckets: all}, err
	}
	one, err := t.ledger.WIP(ctx, in.Bucket)
	return wipOut{Buckets: []tcps.WIP{one}}, err
}
