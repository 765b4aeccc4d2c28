package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestKillNineLosesNothing drives the real server over HTTP with concurrent clients, kills it with -9 at random moments, starts
// it again, and compares what is there with what the clients were told:
//
//   - every acknowledged change is there, exactly once, with its receipt;
//   - a change without an answer is there whole or not at all, and asking again with its idempotency key settles it
//     without doing it twice;
//   - every acknowledged change has its record in the audit log, although no answer waits for it;
//   - the integrity checks are clean after every start.
//
// ERLMCP_SOAK_ROUNDS sets the number of kills (default 50), ERLMCP_SOAK_SEED the seed.
func TestKillNineLosesNothing(t *testing.T) {
	rounds := environmentNumber(t, "ERLMCP_SOAK_ROUNDS", 50)
	seed := environmentNumber(t, "ERLMCP_SOAK_SEED", uint64(time.Now().UnixNano()))
	t.Logf("%d rounds, seed %d (repeat with ERLMCP_SOAK_SEED=%d)", rounds, seed, seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	const clients = 8
	truth := newModel(clients)
	dir := t.TempDir()
	for round := range rounds {
		if round%5 == 4 { // sometimes death comes during the recovery
			s := launch(t, environment(t), "serve", "--data", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
			time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
			s.kill()
		}
		s := start(t, dir)
		truth.settle(t, s)
		truth.compare(t, s)
		verify := run(t, "verify", "--data", dir)
		require.Zero(t, verify.code, "round %d: %s%s", round, verify.stdout, verify.stderr)

		var all sync.WaitGroup
		for c := range clients {
			all.Go(func() { truth.work(s, c, rand.New(rand.NewPCG(seed, uint64(round*clients+c+1)))) })
		}
		time.Sleep(time.Duration(5+rnd.IntN(120)) * time.Millisecond)
		s.kill()
		all.Wait()
		require.Empty(t, truth.refused)
	}
	s := start(t, dir)
	truth.settle(t, s)
	truth.compare(t, s)
	require.Zero(t, s.stop())
	require.Zero(t, run(t, "verify", "--data", dir).code)
	truth.compareAudit(t, dir)
	t.Logf("%d work orders, %d changes acknowledged, %d were open at a kill and settled afterwards", truth.orders(), truth.acked, truth.settled)
	require.NotZero(t, truth.acked)
}

func environmentNumber[T int | uint64](t *testing.T, name string, otherwise T) T {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 63)
	require.NoError(t, err, name)
	return T(n)
}

// change is one call that was sent: a new order, or the cancellation of an own one.
type change struct {
	tool, key, source, id string
	args                  map[string]any
}

// ledgerModel is what the clients know. Each client owns the orders that it creates.
type ledgerModel struct {
	client []clientModel

	mu      sync.Mutex
	acked   int
	digests []string // SHA-256 of the arguments of every acknowledged change
	settled int
	refused []string // answers that the test did not expect
}

// refusedError is an answer that says no.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return "refused: " + e.text }

type clientModel struct {
	created int               // how many sources were ever used
	order   map[string]string // source -> id of acknowledged orders
	status  map[string]string // id -> acknowledged status
	open    *change           // sent, not answered
}

func newModel(clients int) *ledgerModel {
	m := &ledgerModel{client: make([]clientModel, clients)}
	for c := range m.client {
		m.client[c] = clientModel{order: map[string]string{}, status: map[string]string{}}
	}
	return m
}

func (m *ledgerModel) orders() (n int) {
	for _, c := range m.client {
		n += len(c.order)
	}
	return n
}

// work changes things until the server dies. The last change stays open when its answer did not arrive.
func (m *ledgerModel) work(s *server, c int, rnd *rand.Rand) {
	client := &m.client[c]
	web := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer web.CloseIdleConnections()
	for {
		next := client.next(c, rnd)
		client.open = &next
		order, err := callRaw(web, s.run.MCPURL, next)
		var no *refusedError
		if errors.As(err, &no) {
			m.mu.Lock()
			m.refused = append(m.refused, fmt.Sprintf("%+v: %v", next, no))
			m.mu.Unlock()
		}
		if err != nil {
			return // the server is gone
		}
		client.acknowledge(order)
		args, err := json.Marshal(next.args) // as callRaw sent them
		if err != nil {
			return
		}
		m.mu.Lock()
		m.acked++
		m.digests = append(m.digests, fmt.Sprintf("%x", sha256.Sum256(args)))
		m.mu.Unlock()
	}
}

// next invents a change: mostly new orders, now and then the end of an old one.
func (c *clientModel) next(number int, rnd *rand.Rand) change {
	if rnd.IntN(4) == 0 {
		for id, status := range c.status {
			if status == "queued" {
				return change{
					tool: "work_order_cancel", key: "cancel-" + id, id: id,
					args: map[string]any{"id": id, "reason": "the test says so", "idempotency_key": "cancel-" + id},
				}
			}
		}
	}
	c.created++
	source := fmt.Sprintf("client-%d-order-%d", number, c.created)
	return change{tool: "work_order_create", key: source, source: source, args: map[string]any{
		"signal": map[string]any{"type": "internal_request", "source": source, "description": "made by a test"},
		"bucket": []string{"features", "reliability", "cost"}[rnd.IntN(3)], "idempotency_key": source,
	}}
}

// acknowledge moves the open change into what must be true from now on.
func (c *clientModel) acknowledge(o rawOrder) {
	if c.open.source != "" {
		c.order[c.open.source] = o.ID
	}
	c.status[o.ID] = o.Status
	c.open = nil
}

// settle repeats every change that has no answer, with its idempotency key, and checks that the answer is the first one's.
func (m *ledgerModel) settle(t *testing.T, s *server) {
	for c := range m.client {
		client := &m.client[c]
		if client.open == nil {
			continue
		}
		first, err := callRaw(http.DefaultClient, s.run.MCPURL, *client.open)
		require.NoError(t, err, "%+v", *client.open)
		again, err := callRaw(http.DefaultClient, s.run.MCPURL, *client.open)
		require.NoError(t, err)
		require.Equal(t, first, again, "the same key gives the same answer")
		client.acknowledge(first)
		m.settled++
	}
}

// compare reads everything back and looks for what is missing, doubled, or not explained.
func (m *ledgerModel) compare(t *testing.T, s *server) {
	found := map[string][]rawOrder{}
	session := s.connect()
	for cursor := ""; ; {
		var page struct {
			Orders []rawOrder `json:"work_orders"`
			Next   string     `json:"next_cursor"`
		}
		args := map[string]any{"limit": 1000}
		if cursor != "" {
			args["cursor"] = cursor
		}
		call(t, session, "work_order_list", args, &page)
		for _, o := range page.Orders {
			found[o.Source] = append(found[o.Source], o)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	require.NoError(t, session.Close())
	for c := range m.client {
		client := &m.client[c]
		for source, id := range client.order {
			require.Len(t, found[source], 1, "order %s (%s) was acknowledged once", source, id)
			got := found[source][0]
			require.Equal(t, id, got.ID)
			require.Equal(t, client.status[id], got.Status, "status of %s", id)
			want := 1 // created
			if got.Status == "cancelled" {
				want = 2
			}
			require.Len(t, got.Receipts, want, "an order comes with its receipts: %+v", got)
			delete(found, source)
		}
	}
	require.Empty(t, found, "orders that nobody asked for")
}

// compareAudit looks for the record of every change that was acknowledged before a kill, made with it: none of these calls was
// made twice.
func (m *ledgerModel) compareAudit(t *testing.T, dir string) {
	r := run(t, "audit", "--data", dir, "--json", "--limit", "10000000")
	require.Zero(t, r.code, r.stderr)
	found := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(r.stdout)); dec.More(); {
		var rec struct{ Arguments, Outcome string }
		require.NoError(t, dec.Decode(&rec))
		found[rec.Arguments] = found[rec.Arguments] || rec.Outcome == "ok" || rec.Outcome == "unfinished"
	}
	lost := 0
	for _, digest := range m.digests {
		if !found[digest] {
			lost++
		}
	}
	require.Zero(t, lost, "of %d acknowledged changes, %d have no audit record", len(m.digests), lost)
}

// rawOrder is what the test reads of a work order.
type rawOrder struct {
	ID       string   `json:"id"`
	Status   string   `json:"status"`
	Receipts []string `json:"receipts"`
	Source   string   `json:"demand_signal"`
}

// callRaw calls a tool in one request of protocol 2026-07-28. An answer that is not a success is an error too: none of these
// calls may be refused.
func callRaw(web *http.Client, url string, c change) (rawOrder, error) {
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": "tools/call",
		"params": map[string]any{
			"_meta": map[string]any{
				"io.modelcontextprotocol/protocolVersion":    "2026-07-28",
				"io.modelcontextprotocol/clientCapabilities": map[string]any{},
			},
			"name": c.tool, "arguments": c.args,
		},
	})
	if err != nil {
		return rawOrder{}, err
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return rawOrder{}, err
	}
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": c.tool,
	} {
		req.Header.Set(k, v)
	}
	resp, err := web.Do(req)
	if err != nil {
		return rawOrder{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return rawOrder{}, err
	}
	text := string(raw)
	for line := range strings.SplitSeq(text, "\n") { // an event stream holds the answer in its data lines
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			text = data
		}
	}
	var answer struct {
		Result *struct {
			IsError bool     `json:"isError"`
			Order   rawOrder `json:"structuredContent"`
		} `json:"result"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return rawOrder{}, fmt.Errorf("%s: %w", text, err)
	}
	if answer.Result == nil || answer.Result.IsError || answer.Result.Order.ID == "" {
		return rawOrder{}, &refusedError{text}
	}
	return answer.Result.Order, nil
}
