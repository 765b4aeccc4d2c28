package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp/failover"
	"github.com/erlmcp/erlmcp/test/process"
)

// url is where the clients of a member find it.
func (f *fleet) url(x *node) string {
	for _, m := range f.status(x).Members {
		if m.Name == x.name {
			return m.URL
		}
	}
	f.t.Fatalf("%s has no URL", x.name)
	return ""
}

// TestACallOutlivesTheLeader: sessions of the official SDK's client, over the failover transport, make changes without a pause while the leader is
// killed. The application sees neither the death nor a new session.
func TestACallOutlivesTheLeader(t *testing.T) {
	f := newFleet(t, 3)
	l := f.leader()
	urls := []string{f.url(l)} // all clients begin with the one that will die
	for _, x := range f.nodes {
		if x != l {
			urls = append(urls, f.url(x))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), process.Patience)
	defer cancel()
	const clients, calls = 6, 60
	var wg sync.WaitGroup
	longest := make([]time.Duration, clients)
	halfway := make(chan struct{})
	var half sync.Once
	for c := range clients {
		session, err := failover.Connect(ctx, sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil), failover.Options{Endpoints: urls}, nil)
		require.NoError(t, err)
		defer session.Close()
		id := session.ID()
		wg.Go(func() {
			for i := range calls {
				if i == calls/3 {
					half.Do(func() { close(halfway) })
				}
				key := fmt.Sprintf("sdk-%d-%d", c, i)
				began := time.Now()
				res, err := session.CallTool(ctx, &sdk.CallToolParams{Name: "work_order_create", Arguments: map[string]any{
					"signal": map[string]any{"type": "internal_request", "source": key, "description": "made by a test"}, "bucket": "reliability",
				}})
				if err != nil || res.IsError {
					t.Errorf("%s: %v %+v", key, err, res)
					return
				}
				longest[c] = max(longest[c], time.Since(began))
				f.mu.Lock()
				f.acked[key] = true
				f.mu.Unlock()
			}
			if session.ID() != id {
				t.Errorf("session %s became %s", id, session.ID())
			}
		})
	}
	<-halfway
	f.kill(l)
	wg.Wait()
	require.Len(t, f.acked, clients*calls)
	t.Logf("longest calls of the clients: %v", longest)
	f.start(l)
	f.check()
}
