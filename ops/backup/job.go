package backup

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// Names of jobs.
const (
	JobFull        = "full"
	JobIncremental = "incremental"
	JobArchive     = "archive"
	JobVerify      = "verify"
	JobScrub       = "scrub"
	JobDrill       = "drill"
	JobPrune       = "prune"
	JobCopy        = "copy"
	JobMerge       = "merge"
)

// Schedule says when a job runs: cron.Schedule is one. Next is the first time after t.
type Schedule interface{ Next(t time.Time) time.Time }

// Cron reads five fields, minute hour day month weekday, in UTC: "0 2 * * *".
func Cron(text string) (Schedule, error) {
	s, err := cron.ParseStandard("TZ=UTC " + text)
	if err != nil {
		return nil, fmt.Errorf("backup: schedule %q: %w", text, err)
	}
	return s, nil
}

// Every runs at multiples of an interval since the beginning of time, so that all nodes of a cluster mean the same moments and a restart
// does not shift them.
type Every time.Duration

// Next implements Schedule.
func (e Every) Next(t time.Time) time.Time { return t.Truncate(time.Duration(e)).Add(time.Duration(e)) }

// Run is one run of a job.
type Run struct {
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	OK      bool      `json:"ok"`
	Found   bool      `json:"found,omitempty"` // it did its work, and what it found is bad
	Result  string    `json:"result"`          // what was done, or what went wrong
}

// maxRecent bounds the history of a job.
const maxRecent = 20

// JobState is what is known about a job. It is kept in the engine, so that it survives restarts and moves with the leader.
type JobState struct {
	Job         string    `json:"job"`
	Last        Run       `json:"last"`
	LastSuccess time.Time `json:"last_success,omitzero"` // when the newest successful run began
	Runs        uint64    `json:"runs"`
	Failures    uint64    `json:"failures"`
	InARow      int       `json:"failures_in_a_row,omitempty"`
	Recent      []Run     `json:"recent"` // newest first, at most 20

	Next    time.Time `json:"next,omitzero"` // when it runs next; not stored
	Skipped uint64    `json:"skipped"`       // runs without anything to do, since the start of the process; not stored
}

// took records a run.
func (j *JobState) took(r Run) {
	j.Last = r
	j.Runs++
	if r.OK {
		j.LastSuccess, j.InARow = r.Began, 0
	} else {
		j.Failures++
		j.InARow++
	}
	j.Recent = append([]Run{r}, j.Recent[:min(len(j.Recent), maxRecent-1)]...)
}

const (
	retryFirst = time.Minute
	retryMost  = time.Hour
)

// next is when the job runs after what is known about it. One that never ran runs at its first regular time after begun. Missed runs are made up for once, however many there were. A run that could not do its work
// is repeated with growing pauses, at its next regular time at the latest; one that found damage would only find it again.
func (j *JobState) next(s Schedule, begun time.Time) time.Time {
	if j.Last.Began.IsZero() {
		return s.Next(begun)
	}
	at := s.Next(j.Last.Began)
	if j.InARow > 0 && !j.Last.Found {
		pause := min(retryFirst<<min(j.InARow-1, 10), retryMost)
		if again := j.Last.Began.Add(pause); again.Before(at) {
			at = again
		}
	}
	return at
}
