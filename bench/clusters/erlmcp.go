package clusters

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/bench/mcpserve"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/internal/gcfloor"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/cluster"
)

const table = "bench"

// Profiles of ours.
var (
	fast   = replication.Fast()
	compat = replication.Compat()
)

// secret makes the certificates of a cluster that lives for a benchmark.
var secret = []byte("a secret of the benchmark, 32 bytes or more")

// ours is a member as `erlmcp serve` makes one, without the server. Every Put is
// a transaction of the engine.
type ours struct {
	m     *cluster.Member
	stop  func() // garbage collection as it was before
	ended chan struct{}

	mu    sync.Mutex
	store *engine.Store // nil while it is being fetched

	address string // of the MCP server
	close   func()
}

func openOurs(timing replication.Timing) func(Options) (Node, error) {
	return func(o Options) (Node, error) { return openMember(o, timing) }
}

func openMember(o Options, timing replication.Timing) (*ours, error) {
	advertise := o.Members[o.ID][0]
	if !cluster.IsMember(o.Dir) {
		var peers []string
		for _, m := range o.Members {
			peers = append(peers, m[0])
		}
		err := cluster.Found(o.Dir, cluster.FoundOptions{Name: o.name(), Advertise: advertise, Secret: secret, Peers: peers, Now: time.Now()})
		if err != nil {
			return nil, err
		}
	}
	logger := slog.New(slog.DiscardHandler)
	if o.Log != "" {
		f, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		logger = slog.New(slog.NewTextHandler(f, nil))
	}
	eo := engine.Options{Logger: logger}
	if o.Snapshots {
		eo.RetainLog, eo.SegmentSize = -1, 4<<20
	}
	m, err := cluster.Open(o.Dir, cluster.Options{Engine: eo, Timing: timing, Expect: len(o.Members), Logger: logger})
	if err != nil {
		return nil, err
	}
	x := &ours{m: m, stop: gcfloor.Start(32 << 20), ended: make(chan struct{})}
	if x.store, err = m.Start(context.Background()); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	go x.tend()
	return x, nil
}

// tend fetches the state anew when the member asks for it.
func (x *ours) tend() {
	for {
		select {
		case <-x.m.Rebuild():
		case <-x.ended:
			return
		}
		x.mu.Lock()
		x.store = nil
		x.mu.Unlock()
		err := x.m.Stop()
		var s *engine.Store
		if err == nil {
			s, err = x.m.Start(context.Background())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "rebuild:", err)
			os.Exit(1)
		}
		x.mu.Lock()
		x.store = s
		x.mu.Unlock()
	}
}

var errRebuilding = errors.New("the state is being fetched")

func (x *ours) Put(ctx context.Context, key, value []byte) error {
	x.mu.Lock()
	s := x.store
	x.mu.Unlock()
	if s == nil {
		return errRebuilding
	}
	_, err := s.Update(ctx, func(tx *engine.Tx) error { return tx.Put(table, key, value) })
	return err
}

func (x *ours) State() State {
	n := x.m.Node()
	if n == nil {
		return State{}
	}
	s := n.Status()
	return State{Leader: s.State == "Leader", Known: s.Leader != "", Term: s.Term, Applied: s.Applied, Address: x.address}
}

// Compact flushes what is in memory; segments behind it are given up.
func (x *ours) Compact() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, err := x.store.Checkpoint()
	return err
}

func (x *ours) Close() error {
	close(x.ended)
	if x.close != nil {
		x.close()
	}
	x.stop()
	return x.m.Close()
}

// MCP is a member that also serves MCP over HTTP, with a tool "put" which
// writes its argument in a durable transaction. It is of no use as a peer of
// the libraries and stands outside of Kinds.
var MCP = Kind{Name: "erlmcp-mcp", Open: openMCP}

type putIn struct {
	Key  string `json:"key" jsonschema:"name of the row"`
	Text string `json:"text" jsonschema:"what to keep"`
}

func openMCP(o Options) (Node, error) {
	x, err := openMember(o, fast)
	if err != nil {
		return nil, err
	}
	if err := x.await(time.Minute); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	backend := mcpserve.Backend{Name: "erlmcp-mcp", Old: "/mcp", New: "/mcp", Open: func(string) (http.Handler, func(), error) {
		r, err := mcp.NewRuntime(x.store, mcp.Options{Name: "bench", MaxSessions: 100_000, MaxRequests: 10_000})
		if err != nil {
			return nil, nil, err
		}
		tool := &sdk.Tool{Name: "put", Description: "keeps a text"}
		mcp.AddTool(r, tool, func(ctx context.Context, _ *sdk.CallToolRequest, in putIn) (*sdk.CallToolResult, any, error) {
			if err := x.Put(ctx, []byte(in.Key), []byte(in.Text)); err != nil {
				return nil, nil, err
			}
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "kept"}}}, nil, nil
		})
		return r.Handler(), func() { _ = r.Close() }, nil
	}}
	if x.address, x.close, err = mcpserve.Start(backend, filepath.Join(o.Dir, "mcp")); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// await waits until the cluster answers reads.
func (x *ours) await(limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := x.store.View(ctx, func(*engine.Tx) error { return nil })
		cancel()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
