package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/failover"
	"github.com/erlmcp/erlmcp/test/conversation"
	"github.com/erlmcp/erlmcp/test/process"
)

// calling runs long_job, with its question answered, through the members in order, until it ends.
func (k *talks) calling(ctx context.Context, key string, steps, pause int, order ...*node) <-chan string {
	done := make(chan string, 1)
	var urls []string
	for _, x := range order {
		urls = append(urls, k.urlOf(x).String())
	}
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, &sdk.ClientOptions{
		ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"name": "somebody"}}, nil
		},
	})
	go func() {
		session, err := failover.Connect(ctx, client, failover.Options{Endpoints: urls, Try: 2 * time.Second, Silence: 3 * time.Second},
			&sdk.ClientSessionOptions{ProtocolVersion: "2025-11-25"})
		if err != nil {
			done <- err.Error()
			return
		}
		defer session.Close()
		res, err := session.CallTool(ctx, &sdk.CallToolParams{
			Meta: sdk.Meta{mcp.MetaIdempotencyKey: key}, Name: "long_job", Arguments: map[string]any{"key": key, "steps": steps, "pause": pause},
		})
		if err != nil {
			done <- err.Error()
			return
		}
		text, _ := json.Marshal(res.Content)
		done <- string(text)
	}()
	return done
}

// trace are the lines that a job left.
func (k *talks) trace(key string) (lines []string) {
	raw, err := os.ReadFile(k.effects)
	require.NoError(k.f.t, err)
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, " "+key+" ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// TestATaskOutlivesItsMember: the member that works on a task is killed for good, frozen for longer than the lease, or cut off, in the
// middle of a step. Another one finishes the task; no step that is finished runs again, and what the old holder wakes up with does
// not count.
func TestATaskOutlivesItsMember(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for leases")
	}
	k := talkers(t, nil)
	const steps, pause = 6, 700
	for name, harm := range map[string]func(x *node) (undo func()){
		"killed": func(x *node) func() {
			k.f.kill(x)
			return func() { k.f.start(x) }
		},
		"frozen": func(x *node) func() {
			require.NoError(t, syscall.Kill(x.server.PID(), syscall.SIGSTOP))
			return func() { require.NoError(t, syscall.Kill(x.server.PID(), syscall.SIGCONT)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			k.f.wait("a whole cluster", k.whole)
			require.NoError(t, os.Truncate(k.effects, 0))
			ctx, cancel := context.WithTimeout(t.Context(), process.Patience)
			defer cancel()
			l := k.f.leader()
			order := slices.Concat([]*node{l}, slices.DeleteFunc(slices.Clone(k.f.nodes), func(x *node) bool { return x == l }))
			done := k.calling(ctx, "task-"+name, steps, pause, order...)
			k.f.wait("the second step", func() bool { return slices.Contains(k.trace("task-"+name), fmt.Sprintf("run task-%s 2", name)) })
			undo := harm(l)
			began := time.Now()
			k.f.wait("another member goes on", func() bool { return slices.Contains(k.trace("task-"+name), fmt.Sprintf("run task-%s 3", name)) })
			t.Logf("the task goes on elsewhere after %v", time.Since(began).Round(time.Millisecond))
			undo() // while the other one is at it
			result := <-done
			require.Contains(t, result, fmt.Sprintf("task-%s: %d steps for somebody", name, steps))
			k.f.wait("a whole cluster", k.whole)
			lines := k.trace("task-" + name)
			require.Empty(t, conversation.JudgeTrace(strings.Join(lines, "\n")+"\n", 1), "%q", lines)
			for step := 1; step <= steps; step++ {
				n := 0
				for _, line := range lines {
					if line == fmt.Sprintf("run task-%s %d", name, step) {
						n++
					}
				}
				if step == 2 {
					require.LessOrEqual(t, n, 2, "the step that was under way may run again")
				} else {
					require.Equal(t, 1, n, "step %d: %q", step, lines)
				}
			}
		})
	}
	k.f.check()
}
