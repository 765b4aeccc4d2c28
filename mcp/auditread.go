package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
// an error, which Audit returns. Records of the last moments may be missing,
// see [AuditOptions]. Without a store there are none.
func (r *Runtime) Audit(ctx context.Context, q AuditQuery, fn func(AuditRecord) error) error {
	if r.store == nil {
		return nil
	}
	setDefault(&q.Limit, 100)
	low := engine.Range{Reverse: true, Limit: auditPage}
	if !q.Since.IsZero() {
		low.Lo = auditKey(q.Since, 0) // a row is not older than its records
	}
	for left := q.Limit; ; {
		var rows [][]byte
		var last []byte
		err := r.store.ViewLocal(ctx, func(tx *engine.Tx) error {
			return tx.Scan(tableAudit, low, func(key, value []byte) bool {
				rows, last = append(rows, value), key
				return true
			})
		})
		if err != nil {
			return fmt.Errorf("mcp: audit log: %w", err)
		}
		for _, value := range rows {
			if err := auditRecords(value, &q, &left, fn); err != nil {
				if errors.Is(err, errEnough) {
					return nil
				}
				return err
			}
		}
		if len(rows) < auditPage {
			return nil
		}
		low.Hi = last
	}
}

func auditRecords(value []byte, q *AuditQuery, left *int, fn func(AuditRecord) error) error {
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
		if err := fn(rec); err != nil {
			return err
		}
		if *left--; *left == 0 {
			return errEnough
		}
	}
	return nil
}
