package mcp

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"go.opentelemetry.io/otel/trace"
)

// How a request ended, for metrics and the audit log.
const (
	outcomeOK        = "ok"
	outcomeToolError = "tool_error" // a result with isError
	outcomeError     = "error"      // a JSON-RPC error
	outcomeDenied    = "denied"     // a scope was missing
	outcomeTask      = "task"       // a task that goes on

	outcomeUnfinished = "unfinished" // in the audit log only: it changed something; it runs, or its process ended before it did
)

// Outcomes in the order of MethodStats.Outcomes.
var Outcomes = [...]string{outcomeOK, outcomeToolError, outcomeError, outcomeDenied, outcomeTask}

// LatencyBuckets are the upper bounds of the histograms in [MethodStats].
var LatencyBuckets = [...]time.Duration{
	50 * time.Microsecond, 200 * time.Microsecond, 800 * time.Microsecond, 3200 * time.Microsecond,
	12800 * time.Microsecond, 51200 * time.Microsecond, 204800 * time.Microsecond, 819200 * time.Microsecond,
	3276800 * time.Microsecond, 13107200 * time.Microsecond, 52428800 * time.Microsecond, 209715200 * time.Microsecond,
}

// MethodStats counts the requests of one method that reached the middleware.
type MethodStats struct {
	Method   string                          // "other" for all methods that are not MCP's
	Outcomes [len(Outcomes)]uint64           // by outcome
	Latency  [len(LatencyBuckets) + 1]uint64 // by time of the handler; the last is everything slower
	Seconds  float64                         // sum of the times
}

// ToolStats counts the calls of one tool that ended with a result.
type ToolStats struct {
	Tool   string // "other" from the 257th tool on
	Calls  uint64
	Errors uint64 // of those, with isError
}

// measuredMethods are the label values of the metrics: clients choose methods,
// so others share one.
var measuredMethods = [...]string{
	"other", "initialize", "ping", "server/discover", methodToolsCall, "tools/list", "resources/list", "resources/read",
	"resources/templates/list", "resources/subscribe", "resources/unsubscribe", "prompts/list", "prompts/get",
	"completion/complete", "logging/setLevel", methodListen, "tasks/get", "tasks/update", "tasks/cancel",
	"notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
}

var measuredIndex = func() map[string]int {
	m := make(map[string]int, len(measuredMethods))
	for i, name := range measuredMethods {
		m[name] = i
	}
	return m
}()

type methodCounters struct {
	outcomes [len(Outcomes)]atomic.Uint64
	latency  [len(LatencyBuckets) + 1]atomic.Uint64
	nanos    atomic.Int64
}

// maxTools bounds the tools that are counted apart.
const maxTools = 256

type toolCounters struct{ calls, errors atomic.Uint64 }

// measures are the metrics of requests. Counting takes no lock.
type measures struct {
	methods [len(measuredMethods)]methodCounters
	tools   sync.Map // name -> *toolCounters
	count   atomic.Int64
	other   toolCounters
}

func (m *measures) method(method string, outcome int, took time.Duration) {
	c := &m.methods[measuredIndex[method]] // an unknown one is 0, "other"
	c.outcomes[outcome].Add(1)
	c.nanos.Add(int64(took))
	i := 0
	for i < len(LatencyBuckets) && took > LatencyBuckets[i] {
		i++
	}
	c.latency[i].Add(1)
}

// tool counts a call that ended with a result: only a tool that exists has one.
func (m *measures) tool(name string, failed bool) {
	c := &m.other
	if known, ok := m.tools.Load(name); ok {
		c = known.(*toolCounters)
	} else if m.count.Load() < maxTools {
		known, loaded := m.tools.LoadOrStore(name, new(toolCounters))
		if !loaded {
			m.count.Add(1)
		}
		c = known.(*toolCounters)
	}
	c.calls.Add(1)
	if failed {
		c.errors.Add(1)
	}
}

func (m *measures) fill(s *Stats) {
	for i := range m.methods {
		c := &m.methods[i]
		out := MethodStats{Method: measuredMethods[i], Seconds: float64(c.nanos.Load()) / 1e9}
		total := uint64(0)
		for j := range c.outcomes {
			out.Outcomes[j] = c.outcomes[j].Load()
			total += out.Outcomes[j]
		}
		if total == 0 {
			continue
		}
		for j := range c.latency {
			out.Latency[j] = c.latency[j].Load()
		}
		s.Methods = append(s.Methods, out)
	}
	m.tools.Range(func(name, c any) bool {
		t := c.(*toolCounters)
		s.Tools = append(s.Tools, ToolStats{Tool: name.(string), Calls: t.calls.Load(), Errors: t.errors.Load()})
		return true
	})
	if n := m.other.calls.Load(); n > 0 {
		s.Tools = append(s.Tools, ToolStats{Tool: "other", Calls: n, Errors: m.other.errors.Load()})
	}
}

// judge names how a request ended: an index of Outcomes and the error code.
func judge(res sdk.Result, err error) (outcome int, code int64) {
	if err != nil {
		code = jsonrpc.CodeInternalError
		var rpc *jsonrpc.Error
		if errors.As(err, &rpc) {
			code = rpc.Code
		}
		if code == CodeInsufficientScope {
			return 3, code
		}
		return 2, code
	}
	switch result := res.(type) {
	case *sdk.CallToolResult:
		if result != nil && result.IsError {
			return 1, 0
		}
	case *taskCreated:
		return 4, 0
	}
	return 0, 0
}

// observe is told about every request that ended. The answer must wait for the
// group that it returns, which may be nil.
func (r *Runtime) observe(ctx context.Context, method string, req sdk.Request, res sdk.Result, err error, start time.Time, open *openRecord) *auditGroup {
	now := r.opts.Now()
	took := now.Sub(start)
	outcome, code := judge(res, err)
	if r.tracer != nil {
		endSpan(trace.SpanFromContext(ctx), outcome, code)
	}
	r.measures.method(method, outcome, took)
	call, ok := req.(*sdk.CallToolRequest)
	if !ok {
		return nil
	}
	r.stats.toolCalls.Add(1)
	if outcome != 0 && outcome != 4 {
		r.stats.toolErrors.Add(1)
	}
	if err == nil {
		r.measures.tool(call.Params.Name, outcome == 1)
	}
	if r.audit == nil {
		return nil
	}
	rec := auditEntryOf(ctx, call, now)
	rec.Outcome, rec.Code, rec.Millis = Outcomes[outcome], code, float64(took.Microseconds())/1e3
	if task, ok := res.(*taskCreated); ok {
		rec.Task = task.TaskID
	}
	rec.open = open.close()
	group := r.audit.record(rec)
	if code == CodeOverloaded {
		return nil // a refusal for want of room did nothing and comes at once
	}
	return group
}
