package tcps

import (
	"encoding/binary"

	"github.com/erlmcp/erlmcp/engine"
)

// The tables of the ledger. Keys are entity ids, except in the change log.
const (
	TableWorkOrders = "tcps_work_orders"
	TableAndons     = "tcps_andons"
	TableReceipts   = "tcps_receipts"
	TableWIPLimits  = "tcps_wip_limits" // key: bucket
	TableChanges    = "tcps_changes"    // key: entity 0x00 id 0x00 revision (8 bytes, big endian)
)

// The ordered indexes. Each holds several kinds of keys, told apart by their
// first byte; a document is decoded once per change instead of once per kind.
const (
	indexWorkOrders = "tcps_work_orders"
	indexAndons     = "tcps_andons"
	indexReceipts   = "tcps_receipts"
)

// Kinds of index keys of a work order.
const (
	woQueue      = 'q' // bucket, queue class, queue position, id: queued orders
	woRunning    = 'r' // bucket, id: orders in progress (the WIP count)
	woList       = 'l' // status, bucket, created, id: all orders
	woDeadline   = 'd' // deadline, id: queued and running orders
	woFinished   = 'f' // completed or cancelled at, id
	woDependents = 'n' // dependency id, id: who waits for an order
	woAndon      = 'a' // andon id, id: who is stopped by an event
	woSKU        = 'k' // SKU id, id: open orders of a SKU
	woSource     = 's' // signal type, source, id: open orders of a demand
)

// Kinds of index keys of an andon event.
const (
	andonOpenSKU   = 'o' // SKU id, time, id: unresolved events of a SKU
	andonOpenOrder = 'w' // work order id, time, id: unresolved events of an order
	andonSKU       = 'k' // SKU id, time, id
	andonOrder     = 'n' // work order id or related work order id, time, id
	andonStatus    = 's' // status, time, id
	andonSeverity  = 'v' // severity, time, id
)

// Kinds of index keys of a receipt.
const (
	receiptSKU      = 'k' // SKU id, time, id
	receiptOrder    = 'w' // work order id, time, id
	receiptStage    = 's' // stage, time, id
	receiptPrevious = 'p' // chain, previous receipt id ("" for the first), id: finds forks
	receiptChain    = 'c' // chain, time, id: the members of a chain
	receiptAndon    = 'a' // andon event id, time, id
)

// Indexes returns the index specifications the ledger needs; pass them to
// engine.Open.
func Indexes() []engine.IndexSpec {
	return []engine.IndexSpec{
		{Name: indexWorkOrders, Table: TableWorkOrders, Keys: workOrderKeys},
		{Name: indexAndons, Table: TableAndons, Keys: andonKeys},
		{Name: indexReceipts, Table: TableReceipts, Keys: receiptKeys},
	}
}

// ikey builds an index key: the kind, each text followed by 0x00 (ids and names
// never contain it), numbers as 8 bytes big endian.
type ikey []byte

func newKey(kind byte) ikey { return append(make(ikey, 0, 96), kind) }

func (k ikey) text(s string) ikey { return append(append(k, s...), 0) }

func (k ikey) num(n int64) ikey {
	return binary.BigEndian.AppendUint64(k, uint64(max(n, 0)))
}

func (k ikey) byte(b byte) ikey { return append(k, b) }

// afterTime cuts the last number and id off an index key of the layout
// "prefix, number, id" given the length of the id; it returns the number.
func timeInKey(key []byte, prefix int) int64 {
	if len(key) < prefix+8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(key[prefix:]))
}

// workOrderFacts are the members of a work order that its index keys need.
type workOrderFacts struct {
	bucket, status, sku     string
	class                   int
	position                int64
	created, deadline, done int64 // unix ms
	dependencies, andons    []string
	signal                  struct {
		Type   string `json:"type"`
		Source string `json:"source"`
	}
}

func readWorkOrderFacts(value []byte) (f workOrderFacts) {
	eachMember(value, func(key []byte, m member) bool {
		// A member that does not decode leaves its zero value: the key set of a damaged document is
		// whatever can be read, and VerifyAll reports the document itself.
		var err error
		switch string(key) {
		case "bucket":
			f.bucket = m.text(value)
		case "status":
			f.status = m.text(value)
		case "sku_id":
			f.sku = m.text(value)
		case "queue_class":
			err = m.decode(value, &f.class)
		case "queue_position":
			err = m.decode(value, &f.position)
		case "created_at":
			f.created, err = m.millis(value)
		case "sla_deadline":
			f.deadline, err = m.millis(value)
		case "completed_at", "cancelled_at":
			f.done, err = m.millis(value)
		case "dependencies":
			err = m.decode(value, &f.dependencies)
		case "blocked_by_andons":
			err = m.decode(value, &f.andons)
		case "pull_signal":
			err = m.decode(value, &f.signal)
		}
		return err == nil
	})
	return f
}

func workOrderKeys(key, value []byte) [][]byte {
	f := readWorkOrderFacts(value)
	if f.status == "" {
		return nil
	}
	id := string(key)
	keys := [][]byte{newKey(woList).text(f.status).text(f.bucket).num(f.created).text(id)}
	switch Status(f.status) {
	case StatusQueued:
		keys = append(keys,
			newKey(woQueue).text(f.bucket).byte(byte(f.class)).num(f.position).text(id),
			newKey(woDeadline).num(f.deadline).text(id))
	case StatusInProgress:
		keys = append(keys,
			newKey(woRunning).text(f.bucket).text(id),
			newKey(woDeadline).num(f.deadline).text(id))
	}
	if Status(f.status).Final() {
		keys = append(keys, newKey(woFinished).num(f.done).text(id))
	} else {
		if f.sku != "" {
			keys = append(keys, newKey(woSKU).text(f.sku).text(id))
		}
		keys = append(keys, newKey(woSource).text(f.signal.Type).text(clip(f.signal.Source)).text(id))
	}
	for _, d := range f.dependencies {
		keys = append(keys, newKey(woDependents).text(d).text(id))
	}
	for _, a := range f.andons {
		keys = append(keys, newKey(woAndon).text(a).text(id))
	}
	return keys
}

// clip bounds a free text inside an index key; the reader compares the rest.
func clip(s string) string { return s[:min(len(s), 200)] }

func andonKeys(key, value []byte) [][]byte {
	var sku, order, related, status, severity string
	var at int64
	eachMember(value, func(name []byte, m member) bool {
		var err error
		switch string(name) {
		case "sku_id":
			sku = m.text(value)
		case "work_order_id":
			order = m.text(value)
		case "related_work_order_id":
			related = m.text(value)
		case "status":
			status = m.text(value)
		case "severity":
			severity = m.text(value)
		case "timestamp":
			at, err = m.millis(value)
		}
		return err == nil
	})
	if status == "" {
		return nil
	}
	id, ms := string(key), at
	keys := [][]byte{
		newKey(andonSKU).text(sku).num(ms).text(id),
		newKey(andonStatus).text(status).num(ms).text(id),
		newKey(andonSeverity).text(severity).num(ms).text(id),
	}
	if AndonStatus(status).Unresolved() {
		keys = append(keys, newKey(andonOpenSKU).text(sku).num(ms).text(id))
		if order != "" {
			keys = append(keys, newKey(andonOpenOrder).text(order).num(ms).text(id))
		}
	}
	if order != "" {
		keys = append(keys, newKey(andonOrder).text(order).num(ms).text(id))
	}
	if related != "" && related != order {
		keys = append(keys, newKey(andonOrder).text(related).num(ms).text(id))
	}
	return keys
}

func receiptKeys(key, value []byte) [][]byte {
	var kind, sku, order, stage, previous, andon string
	var at int64
	eachMember(value, func(name []byte, m member) bool {
		var err error
		switch string(name) {
		case "receipt_type":
			kind = m.text(value)
		case "sku_id":
			sku = m.text(value)
		case "work_order_id":
			order = m.text(value)
		case "stage":
			stage = m.text(value)
		case "previous_receipt":
			previous = m.text(value)
		case "andon_event_id":
			andon = m.text(value)
		case "timestamp":
			at, err = m.millis(value)
		}
		return err == nil
	})
	if kind == "" {
		return nil
	}
	id, ms := string(key), at
	var keys [][]byte
	for _, k := range []struct {
		kind byte
		of   string
	}{{receiptSKU, sku}, {receiptOrder, order}, {receiptStage, stage}, {receiptAndon, andon}} {
		if k.of != "" {
			keys = append(keys, newKey(k.kind).text(k.of).num(ms).text(id))
		}
	}
	if chain := chainOf(ReceiptType(kind), order, sku); chain != "" {
		keys = append(keys,
			newKey(receiptPrevious).text(chain).text(previous).text(id),
			newKey(receiptChain).text(chain).num(ms).text(id))
	}
	return keys
}

// changeKey is the key of a change-log entry.
func changeKey(e Entity, id string, revision uint64) []byte {
	return changePrefix(e, id).num(int64(revision))
}

func changePrefix(e Entity, id string) ikey {
	return append(append(make(ikey, 0, 96), e...), 0).text(id)
}
