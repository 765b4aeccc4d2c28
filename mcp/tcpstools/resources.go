package tcpstools

import (
	"context"
	"errors"
	"net/url"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/tcps"
)

// The resources that exist without parameters.
const (
	uriWorkOrders = "tcps://work_orders"
	uriAndon      = "tcps://andon"
	uriMetrics    = "tcps://metrics"
)

// The resource templates.
const (
	templateWorkOrder         = "tcps://work_orders/{id}"
	templateWorkOrderReceipts = "tcps://work_orders/{id}/receipts"
	templateWorkOrderAndon    = "tcps://work_orders/{id}/andon"
	templateAndon             = "tcps://andon/{id}"
	templateReceipt           = "tcps://receipts/{id}"
	templateSKUReceipts       = "tcps://receipts/sku/{sku}"
)

const mimeJSON = "application/json"

// listed is how many rows a list resource shows, the newest or most pressing.
const listed = 100

func (t *tools) addResources() {
	s := t.rt.Server()
	for _, r := range []sdk.Resource{
		{URI: uriWorkOrders, Name: "work_orders", Title: "Work orders", Description: "The 100 newest work orders."},
		{URI: uriAndon, Name: "andon", Title: "Unresolved andon events", Description: "What stops the line now, oldest first, at most 100."},
		{URI: uriMetrics, Name: "metrics", Title: "Line metrics", Description: "Work in progress, queue depths, open andon events and SLA breaches at this moment."},
	} {
		r.MIMEType = mimeJSON
		s.AddResource(&r, t.read)
	}
	for _, r := range []sdk.ResourceTemplate{
		{URITemplate: templateWorkOrder, Name: "work_order", Title: "Work order", Description: "One work order with SLA standing, dependencies, receipts and andon events."},
		{URITemplate: templateWorkOrderReceipts, Name: "work_order_receipts", Title: "Receipts of a work order", Description: "The receipts of one work order, oldest first, at most 1000."},
		{URITemplate: templateWorkOrderAndon, Name: "work_order_andon", Title: "Andon events of a work order", Description: "The andon events of one work order, oldest first, at most 1000."},
		{URITemplate: templateAndon, Name: "andon_event", Title: "Andon event", Description: "One andon event."},
		{URITemplate: templateReceipt, Name: "receipt", Title: "Receipt", Description: "One receipt."},
		{URITemplate: templateSKUReceipts, Name: "sku_receipts", Title: "Receipts of a product", Description: "The receipts of one product (SKU), oldest first, at most 1000."},
	} {
		r.MIMEType = mimeJSON
		s.AddResourceTemplate(&r, t.read)
	}
}

// read serves every tcps:// resource.
func (t *tools) read(ctx context.Context, req *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
	contents, err := t.contents(ctx, req.Params.URI)
	if err != nil {
		return nil, err
	}
	return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{contents}}, nil
}

// contents renders a resource as JSON.
func (t *tools) contents(ctx context.Context, uri string) (*sdk.ResourceContents, error) {
	v, err := t.lookup(ctx, uri)
	if err != nil {
		return nil, resourceError(uri, err)
	}
	text, err := encode(v)
	if err != nil {
		return nil, internal(err)
	}
	return &sdk.ResourceContents{URI: uri, MIMEType: mimeJSON, Text: text}, nil
}

// resourceError maps an error to the JSON-RPC error of a read.
func resourceError(uri string, err error) error {
	for _, unknown := range []error{tcps.ErrNotFound, tcps.ErrWorkOrderNotFound, tcps.ErrAndonNotFound, tcps.ErrReceiptNotFound} {
		if errors.Is(err, unknown) {
			return sdk.ResourceNotFoundError(uri)
		}
	}
	var why *refusal
	if err := toolError(err); !errors.As(err, &why) {
		return err
	}
	code := jsonrpc.CodeInvalidParams
	if why.Retry {
		code = jsonrpc.CodeInternalError
	}
	return &jsonrpc.Error{Code: int64(code), Message: why.Error()}
}

// lookup finds what a URI names. An unknown URI is tcps.ErrNotFound.
func (t *tools) lookup(ctx context.Context, uri string) (any, error) {
	path, ok := strings.CutPrefix(uri, "tcps://")
	if !ok {
		return nil, tcps.ErrNotFound
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		var err error
		if parts[i], err = url.PathUnescape(parts[i]); err != nil || parts[i] == "" {
			return nil, tcps.ErrNotFound
		}
	}
	switch kind := parts[0]; {
	case len(parts) == 1:
		return t.overview(ctx, kind)
	case kind == "work_orders" && len(parts) <= 3:
		return t.workOrder(ctx, parts[1], parts[2:])
	case kind == "andon" && len(parts) == 2:
		return t.ledger.GetAndon(ctx, parts[1])
	case kind == "receipts" && len(parts) == 2:
		return t.ledger.GetReceipt(ctx, parts[1])
	case kind == "receipts" && len(parts) == 3 && parts[1] == "sku":
		return t.ledger.ListReceipts(ctx, tcps.ListReceiptsInput{SKUID: parts[2], Limit: 1000})
	}
	return nil, tcps.ErrNotFound
}

func (t *tools) overview(ctx context.Context, name string) (any, error) {
	switch name {
	case "work_orders":
		return t.ledger.ListWorkOrders(ctx, tcps.ListWorkOrdersInput{Limit: listed})
	case "andon":
		return t.ledger.ListAndons(ctx, tcps.ListAndonsInput{Unresolved: true, Limit: listed})
	case "metrics":
		return t.ledger.Metrics(ctx)
	}
	return nil, tcps.ErrNotFound
}

// workOrder returns one order, or what part names of it.
func (t *tools) workOrder(ctx context.Context, id string, part []string) (any, error) {
	if len(part) == 1 && part[0] != "receipts" && part[0] != "andon" {
		return nil, tcps.ErrNotFound
	}
	view, err := t.ledger.WorkOrderStatus(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case len(part) == 0:
		return view, nil
	case part[0] == "receipts":
		return tcps.ReceiptPage{Receipts: view.Receipts}, nil
	}
	return tcps.AndonPage{Andons: view.Andons}, nil
}
