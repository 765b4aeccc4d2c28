package main

import (
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/ops/backup"
)

// backupRows show what the schedules did.
func backupRows(row func(name, format string, args ...any), s *backup.Status) {
	if s == nil {
		return
	}
	row("backups", "to %s", s.Repository)
	if a := s.Archive; a != nil {
		text := fmt.Sprintf("archive at index %d", a.Index)
		switch {
		case !a.Failing.IsZero():
			text += fmt.Sprintf(", FAILING since %s UTC: %s", moment(a.Failing), a.Error)
		case a.Behind > 0:
			text += fmt.Sprintf(", %d entries to go", a.Behind)
		default:
			text += ", complete"
		}
		row("", "%s", text)
	}
	for _, j := range s.Jobs {
		if j.Job == backup.JobArchive {
			continue
		}
		text := "not yet"
		if j.Runs > 0 {
			state := "ok"
			if !j.Last.OK {
				state = fmt.Sprintf("FAILED (%d in a row)", j.InARow)
			}
			text = fmt.Sprintf("%s UTC %s: %s", moment(j.Recent[0].Began), state, j.Recent[0].Result)
		}
		if !j.Next.IsZero() {
			text += fmt.Sprintf("; next %s UTC", moment(j.Next))
		}
		row("", "%-11s %s", j.Job, text)
	}
	proof := "never"
	if !s.LastProof.IsZero() {
		proof = fmt.Sprintf("%s UTC, %d days ago", moment(s.LastProof), int(time.Since(s.LastProof).Hours()/24))
	}
	row("", "last proof that they restore: %s", proof)
}

// shownByHand bounds what status prints; --json has all of it.
const shownByHand = 5

// byHandRows show what somebody did on other repositories.
func byHandRows(row func(name, format string, args ...any), runs []backup.Manual) {
	for i, m := range runs[:min(len(runs), shownByHand)] {
		name, state := "", "ok"
		if i == 0 {
			name = "by hand"
		}
		if !m.OK {
			state = "FAILED"
		}
		row(name, "%s UTC %s of %s %s: %s", moment(m.Began), m.What, m.Repository, state, m.Result)
	}
}
