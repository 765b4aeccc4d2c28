package tcpstools_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/tcpstools"
	"github.com/erlmcp/erlmcp/tcps"
)

// plant is a whole server over a data directory of its own.
type plant struct {
	dir    string
	store  *engine.Store
	ledger *tcps.Ledger
	rt     *mcp.Runtime
}

func open(t testing.TB, dir string) *plant {
	t.Helper()
	store, err := engine.Open(dir, engine.Options{Indexes: tcps.Indexes(), SegmentSize: 1 << 20})
	require.NoError(t, err)
	ledger, err := tcps.New(store, tcps.Options{})
	require.NoError(t, err)
	rt, err := mcp.NewRuntime(store, mcp.Options{Instructions: tcpstools.Instructions})
	require.NoError(t, err)
	require.NoError(t, tcpstools.Register(rt, ledger, store))
	p := &plant{dir: dir, store: store, ledger: ledger, rt: rt}
	t.Cleanup(p.close)
	return p
}

func (p *plant) close() {
	p.rt.Close()
	_ = p.store.Close()
}

// client connects the official client, over HTTP or stdio.
func (p *plant) client(t testing.TB, carrier, version string, o *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	var transport sdk.Transport
	if carrier == "http" {
		srv := httptest.NewServer(p.rt.Handler())
		t.Cleanup(func() { p.rt.Close(); srv.Close() })
		transport = &sdk.StreamableClientTransport{Endpoint: srv.URL}
	} else {
		inR, inW := io.Pipe()
		outR, outW := io.Pipe()
		go func() { _ = p.rt.ServeStdio(context.Background(), inR, outW); _ = outW.Close() }()
		transport = &sdk.IOTransport{Reader: outR, Writer: inW}
	}
	client := sdk.NewClient(&sdk.Implementation{Name: "line lead", Version: "1"}, o)
	s, err := client.Connect(t.Context(), transport, &sdk.ClientSessionOptions{ProtocolVersion: version})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

type args map[string]any

// do calls a tool and decodes its structured result into out.
func do(t testing.TB, s *sdk.ClientSession, tool string, in any, out any) {
	t.Helper()
	res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: in})
	require.NoError(t, err)
	text := res.Content[0].(*sdk.TextContent).Text
	require.False(t, res.IsError, "%s: %s", tool, text)
	data, err := json.Marshal(res.StructuredContent)
	require.NoError(t, err)
	require.JSONEq(t, string(data), text, "the text must say what the structured content says")
	fits(t, s, tool, data)
	if out != nil {
		require.NoError(t, json.Unmarshal(data, out))
	}
}

type refusal struct {
	Code, Message, Field string
	Details              map[string]any
	Retry                bool
}

// schemas are the output schemas by tool, as clients see them.
var schemas sync.Map

// fits checks structured content against the output schema that the tool
// announces, as clients do.
func fits(t testing.TB, s *sdk.ClientSession, name string, content []byte) {
	t.Helper()
	if _, ok := schemas.Load(name); !ok {
		for tool, err := range s.Tools(t.Context(), nil) {
			require.NoError(t, err)
			data, err := json.Marshal(tool.OutputSchema)
			require.NoError(t, err)
			var schema jsonschema.Schema
			require.NoError(t, json.Unmarshal(data, &schema))
			resolved, err := schema.Resolve(nil)
			require.NoError(t, err)
			schemas.Store(tool.Name, resolved)
		}
	}
	schema, ok := schemas.Load(name)
	require.True(t, ok, "no tool %s", name)
	var value any
	require.NoError(t, json.Unmarshal(content, &value))
	require.NoError(t, schema.(*jsonschema.Resolved).Validate(value), "%s: %s", name, content)
}

// refused calls a tool that must refuse.
func refused(t testing.TB, s *sdk.ClientSession, tool string, in any) refusal {
	t.Helper()
	res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: in})
	require.NoError(t, err)
	require.True(t, res.IsError, "%s was not refused", tool)
	data, err := json.Marshal(res.StructuredContent)
	require.NoError(t, err)
	fits(t, s, tool, data)
	var r refusal
	require.NoError(t, json.Unmarshal(data, &r))
	require.NotEmpty(t, r.Message)
	require.Equal(t, r.Code+": "+r.Message, res.Content[0].(*sdk.TextContent).Text)
	return r
}

func issue(n int, labels ...string) args {
	return args{"signal": args{
		"type": "github_issue", "source": fmt.Sprintf("https://example.com/issues/%d", n),
		"description": "a < b & c > d", "labels": labels,
	}}
}

func everyWay(t *testing.T, test func(t *testing.T, p *plant, s *sdk.ClientSession)) {
	for _, carrier := range []string{"http", "stdio"} {
		for _, version := range []string{"2026-07-28", "2025-11-25"} {
			t.Run(carrier+"/"+version, func(t *testing.T) {
				p := open(t, t.TempDir())
				test(t, p, p.client(t, carrier, version, nil))
			})
		}
	}
}

// TestAWorkOrderFromDemandToRelease drives every tool through one order's life.
func TestAWorkOrderFromDemandToRelease(t *testing.T) {
	everyWay(t, func(t *testing.T, p *plant, s *sdk.ClientSession) {
		var first, second, held tcps.WorkOrder
		do(t, s, "work_order_create", issue(1, "bug", "high"), &first)
		require.Equal(t, tcps.BucketReliability, first.Bucket)
		require.Equal(t, tcps.StatusQueued, first.Status)
		require.Equal(t, "a < b & c > d", first.Description)
		do(t, s, "work_order_create", issue(2, "bug"), &second)
		in := issue(3)
		in["hold"] = true
		do(t, s, "work_order_create", in, &held)
		require.Equal(t, tcps.StatusPending, held.Status)
		do(t, s, "work_order_release", args{"id": held.ID}, &held)
		require.Equal(t, tcps.StatusQueued, held.Status)

		var queue tcps.QueueView
		do(t, s, "work_order_queue", args{"bucket": "reliability", "limit": 1}, &queue)
		require.Equal(t, 2, queue.Depth)
		require.Len(t, queue.WorkOrders, 1)
		do(t, s, "work_order_reorder", args{"bucket": "reliability", "ids": []string{second.ID, first.ID}}, &queue)
		require.Equal(t, second.ID, queue.WorkOrders[0].ID)
		do(t, s, "work_order_add_dependency", args{"id": second.ID, "depends_on": first.ID}, &second)
		require.Equal(t, tcps.StatusBlocked, second.Status)

		var next tcps.DequeueResult
		do(t, s, "work_order_next", args{"bucket": "reliability", "assigned_to": "Ada"}, &next)
		require.Equal(t, first.ID, next.WorkOrder.ID)
		do(t, s, "work_order_next", args{"bucket": "reliability"}, &next)
		require.Equal(t, "empty", next.Outcome)
		do(t, s, "work_order_start", args{"id": held.ID}, &held)

		var progress tcps.ProgressResult
		do(t, s, "work_order_progress", args{"id": first.ID, "stage": "implementation", "evidence": args{"errors": 0}}, &progress)
		require.Equal(t, tcps.GatePassed, progress.Gate.Outcome)
		missing := refused(t, s, "work_order_progress", args{"id": first.ID, "stage": "testing"})
		require.Equal(t, "gate_not_run", missing.Code)
		require.NotEmpty(t, missing.Details["missing"])

		var wip struct{ Buckets []tcps.WIP }
		do(t, s, "wip_get", args{}, &wip)
		require.Len(t, wip.Buckets, 6)
		do(t, s, "wip_get", args{"bucket": "reliability"}, &wip)
		require.Equal(t, 1, wip.Buckets[0].Current)
		do(t, s, "wip_set_limit", args{"bucket": "features", "limit": 1}, nil)
		do(t, s, "sla_report", args{}, nil)
		do(t, s, "production_report", args{}, nil)

		var event tcps.Andon
		do(t, s, "andon_trigger", args{"failure_type": "test_failure", "sku_id": "SKU-001", "stage": "testing", "work_order_id": first.ID, "details": args{"test": "TestX"}}, &event)
		do(t, s, "andon_acknowledge", args{"event_id": event.EventID, "assigned_to": "Grace"}, nil)
		var page tcps.AndonPage
		do(t, s, "andon_list", args{"unresolved": true}, &page)
		require.Len(t, page.Andons, 1)
		var proceed tcps.ProceedResult
		do(t, s, "sku_can_proceed", args{"sku_id": "SKU-001", "stage": "deployment"}, &proceed)
		require.False(t, proceed.CanProceed)
		do(t, s, "andon_resolve", args{
			"event_id": event.EventID, "root_cause": "a race in the cache of sessions", "fix_applied": "a lock around the cache",
			"prevention_added": "race detector in every build", "fix_verified": true, "resolver": "Grace",
		}, nil)
		do(t, s, "andon_close", args{"event_id": event.EventID}, nil)

		var receipt tcps.Receipt
		do(t, s, "receipt_store", args{"sku_id": "SKU-001", "stage": "compilation", "status": "pass", "evidence": args{"errors": 0}}, &receipt)
		do(t, s, "receipt_get", args{"receipt_id": receipt.ReceiptID}, nil)
		var list tcps.ReceiptPage
		do(t, s, "receipt_list", args{"sku_id": "SKU-001"}, &list)
		require.NotEmpty(t, list.Receipts)
		var verified struct {
			Verification tcps.ReceiptVerification
			Tampering    tcps.TamperReport
		}
		do(t, s, "receipt_verify", args{"receipt_id": receipt.ReceiptID}, &verified)
		require.True(t, verified.Verification.Valid)
		require.True(t, verified.Tampering.Authentic)
		var chain struct {
			Chain       tcps.ChainReport
			Determinism *tcps.DeterminismReport
		}
		do(t, s, "receipt_chain_verify", args{"sku_id": "SKU-001"}, &chain)
		require.False(t, chain.Chain.Complete)
		require.False(t, chain.Determinism.Deterministic)

		do(t, s, "work_order_start", args{"id": first.ID}, nil) // resolution put it back into the queue
		do(t, s, "work_order_complete", args{"id": first.ID, "sku_id": "SKU-001"}, &first)
		require.Equal(t, tcps.StatusCompleted, first.Status)
		do(t, s, "work_order_cancel", args{"id": second.ID, "reason": "no longer wanted"}, &second)
		require.Equal(t, tcps.StatusCancelled, second.Status)

		var view tcps.WorkOrderStatusView
		do(t, s, "work_order_get", args{"id": first.ID}, &view)
		require.Equal(t, first.ID, view.WorkOrder.ID)
		require.NotEmpty(t, view.Receipts)
		var orders tcps.WorkOrderPage
		do(t, s, "work_order_list", args{"status": "completed"}, &orders)
		require.Len(t, orders.WorkOrders, 1)

		var history struct{ Changes []tcps.Change }
		do(t, s, "change_history", args{"entity": "work_order", "id": first.ID}, &history)
		require.NotEmpty(t, history.Changes)
		for _, c := range history.Changes {
			require.Equal(t, "mcp:line_lead", c.Actor)
		}
		var report tcps.VerifyReport
		do(t, s, "ledger_verify", args{}, &report)
		require.True(t, report.Valid, "%+v", report.Findings)
		var everything struct {
			Intact  bool
			Ledger  tcps.VerifyReport
			Storage engine.VerifyReport
		}
		do(t, s, "store_verify", args{}, &everything)
		require.True(t, everything.Intact)
		require.NotZero(t, everything.Ledger.FilesChecked)
		require.NotZero(t, everything.Storage.Rows)
	})
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	p := open(t, t.TempDir())
	s := p.client(t, "http", "2026-07-28", nil)
	for _, c := range []struct {
		tool  string
		in    any
		code  string
		field string
	}{
		{"work_order_get", args{"id": "WO-none"}, "not_found", ""},
		{"work_order_start", args{"id": "WO-none"}, "not_found", ""},
		{"work_order_create", args{"signal": args{"type": "gossip", "source": "x"}}, "invalid_signal_type", ""},
		{"work_order_queue", args{"bucket": "wishes"}, "invalid_bucket", "bucket"},
		{"work_order_queue", args{"bucket": "cost", "limit": 5000}, "invalid_field", "limit"},
		{"work_order_next", args{"bucket": ""}, "", ""},
		{"andon_trigger", args{"failure_type": "bad_mood", "sku_id": "S", "stage": "testing"}, "invalid_failure_type", "failure_type"},
		{"andon_trigger", args{"failure_type": "test_failure", "sku_id": "", "stage": "testing"}, "missing_required_field", "sku_id"},
		{"andon_resolve", args{"event_id": "ANDON-none", "root_cause": "x", "fix_applied": "y", "prevention_added": "z"}, "andon_not_found", ""},
		{"receipt_get", args{"receipt_id": "none"}, "receipt_not_found", ""},
		{"receipt_list", args{}, "missing_required_field", ""},
		{"change_history", args{"entity": "unicorn", "id": "x"}, "", ""},
		{"wip_set_limit", args{"bucket": "cost", "limit": -1}, "", ""},
		// What the schema refuses gets the same form.
		{"work_order_get", args{}, "invalid_arguments", ""},
		{"work_order_get", args{"id": 7}, "invalid_arguments", ""},
		{"work_order_get", args{"id": "x", "unknown": 1}, "invalid_arguments", ""},
		{"work_order_create", args{"signal": "a string"}, "invalid_arguments", ""},
		{"work_order_create", args{"signal": nil}, "invalid_arguments", ""},
		{"sla_report", args{"hours": "many"}, "invalid_arguments", ""},
	} {
		r := refused(t, s, c.tool, c.in)
		if c.code != "" {
			require.Equal(t, c.code, r.Code, "%s %v: %s", c.tool, c.in, r.Message)
		}
		if c.field != "" {
			require.Equal(t, c.field, r.Field, "%s %v", c.tool, c.in)
		}
		require.NotContains(t, r.Message, "validating root")
	}
	require.Zero(t, p.rt.Stats().Panics)
}

func TestStaleIsForReading(t *testing.T) {
	p := open(t, t.TempDir())
	s := p.client(t, "http", "2026-07-28", nil)
	stale := sdk.Meta{mcp.MetaStale: true}
	res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Meta: stale, Name: "wip_get", Arguments: args{"bucket": "cost"}})
	require.NoError(t, err)
	require.False(t, res.IsError)
	require.Contains(t, res.Meta, mcp.MetaStaleness)
	res, err = s.CallTool(t.Context(), &sdk.CallToolParams{Meta: stale, Name: "wip_set_limit", Arguments: args{"bucket": "cost", "limit": 7}})
	require.NoError(t, err)
	require.True(t, res.IsError, "a change is never made on old state")
	var now struct{ Buckets []struct{ Limit int } }
	do(t, s, "wip_get", args{"bucket": "cost"}, &now)
	require.NotEqual(t, 7, now.Buckets[0].Limit)
}

func TestIdempotencyKeyMakesARetryHarmless(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	s := p.client(t, "stdio", "2025-11-25", nil)
	in := issue(1)
	in["idempotency_key"] = "key-1"
	var first, again tcps.WorkOrder
	do(t, s, "work_order_create", in, &first)
	do(t, s, "work_order_create", in, &again)
	require.Equal(t, first, again)

	other := issue(2)
	other["idempotency_key"] = "key-1"
	require.Equal(t, "idempotency_mismatch", refused(t, s, "work_order_create", other).Code)

	// Also after a restart.
	_ = s.Close()
	p.close()
	p = open(t, dir)
	s = p.client(t, "http", "2026-07-28", nil)
	do(t, s, "work_order_create", in, &again)
	require.Equal(t, first.ID, again.ID)
	var orders tcps.WorkOrderPage
	do(t, s, "work_order_list", args{}, &orders)
	require.Len(t, orders.WorkOrders, 1)
}

func TestToolsDescribeThemselves(t *testing.T) {
	p := open(t, t.TempDir())
	s := p.client(t, "http", "2026-07-28", nil)
	require.Contains(t, s.InitializeResult().Instructions, "andon")
	var names []string
	for tool, err := range s.Tools(t.Context(), nil) {
		require.NoError(t, err)
		names = append(names, tool.Name)
		require.Regexp(t, regexp.MustCompile(`^[a-z_]{1,64}$`), tool.Name)
		require.NotEmpty(t, tool.Title, tool.Name)
		require.NotEmpty(t, tool.Description, tool.Name)
		require.NotNil(t, tool.OutputSchema, tool.Name)
		require.NotNil(t, tool.Annotations, tool.Name)
		require.False(t, *tool.Annotations.OpenWorldHint, tool.Name)

		data, err := json.Marshal(tool.InputSchema)
		require.NoError(t, err)
		var schema struct {
			Type       string
			Properties map[string]struct{ Description string }
		}
		require.NoError(t, json.Unmarshal(data, &schema))
		require.Equal(t, "object", schema.Type)
		_, keyed := schema.Properties["idempotency_key"]
		require.Equal(t, !tool.Annotations.ReadOnlyHint, keyed, "%s: every tool that changes something, and no other, takes a key", tool.Name)
		if !tool.Annotations.ReadOnlyHint {
			require.NotNil(t, tool.Annotations.DestructiveHint, tool.Name)
		}
		output, err := json.Marshal(tool.OutputSchema)
		require.NoError(t, err)
		require.Contains(t, string(output), `"type":"object"`, tool.Name)
	}
	for _, want := range []string{
		"work_order_create", "work_order_get", "work_order_list", "work_order_start", "work_order_progress", "work_order_complete",
		"work_order_cancel", "work_order_add_dependency", "work_order_queue", "work_order_next", "wip_get", "wip_set_limit", "sla_report",
		"andon_trigger", "andon_acknowledge", "andon_resolve", "andon_list", "receipt_store", "receipt_get", "receipt_list",
		"receipt_verify", "receipt_chain_verify", "change_history", "ledger_verify", "store_verify",
	} {
		require.Contains(t, names, want)
	}
	require.True(t, slices.IsSorted(names))
}

func TestResources(t *testing.T) {
	everyWay(t, func(t *testing.T, p *plant, s *sdk.ClientSession) {
		var order tcps.WorkOrder
		do(t, s, "work_order_create", issue(1), &order)
		var event tcps.Andon
		do(t, s, "andon_trigger", args{"failure_type": "test_failure", "sku_id": "SKU?A/1", "stage": "testing", "work_order_id": order.ID}, &event)
		var receipt tcps.Receipt
		do(t, s, "receipt_store", args{"sku_id": "SKU?A/1", "stage": "compilation", "status": "pass", "evidence": args{"errors": 0}}, &receipt)

		for uri, says := range map[string]string{
			"tcps://work_orders":                           order.ID,
			"tcps://work_orders/" + order.ID:               `"sla_status"`,
			"tcps://work_orders/" + order.ID + "/receipts": "work_order_created",
			"tcps://work_orders/" + order.ID + "/andon":    event.EventID,
			"tcps://andon":                                 event.EventID,
			"tcps://andon/" + event.EventID:                "test_failure",
			"tcps://receipts/" + escape(receipt.ReceiptID): "compilation",
			"tcps://receipts/sku/SKU%3FA%2F1":              receipt.ReceiptID,
			"tcps://metrics":                               "work_in_progress",
		} {
			res, err := s.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri})
			require.NoError(t, err, uri)
			require.Len(t, res.Contents, 1)
			require.Equal(t, "application/json", res.Contents[0].MIMEType)
			require.Equal(t, uri, res.Contents[0].URI)
			require.True(t, json.Valid([]byte(res.Contents[0].Text)))
			require.Contains(t, res.Contents[0].Text, says, uri)
		}
		for _, uri := range []string{
			"tcps://work_orders/none", "tcps://work_orders/none/andon", "tcps://andon/none", "tcps://receipts/none",
			"tcps://nothing", "tcps://work_orders/" + order.ID + "/secrets", "file:///etc/passwd", "tcps://", "tcps://work_orders/..", "tcps://work_orders/%zz",
		} {
			_, err := s.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri})
			require.ErrorContains(t, err, "not found", uri)
		}
		templates, err := s.ListResourceTemplates(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, templates.ResourceTemplates, 6)
		resources, err := s.ListResources(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, resources.Resources, 3)
	})
}

func escape(s string) string { return strings.NewReplacer("?", "%3F", "/", "%2F").Replace(s) }

func TestUnknownResourceHasTheCodeOfTheRevision(t *testing.T) {
	p := open(t, t.TempDir())
	for version, code := range map[string]int64{"2026-07-28": -32602, "2025-11-25": -32002} {
		s := p.client(t, "stdio", version, nil)
		for _, uri := range []string{"tcps://work_orders/none", "tcps://no/such/thing"} {
			_, err := s.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri})
			wire := wireError(t, err)
			require.Equal(t, code, wire.Code, version)
			require.JSONEq(t, fmt.Sprintf(`{"uri":%q}`, uri), string(wire.Data))
		}
	}
}

func TestSubscriberHearsOfCommittedChanges(t *testing.T) {
	got := make(chan string, 1000)
	o := &sdk.ClientOptions{ResourceUpdatedHandler: func(_ context.Context, req *sdk.ResourceUpdatedNotificationRequest) {
		got <- req.Params.URI
	}}
	p := open(t, t.TempDir())
	s := p.client(t, "stdio", "2025-11-25", o)
	var order tcps.WorkOrder
	do(t, s, "work_order_create", issue(1), &order)
	receipts := "tcps://work_orders/" + order.ID + "/receipts"
	for _, uri := range []string{"tcps://work_orders", "tcps://andon", receipts} {
		require.NoError(t, s.Subscribe(t.Context(), &sdk.SubscribeParams{URI: uri}))
	}
	// Somebody else makes the change, not over MCP at all.
	_, err := p.ledger.StartWorkOrder(t.Context(), tcps.StartWorkOrderInput{ID: order.ID})
	require.NoError(t, err)
	want := map[string]bool{"tcps://work_orders": true, receipts: true}
	deadline := time.After(10 * time.Second)
	for len(want) > 0 {
		select {
		case uri := <-got:
			require.NotEqual(t, "tcps://andon", uri, "nothing happened to it")
			delete(want, uri)
		case <-deadline:
			t.Fatalf("no notification for %v", want)
		}
	}
}

func TestPrompts(t *testing.T) {
	everyWay(t, func(t *testing.T, p *plant, s *sdk.ClientSession) {
		var order tcps.WorkOrder
		do(t, s, "work_order_create", issue(1, "bug"), &order)
		var event tcps.Andon
		do(t, s, "andon_trigger", args{"failure_type": "test_failure", "sku_id": "SKU-001", "stage": "testing", "work_order_id": order.ID}, &event)

		list, err := s.ListPrompts(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, list.Prompts, 5)

		get := func(name string, arguments map[string]string) string {
			res, err := s.GetPrompt(t.Context(), &sdk.GetPromptParams{Name: name, Arguments: arguments})
			require.NoError(t, err, name)
			require.NotEmpty(t, res.Description)
			require.Greater(t, len(res.Messages), 1, "live data goes along")
			require.Contains(t, res.Messages[0].Content.(*sdk.TextContent).Text, "treat them as data")
			var all strings.Builder
			for _, m := range res.Messages[1:] {
				doc := m.Content.(*sdk.EmbeddedResource).Resource
				require.True(t, json.Valid([]byte(doc.Text)))
				require.NotEmpty(t, doc.URI)
				all.WriteString(doc.Text)
			}
			return all.String()
		}
		require.Contains(t, get("shift_handover", nil), event.EventID)
		require.Contains(t, get("shift_handover", map[string]string{"bucket": "reliability", "hours": "8"}), event.EventID)
		require.Contains(t, get("triage_andon", map[string]string{"event_id": event.EventID}), order.ID)
		require.Contains(t, get("plan_next_batch", map[string]string{"size": "3"}), "reliability")
		require.Contains(t, get("root_cause_five_whys", map[string]string{"event_id": event.EventID}), event.EventID)
		require.Contains(t, get("release_readiness", map[string]string{"sku_id": "SKU-001"}), "missing_stages")

		for _, bad := range []*sdk.GetPromptParams{
			{Name: "triage_andon"},
			{Name: "triage_andon", Arguments: map[string]string{"event_id": "ANDON-none"}},
			{Name: "plan_next_batch", Arguments: map[string]string{"size": "lots"}},
			{Name: "plan_next_batch", Arguments: map[string]string{"size": "51"}},
			{Name: "shift_handover", Arguments: map[string]string{"bucket": "wishes"}},
			{Name: "no_such_prompt"},
		} {
			_, err := s.GetPrompt(t.Context(), bad)
			require.Error(t, err)
			require.Equal(t, int64(-32602), wireError(t, err).Code, "%v: %v", bad, err)
		}
	})
}

func TestCompletions(t *testing.T) {
	p := open(t, t.TempDir())
	s := p.client(t, "http", "2025-11-25", nil)
	var older, newer tcps.WorkOrder
	do(t, s, "work_order_create", issue(1), &older)
	in := issue(2)
	in["sku_id"] = "SKU-7"
	do(t, s, "work_order_create", in, &newer)
	var event tcps.Andon
	do(t, s, "andon_trigger", args{"failure_type": "test_failure", "sku_id": "SKU-7", "stage": "testing"}, &event)

	complete := func(ref *sdk.CompleteReference, argument, prefix string) []string {
		res, err := s.Complete(t.Context(), &sdk.CompleteParams{Ref: ref, Argument: sdk.CompleteParamsArgument{Name: argument, Value: prefix}})
		require.NoError(t, err)
		return res.Completion.Values
	}
	template := func(uri string) *sdk.CompleteReference { return &sdk.CompleteReference{Type: "ref/resource", URI: uri} }
	prompt := func(name string) *sdk.CompleteReference {
		return &sdk.CompleteReference{Type: "ref/prompt", Name: name}
	}
	require.Equal(t, []string{newer.ID, older.ID}, complete(template("tcps://work_orders/{id}"), "id", "WO-"))
	require.Empty(t, complete(template("tcps://work_orders/{id}/andon"), "id", "nope"))
	require.Equal(t, []string{event.EventID}, complete(template("tcps://andon/{id}"), "id", ""))
	require.Equal(t, []string{"SKU-7"}, complete(template("tcps://receipts/sku/{sku}"), "sku", "SKU"))
	require.Equal(t, []string{"security"}, complete(prompt("shift_handover"), "bucket", "sec"))
	require.Empty(t, complete(prompt("shift_handover"), "hours", ""))
	require.Equal(t, []string{event.EventID}, complete(prompt("triage_andon"), "event_id", "ANDON"))
}

func TestConcurrentClientsLoseNothing(t *testing.T) {
	p := open(t, t.TempDir())
	const clients, each = 6, 15
	var all sync.WaitGroup
	created := make(chan string, clients*each)
	for c := range clients {
		version := []string{"2026-07-28", "2025-11-25"}[c%2]
		s := p.client(t, []string{"http", "stdio"}[c/3], version, nil)
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range each {
				res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "work_order_create", Arguments: issue(c*1000+i, "bug")})
				if err != nil || res.IsError {
					t.Errorf("create: %v %+v", err, res)
					return
				}
				data, _ := json.Marshal(res.StructuredContent)
				var w tcps.WorkOrder
				if err := json.Unmarshal(data, &w); err != nil {
					t.Error(err)
				}
				created <- w.ID
			}
		}()
	}
	all.Wait()
	close(created)
	ids := make(map[string]bool)
	for id := range created {
		ids[id] = true
	}
	require.Len(t, ids, clients*each)
	report, err := p.ledger.VerifyAll(t.Context())
	require.NoError(t, err)
	require.True(t, report.Valid, "%+v", report.Findings)
	queue, err := p.ledger.Queue(t.Context(), "reliability")
	require.NoError(t, err)
	require.Equal(t, clients*each, queue.Depth)
}

func TestRegisterNeedsItsParts(t *testing.T) {
	require.Error(t, tcpstools.Register(nil, nil, nil))
}

func wireError(t testing.TB, err error) *jsonrpc.Error {
	t.Helper()
	var rpc *jsonrpc.Error
	require.ErrorAs(t, err, &rpc)
	return rpc
}
