package tcps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/erlmcp/erlmcp/engine"
)

// The checks of VerifyAll.
const (
	CheckJSON       = "json_files"     // every document parses, decodes and is stored under its own id
	CheckChecksums  = "checksums"      // every SHA-256 is right
	CheckIndexes    = "indexes"        // indexes hold exactly what the documents say
	CheckChains     = "receipt_chains" // every receipt verifies, no chain forks
	CheckReferences = "references"     // ids name documents that exist, states agree with each other
	CheckChanges    = "change_log"     // every revision has its entry and every entry its document
)

// Checks returns the names of all checks in order.
func Checks() []string {
	return []string{CheckJSON, CheckChecksums, CheckIndexes, CheckChains, CheckReferences, CheckChanges}
}

// Finding is one thing VerifyAll found wrong.
type Finding struct {
	Check   string `json:"check"`
	Code    Code   `json:"code,omitempty"`
	Table   string `json:"table"`
	Key     string `json:"key"`
	Message string `json:"message"` // what is wrong
	Advice  string `json:"advice"`  // what to do
}

// CheckResult sums up one check.
type CheckResult struct {
	Passed  bool   `json:"passed"`
	Checked int    `json:"checked"` // documents, index entries or references looked at
	Details string `json:"details"`
}

// VerifyReport is the result of VerifyAll.
type VerifyReport struct {
	VerifiedAt   Time                   `json:"verified_at"`
	LogIndex     uint64                 `json:"log_index"`
	FilesChecked int                    `json:"files_checked"` // documents
	Valid        bool                   `json:"valid"`
	Checks       map[string]CheckResult `json:"checks"`
	Findings     []Finding              `json:"findings"` // at most 1000
	Omitted      int                    `json:"omitted"`  // findings beyond that
}

// maxFindings bounds the report; where a thousand things are wrong the next
// thousand add nothing.
const maxFindings = 1000

// verifier is one run of VerifyAll.
type verifier struct {
	*op
	ctx     context.Context
	rep     *VerifyReport
	checked map[string]int
	found   map[string]int
	entries map[string]int // index entries that the documents call for
}

// VerifyAll reads every document of the ledger on one consistent snapshot and
// checks it against its checksum, its index entries, its references, its receipt
// chain and the change log. Damage is reported, never an error; an error means
// that reading itself failed. The time grows with the ledger; ctx stops it.
func (l *Ledger) VerifyAll(ctx context.Context) (VerifyReport, error) {
	rep := VerifyReport{Checks: map[string]CheckResult{}, Findings: []Finding{}}
	err := l.view(ctx, "verify_all", func(o *op) error {
		v := &verifier{op: o, ctx: ctx, rep: &rep, checked: map[string]int{}, found: map[string]int{}, entries: map[string]int{}}
		rep.VerifiedAt, rep.LogIndex = o.at, l.store.AppliedIndex()
		for _, t := range []struct {
			table string
			fn    func(key, raw []byte) error
		}{
			{TableWorkOrders, v.workOrder},
			{TableAndons, v.andon},
			{TableReceipts, v.receipt},
			{TableWIPLimits, v.wipLimit},
			{TableChanges, v.change},
		} {
			if err := v.eachRow(t.table, t.fn); err != nil {
				return err
			}
		}
		if err := v.countIndexes(); err != nil {
			return err
		}
		v.conclude()
		return nil
	})
	return rep, err
}

func (v *verifier) find(check string, code Code, table, key, advice, format string, args ...any) {
	v.found[check]++
	if len(v.rep.Findings) >= maxFindings {
		v.rep.Omitted++
		return
	}
	v.rep.Findings = append(v.rep.Findings, Finding{check, code, table, key, fmt.Sprintf(format, args...), advice})
}

func (v *verifier) conclude() {
	v.rep.Valid = true
	for _, c := range Checks() {
		n := v.found[c]
		r := CheckResult{Passed: n == 0, Checked: v.checked[c], Details: fmt.Sprintf("%d checked, no problem", v.checked[c])}
		if n > 0 {
			r.Details = fmt.Sprintf("%d checked, %d problems", v.checked[c], n)
			v.rep.Valid = false
		}
		v.rep.Checks[c] = r
	}
}

// eachRow pages through a table so that no scan is open while fn reads.
func (v *verifier) eachRow(table string, fn func(key, raw []byte) error) error {
	const page = 256
	type row struct{ key, value []byte }
	for lo := []byte(nil); ; {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		rows := make([]row, 0, page)
		err := v.tx.Scan(table, engine.Range{Lo: lo, Limit: page}, func(key, value []byte) bool {
			rows = append(rows, row{slices.Clone(key), slices.Clone(value)})
			return true
		})
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := fn(r.key, r.value); err != nil {
				return err
			}
		}
		if len(rows) < page {
			return nil
		}
		lo = append(rows[len(rows)-1].key, 0)
	}
}

const (
	adviceRestore = "restore the document from a backup; the change log and the engine's log (tcpsdump wal --key) show its last good content"
	adviceIndex   = "restart the server: indexes are rebuilt from the documents; report this as a bug if it returns"
	adviceAlien   = "somebody wrote to the store without the ledger; find out who with tcpsdump wal --key"
)

// document runs the checks that all documents share and reports whether d could
// be decoded.
func (v *verifier) document(table string, key, raw []byte, d document, id func() string) bool {
	v.rep.FilesChecked++
	v.checked[CheckJSON]++
	v.checked[CheckChecksums]++
	k := printableKey(key)
	switch err := checkDocument(raw); {
	case errors.Is(err, ErrMalformedDocument):
		v.find(CheckJSON, CodeMalformedDocument, table, k, adviceRestore, "%s", messageOf(err))
		return false
	case err != nil:
		v.find(CheckChecksums, codeOf(err), table, k, adviceRestore, "%s", messageOf(err))
	}
	if err := decodeDocument(raw, d); err != nil {
		v.find(CheckJSON, CodeMalformedDocument, table, k, adviceRestore, "%s", messageOf(err))
		return false
	}
	if got := id(); got != string(key) {
		v.find(CheckJSON, CodeMalformedDocument, table, k, adviceAlien, "the document is stored as %s but calls itself %q", k, got)
		return false
	}
	return true
}

// indexed checks that each index entry a document calls for exists.
func (v *verifier) indexed(index, table string, key []byte, keys [][]byte) error {
	v.entries[index] += len(keys)
	for _, ik := range keys {
		v.checked[CheckIndexes]++
		there := false
		r := engine.Range{Lo: ik, Hi: append(slices.Clone(ik), 0)}
		if err := v.tx.ScanIndex(index, r, func(_, k, _ []byte) bool {
			there = bytes.Equal(k, key)
			return !there
		}); err != nil {
			return err
		}
		if !there {
			v.find(CheckIndexes, "", table, printableKey(key), adviceIndex, "index %s lacks the entry %s", index, printableKey(ik))
		}
	}
	return nil
}

// countIndexes finds index entries that no document calls for.
func (v *verifier) countIndexes() error {
	for _, ix := range Indexes() {
		n, err := v.count(ix.Name, engine.Range{}, 0)
		if err != nil {
			return err
		}
		if n != v.entries[ix.Name] {
			v.find(CheckIndexes, "", ix.Table, "", adviceIndex, "index %s has %d entries, the documents call for %d", ix.Name, n, v.entries[ix.Name])
		}
	}
	return nil
}

// refers checks that a named document exists; one that was deleted properly
// counts as existing.
func (v *verifier) refers(table, key, what, target string, e Entity, id string) error {
	v.checked[CheckReferences]++
	there, err := v.exists(target, id)
	if err != nil || there {
		return err
	}
	last, err := v.lastChange(e, id)
	if err != nil {
		return err
	}
	if last == nil || last.Action != ActionDeleted {
		v.find(CheckReferences, CodeNotFound, table, key, adviceRestore, "%s %s does not exist", what, id)
	}
	return nil
}

func (v *verifier) lastChange(e Entity, id string) (*Change, error) {
	r := engine.Prefix(changePrefix(e, id))
	r.Reverse, r.Limit = true, 1
	var last *Change
	err := v.tx.Scan(TableChanges, r, func(_, raw []byte) bool {
		c := new(Change)
		if decodeDocument(raw, c) == nil {
			last = c
		}
		return false
	})
	return last, err
}

// logged checks that the change log has exactly the revisions 1..n of an entity.
func (v *verifier) logged(table string, e Entity, id string, revision uint64) error {
	v.checked[CheckChanges]++
	var n, newest uint64
	err := v.tx.Scan(TableChanges, engine.Prefix(changePrefix(e, id)), func(key, _ []byte) bool {
		n++
		newest = uint64(timeInKey(key, len(key)-8))
		return true
	})
	if err != nil {
		return err
	}
	switch {
	case newest > revision:
		v.find(CheckChanges, "", table, id, adviceRestore, "the document is at revision %d but the change log goes to %d: it was rolled back", revision, newest)
	case n != revision || newest != revision:
		v.find(CheckChanges, "", table, id, adviceAlien, "the document is at revision %d but the change log has %d entries up to %d", revision, n, newest)
	}
	return nil
}

func (v *verifier) workOrder(key, raw []byte) error {
	w := new(WorkOrder)
	if !v.document(TableWorkOrders, key, raw, w, func() string { return w.ID }) {
		return nil
	}
	if err := v.indexed(indexWorkOrders, TableWorkOrders, key, workOrderKeys(key, raw)); err != nil {
		return err
	}
	if err := v.logged(TableWorkOrders, EntityWorkOrder, w.ID, w.Revision); err != nil {
		return err
	}
	for _, id := range w.Receipts {
		if err := v.refers(TableWorkOrders, w.ID, "receipt", TableReceipts, EntityReceipt, id); err != nil {
			return err
		}
	}
	for _, id := range w.Dependencies {
		if err := v.refers(TableWorkOrders, w.ID, "dependency", TableWorkOrders, EntityWorkOrder, id); err != nil {
			return err
		}
	}
	return v.orderState(w)
}

// orderState checks the invariants of an order's state.
func (v *verifier) orderState(w *WorkOrder) error {
	v.checked[CheckReferences]++
	wrong := func(format string, args ...any) {
		v.find(CheckReferences, "", TableWorkOrders, w.ID, adviceAlien, format, args...)
	}
	if _, ok := parseName(string(w.Status), Statuses(), nil); !ok {
		wrong("status %q is unknown", w.Status)
	}
	if _, err := ParseBucket(string(w.Bucket)); err != nil {
		wrong("bucket %q is unknown", w.Bucket)
	}
	if w.Priority < 1 || w.Priority > 10 {
		wrong("priority %d is not 1..10", w.Priority)
	}
	held := len(w.BlockedBy) + len(w.BlockedByAndons)
	switch {
	case w.Status == StatusBlocked && held == 0:
		wrong("the order is blocked by nothing")
	case held > 0 && (w.Status == StatusQueued || w.Status == StatusInProgress):
		wrong("the order is %s in spite of what blocks it: %v %v", w.Status, w.BlockedBy, w.BlockedByAndons)
	}
	if w.Status.Final() {
		return nil
	}
	for _, id := range w.Dependencies {
		d := new(WorkOrder)
		if err := v.load(TableWorkOrders, id, d, CodeNotFound, "work order"); err != nil {
			if codeOf(err) == "" {
				return err
			}
			continue // reported where the document or the reference is checked
		}
		if d.open() != slices.Contains(w.BlockedBy, id) {
			wrong("dependency %s is %s, but blocked_by is %v", id, d.Status, w.BlockedBy)
		}
	}
	for _, id := range w.BlockedByAndons {
		a := new(Andon)
		if err := v.load(TableAndons, id, a, CodeAndonNotFound, "andon event"); err != nil {
			if codeOf(err) == "" {
				return err
			}
			wrong("andon event %s that blocks the order cannot be read: %s", id, messageOf(err))
			continue
		}
		if !a.Status.Unresolved() {
			wrong("andon event %s is %s but still blocks the order", id, a.Status)
		}
	}
	return nil
}

func (v *verifier) andon(key, raw []byte) error {
	a := new(Andon)
	if !v.document(TableAndons, key, raw, a, func() string { return a.EventID }) {
		return nil
	}
	if err := v.indexed(indexAndons, TableAndons, key, andonKeys(key, raw)); err != nil {
		return err
	}
	if err := v.logged(TableAndons, EntityAndon, a.EventID, a.Revision); err != nil {
		return err
	}
	if a.Status.Unresolved() != (a.Resolution == nil) {
		v.find(CheckReferences, "", TableAndons, a.EventID, adviceAlien, "the event is %s, which does not agree with its resolution", a.Status)
	}
	for _, id := range a.Receipts {
		if err := v.refers(TableAndons, a.EventID, "receipt", TableReceipts, EntityReceipt, id); err != nil {
			return err
		}
	}
	for _, id := range []string{a.WorkOrderID, a.RelatedWorkOrderID} {
		if id == "" {
			continue
		}
		if err := v.refers(TableAndons, a.EventID, "work order", TableWorkOrders, EntityWorkOrder, id); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) receipt(key, raw []byte) error {
	r := new(Receipt)
	if !v.document(TableReceipts, key, raw, r, func() string { return r.ReceiptID }) {
		return nil
	}
	if err := v.indexed(indexReceipts, TableReceipts, key, receiptKeys(key, raw)); err != nil {
		return err
	}
	if err := v.logged(TableReceipts, EntityReceipt, r.ReceiptID, 1); err != nil {
		return err
	}
	if r.WorkOrderID != "" {
		if err := v.refers(TableReceipts, r.ReceiptID, "work order", TableWorkOrders, EntityWorkOrder, r.WorkOrderID); err != nil {
			return err
		}
	}
	if r.AndonEventID != "" {
		if err := v.refers(TableReceipts, r.ReceiptID, "andon event", TableAndons, EntityAndon, r.AndonEventID); err != nil {
			return err
		}
	}
	return v.receiptChain(r)
}

func (v *verifier) receiptChain(r *Receipt) error {
	v.checked[CheckChains]++
	res, err := v.verifyReceipt(r.ReceiptID)
	if err != nil && !errors.Is(err, ErrReceiptNotFound) {
		return err
	}
	for _, s := range res.Steps {
		// The checksum has its own check and its own finding; a bad signature has not.
		if s.Passed || s.Name == StepChecksum && s.Code != CodeBadSignature {
			continue
		}
		v.find(CheckChains, s.Code, TableReceipts, r.ReceiptID, adviceRestore, "step %s: %s", s.Name, s.Message)
	}
	chain := r.chain()
	if chain == "" {
		return nil
	}
	n, err := v.count(indexReceipts, engine.Prefix(newKey(receiptPrevious).text(chain).text(r.PreviousReceipt)), 2)
	if n > 1 {
		v.find(CheckChains, CodeReceiptFork, TableReceipts, r.ReceiptID, adviceAlien, "another receipt of %s has the same predecessor %q", chain, r.PreviousReceipt)
	}
	return err
}

func (v *verifier) wipLimit(key, raw []byte) error {
	w := new(wipLimit)
	if !v.document(TableWIPLimits, key, raw, w, func() string { return string(w.Bucket) }) {
		return nil
	}
	return v.logged(TableWIPLimits, EntityKanban, string(w.Bucket), w.Revision)
}

// tableOf maps an entity of the change log to its table.
var tableOf = map[Entity]string{
	EntityWorkOrder: TableWorkOrders, EntityAndon: TableAndons, EntityReceipt: TableReceipts, EntityKanban: TableWIPLimits,
}

func (v *verifier) change(key, raw []byte) error {
	c := new(Change)
	ok := v.document(TableChanges, key, raw, c, func() string { return string(changeKey(c.Entity, c.EntityID, c.Revision)) })
	if !ok {
		return nil
	}
	v.checked[CheckChanges]++
	table, known := tableOf[c.Entity]
	if !known {
		v.find(CheckChanges, "", TableChanges, printableKey(key), adviceAlien, "entity %q is unknown", c.Entity)
		return nil
	}
	if _, err := v.tx.Get(TableChanges, changeKey(c.Entity, c.EntityID, c.Revision+1)); !errors.Is(err, engine.ErrNotFound) {
		return err // not the newest entry
	}
	there, err := v.exists(table, c.EntityID)
	if err != nil {
		return err
	}
	switch {
	case !there && c.Action != ActionDeleted:
		v.find(CheckChanges, CodeNotFound, table, c.EntityID, adviceRestore, "the change log says that the document exists (revision %d, %s), but it is gone", c.Revision, c.Timestamp)
	case there && c.Action == ActionDeleted:
		v.find(CheckChanges, "", table, c.EntityID, adviceAlien, "the change log says that the document was deleted at %s, but it is there", c.Timestamp)
	}
	return nil
}
