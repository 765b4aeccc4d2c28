package tcpstools

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
)

// watch follows the committed changes and names the resources they touch, until
// the runtime or the store closes.
func (t *tools) watch(ctx context.Context) {
	keepFollowing(ctx, t.follow, t.rt.AllResourcesChanged)
}

// keepFollowing starts over when it fell behind the retained log; what changed
// meanwhile is unknown then, and missed says so.
func keepFollowing(ctx context.Context, follow func(context.Context) error, missed func()) {
	for ctx.Err() == nil && errors.Is(follow(ctx), engine.ErrCompacted) {
		missed()
	}
}

func (t *tools) follow(ctx context.Context) error {
	w := t.store.Watch(ctx, engine.WatchOptions{})
	defer w.Close()
	for {
		event, err := w.Next()
		if err != nil {
			return err
		}
		t.rt.ResourceChanged(touched(event)...)
	}
}

// touched lists the resources that show a changed row.
func touched(e engine.Event) []string {
	id := url.PathEscape(string(e.Key))
	var row struct {
		WorkOrderID        string `json:"work_order_id"`
		RelatedWorkOrderID string `json:"related_work_order_id"`
		SKUID              string `json:"sku_id"`
	}
	switch e.Table {
	case tcps.TableWorkOrders:
		return []string{uriWorkOrders, uriMetrics, "tcps://work_orders/" + id}
	case tcps.TableWIPLimits:
		return []string{uriMetrics}
	case tcps.TableAndons:
		_ = json.Unmarshal(e.Value, &row) // a deleted row has no value, and names no other resource
		uris := []string{uriAndon, uriMetrics, "tcps://andon/" + id}
		for _, order := range []string{row.WorkOrderID, row.RelatedWorkOrderID} {
			if order != "" {
				order = url.PathEscape(order)
				uris = append(uris, "tcps://work_orders/"+order, "tcps://work_orders/"+order+"/andon")
			}
		}
		return uris
	case tcps.TableReceipts:
		_ = json.Unmarshal(e.Value, &row)
		uris := []string{"tcps://receipts/" + id}
		if row.WorkOrderID != "" {
			order := url.PathEscape(row.WorkOrderID)
			uris = append(uris, "tcps://work_orders/"+order, "tcps://work_orders/"+order+"/receipts")
		}
		if row.SKUID != "" {
			uris = append(uris, "tcps://receipts/sku/"+url.PathEscape(row.SKUID))
		}
		return uris
	}
	return nil
}
