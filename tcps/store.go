package tcps

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/zeebo/blake3"
)

// StoreReceiptInput is the proof of a finished (or failed) stage.
type StoreReceiptInput struct {
	ReceiptType     string         `json:"receipt_type,omitempty" jsonschema:"pipeline (a stage of a work order) or production (a stage of a SKU); default by the ids given"`
	ReceiptID       string         `json:"receipt_id,omitempty" jsonschema:"default <stage>-<work order or SKU>-<YYYYMMDD>"`
	Stage           string         `json:"stage" jsonschema:"pipeline: pull, plan, generate, extract, render, build, test, release, publish, verify; production: shacl_validation, compilation, test_execution, security_scan, deterministic_build, quality_metrics, release_verification, smoke_test, marketplace_validation, publication"`
	Status          string         `json:"status" jsonschema:"pipeline: completed or failed; production: pass, fail or warning"`
	WorkOrderID     string         `json:"work_order_id,omitempty" jsonschema:"required for pipeline receipts"`
	SKUID           string         `json:"sku_id,omitempty" jsonschema:"required for production receipts"`
	Timestamp       Time           `json:"timestamp,omitempty" jsonschema:"when the stage ended, default now; never in the future or before the previous receipt"`
	Inputs          map[string]any `json:"inputs,omitempty" jsonschema:"required for pipeline receipts"`
	Outputs         map[string]any `json:"outputs,omitempty" jsonschema:"required for pipeline receipts"`
	Validation      map[string]any `json:"validation,omitempty" jsonschema:"required for pipeline receipts, with the boolean passed"`
	Checksums       *FileChecksums `json:"checksums,omitempty" jsonschema:"required for pipeline receipts"`
	DurationMS      int64          `json:"duration_ms,omitempty" jsonschema:"how long the stage took"`
	Evidence        map[string]any `json:"evidence,omitempty" jsonschema:"required for production receipts"`
	PreviousReceipt string         `json:"previous_receipt,omitempty" jsonschema:"default: the newest receipt of the chain"`
	Errors          []string       `json:"errors,omitempty"`
	Metadata        map[string]any `json:"metadata,omitempty"`
	Executor        string         `json:"executor,omitempty" jsonschema:"who or what ran the stage, default the caller"`
}

// StoreReceipt appends a receipt to the chain of its work order (pipeline) or
// SKU (production). The previous receipt must be the chain's newest one: for a
// pipeline that of the stage before, completed, or a failed attempt at the same
// stage. A stored receipt never changes. Errors: missing_required_field,
// invalid_field, invalid_stage, work_order_not_found, receipt_exists,
// missing_previous_receipt, invalid_previous_receipt, receipt_fork,
// not_chronological, future_timestamp.
func (l *Ledger) StoreReceipt(ctx context.Context, in StoreReceiptInput) (Receipt, error) {
	if _, err := in.receipt(); err != nil {
		return Receipt{}, err
	}
	return mutate(ctx, l, "store_receipt", in, func(o *op) (Receipt, error) {
		r, err := in.receipt()
		if err != nil {
			return Receipt{}, err
		}
		var w *WorkOrder
		if r.ReceiptType == ReceiptPipeline {
			if w, err = o.loadOrder(r.WorkOrderID, CodeWorkOrderNotFound); err != nil {
				return Receipt{}, err
			}
			r.SKUID = cmp.Or(r.SKUID, w.SKUID)
		}
		r.Executor = cmp.Or(r.Executor, o.actor)
		if err := o.link(r); err != nil {
			return Receipt{}, err
		}
		if err := o.saveReceipt(r); err != nil {
			return Receipt{}, err
		}
		if w == nil {
			return *r, nil
		}
		if err := appendReceipt(w, r.ReceiptID); err != nil {
			return Receipt{}, err
		}
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return Receipt{}, err
		}
		return *r, nil
	})
}

// receipt checks the input and turns it into an unlinked receipt.
func (in StoreReceiptInput) receipt() (*Receipt, error) {
	r := &Receipt{
		ReceiptID: in.ReceiptID, WorkOrderID: in.WorkOrderID, SKUID: in.SKUID, Timestamp: in.Timestamp,
		Inputs: in.Inputs, Outputs: in.Outputs, Validation: in.Validation, Checksums: in.Checksums, DurationMS: in.DurationMS,
		Evidence: in.Evidence, PreviousReceipt: in.PreviousReceipt, Errors: in.Errors, Metadata: in.Metadata, Executor: in.Executor,
	}
	if err := in.classify(r); err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, id string }{
		{"receipt_id", in.ReceiptID}, {"work_order_id", in.WorkOrderID}, {"sku_id", in.SKUID}, {"previous_receipt", in.PreviousReceipt},
	} {
		if f.id != "" {
			if err := checkID(f.name, f.id); err != nil {
				return nil, err
			}
		}
	}
	if !r.Timestamp.IsZero() {
		t, err := ParseTime(string(r.Timestamp))
		if err != nil {
			return nil, invalid("timestamp", "is not readable: %v", err)
		}
		r.Timestamp = t
	}
	if in.DurationMS < 0 {
		return nil, invalid("duration_ms", "must not be negative")
	}
	for _, f := range []struct {
		name string
		m    map[string]any
	}{{"inputs", in.Inputs}, {"outputs", in.Outputs}, {"validation", in.Validation}, {"evidence", in.Evidence}, {"metadata", in.Metadata}} {
		if err := checkMap(f.name, f.m); err != nil {
			return nil, err
		}
	}
	if err := checkText("executor", in.Executor, 200); err != nil {
		return nil, err
	}
	if err := checkReceipt(r); err != nil {
		return nil, err
	}
	return r, nil
}

// classify decides type, stage and status.
func (in StoreReceiptInput) classify(r *Receipt) error {
	switch t := snake(in.ReceiptType); t {
	case string(ReceiptPipeline), string(ReceiptProduction):
		r.ReceiptType = ReceiptType(t)
	case "":
		r.ReceiptType = ReceiptProduction
		if in.WorkOrderID != "" {
			if _, err := ParsePipelineStage(in.Stage); err == nil || in.SKUID == "" {
				r.ReceiptType = ReceiptPipeline
			}
		}
	default:
		return invalid("receipt_type", "%q cannot be stored by hand; use pipeline or production", in.ReceiptType)
	}
	if r.ReceiptType == ReceiptProduction {
		s, err := ParseProductionStage(in.Stage)
		if err != nil {
			return err
		}
		r.Stage = string(s)
	} else {
		s, err := ParsePipelineStage(in.Stage)
		if err != nil {
			return err
		}
		r.Stage = string(s)
		if i := s.index(); i+1 < len(pipelineStages) {
			r.NextStage = string(pipelineStages[i+1].stage)
		}
	}
	if in.Status == "" {
		return missing("status")
	}
	allowed, alias := verdicts(r.ReceiptType)
	s, ok := parseName(in.Status, allowed, alias)
	if !ok {
		return invalid("status", "%q is not a status of a %s receipt; use one of %s", in.Status, r.ReceiptType, names(allowed))
	}
	r.Status = s
	return nil
}

// verdicts returns the statuses of a receipt type and what may stand for them.
func verdicts(t ReceiptType) ([]ReceiptStatus, map[string]ReceiptStatus) {
	switch t {
	case ReceiptPipeline:
		return []ReceiptStatus{ReceiptCompleted, ReceiptFailed}, map[string]ReceiptStatus{"pass": ReceiptCompleted, "passed": ReceiptCompleted, "fail": ReceiptFailed}
	case ReceiptProduction:
		return []ReceiptStatus{ReceiptPass, ReceiptFail, ReceiptWarning}, map[string]ReceiptStatus{"passed": ReceiptPass, "completed": ReceiptPass, "failed": ReceiptFail}
	}
	return []ReceiptStatus{ReceiptPass, ReceiptFail, ReceiptWarning, ReceiptOpen, ReceiptResolved, ReceiptPending, ReceiptCompleted, ReceiptFailed}, nil
}

// checkReceipt applies the rules on fields that hold for a receipt at any time;
// verification applies them again to what is stored.
func checkReceipt(r *Receipt) error {
	if r.DurationMS < 0 {
		return invalid("duration_ms", "must not be negative")
	}
	switch r.ReceiptType {
	case ReceiptProduction:
		if r.SKUID == "" {
			return missing("sku_id")
		}
		if len(r.Evidence) == 0 {
			return missing("evidence")
		}
		if _, err := ParseProductionStage(r.Stage); err != nil {
			return err
		}
	case ReceiptPipeline:
		if _, err := ParsePipelineStage(r.Stage); err != nil {
			return err
		}
		return checkPipelineReceipt(r)
	}
	return nil
}

func checkPipelineReceipt(r *Receipt) error {
	if r.WorkOrderID == "" {
		return missing("work_order_id")
	}
	if len(r.Inputs) == 0 {
		return missing("inputs")
	}
	if len(r.Outputs) == 0 && !r.Status.Bad() { // a failed stage may have produced nothing
		return missing("outputs")
	}
	passed, ok := r.Validation["passed"].(bool)
	if !ok {
		return missing("validation.passed")
	}
	if passed == r.Status.Bad() {
		return invalid("validation.passed", "is %v, which contradicts status %s", passed, r.Status)
	}
	if r.Checksums == nil {
		return missing("checksums")
	}
	if snakeAlg := strings.ToLower(r.Checksums.Algorithm); snakeAlg != "sha256" && snakeAlg != "sha-256" {
		return invalid("checksums.algorithm", "%q is not supported; use sha256", r.Checksums.Algorithm)
	}
	for path, sum := range r.Checksums.Files {
		if !isSHA256(sum) {
			return invalid("checksums.files", "the digest of %q is not 64 hex digits", path)
		}
	}
	return nil
}

// link puts the receipt behind its chain's head: previous receipt, timestamp,
// id, chain hash.
func (o *op) link(r *Receipt) error {
	head, err := o.chainHead(r.chain())
	if err != nil {
		return err
	}
	if err := o.linkPrevious(r, head); err != nil {
		return err
	}
	if err := o.stampReceipt(r, head); err != nil {
		return err
	}
	if err := o.nameReceipt(r); err != nil {
		return err
	}
	previous := ""
	if head != nil {
		previous = head.ReceiptChainHash
	}
	r.ReceiptVersion = receiptVersion
	r.ReceiptChainHash, err = chainHash(previous, r)
	return err
}

// chainHead returns the newest receipt of a chain, nil if it has none.
func (o *op) chainHead(chain string) (*Receipt, error) {
	r := engine.Prefix(newKey(receiptChain).text(chain))
	r.Reverse, r.Limit = true, 1
	list, err := collect[Receipt](o, indexReceipts, TableReceipts, r, nil)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (o *op) linkPrevious(r *Receipt, head *Receipt) error {
	if want := r.PreviousReceipt; want != "" && (head == nil || want != head.ReceiptID) {
		return o.explainPrevious(r, head)
	}
	if r.ReceiptType == ReceiptProduction {
		if head != nil {
			r.PreviousReceipt = head.ReceiptID
		}
		return nil
	}
	at := PipelineStage(r.Stage).index()
	if head == nil {
		if at != 0 {
			return refuse(CodeMissingPrevious, "work order %s has no receipts yet; its chain starts with stage %s, not %s", r.WorkOrderID, pipelineStages[0].stage, r.Stage).
				on("stage").with("expected_stage", string(pipelineStages[0].stage))
		}
		return nil
	}
	done := PipelineStage(head.Stage).index()
	expected := head.Stage
	if !head.Status.Bad() {
		done++
		if done == len(pipelineStages) {
			return refuse(CodeReceiptFork, "the receipt chain of work order %s is complete; nothing can follow %s", r.WorkOrderID, head.ReceiptID).
				with("previous_receipt", head.ReceiptID)
		}
		expected = string(pipelineStages[done].stage)
	}
	if at == done {
		r.PreviousReceipt = head.ReceiptID
		return nil
	}
	code, why := CodeMissingPrevious, "the stages in between have no receipts"
	if at < done {
		code, why = CodeReceiptFork, "that stage has a receipt already"
	} else if head.Status.Bad() {
		why = "the last receipt reports a failure; repeat that stage first"
	}
	return refuse(code, "the receipt chain of work order %s is at %s (%s) and goes on with stage %s, not %s: %s", r.WorkOrderID, head.ReceiptID, head.Status, expected, r.Stage, why).
		on("stage").with("previous_receipt", head.ReceiptID).with("expected_stage", expected)
}

// explainPrevious says what is wrong with a named predecessor that is not the
// head of the chain.
func (o *op) explainPrevious(r *Receipt, head *Receipt) error {
	p := new(Receipt)
	if err := o.load(TableReceipts, r.PreviousReceipt, p, CodeMissingPrevious, "receipt"); err != nil {
		return err
	}
	e := refuse(CodeInvalidPrevious, "receipt %s belongs to another chain", p.ReceiptID)
	if p.chain() == r.chain() {
		e = refuse(CodeReceiptFork, "receipt %s has a successor already; the newest of the chain is %s", p.ReceiptID, head.ReceiptID).with("previous_receipt", head.ReceiptID)
	}
	return e.on("previous_receipt")
}

// stampReceipt settles the timestamp: given ones must lie between the previous
// receipt and now, and without one it is now. Receipts of one chain are at
// least a millisecond apart so that their order is plain.
func (o *op) stampReceipt(r *Receipt, head *Receipt) error {
	if r.Timestamp.IsZero() {
		ms := o.at.Millis()
		if head != nil {
			ms = max(ms, head.Timestamp.Millis()+1)
		}
		r.Timestamp = TimeOfMillis(ms)
		return nil
	}
	if limit := TimeOf(o.now.Add(o.o.ClockSkew)); r.Timestamp > limit {
		return refuse(CodeFutureTimestamp, "timestamp %s lies in the future (now %s); check the clock of the machine that reports", r.Timestamp, o.at).on("timestamp")
	}
	if head != nil && r.Timestamp <= head.Timestamp {
		return refuse(CodeNotChronological, "timestamp %s is not after that of the previous receipt %s (%s)", r.Timestamp, head.ReceiptID, head.Timestamp).
			on("timestamp").with("previous_receipt", head.ReceiptID)
	}
	return nil
}

// nameReceipt checks a given id or makes one.
func (o *op) nameReceipt(r *Receipt) error {
	if r.ReceiptID != "" {
		used, err := o.exists(TableReceipts, r.ReceiptID)
		if err == nil && used {
			err = refuse(CodeReceiptExists, "receipt %s is stored already and receipts never change; use another id", r.ReceiptID).on("receipt_id").with("receipt_id", r.ReceiptID)
		}
		return err
	}
	owner := r.WorkOrderID
	if r.ReceiptType == ReceiptProduction {
		owner = r.SKUID
	}
	base := fmt.Sprintf("%s-%s-%s", r.Stage, owner, r.Timestamp.Time().Format("20060102"))
	for n := 1; n <= maxOrderReceipts; n++ {
		r.ReceiptID = base
		if n > 1 {
			r.ReceiptID = fmt.Sprintf("%s-%d", base, n)
		}
		used, err := o.exists(TableReceipts, r.ReceiptID)
		if err != nil {
			return err
		}
		if !used {
			return checkID("receipt_id", r.ReceiptID)
		}
	}
	return refuse(CodeTooLarge, "there are %d receipts named %s already; give receipt_id", maxOrderReceipts, base).on("receipt_id")
}

// chainHash is the chain value of a receipt: BLAKE3-256 over the previous value
// (32 zero bytes for the first) and the canonical receipt without the members
// that are computed from it (chain hash, signature, checksum).
func chainHash(previous string, r *Receipt) (string, error) {
	c := *r
	c.ReceiptChainHash, c.Signature = "", ""
	body, err := content(&c)
	if err != nil {
		return "", refuse(CodeInvalidField, "the receipt cannot be stored: %v", err)
	}
	h := blake3.New()
	seed := make([]byte, 32)
	if previous != "" {
		if n, err := hex.Decode(seed, []byte(previous)); err != nil || n != len(seed) {
			return "", refuse(CodeChainHashMismatch, "the chain hash of the previous receipt is not 64 hex digits")
		}
	}
	_, _ = h.Write(seed)
	_, _ = h.Write(body)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ListReceiptsInput filters and pages; at least one of the ids or stage.
type ListReceiptsInput struct {
	SKUID        string `json:"sku_id,omitempty"`
	WorkOrderID  string `json:"work_order_id,omitempty"`
	Stage        string `json:"stage,omitempty" jsonschema:"canonical name of a pipeline, production, work order or andon stage"`
	AndonEventID string `json:"andon_event_id,omitempty"`
	ReceiptType  string `json:"receipt_type,omitempty"`
	Status       string `json:"status,omitempty"`
	Limit        int    `json:"limit,omitempty" jsonschema:"1..1000, default 100"`
	Cursor       string `json:"cursor,omitempty" jsonschema:"next_cursor of the page before"`
}

// ReceiptPage is one page of receipts, oldest first.
type ReceiptPage struct {
	Receipts   []Receipt `json:"receipts"`
	NextCursor string    `json:"next_cursor,omitempty"`
}

// GetReceipt returns one receipt.
func (l *Ledger) GetReceipt(ctx context.Context, id string) (Receipt, error) {
	var out Receipt
	if err := checkID("receipt_id", id); err != nil {
		return out, err
	}
	err := l.view(ctx, "get_receipt", func(o *op) error {
		return o.load(TableReceipts, id, &out, CodeReceiptNotFound, "receipt")
	})
	if err != nil {
		return Receipt{}, err
	}
	return out, nil
}

// ListReceipts returns receipts oldest first; all given filters must match.
func (l *Ledger) ListReceipts(ctx context.Context, in ListReceiptsInput) (ReceiptPage, error) {
	prefix, err := in.prefix()
	if err != nil {
		return ReceiptPage{}, err
	}
	limit, err := pageSize(in.Limit)
	if err != nil {
		return ReceiptPage{}, err
	}
	kind, status, stage := snake(in.ReceiptType), snake(in.Status), snake(in.Stage)
	match := func(want, got string) bool { return want == "" || want == got }
	page := ReceiptPage{}
	err = l.view(ctx, "list_receipts", func(o *op) error {
		page.Receipts, page.NextCursor, err = pageOldestFirst(o, indexReceipts, TableReceipts, prefix, in.Cursor, limit, func(r *Receipt) bool {
			return match(in.SKUID, r.SKUID) && match(in.WorkOrderID, r.WorkOrderID) && match(in.AndonEventID, r.AndonEventID) &&
				match(stage, r.Stage) && match(kind, string(r.ReceiptType)) && match(status, string(r.Status))
		})
		return err
	})
	some(&page.Receipts)
	return page, err
}

func (in ListReceiptsInput) prefix() (ikey, error) {
	for _, f := range []struct {
		kind      byte
		field, id string
	}{
		{receiptAndon, "andon_event_id", in.AndonEventID},
		{receiptOrder, "work_order_id", in.WorkOrderID},
		{receiptSKU, "sku_id", in.SKUID},
	} {
		if f.id != "" {
			return newKey(f.kind).text(f.id), checkID(f.field, f.id)
		}
	}
	stage := snake(in.Stage)
	if stage == "" {
		return nil, refuse(CodeMissingRequiredField, "say which receipts: sku_id, work_order_id, andon_event_id or stage").on("sku_id")
	}
	known := slices.Contains(PipelineStages(), PipelineStage(stage)) || slices.Contains(ProductionStages(), ProductionStage(stage)) ||
		slices.Contains(WorkStages(), WorkStage(stage)) || slices.Contains(AndonStages(), AndonStage(stage))
	if !known {
		return nil, refuse(CodeInvalidStage, "%q is not a stage of any kind of receipt", in.Stage).on("stage")
	}
	return newKey(receiptStage).text(stage), nil
}
