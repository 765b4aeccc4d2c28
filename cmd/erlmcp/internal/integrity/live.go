package integrity

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
	"github.com/erlmcp/erlmcp/wal"
)

// Live checks an open store beside its work and calls done after each check. An error means that the checks could not be run.
func Live(ctx context.Context, store *engine.Store, ledger *tcps.Ledger, dir string, now func() time.Time, done func(Check)) (Report, error) {
	begin := now()
	r := Report{Mode: "live", DataDir: dir}
	storage, err := store.Verify(ctx)
	if err != nil && !isDamage(err) {
		return Report{}, fmt.Errorf("check the store: %w", err)
	}
	if err != nil {
		c := newCheck(CheckLog)
		c.Findings = append(c.Findings, openFinding(dir, err))
		r.add(done, c)
		r.skipRest(done, "the store could not be read to its end")
		r.conclude(begin, now())
		return r, nil
	}
	r.Index, r.StateHash = storage.Index, hex.EncodeToString(storage.StateHash[:])
	checks := map[string]*Check{}
	for _, k := range kinds {
		checks[k.name] = newCheck(k.name)
	}
	addStorage(checks, storage)
	for _, name := range []string{CheckLog, CheckFiles, CheckState} {
		r.add(done, checks[name])
	}
	documents, err := ledger.VerifyAll(ctx)
	if err != nil && !isDamage(err) {
		return Report{}, fmt.Errorf("check the ledger: %w", err)
	}
	if err != nil {
		c := checks[CheckDocuments]
		c.Findings = append(c.Findings, openFinding(dir, err))
		r.add(done, c)
		r.skipRest(done, "the documents could not be read to their end")
		r.conclude(begin, now())
		return r, nil
	}
	addLedger(checks, documents)
	for _, name := range tcps.Checks() {
		r.add(done, checks[name])
	}
	r.conclude(begin, now())
	return r, nil
}

// isDamage tells an error that names damage from one that kept the checks from running.
func isDamage(err error) bool {
	return errors.Is(err, engine.ErrCorrupt) || errors.Is(err, wal.ErrCorrupt)
}

// addStorage sorts what the engine found into the checks.
func addStorage(checks map[string]*Check, v engine.VerifyReport) {
	checks[CheckLog].Checked = entries(v.LogFirst, v.LogLast)
	checks[CheckFiles].Checked = uint64(v.SSTables)
	checks[CheckState].Checked = v.Rows
	for _, f := range v.Findings {
		name := CheckState // rows and deadlines are what the state hash covers
		switch f.Kind {
		case "log":
			name = CheckLog
		case "sstable":
			name = CheckFiles
		case "index":
			name = CheckIndexes
		}
		checks[name].Findings = append(checks[name].Findings, Finding{Where: f.Where, What: f.Kind + ": " + f.Message, Next: f.Advice})
	}
}

// entries counts the log entries from first to last; an empty log has 0, 0.
func entries(first, last uint64) uint64 {
	if first == 0 || last < first {
		return 0
	}
	return last - first + 1
}

// addLedger sorts what the ledger found into the checks.
func addLedger(checks map[string]*Check, v tcps.VerifyReport) {
	for name, result := range v.Checks {
		checks[name].Checked = uint64(result.Checked)
		if !result.Passed && v.Omitted > 0 {
			checks[name].Notes = append(checks[name].Notes, fmt.Sprintf("%s; %d findings of all checks are not listed", result.Details, v.Omitted))
		}
	}
	for _, f := range v.Findings {
		c := checks[f.Check]
		c.Findings = append(c.Findings, Finding{Where: fmt.Sprintf("table %s, key %s", f.Table, f.Key), What: describe(f), Next: f.Advice})
	}
	// Findings may have been left out of a list that is too long to print, the verdict never is.
	for name, result := range v.Checks {
		if c := checks[name]; !result.Passed && len(c.Findings) == 0 {
			c.Findings = append(c.Findings, Finding{Where: "ledger", What: result.Details})
		}
	}
}

func describe(f tcps.Finding) string {
	if f.Code == "" {
		return f.Message
	}
	return string(f.Code) + ": " + f.Message
}
