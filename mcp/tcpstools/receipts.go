package tcpstools

import (
	"context"

	"github.com/erlmcp/erlmcp/tcps"
)

type (
	storeIn struct {
		tcps.StoreReceiptInput
		Keyed
	}
	receiptIn struct {
		ReceiptID string `json:"receipt_id" jsonschema:"id of the receipt"`
	}
	verifyOut struct {
		Verification tcps.ReceiptVerification `json:"verification"`
		Tampering    tcps.TamperReport        `json:"tampering"`
	}
	chainOut struct {
		Chain       tcps.ChainReport        `json:"chain"`
		Determinism *tcps.DeterminismReport `json:"determinism,omitempty"` // of a SKU chain
	}
	historyIn struct {
		Entity string `json:"entity" jsonschema:"work_order, andon, receipt or kanban (id: the bucket)"`
		ID     string `json:"id" jsonschema:"id of the entity; deleted ones keep their history"`
		Limit  int    `json:"limit,omitempty" jsonschema:"1 to 1000, default 100"`
	}
	historyOut struct {
		Changes []tcps.Change `json:"changes"`
	}
	nothing struct{}
)

func (t *tools) addReceiptTools() {
	l := t.ledger
	add(t, adds, "receipt_store", "Store receipt",
		"Store the proof that a stage was done (or failed): of a work order's pipeline (work_order_id) or of a product (sku_id). Receipts form a chain and never change; no receipt means it did not happen.",
		func(ctx context.Context, in storeIn) (tcps.Receipt, error) {
			return l.StoreReceipt(ctx, in.StoreReceiptInput)
		})
	add(t, reads, "receipt_get", "Get receipt", "One receipt.",
		func(ctx context.Context, in receiptIn) (tcps.Receipt, error) {
			return l.GetReceipt(ctx, in.ReceiptID)
		})
	add(t, reads, "receipt_list", "List receipts",
		"Receipts of a product, work order, stage or andon event, oldest first. At least one of these must be given.",
		l.ListReceipts)
	add(t, reads, "receipt_verify", "Verify receipt",
		"Check one receipt: schema, checksum, predecessor, place, timestamps; and look for signs of tampering.",
		t.verifyReceipt)
	add(t, reads, "receipt_chain_verify", "Verify receipt chain",
		"Check the whole chain of a product (sku_id) or of a work order's pipeline (work_order_id): every link and hash, order in time, missing stages; for a product also whether its build is proven deterministic. Use it before a release.",
		t.verifyChain)
	add(t, reads, "change_history", "Change history",
		"Who changed an entity, when and how, newest first.",
		t.history)
	add(t, reads, "ledger_verify", "Verify ledger",
		"Read every document of the ledger and check checksums, indexes, references and receipt chains. Takes longer as the ledger grows; use it when something looks wrong, not routinely.",
		func(ctx context.Context, _ nothing) (tcps.VerifyReport, error) {
			return l.VerifyAll(ctx)
		})
}

func (t *tools) verifyReceipt(ctx context.Context, in receiptIn) (out verifyOut, err error) {
	if out.Verification, err = t.ledger.VerifyReceipt(ctx, in.ReceiptID); err != nil {
		return out, err
	}
	out.Tampering, err = t.ledger.CheckTampering(ctx, in.ReceiptID)
	return out, err
}

func (t *tools) verifyChain(ctx context.Context, in tcps.VerifyChainInput) (out chainOut, err error) {
	if out.Chain, err = t.ledger.VerifyChain(ctx, in); err != nil || in.SKUID == "" {
		return out, err
	}
	report, err := t.ledger.VerifyDeterministic(ctx, in.SKUID)
	out.Determinism = &report
	return out, err
}

func (t *tools) history(ctx context.Context, in historyIn) (historyOut, error) {
	list, err := t.ledger.History(ctx, tcps.Entity(in.Entity), in.ID, in.Limit)
	return historyOut{Changes: list}, err
}
