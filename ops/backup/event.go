package backup

import "time"

// Kinds of events.
const (
	EventFailed    = "failed"     // a job failed
	EventRecovered = "recovered"  // a job that had failed succeeded
	EventDamage    = "damage"     // a verification found damage
	EventDrill     = "drill"      // a drill found that the backups do not restore
	EventLogGap    = "log_gap"    // log was recycled before it was archived: some moments can never be restored
	EventLogHeld   = "log_unheld" // the archive is so far behind that the log is no longer kept for it
)

// Event is something that somebody should hear of. Whoever routes alerts decides how.
type Event struct {
	Kind       string    `json:"kind"`
	Job        string    `json:"job"`
	Time       time.Time `json:"time"`
	Repository string    `json:"repository"` // without secrets
	Message    string    `json:"message"`
	InARow     int       `json:"failures_in_a_row,omitempty"`
}
