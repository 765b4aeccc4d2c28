package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// changing adds "change", which commits a change, says so on changed, and ends when it may.
func changing(r *mcp.Runtime) (changed chan struct{}, end chan error) {
	changed, end = make(chan struct{}, 10), make(chan error, 10)
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "change", Description: "changes something"},
		func(ctx context.Context, _ *sdk.CallToolRequest, in struct {
			Text string `json:"text"`
		},
		) (*sdk.CallToolResult, textOut, error) {
			for _, key := range []string{in.Text, in.Text + "2"} {
				_, err := r.Store().Update(ctx, func(tx *engine.Tx) error { return tx.Put("own", []byte(key), nil) })
				if err != nil {
					return nil, textOut{}, err
				}
			}
			changed <- struct{}{}
			return nil, textOut{Text: "changed"}, <-end
		})
	return changed, end
}

// openRows counts the rows of calls that have not ended.
func openRows(t *testing.T, s *engine.Store) (n int) {
	t.Helper()
	require.NoError(t, s.View(context.Background(), func(tx *engine.Tx) error {
		return tx.Scan("mcp_audit_open", engine.Range{}, func(_, _ []byte) bool { n++; return true })
	}))
	return n
}

func TestAChangeHasItsRecordBeforeTheCallEnds(t *testing.T) {
	store := auditStore(t)
	r := newStored(t, store, mcp.Options{Audit: mcp.AuditOptions{Lag: time.Hour}}) // no row before Close
	changed, end := changing(r)
	answer := asking(r, callOf("change", `{"text":"x"}`))
	<-changed
	list := audited(t, r, mcp.AuditQuery{Tool: "change", Outcome: "unfinished"})
	require.Len(t, list, 1, "two commits, one record")
	require.Equal(t, "anonymous", list[0].Principal)
	require.Equal(t, "7", list[0].RequestID)
	require.Len(t, list[0].Arguments, 64)
	require.Empty(t, audited(t, r, mcp.AuditQuery{Tool: "echo"}))
	require.Empty(t, audited(t, r, mcp.AuditQuery{Until: list[0].Time}))
	open := list[0]

	end <- nil
	require.Contains(t, (<-answer).Body.String(), "changed")
	require.Equal(t, 1, openRows(t, store), "until the row with its end is there")
	require.NoError(t, r.Close())
	require.Zero(t, openRows(t, store))
	list = audited(t, r, mcp.AuditQuery{})
	require.Len(t, list, 1)
	require.Equal(t, "ok", list[0].Outcome)
	require.Equal(t, open.Arguments, list[0].Arguments)
}

func TestWhatAKilledProcessChangedIsInTheAuditLog(t *testing.T) {
	store := auditStore(t)
	r := newStored(t, store, mcp.Options{Audit: mcp.AuditOptions{Lag: time.Hour}})
	changed, end := changing(r)
	for _, text := range []string{"1", "2"} {
		end <- nil
		ask(r, "127.0.0.1:1", "", callOf("change", `{"text":"`+text+`"}`))
		<-changed
	}
	ask(r, "127.0.0.1:1", "", echo)
	// Another runtime on what is in the store: the first is as good as killed.
	next := newStored(t, store, mcp.Options{})
	ask(next, "127.0.0.1:1", "", echo)
	waitAudited(t, next, 1)
	list := audited(t, next, mcp.AuditQuery{})
	var outcomes []string
	for i, rec := range list {
		outcomes = append(outcomes, rec.Tool+" "+rec.Outcome)
		require.True(t, i == 0 || !rec.Time.After(list[i-1].Time), "newest first")
	}
	require.Equal(t, []string{"echo ok", "change unfinished", "change unfinished"}, outcomes)
	require.Len(t, audited(t, next, mcp.AuditQuery{Limit: 2}), 2)
	stop := errors.New("stop")
	require.ErrorIs(t, next.Audit(context.Background(), mcp.AuditQuery{Tool: "change"}, func(mcp.AuditRecord) error { return stop }), stop)
}

func TestACallWithoutAChangeLeavesNoOpenRecord(t *testing.T) {
	store := auditStore(t)
	r := newStored(t, store, mcp.Options{Audit: mcp.AuditOptions{Lag: time.Hour}})
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "abandon", Description: "changes its mind"},
		func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, textOut, error) {
			_, err := r.Store().Update(ctx, func(tx *engine.Tx) error {
				return errors.Join(tx.Put("own", []byte("x"), nil), errors.New("no"))
			})
			return nil, textOut{}, err
		})
	ask(r, "127.0.0.1:1", "", echo)
	ask(r, "127.0.0.1:1", "", callOf("abandon", `{}`))
	require.Zero(t, openRows(t, store))
}

func TestATaskIsRecordedWithItsCreation(t *testing.T) {
	store := auditStore(t)
	r := newStored(t, store, mcp.Options{Audit: mcp.AuditOptions{Lag: time.Hour}})
	addAudited(r)
	body := ask(r, "127.0.0.1:1", "", taskCallOf("job")).Body.String()
	require.Contains(t, body, "taskId")
	list := audited(t, r, mcp.AuditQuery{})
	require.Len(t, list, 1)
	require.Equal(t, "unfinished", list[0].Outcome)
	require.NoError(t, r.Close())
	list = audited(t, r, mcp.AuditQuery{})
	require.Len(t, list, 1)
	require.Equal(t, "task", list[0].Outcome)
	var answer struct{ Result struct{ TaskID string } }
	require.NoError(t, json.Unmarshal([]byte(body), &answer))
	require.Equal(t, answer.Result.TaskID, list[0].Task)
}
