package backup

import (
	"github.com/erlmcp/erlmcp/wal"
)

// watched is a log whose reading is reported.
type watched struct {
	*wal.Log
	report       Report
	began, until int64
}

// Iterate implements backupfmt.Log.
func (w watched) Iterate(from uint64, fn func(wal.Entry) error) error {
	return w.Log.Iterate(from, func(e wal.Entry) error {
		if e.Index%1024 == 0 {
			w.report.tell("log", int64(e.Index)-w.began, w.until-w.began, "entries")
		}
		return fn(e)
	})
}
