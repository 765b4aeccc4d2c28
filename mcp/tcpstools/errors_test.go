package tcpstools

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
)

func TestEveryErrorOfTheLayersBelowIsExplained(t *testing.T) {
	for _, c := range []struct {
		err   error
		code  string
		retry bool
	}{
		{engine.ErrOverloaded, "overloaded", true},
		{engine.ErrNoSpace, "no_space", true},
		{engine.ErrConflict, "conflict", true},
		{engine.ErrTooLarge, "too_large", false},
		{engine.ErrReadOnly, "read_only", false},
		{engine.ErrIdempotencyMismatch, "idempotency_mismatch", false},
		{errors.Join(engine.ErrUnknownOutcome, context.DeadlineExceeded), "unknown_outcome", true},
		{context.DeadlineExceeded, "timeout", true},
		{context.Canceled, "cancelled", true},
		{&tcps.Error{Code: "wip_limit", Message: "full"}, "wip_limit", false},
	} {
		var why *refusal
		require.ErrorAs(t, toolError(fmt.Errorf("create work order: %w", c.err)), &why, "%v", c.err)
		require.Equal(t, c.code, why.Code)
		require.Equal(t, c.retry, why.Retry, c.code)
		require.NotEmpty(t, why.Message)
	}
	for _, err := range []error{engine.ErrFailed, engine.ErrClosed, engine.ErrCorrupt, errors.New("surprise")} {
		var rpc *jsonrpc.Error
		require.ErrorAs(t, toolError(err), &rpc, "%v", err)
		require.Equal(t, int64(jsonrpc.CodeInternalError), rpc.Code)
	}
}

func TestActorIsPrintableAndBounded(t *testing.T) {
	require.Equal(t, "mcp:unknown", actor(nil))
	require.Equal(t, "mcp:unknown", actor(&sdk.Implementation{}))
	require.Equal(t, "mcp:claude", actor(&sdk.Implementation{Name: "claude"}))
	require.Equal(t, "mcp:a_b__c_", actor(&sdk.Implementation{Name: "a b\n\x00c\u2028"}))
	require.Len(t, actor(&sdk.Implementation{Name: strings.Repeat("x", 1000)}), 4+maxClientName)
}

func TestChangedRowsNameTheResourcesThatShowThem(t *testing.T) {
	for _, c := range []struct {
		table, key, value string
		want              []string
	}{
		{tcps.TableWorkOrders, "WO-1", `{}`, []string{uriWorkOrders, uriMetrics, "tcps://work_orders/WO-1"}},
		{tcps.TableWIPLimits, "cost", `{}`, []string{uriMetrics}},
		{tcps.TableReceipts, "a/b", `{"work_order_id":"WO-1","sku_id":"S/1"}`, []string{
			"tcps://receipts/a%2Fb", "tcps://work_orders/WO-1", "tcps://work_orders/WO-1/receipts", "tcps://receipts/sku/S%2F1",
		}},
		{tcps.TableAndons, "A-1", `{"related_work_order_id":"WO-2"}`, []string{
			uriAndon, uriMetrics, "tcps://andon/A-1", "tcps://work_orders/WO-2", "tcps://work_orders/WO-2/andon",
		}},
		{tcps.TableAndons, "A-1", ``, []string{uriAndon, uriMetrics, "tcps://andon/A-1"}},
		{tcps.TableReceipts, "R-1", `not json`, []string{"tcps://receipts/R-1"}},
		{tcps.TableChanges, "x", `{}`, nil},
		{"other", "x", `{}`, nil},
	} {
		require.Equal(t, c.want, touched(engine.Event{Table: c.table, Key: []byte(c.key), Value: []byte(c.value)}))
	}
}

func TestWatchThatFellBehindStartsOverAndSaysSo(t *testing.T) {
	ends := []error{engine.ErrCompacted, fmt.Errorf("next: %w", engine.ErrCompacted), engine.ErrClosed, engine.ErrCompacted}
	followed, missed := 0, 0
	keepFollowing(t.Context(), func(context.Context) error {
		followed++
		return ends[followed-1]
	}, func() { missed++ })
	require.Equal(t, 3, followed, "a closed store ends it")
	require.Equal(t, 2, missed)
}
