package tcps

// maxOrderReceipts bounds the receipts one order may collect, so that its
// document stays small. A pipeline has ten stages; a hundred failed attempts
// at each are a process problem that a longer list would not solve.
const maxOrderReceipts = 1000

// orderReceipt records an event of a work order.
func (o *op) orderReceipt(w *WorkOrder, t ReceiptType, event string, details map[string]any) error {
	return o.receiptFor(w, &Receipt{ReceiptType: t, Status: ReceiptCompleted, Details: details}, "receipt-"+event, 1)
}

// receiptFor stores a receipt of a work order and names it in the order.
func (o *op) receiptFor(w *WorkOrder, r *Receipt, prefix string, groups int) error {
	r.WorkOrderID, r.SKUID = w.ID, w.SKUID
	if err := o.addReceipt(r, prefix, groups); err != nil {
		return err
	}
	return appendReceipt(w, r.ReceiptID)
}

func appendReceipt(w *WorkOrder, id string) error {
	if len(w.Receipts) >= maxOrderReceipts {
		return refuse(CodeTooLarge, "work order %s has %d receipts, the limit; cancel it and create a new order", w.ID, len(w.Receipts)).with("id", w.ID)
	}
	w.Receipts = include(w.Receipts, id)
	return nil
}

// addReceipt stores a receipt that belongs to no chain under a fresh id.
func (o *op) addReceipt(r *Receipt, prefix string, groups int) error {
	id, err := o.freshID(TableReceipts, prefix, groups)
	if err != nil {
		return err
	}
	r.ReceiptID, r.Timestamp = id, o.at
	r.Executor = o.actor
	return o.saveReceipt(r)
}

// saveReceipt signs and stores a receipt. Receipts have one revision only.
func (o *op) saveReceipt(r *Receipt) error {
	r.ReceiptVersion = receiptVersion
	if err := o.sign(r); err != nil {
		return err
	}
	return o.save(TableReceipts, r.ReceiptID, r, EntityReceipt, ActionCreated, 1)
}
