package integrity

import (
	"time"

	"github.com/erlmcp/erlmcp/tcps"
)

// The names of the checks, stable for machines.
const (
	CheckLog        = "log_chain"
	CheckFiles      = "store_files"
	CheckState      = "state_hash"
	CheckDocuments  = tcps.CheckJSON
	CheckChecksums  = tcps.CheckChecksums
	CheckIndexes    = tcps.CheckIndexes
	CheckReceipts   = tcps.CheckChains
	CheckReferences = tcps.CheckReferences
	CheckChanges    = tcps.CheckChanges
)

// kinds lists all checks in their order, with what people read and what is counted.
var kinds = []struct{ name, title, unit string }{
	{CheckLog, "write-ahead log chain", "entries"},
	{CheckFiles, "sorted store files", "files"},
	{CheckState, "state hash", "rows"},
	{CheckDocuments, "JSON documents", "documents"},
	{CheckChecksums, "SHA-256 checksums", "documents"},
	{CheckIndexes, "indexes", "entries"},
	{CheckReceipts, "receipt chains", "receipts"},
	{CheckReferences, "references", "references"},
	{CheckChanges, "change log", "changes"},
}

// Finding is one damaged or missing thing, told like a doctor's letter.
type Finding struct {
	Where string `json:"where"`           // file and offset, table and key, or index
	What  string `json:"what"`            // what is wrong
	Means string `json:"means,omitempty"` // what that means for the data
	Next  string `json:"next,omitempty"`  // what to do now
}

// Check is the result of one check.
type Check struct {
	Name     string    `json:"name"`
	Title    string    `json:"title"`
	Passed   bool      `json:"passed"`
	Skipped  string    `json:"skipped,omitempty"` // why it could not run; then it has not passed either
	Checked  uint64    `json:"checked"`           // how many things were looked at
	Unit     string    `json:"unit"`              // what they are: "records", "documents", ...
	Findings []Finding `json:"findings,omitempty"`
	Notes    []string  `json:"notes,omitempty"` // worth knowing, not damage
}

// Report is the result of all checks.
type Report struct {
	Valid      bool      `json:"valid"`
	Mode       string    `json:"mode"` // "live" or "stopped"
	DataDir    string    `json:"data_dir"`
	VerifiedAt time.Time `json:"verified_at"`
	Index      uint64    `json:"index"`                // the state at this log index was checked
	StateHash  string    `json:"state_hash,omitempty"` // of that state
	Checks     []Check   `json:"checks"`
	Seconds    float64   `json:"seconds"`
}

// Findings counts the findings of all checks.
func (r *Report) Findings() int {
	n := 0
	for _, c := range r.Checks {
		n += len(c.Findings)
	}
	return n
}

// newCheck starts a check that has found nothing yet.
func newCheck(name string) *Check {
	for _, k := range kinds {
		if k.name == name {
			return &Check{Name: k.name, Title: k.title, Unit: k.unit}
		}
	}
	return &Check{Name: name, Title: name}
}

// settled decides whether the check passed.
func (c *Check) settled() Check {
	c.Passed = c.Skipped == "" && len(c.Findings) == 0
	return *c
}

// add appends a check to the report and announces it.
func (r *Report) add(done func(Check), c *Check) {
	r.Checks = append(r.Checks, c.settled())
	done(*c)
}

// conclude fills in what is known only at the end.
func (r *Report) conclude(begin, end time.Time) {
	r.VerifiedAt, r.Seconds, r.Valid = end.UTC(), end.Sub(begin).Seconds(), true
	for _, c := range r.Checks {
		r.Valid = r.Valid && c.Passed
	}
}
