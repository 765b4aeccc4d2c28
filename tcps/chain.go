package tcps

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/engine"
)

// VerifyChainInput names one chain: the production of a SKU or the pipeline of a
// work order.
type VerifyChainInput struct {
	SKUID       string `json:"sku_id,omitempty"`
	WorkOrderID string `json:"work_order_id,omitempty"`
}

// ChainIssue is one thing wrong with a chain.
type ChainIssue struct {
	Code      Code   `json:"code"`
	ReceiptID string `json:"receipt_id,omitempty"`
	Message   string `json:"message"`
}

// ChainReport is the result of verifying a chain.
type ChainReport struct {
	Chain         string       `json:"chain"`    // "sku:<id>" or "order:<id>"
	Valid         bool         `json:"valid"`    // nothing is wrong with what is there
	Complete      bool         `json:"complete"` // and every stage is there
	Code          Code         `json:"code,omitempty"`
	Receipts      []string     `json:"receipts"` // in chain order
	MissingStages []string     `json:"missing_stages"`
	Issues        []ChainIssue `json:"issues"`
	ChainHash     string       `json:"chain_hash,omitempty"` // of the newest receipt
}

func (c *ChainReport) issue(code Code, id, format string, args ...any) {
	c.Issues = append(c.Issues, ChainIssue{code, id, fmt.Sprintf(format, args...)})
}

// VerifyChain checks a whole receipt chain: every receipt valid, links and chain
// hashes unbroken, no fork, timestamps strictly increasing, and for a SKU no
// stage passed twice and no pause longer than Options.MaxGap. Code is the first
// problem in that order, no_receipts_found, or incomplete when stages are missing
// and all else is well.
func (l *Ledger) VerifyChain(ctx context.Context, in VerifyChainInput) (ChainReport, error) {
	rep := ChainReport{Receipts: []string{}, MissingStages: []string{}, Issues: []ChainIssue{}}
	switch {
	case in.SKUID == "" && in.WorkOrderID == "":
		return rep, refuse(CodeMissingRequiredField, "name the chain: sku_id or work_order_id").on("sku_id")
	case in.SKUID != "" && in.WorkOrderID != "":
		return rep, invalid("sku_id", "and work_order_id name two chains; give one of them")
	case in.SKUID != "":
		rep.Chain = chainOf(ReceiptProduction, "", in.SKUID)
		if err := checkID("sku_id", in.SKUID); err != nil {
			return rep, err
		}
	default:
		rep.Chain = chainOf(ReceiptPipeline, in.WorkOrderID, "")
		if err := checkID("work_order_id", in.WorkOrderID); err != nil {
			return rep, err
		}
	}
	err := l.view(ctx, "verify_chain", func(o *op) error {
		if in.WorkOrderID != "" {
			if _, err := o.loadOrder(in.WorkOrderID, CodeWorkOrderNotFound); err != nil {
				return err
			}
		}
		return o.verifyChain(&rep)
	})
	return rep, err
}

func (o *op) verifyChain(rep *ChainReport) error {
	list, err := o.chainMembers(rep)
	if err != nil {
		return err
	}
	seen := map[string]int{}
	for i, r := range list {
		rep.Receipts = append(rep.Receipts, r.ReceiptID)
		v, err := o.verifyReceipt(r.ReceiptID)
		if err != nil && !errors.Is(err, ErrReceiptNotFound) {
			return err
		}
		for _, s := range v.Steps {
			if !s.Passed {
				rep.issue(chainCode(s), r.ReceiptID, "step %s: %s", s.Name, s.Message)
			}
		}
		if !r.Status.Bad() {
			seen[r.Stage]++
			if seen[r.Stage] == 2 {
				rep.issue(CodeDuplicateStages, r.ReceiptID, "stage %s has passed more than once", r.Stage)
			}
		}
		if i > 0 {
			o.checkNeighbours(rep, list[i-1], r)
		}
	}
	for _, s := range stagesOf(rep.Chain) {
		if seen[s] == 0 {
			rep.MissingStages = append(rep.MissingStages, s)
		}
	}
	o.concludeChain(rep, list)
	return nil
}

// chainMembers reads the receipts of a chain in time order. Damaged ones are
// listed as issues and left in place as far as they can be read.
func (o *op) chainMembers(rep *ChainReport) ([]*Receipt, error) {
	type row struct {
		id  string
		raw []byte
	}
	var rows []row
	err := o.tx.ScanIndex(indexReceipts, engine.Prefix(newKey(receiptChain).text(rep.Chain)), func(_, key, value []byte) bool {
		rows = append(rows, row{string(key), slices.Clone(value)})
		return true
	})
	var list []*Receipt
	for _, w := range rows {
		r := new(Receipt)
		if err := decodeDocument(w.raw, r); err != nil {
			rep.issue(CodeInvalidReceipts, w.id, "%s", messageOf(err))
			continue
		}
		r.ReceiptID = w.id
		list = append(list, r)
	}
	return list, err
}

// chainCode maps a failed step to the code of the chain report.
func chainCode(s VerifyStep) Code {
	switch s.Code {
	case CodeNotChronological, CodeChainHashMismatch, CodeMissingPrevious, CodeInvalidPrevious:
		return s.Code
	}
	return CodeInvalidReceipts
}

func (o *op) checkNeighbours(rep *ChainReport, p, r *Receipt) {
	switch {
	case r.PreviousReceipt == p.PreviousReceipt:
		rep.issue(CodeReceiptFork, r.ReceiptID, "receipts %s and %s have the same predecessor", p.ReceiptID, r.ReceiptID)
	case r.PreviousReceipt != p.ReceiptID:
		rep.issue(CodeInvalidPrevious, r.ReceiptID, "receipt %s follows %s in time but names %q as its predecessor", r.ReceiptID, p.ReceiptID, r.PreviousReceipt)
	}
	if r.Timestamp <= p.Timestamp {
		rep.issue(CodeNotChronological, r.ReceiptID, "receipt %s is not later than %s", r.ReceiptID, p.ReceiptID)
	}
	if gap := r.Timestamp.Sub(p.Timestamp); r.ReceiptType == ReceiptProduction && gap > o.o.MaxGap {
		rep.issue(CodeTimestampGapTooLarge, r.ReceiptID, "%.1f hours lie between %s and %s, at most %.1f are allowed", gap.Hours(), p.ReceiptID, r.ReceiptID, o.o.MaxGap.Hours())
	}
}

func stagesOf(chain string) []string {
	var out []string
	if strings.HasPrefix(chain, "sku:") {
		for _, s := range ProductionStages() {
			out = append(out, string(s))
		}
		return out
	}
	for _, s := range PipelineStages() {
		out = append(out, string(s))
	}
	return out
}

// issueOrder ranks codes: the worst news first.
var issueOrder = []Code{
	CodeInvalidReceipts, CodeChainHashMismatch, CodeMissingPrevious, CodeInvalidPrevious, CodeReceiptFork,
	CodeNotChronological, CodeDuplicateStages, CodeTimestampGapTooLarge,
}

func (o *op) concludeChain(rep *ChainReport, list []*Receipt) {
	slices.SortStableFunc(rep.Issues, func(x, y ChainIssue) int {
		return cmp.Compare(slices.Index(issueOrder, x.Code), slices.Index(issueOrder, y.Code))
	})
	rep.Valid = len(rep.Issues) == 0
	rep.Complete = rep.Valid && len(rep.MissingStages) == 0
	if len(list) > 0 {
		rep.ChainHash = list[len(list)-1].ReceiptChainHash
	}
	switch {
	case len(rep.Issues) > 0:
		rep.Code = rep.Issues[0].Code
	case len(list) == 0:
		rep.Valid, rep.Code = false, CodeNoReceiptsFound
	case len(rep.MissingStages) > 0:
		rep.Code = CodeIncomplete
	}
}
