package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/conversation"
	"github.com/erlmcp/erlmcp/test/nodejs"
	"github.com/erlmcp/erlmcp/test/process"
)

// The conversations of test/conversation with a cluster: the official Go SDK through mcp/failover, and the official TypeScript SDK
// with the rule of docs/cluster.md in its fetch, while members die, freeze and lose each other behind any message.

var fixtures struct {
	once sync.Once
	path string
	err  error
}

// fixtureServer is the product with the fixtures' tools, and with disks that obey rules where they are told to.
func fixtureServer(t *testing.T) string {
	t.Helper()
	fixtures.once.Do(func() { fixtures.path, fixtures.err = process.Build(filepath.Dir(binary), "fixtures", "faults") })
	require.NoError(t, fixtures.err)
	return fixtures.path
}

// talkers make a fleet with the fixtures' tools beside the product's.
func talkers(t *testing.T, on site, args ...string) *talks {
	t.Helper()
	effects := filepath.Join(t.TempDir(), "effects")
	f := &fleet{t: t, bin: fixtureServer(t), args: append([]string{"--set", "mcp.tasks.lease=2s"}, args...), env: []string{"ERLMCP_TEST_EFFECTS=" + effects}, acked: map[string]bool{}}
	return &talks{f: f.found(3, on), effects: effects}
}

// talks are conversations with one fleet, one after the other.
type talks struct {
	f       *fleet
	effects string
	runs    int
	back    sync.WaitGroup // members that are on their way back
	failed  chan error
	wire    *conversation.Wire // of the conversation under way
	order   []*node            // as the wire numbers them
}

// whole reports whether all members serve and know a leader.
func (k *talks) whole() bool {
	for _, x := range k.f.nodes {
		k.f.mu.Lock()
		up := x.server != nil
		k.f.mu.Unlock()
		if !up || !k.f.status(x).Quorum {
			return false
		}
	}
	return true
}

// urlOf is where the member's clients find it; nil: it is down.
func (k *talks) urlOf(x *node) *url.URL {
	k.f.mu.Lock()
	defer k.f.mu.Unlock()
	if x.server == nil {
		return nil
	}
	u, _ := url.Parse(x.server.URL())
	return u
}

// bounce kills a member and starts it again soon.
func (k *talks) bounce(x *node) { k.bounceAfter(x, func() error { return nil }) }

// bounceAfter does something to the member's directory in between.
func (k *talks) bounceAfter(x *node, between func() error) {
	k.f.mu.Lock()
	s := x.server
	x.server, x.caller = nil, nil
	k.f.mu.Unlock()
	if s == nil {
		return
	}
	s.Kill()
	k.back.Go(func() {
		err := between()
		if err == nil {
			err = k.f.tryStart(x)
		}
		if err != nil {
			k.failed <- fmt.Errorf("%s does not start again: %w", x.name, err)
		}
	})
}

// talk has one conversation that begins with member first. harm does harm behind messages, and returns how often it did.
func (k *talks) talk(t *testing.T, client conversation.Client, wanted []conversation.WantedStep, first, most int, harm func(n, at int) bool) (messages []string, harms int) {
	t.Helper()
	k.runs++
	k.failed = make(chan error, 100)
	require.NoError(t, os.Truncate(k.effects, 0))
	var targets []func() *url.URL
	nodes := append(append([]*node{}, k.f.nodes[first:]...), k.f.nodes[:first]...)
	for _, x := range nodes {
		targets = append(targets, func() *url.URL { return k.urlOf(x) })
	}
	k.order = nodes
	w := conversation.NewWire(func(w *conversation.Wire, n, at int) {
		k.wire = w
		if harms < most && harm(n, k.f.indexOf(nodes[at])) {
			harms++
		}
	}, targets...)
	began := time.Now()
	got := client(w.URLs(), fmt.Sprintf("@%d", k.runs), 1+most)
	w.Close()
	k.back.Wait()
	close(k.failed)
	for err := range k.failed {
		require.NoError(t, err)
	}
	wrong := append(conversation.Judge(wanted, got, harms, k.effects), w.Rules()...)
	messages = w.Messages()
	if len(wrong) > 0 {
		for _, line := range wrong {
			t.Error(line)
		}
		for i, m := range messages {
			t.Logf("%3d %s", i+1, m)
		}
		for _, x := range k.f.nodes {
			if x.server != nil {
				t.Logf("%s: %s", x.name, x.server.Stderr())
			}
		}
	}
	t.Logf("%d messages, %d times harm, %v", len(messages), harms, time.Since(began).Round(time.Millisecond))
	return messages, harms
}

func never(int, int) bool { return false }

func TestGoClientTalksToADyingCluster(t *testing.T) {
	dyingCluster(t, conversation.TalkGo, conversation.WantedInSession)
}

func TestStatelessGoClientTalksToADyingCluster(t *testing.T) {
	dyingCluster(t, conversation.TalkStateless, conversation.WantedStateless)
}

func TestTypeScriptClientTalksToADyingCluster(t *testing.T) {
	client, err := conversation.TypeScript(nodejs.Require(t), t.TempDir())
	require.NoError(t, err)
	dyingCluster(t, client, conversation.WantedInSession)
}

// dyingCluster kills the member that passed a message, behind several messages of one conversation, whenever the cluster is whole
// again; with ERLMCP_CONVERSATIONS=all behind each message of a conversation of its own, and then the leader.
func dyingCluster(t *testing.T, client conversation.Client, wanted []conversation.WantedStep) {
	if testing.Short() {
		t.Skip("kills members for some seconds")
	}
	k := talkers(t, nil)
	messages, _ := k.talk(t, client, wanted, 0, 0, never)
	require.False(t, t.Failed(), "the conversation fails even without harm")
	if os.Getenv("ERLMCP_CONVERSATIONS") == "all" {
		for _, whom := range []string{"the member that passed it", "the leader"} {
			for at := 1; at <= len(messages)+5 && !t.Failed(); at++ {
				t.Logf("%s is killed behind message %d", whom, at)
				k.f.wait("a whole cluster", k.whole)
				first := k.f.indexOf(k.f.leader())
				if at%2 == 0 {
					first = (first + 1) % len(k.f.nodes)
				}
				leader := k.f.leader()
				k.talk(t, client, wanted, first, 1, func(n, passed int) bool {
					if n != at {
						return false
					}
					if whom == "the leader" {
						k.bounce(leader)
					} else {
						k.bounce(k.f.nodes[passed])
					}
					return true
				})
			}
		}
		return
	}
	stride := len(messages)/3 + 1
	next := stride / 2
	_, harms := k.talk(t, client, wanted, k.f.indexOf(k.f.leader()), 3, func(n, passed int) bool {
		if n < next || !k.whole() {
			return false
		}
		next = n + stride
		k.bounce(k.f.nodes[passed])
		return true
	})
	require.Positive(t, harms)
}

// TestClientsMoveBetweenLiveMembers cuts a client off the member it talks to, again and again: it comes back to members that still
// remember its session as it was.
func TestClientsMoveBetweenLiveMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("talks for some seconds")
	}
	k := talkers(t, nil)
	for name, talker := range k.clients(t) {
		t.Run(name, func(t *testing.T) {
			if talker.client == nil {
				t.Skip("no Node here: what runs in Node was NOT tested")
			}
			often, most := []int{3}, 8
			if os.Getenv("ERLMCP_CONVERSATIONS") == "all" {
				often, most = []int{1, 2, 3, 4, 5, 7, 11}, 20
			}
			for _, every := range often {
				was := -1
				_, harms := k.talk(t, talker.client, talker.wanted, 0, most, func(n, passed int) bool {
					if n%every != 0 {
						return false
					}
					at := slices.Index(k.order, k.f.nodes[passed])
					if was >= 0 {
						k.wire.Cut(was, false)
					}
					k.wire.Cut(at, true)
					was = at
					return true
				})
				require.Positive(t, harms)
			}
		})
	}
}

// TestClientsTalkWhileALogIsMended: the member that the client talks to dies, and its log is damaged before it comes back; repair puts
// it back from the others, which serve the client meanwhile.
func TestClientsTalkWhileALogIsMended(t *testing.T) {
	if testing.Short() {
		t.Skip("writes some segments")
	}
	k := talkers(t, nil, "--set", "storage.segment_size=256KiB", "--set", "storage.max_value_bytes=116KiB")
	end := k.f.load("fill", 6)
	sealed := func(x *node) []string {
		segments, _ := filepath.Glob(filepath.Join(x.dir, "wal", "*.seg"))
		slices.Sort(segments)
		return segments[:max(0, len(segments)-2)] // one is written to, one is prepared
	}
	k.f.wait("sealed segments", func() bool {
		return !slices.ContainsFunc(k.f.nodes, func(x *node) bool { return len(sealed(x)) < 3 })
	})
	end()
	k.f.wait("a whole cluster", k.whole)
	_, harms := k.talk(t, conversation.TalkGo, conversation.WantedInSession, 0, 1, func(n, passed int) bool {
		if n < 14 {
			return false
		}
		victim := k.f.nodes[passed]
		k.bounceAfter(victim, func() error { return mendDamaged(victim, sealed(victim)[1]) })
		return true
	})
	require.Equal(t, 1, harms)
	k.f.wait("a whole cluster", k.whole)
	k.f.check()
}

// mendDamaged flips a bit in the log of a stopped member and has repair put it back.
func mendDamaged(x *node, segment string) error {
	whole, err := os.ReadFile(segment)
	if err != nil {
		return err
	}
	damaged := bytes.Clone(whole)
	batch := bytes.Index(damaged[len(damaged)/3:], []byte("BATC")) // what lies between batches means nothing
	if batch < 0 {
		return fmt.Errorf("no batch in the last two thirds of %s", segment)
	}
	damaged[len(damaged)/3+batch+4] ^= 4
	if err := os.WriteFile(segment, damaged, 0o600); err != nil {
		return err
	}
	code, out, err := process.Command(context.Background(), binary, "cluster", "repair", "--data", x.dir)
	if err != nil || code != 0 {
		return fmt.Errorf("repair: code %d, %w\n%s", code, err, out)
	}
	if now, err := os.ReadFile(segment); err != nil || !bytes.Equal(now, whole) {
		return fmt.Errorf("repair left the segment damaged (%v)\n%s", err, out)
	}
	return nil
}

// talker is a client and what it should get.
type talker struct {
	client conversation.Client
	wanted []conversation.WantedStep
}

// clients are all by name.
func (k *talks) clients(t *testing.T) map[string]talker {
	return map[string]talker{
		"go":         {conversation.TalkGo, conversation.WantedInSession},
		"stateless":  {conversation.TalkStateless, conversation.WantedStateless},
		"typescript": {k.typescript(t), conversation.WantedInSession},
	}
}

// typescript is nil where Node is not available.
func (k *talks) typescript(t *testing.T) conversation.Client {
	tools, err := nodejs.Install(t.Context())
	if errors.Is(err, nodejs.ErrUnavailable) && os.Getenv("CI") != "true" {
		return nil
	}
	require.NoError(t, err)
	client, err := conversation.TypeScript(tools, t.TempDir())
	require.NoError(t, err)
	return client
}
