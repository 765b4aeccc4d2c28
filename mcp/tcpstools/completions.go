package tcpstools

import (
	"context"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/tcps"
)

// proposals is how many rows a completion looks at: a few more than fit into
// an answer, so that it can say that there are more.
const proposals = 200

func (t *tools) addCompletions() {
	ids := func(table string) mcp.CompletionFunc {
		return func(ctx context.Context, _, prefix string, _ map[string]string) ([]string, error) {
			return t.newestIDs(ctx, table, prefix)
		}
	}
	for template, fn := range map[string]mcp.CompletionFunc{
		templateWorkOrder:         ids(tcps.TableWorkOrders),
		templateWorkOrderReceipts: ids(tcps.TableWorkOrders),
		templateWorkOrderAndon:    ids(tcps.TableWorkOrders),
		templateAndon:             ids(tcps.TableAndons),
		templateReceipt:           ids(tcps.TableReceipts),
		templateSKUReceipts:       t.completeSKU,
	} {
		t.rt.CompleteResource(template, fn)
	}
	for name, arguments := range map[string]map[string]mcp.CompletionFunc{
		promptHandover: {"bucket": completeBucket},
		promptTriage:   {"event_id": t.completeUnresolved},
		promptBatch:    {"bucket": completeBucket},
		promptWhys:     {"event_id": t.completeUnresolved},
		promptRelease:  {"sku_id": t.completeSKU},
	} {
		t.rt.CompletePrompt(name, func(ctx context.Context, argument, prefix string, given map[string]string) ([]string, error) {
			if fn := arguments[argument]; fn != nil {
				return fn(ctx, argument, prefix, given)
			}
			return nil, nil // free text
		})
	}
}

// newestIDs returns ids that begin with prefix. Ids made by the ledger hold the
// time, so descending order is newest first.
func (t *tools) newestIDs(ctx context.Context, table, prefix string) ([]string, error) {
	r := engine.Prefix([]byte(prefix))
	r.Reverse, r.Limit = true, proposals
	var ids []string
	err := t.store.View(ctx, func(tx *engine.Tx) error {
		ids = ids[:0]
		return tx.Scan(table, r, func(key, _ []byte) bool {
			ids = append(ids, string(key))
			return true
		})
	})
	if err != nil {
		return nil, toolError(err)
	}
	return ids, nil
}

func completeBucket(_ context.Context, _, prefix string, _ map[string]string) ([]string, error) {
	var out []string
	for _, b := range tcps.Buckets() {
		if strings.HasPrefix(string(b), strings.ToLower(prefix)) {
			out = append(out, string(b))
		}
	}
	return out, nil
}

// completeUnresolved proposes andon events that still stop the line.
func (t *tools) completeUnresolved(ctx context.Context, _, prefix string, _ map[string]string) ([]string, error) {
	page, err := t.ledger.ListAndons(ctx, tcps.ListAndonsInput{Unresolved: true, Limit: 1000})
	if err != nil {
		return nil, toolError(err)
	}
	var out []string
	for _, a := range page.Andons {
		if strings.HasPrefix(a.EventID, prefix) {
			out = append(out, a.EventID)
		}
	}
	return out, nil
}

// completeSKU proposes the products of the newest work orders.
func (t *tools) completeSKU(ctx context.Context, _, prefix string, _ map[string]string) ([]string, error) {
	page, err := t.ledger.ListWorkOrders(ctx, tcps.ListWorkOrdersInput{Limit: 1000})
	if err != nil {
		return nil, toolError(err)
	}
	var out []string
	for _, w := range page.WorkOrders {
		if w.SKUID != "" && strings.HasPrefix(w.SKUID, prefix) && !slices.Contains(out, w.SKUID) {
			out = append(out, w.SKUID)
		}
	}
	return out, nil
}
