package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/replication/cluster"
	"github.com/erlmcp/erlmcp/test/faults/faultfs"
	"github.com/erlmcp/erlmcp/test/process"
	"github.com/stretchr/testify/require"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "erlmcp-cluster")
	if err == nil {
		binary, err = process.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// node is one server.
type node struct {
	name, dir, address string
	space, host        string // network namespace and address in it; empty: the loopback
	rules              string // control file of its disk (test/faults/faultfs); empty: none
	server             *process.Server
	caller             *process.Caller
}

// fleet is a cluster of processes.
type fleet struct {
	t     *testing.T
	nodes []*node
	args  []string // of every server
	bin   string   // default: the product
	env   []string // of every server
	disks bool     // every member's disk obeys rules; bin must have been built for it

	mu    sync.Mutex // guards caller of the nodes against the clients
	acked map[string]bool

	history *history // nil before the first load
}

// freeAddress is of a port that no connection gets while its member is down, as those do which the system chooses: they are
// from 32768 on, or 49152.
func freeAddress(t *testing.T) string {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port between 12000 and 32000")
	return ""
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), process.Patience)
	defer cancel()
	code, out, err := process.Command(ctx, binary, args...)
	require.NoError(t, err)
	require.Zero(t, code, "%v: %s", args, out)
	return out
}

// command runs where the node's server runs.
func (x *node) command(t *testing.T, args ...string) {
	t.Helper()
	if x.space == "" {
		command(t, args...)
		return
	}
	out, err := exec.Command("ip", append([]string{"netns", "exec", x.space, binary}, args...)...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
}

// newFleet makes a cluster with init, token and join, as an operator would, on the loopback.
func newFleet(t *testing.T, n int) *fleet { return newFleetOn(t, n, nil) }

// site is a network that servers are started on.
type site interface {
	space(i int) string
	address(i int) string
}

// newFleetOn makes a cluster on a network; nil: the loopback. args are more arguments of serve.
func newFleetOn(t *testing.T, n int, on site, args ...string) *fleet {
	return (&fleet{t: t, args: args, bin: binary, acked: map[string]bool{}}).found(n, on)
}

// found makes the cluster of a fleet.
func (f *fleet) found(n int, on site) *fleet {
	t := f.t
	dir := t.TempDir()
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		x := &node{name: name, dir: filepath.Join(dir, name), address: freeAddress(t)}
		if on != nil {
			x.space, x.host = on.space(i), on.address(i)
			if x.host != "" {
				x.address = net.JoinHostPort(x.host, "7400")
			}
			if d, ok := on.(interface{ disk(dir string) }); ok {
				d.disk(x.dir)
			}
		}
		f.nodes = append(f.nodes, x)
	}
	t.Cleanup(func() {
		for _, x := range f.nodes {
			if x.server != nil {
				x.server.Kill()
			}
		}
	})
	first := f.nodes[0]
	command(t, "cluster", "init", "--data", first.dir, "--name", first.name, "--advertise", first.address)
	f.start(first)
	token := strings.TrimSpace(command(t, "cluster", "token", "--data", first.dir, "--uses", fmt.Sprint(n-1)))
	for _, x := range f.nodes[1:] {
		x.command(t, "cluster", "join", "--data", x.dir, "--name", x.name, "--advertise", x.address, token)
		f.start(x)
	}
	ctx, cancel := context.WithTimeout(context.Background(), process.Patience)
	defer cancel()
	_, err := first.caller.Call(ctx, "wip_set_limit", map[string]any{"bucket": "reliability", "limit": 0, "unlimited": true, "idempotency_key": "limit"})
	require.NoError(t, err)
	f.wait("all voters", func() bool {
		votes := 0
		for _, m := range f.status(first).Members {
			if m.Votes {
				votes++
			}
		}
		return votes == n
	})
	return f
}

func (f *fleet) start(x *node) {
	f.t.Helper()
	require.NoError(f.t, f.tryStart(x))
}

// tryStart is start for other goroutines than the test's.
func (f *fleet) tryStart(x *node) error {
	o := process.Options{Binary: f.bin, Dir: x.dir, Args: f.args, Env: f.env}
	if f.disks {
		x.rules = x.dir + ".rules"
		o.Env = append(slices.Clone(f.env), faultfs.Variable+"="+x.rules)
	}
	if x.space != "" {
		o.Wrap = []string{"ip", "netns", "exec", x.space}
		o.Listen = net.JoinHostPort(x.host, "8080")
		o.Args = append([]string{"--set", "auth.allow_anonymous=on", "--set", "server.allowed_hosts=" + x.host}, f.args...)
	}
	s, err := process.Start(o)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x.server, x.caller = s, s.Caller()
	return nil
}

func (f *fleet) kill(x *node) {
	f.mu.Lock()
	s := x.server
	x.server, x.caller = nil, nil
	f.mu.Unlock()
	s.Kill()
}

func (f *fleet) stop(x *node) {
	f.t.Helper()
	f.mu.Lock()
	s := x.server
	x.server, x.caller = nil, nil
	f.mu.Unlock()
	code, err := s.Stop()
	require.NoError(f.t, err)
	require.Zero(f.t, code, s.Stderr())
}

// status is zero while the member does not answer.
func (f *fleet) status(x *node) (st cluster.Status) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, out, err := process.Command(ctx, binary, "cluster", "status", "--json", "--data", x.dir)
	if err == nil {
		_ = json.Unmarshal([]byte(out), &st)
	}
	return st
}

func (f *fleet) wait(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(process.Patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			for _, x := range f.nodes {
				if x.server != nil {
					f.t.Logf("%s: %s", x.name, x.server.Stderr())
				}
			}
			f.t.Fatalf("%s did not happen within %v", what, process.Patience)
		}
	}
}

// leader waits for a member that leads and has a majority.
func (f *fleet) leader(except ...*node) *node {
	f.t.Helper()
	var found *node
	f.wait("a leader", func() bool {
	nodes:
		for _, x := range f.nodes {
			for _, e := range except {
				if x == e {
					continue nodes
				}
			}
			if x.server == nil {
				continue
			}
			if st := f.status(x); st.State == "Leader" && st.Quorum {
				found = x
				return true
			}
		}
		return false
	})
	return found
}

// write makes a work order, on whatever member answers.
func (f *fleet) write(ctx context.Context, key string, at int) error {
	args := map[string]any{
		"signal": map[string]any{"type": "internal_request", "source": key, "description": "made by a test"},
		"bucket": "reliability", "idempotency_key": key,
	}
	_, err := f.persist(ctx, at, "work_order_create", args)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.acked[key] = true
	f.mu.Unlock()
	return nil
}

// load lets clients make work orders, and six others write and read registers, until the returned function is called, which
// reports what went wrong.
func (f *fleet) load(prefix string, clients int) func() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var bad []error
	failed := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		bad = append(bad, err)
	}
	if f.history == nil {
		f.history = newHistory()
		require.NoError(f.t, f.history.prepare(ctx, f))
	}
	for c := range 6 {
		wg.Go(func() {
			if err := f.history.client(ctx, f, c+1); err != nil {
				failed(err)
			}
		})
	}
	for c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ctx.Err() == nil; i++ {
				if err := f.write(ctx, fmt.Sprintf("%s-%d-%d", prefix, c, i), c); err != nil && ctx.Err() == nil {
					failed(err)
				}
			}
		}()
	}
	return func() {
		cancel()
		wg.Wait()
		require.Empty(f.t, bad)
	}
}

// check waits until all members have the same state and every acknowledged change is on each of them, and judges the history.
func (f *fleet) check() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), process.Patience)
	err := f.write(ctx, fmt.Sprintf("end-%d", time.Now().UnixNano()), 0)
	cancel()
	require.NoError(f.t, err)
	f.wait("equal states", func() bool {
		seen := map[string]bool{}
		for _, x := range f.nodes {
			st := f.status(x)
			seen[fmt.Sprint(st.StateIndex, st.StateHash)] = true
		}
		return len(seen) == 1 && !seen["0 "]
	})
	for _, x := range f.nodes {
		titles := map[string]int{}
		cursor := ""
		for {
			args := map[string]any{"limit": 500}
			if cursor != "" {
				args["cursor"] = cursor
			}
			pctx, cancel := context.WithTimeout(context.Background(), process.Patience) // a page of many, after a long run
			raw, err := x.caller.Call(pctx, "work_order_list", args)
			cancel()
			require.NoError(f.t, err)
			var page struct {
				Orders []struct {
					Signal string `json:"demand_signal"`
				} `json:"work_orders"`
				Next string `json:"next_cursor"`
			}
			require.NoError(f.t, json.Unmarshal(raw, &page))
			for _, o := range page.Orders {
				titles[o.Signal]++
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		for key := range f.acked {
			require.Equal(f.t, 1, titles[key], "acknowledged change %s on %s", key, x.name)
		}
		for title, n := range titles {
			require.Equal(f.t, 1, n, "%s is there twice on %s", title, x.name)
		}
	}
	if f.history != nil {
		f.history.judge(f)
	}
	f.t.Logf("%d acknowledged changes are on all %d members", len(f.acked), len(f.nodes))
}

func (f *fleet) indexOf(x *node) int {
	for i, y := range f.nodes {
		if y == x {
			return i
		}
	}
	f.t.Fatal("not of this fleet")
	return -1
}
