package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/erlmcp/erlmcp/engine"
)

// An AuditQuery selects audit records. Zero fields select everything.
type AuditQuery struct {
	Since     time.Time // records of this time and later
	Until     time.Time // records before this time
	Principal string
	Tool      string
	Outcome   string
	Limit     int // at most this many, the newest; 0: 100
}

func (q *AuditQuery) matches(rec *AuditRecord) bool {
	return !(rec.Time.Before(q.Since) ||
		!q.Until.IsZero() && !rec.Time.Before(q.Until) ||
		q.Principal != "" && rec.Principal != q.Principal ||
		q.Tool != "" && rec.Tool != q.Tool ||
		q.Outcome != "" && rec.Outcome != q.Outcome)
}

// errEnough ends a scan.
var errEnough = errors.New("enough")

// auditPage is how many rows one look at the store reads: it holds a version of
// the store only as long.
const auditPage = 64

// Audit calls fn for the records that q selects, newest first, until fn returns
// an error, which Audit returns. Records of the last moments may be missing, see
// [AuditOptions]. Without a store there are none.
func (r *Runtime) Audit(ctx context.Context, q AuditQuery, fn func(AuditRecord) error) error {
	if r.store == nil {
		return nil
	}
	setDefault(&q.Limit, 100)
	low := engine.Range{Reverse: true, Limit: auditPage}
	if !q.Since.IsZero() {
		low.Lo = auditKey(q.Since, 0) // a row is not older than its records
	}
	out := &auditOutput{left: q.Limit, fn: fn}
	for first := true; ; first = false {
		var rows [][]byte
		var last []byte
		err := r.store.ViewLocal(ctx, func(tx *engine.Tx) (err error) {
			if first { // in one view: a record moves from there to here
				if out.open, err = openRecords(tx, &q); err != nil {
					return err
				}
			}
			return tx.Scan(tableAudit, low, func(key, value []byte) bool {
				rows, last = append(rows, value), key
				return true
			})
		})
		if err != nil {
			return fmt.Errorf("mcp: audit log: %w", err)
		}
		for _, value := range rows {
			if err := auditRecords(value, &q, out); err != nil {
				return out.end(err)
			}
		}
		if len(rows) < auditPage {
			return out.end(out.before(time.Time{}))
		}
		low.Hi = last
	}
}

// auditOutput gives records to fn, those of unfinished calls where they belong.
type auditOutput struct {
	open []AuditRecord // newest first
	left int           // records that are still wanted
	fn   func(AuditRecord) error
}

// end is what Audit returns.
func (o *auditOutput) end(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// one gives out a record, after those of open that are newer.
func (o *auditOutput) one(rec AuditRecord) error {
	if err := o.before(rec.Time); err != nil {
		return err
	}
	return o.give(rec)
}

// before gives out the records of open that are not older than t.
func (o *auditOutput) before(t time.Time) error {
	for len(o.open) > 0 && !o.open[0].Time.Before(t) {
		rec := o.open[0]
		o.open = o.open[1:]
		if err := o.give(rec); err != nil {
			return err
		}
	}
	return nil
}

func (o *auditOutput) give(rec AuditRecord) error {
	if err := o.fn(rec); err != nil {
		return err
	}
	if o.left--; o.left == 0 {
		return errEnough
	}
	return nil
}

// openRecords returns the records of unfinished calls that q selects, the newest
// first. They are few: what runs, and what was running when a process ended.
func openRecords(tx *engine.Tx, q *AuditQuery) (list []AuditRecord, err error) {
	scan := tx.Scan(tableAuditOpen, engine.Range{Reverse: true}, func(_, value []byte) bool {
		var rec AuditRecord
		if err = json.Unmarshal(value, &rec); err != nil {
			err = fmt.Errorf("mcp: open audit record: %w", err)
			return false
		}
		if q.matches(&rec) {
			list = append(list, rec)
		}
		return len(list) < q.Limit
	})
	slices.SortStableFunc(list, func(a, b AuditRecord) int { return b.Time.Compare(a.Time) }) // keys have the calls' beginnings
	return list, errors.Join(scan, err)
}

func auditRecords(value []byte, q *AuditQuery, out *auditOutput) error {
	var row auditRow
	value, err := unpackAudit(value)
	if err != nil {
		return fmt.Errorf("mcp: audit row: %w", err)
	}
	if err := json.Unmarshal(value, &row); err != nil {
		return fmt.Errorf("mcp: audit row: %w", err)
	}
	for i := len(row.Records) - 1; i >= 0; i-- {
		var rec AuditRecord
		if err := json.Unmarshal(row.Records[i], &rec); err != nil {
			return fmt.Errorf("mcp: audit record: %w", err)
		}
		if !q.matches(&rec) {
			continue
		}
		if err := out.one(rec); err != nil {
			return err
		}
	}
	return nil
}
