package tcps

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"

	"github.com/erlmcp/erlmcp/engine"
)

// signedBytes is what a signature covers: everything but the signature and the
// checksum (which covers the signature).
func signedBytes(r *Receipt) ([]byte, error) {
	c := *r
	c.Signature = ""
	return content(&c)
}

// sign signs a receipt if the ledger has a key.
func (l *Ledger) sign(r *Receipt) error {
	if len(l.o.SigningKey) == 0 {
		return nil
	}
	b, err := signedBytes(r)
	if err != nil {
		return refuse(CodeInvalidField, "the receipt cannot be stored: %v", err)
	}
	r.Signature = hex.EncodeToString(ed25519.Sign(l.o.SigningKey, b))
	return nil
}

// checkSignature verifies a signature if there is one and a key to check it with.
func (l *Ledger) checkSignature(r *Receipt) error {
	if r.Signature == "" || len(l.o.VerifyKey) == 0 {
		return nil
	}
	sig, err := hex.DecodeString(r.Signature)
	if err != nil {
		return refuse(CodeBadSignature, "the signature of receipt %s is not hex", r.ReceiptID)
	}
	b, err := signedBytes(r)
	if err != nil || !ed25519.Verify(l.o.VerifyKey, b, sig) {
		return refuse(CodeBadSignature, "the signature of receipt %s does not fit its content", r.ReceiptID)
	}
	return nil
}

// The steps of receipt verification, in order.
const (
	StepSchema     = "schema"      // required fields and their form
	StepChecksum   = "checksum"    // recomputed SHA-256, signature
	StepPrevious   = "previous"    // the predecessor exists, is the right one, chain hash
	StepStorage    = "storage_key" // stored under its own id
	StepTimestamps = "timestamps"  // not in the future, after the predecessor
)

// VerifyStep is the result of one step.
type VerifyStep struct {
	Name    string `json:"name"`
	Passed  bool   `json:"passed"`
	Code    Code   `json:"code,omitempty"` // of the failure
	Message string `json:"message,omitempty"`
}

// ReceiptVerification is the result of the five steps over one receipt.
type ReceiptVerification struct {
	ReceiptID string       `json:"receipt_id"`
	Valid     bool         `json:"valid"`
	Steps     []VerifyStep `json:"steps"`
}

func (v *ReceiptVerification) step(name string, err error) {
	s := VerifyStep{Name: name, Passed: err == nil}
	if err != nil {
		v.Valid = false
		s.Code, s.Message = codeOf(err), messageOf(err)
	}
	v.Steps = append(v.Steps, s)
}

func codeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func messageOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

// VerifyReceipt checks one receipt in five steps: schema, checksum, previous,
// storage key, timestamps. A damaged receipt is a result, not an error; the only
// refusal is receipt_not_found.
func (l *Ledger) VerifyReceipt(ctx context.Context, id string) (ReceiptVerification, error) {
	var v ReceiptVerification
	if err := checkID("receipt_id", id); err != nil {
		return v, err
	}
	err := l.view(ctx, "verify_receipt", func(o *op) error {
		var err error
		v, err = o.verifyReceipt(id)
		return err
	})
	return v, err
}

func (o *op) verifyReceipt(id string) (ReceiptVerification, error) {
	v := ReceiptVerification{ReceiptID: id, Valid: true, Steps: []VerifyStep{}}
	raw, err := o.tx.Get(TableReceipts, []byte(id))
	if errors.Is(err, engine.ErrNotFound) {
		return v, refuse(CodeReceiptNotFound, "there is no receipt %q; check the id", id).with("id", id)
	}
	if err != nil {
		return v, err
	}
	var r Receipt
	if err := decodeDocument(raw, &r); err != nil {
		v.step(StepSchema, err)
		v.step(StepChecksum, checkDocument(raw))
		return v, nil
	}
	v.step(StepSchema, schemaOf(&r))
	sum := checkDocument(raw)
	if sum == nil {
		sum = o.checkSignature(&r)
	}
	v.step(StepChecksum, sum)
	previous, err := o.previousOf(&r)
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) {
		return v, err
	}
	v.step(StepPrevious, err)
	var key error
	if r.ReceiptID != id {
		key = refuse(CodeInvalidReceipts, "the receipt calls itself %q but is stored as %q", r.ReceiptID, id)
	}
	v.step(StepStorage, key)
	v.step(StepTimestamps, o.checkTimes(&r, previous))
	return v, nil
}

// schemaOf applies the rules for stored receipts.
func schemaOf(r *Receipt) error {
	switch {
	case r.ReceiptID == "":
		return missing("receipt_id")
	case r.ReceiptVersion != receiptVersion:
		return invalid("receipt_version", "is %q, this program knows %q", r.ReceiptVersion, receiptVersion)
	case r.ReceiptType == "":
		return missing("receipt_type")
	case r.Timestamp.IsZero():
		return missing("timestamp")
	case r.Status == "":
		return missing("status")
	}
	allowed, _ := verdicts(r.ReceiptType)
	if _, ok := parseName(string(r.Status), allowed, nil); !ok {
		return invalid("status", "%q is not a status of a %s receipt", r.Status, r.ReceiptType)
	}
	return checkReceipt(r)
}

// previousOf loads the predecessor of a chained receipt and checks that it is
// the right one and that the chain hash follows from it.
func (o *op) previousOf(r *Receipt) (*Receipt, error) {
	if r.chain() == "" {
		return nil, nil
	}
	var p *Receipt
	hash := ""
	if r.PreviousReceipt != "" {
		p = new(Receipt)
		if err := o.load(TableReceipts, r.PreviousReceipt, p, CodeMissingPrevious, "previous receipt"); err != nil {
			return nil, err
		}
		hash = p.ReceiptChainHash
	}
	if err := rightPrevious(r, p); err != nil {
		return p, err
	}
	want, err := chainHash(hash, r)
	if err != nil {
		return p, err
	}
	if want != r.ReceiptChainHash {
		return p, refuse(CodeChainHashMismatch, "the chain hash of receipt %s does not follow from its content and its predecessor", r.ReceiptID)
	}
	return p, nil
}

func rightPrevious(r, p *Receipt) error {
	if p != nil && p.chain() != r.chain() {
		return refuse(CodeInvalidPrevious, "previous receipt %s belongs to another chain", p.ReceiptID)
	}
	if r.ReceiptType != ReceiptPipeline {
		return nil
	}
	at := PipelineStage(r.Stage).index()
	switch {
	case p == nil && at != 0:
		return refuse(CodeMissingPrevious, "receipt %s is of stage %s and names no previous receipt", r.ReceiptID, r.Stage)
	case p == nil:
		return nil
	}
	before := PipelineStage(p.Stage).index()
	if p.Status.Bad() && before == at || !p.Status.Bad() && before == at-1 {
		return nil
	}
	return refuse(CodeInvalidPrevious, "receipt %s of stage %s cannot follow %s of stage %s (%s)", r.ReceiptID, r.Stage, p.ReceiptID, p.Stage, p.Status)
}

func (o *op) checkTimes(r, previous *Receipt) error {
	if limit := TimeOf(o.now.Add(o.o.ClockSkew)); r.Timestamp > limit {
		return refuse(CodeFutureTimestamp, "timestamp %s lies in the future (now %s)", r.Timestamp, o.at)
	}
	if previous != nil && r.Timestamp <= previous.Timestamp {
		return refuse(CodeNotChronological, "timestamp %s is not after that of %s (%s)", r.Timestamp, previous.ReceiptID, previous.Timestamp)
	}
	return nil
}

// BatchVerification is the result of verifying several receipts.
type BatchVerification struct {
	Valid   int                   `json:"valid"`
	Invalid []ReceiptVerification `json:"invalid"`
	Total   int                   `json:"total"`
}

// VerifyReceipts verifies up to 1000 receipts; an unknown id counts as invalid.
func (l *Ledger) VerifyReceipts(ctx context.Context, ids []string) (BatchVerification, error) {
	b := BatchVerification{Invalid: []ReceiptVerification{}}
	if len(ids) == 0 {
		return b, missing("receipt_ids")
	}
	if len(ids) > maxPage {
		return b, invalid("receipt_ids", "has %d ids, the limit is %d", len(ids), maxPage)
	}
	for _, id := range ids {
		if err := checkID("receipt_ids", id); err != nil {
			return b, err
		}
	}
	err := l.view(ctx, "verify_receipts", func(o *op) error {
		for _, id := range ids {
			v, err := o.verifyReceipt(id)
			if errors.Is(err, ErrReceiptNotFound) {
				v.step(StepStorage, err)
			} else if err != nil {
				return err
			}
			b.Total++
			if v.Valid {
				b.Valid++
			} else {
				b.Invalid = append(b.Invalid, v)
			}
		}
		return nil
	})
	return b, err
}

// TamperReport says whether a receipt is what was stored.
type TamperReport struct {
	ReceiptID string            `json:"receipt_id"`
	Authentic bool              `json:"authentic"`
	Evidence  map[string]string `json:"evidence"` // code -> what was found; "signature" tells what was checked
}

// CheckTampering looks for signs that a receipt was altered: checksum, chain
// hash, future timestamp, signature.
func (l *Ledger) CheckTampering(ctx context.Context, id string) (TamperReport, error) {
	t := TamperReport{ReceiptID: id, Evidence: map[string]string{}}
	if err := checkID("receipt_id", id); err != nil {
		return t, err
	}
	err := l.view(ctx, "check_tampering", func(o *op) error {
		v, err := o.verifyReceipt(id)
		if err != nil {
			return err
		}
		t.Authentic = v.Valid
		for _, s := range v.Steps {
			if !s.Passed {
				t.Evidence[s.codeOrName()] = s.Message
			}
		}
		t.Evidence["signature"] = o.signatureState(id)
		return nil
	})
	return t, err
}

func (s VerifyStep) codeOrName() string {
	if s.Code != "" {
		return string(s.Code)
	}
	return s.Name
}

func (o *op) signatureState(id string) string {
	var r Receipt
	raw, err := o.tx.Get(TableReceipts, []byte(id))
	if err != nil || decodeDocument(raw, &r) != nil {
		return "unreadable"
	}
	switch {
	case r.Signature == "":
		return "not signed"
	case len(o.o.VerifyKey) == 0:
		return "present, not checked: no key is configured"
	case o.checkSignature(&r) != nil:
		return "invalid"
	}
	return "valid"
}

// DeterminismReport says whether a SKU's build is proven to be reproducible.
type DeterminismReport struct {
	SKUID         string         `json:"sku_id"`
	Deterministic bool           `json:"deterministic"`
	Code          Code           `json:"code,omitempty"` // incomplete, duplicate_receipts or non_deterministic
	ReceiptID     string         `json:"receipt_id,omitempty"`
	Evidence      map[string]any `json:"evidence"`
}

// VerifyDeterministic asks for exactly one receipt of stage deterministic_build
// that reports a pass.
func (l *Ledger) VerifyDeterministic(ctx context.Context, sku string) (DeterminismReport, error) {
	d := DeterminismReport{SKUID: sku, Evidence: map[string]any{}}
	if err := checkID("sku_id", sku); err != nil {
		return d, err
	}
	err := l.view(ctx, "verify_deterministic", func(o *op) error {
		list, err := collect(o, indexReceipts, TableReceipts, engine.Prefix(newKey(receiptChain).text("sku:"+sku)), func(r *Receipt) bool {
			return r.Stage == string(stageDeterministic)
		})
		if err != nil {
			return err
		}
		switch {
		case len(list) == 0:
			d.Code = CodeIncomplete
			return nil
		case len(list) > 1:
			d.Code = CodeDuplicateReceipts
			ids := make([]string, len(list))
			for i, r := range list {
				ids[i] = r.ReceiptID
			}
			d.Evidence["receipt_ids"] = ids
			return nil
		}
		d.ReceiptID = list[0].ReceiptID
		if list[0].Evidence != nil {
			d.Evidence = list[0].Evidence
		}
		d.Deterministic = list[0].Status == ReceiptPass
		if !d.Deterministic {
			d.Code = CodeNonDeterministic
		}
		return nil
	})
	return d, err
}
