package backup

import "time"

// Status is what a service knows about itself.
type Status struct {
	Repository string     `json:"repository"`
	Jobs       []JobState `json:"jobs"`
	Archive    *Archived  `json:"archive,omitempty"` // nil: the log is not archived
	LastBackup *Created   `json:"last_backup,omitempty"`
	LastProof  time.Time  `json:"last_proof,omitzero"` // newest drill that found the backups to restore
	Since      time.Time  `json:"since"`               // when the service began
}

// Archived is how far the archive of the log is.
type Archived struct {
	Index   uint64    `json:"index"`          // newest archived entry
	Behind  uint64    `json:"behind"`         // entries that are not archived yet
	At      time.Time `json:"at,omitzero"`    // when it was complete last
	Failing time.Time `json:"since,omitzero"` // when it began to fail; zero: it works
	Error   string    `json:"error,omitempty"`
}

// Status returns a copy of what is known.
func (s *Service) Status() Status {
	applied := s.o.Store.AppliedIndex()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Repository: s.o.Target.String(), LastProof: s.proof, Since: s.begun.UTC(), Jobs: []JobState{}}
	for _, name := range []string{JobFull, JobIncremental, JobArchive, JobMerge, JobVerify, JobPrune, JobCopy, JobScrub, JobDrill} {
		j := *s.jobs[name]
		if j.Runs > 0 || !j.Next.IsZero() {
			j.Recent = append([]Run{}, j.Recent...)
			st.Jobs = append(st.Jobs, j)
		}
	}
	if s.o.Archive > 0 {
		a := &Archived{Index: s.lag.index, At: s.lag.at.UTC(), Failing: s.lag.since, Error: s.lag.err}
		if done := max(a.Index, s.quiet[JobArchive]); applied > done {
			a.Behind = applied - done
		}
		st.Archive = a
	}
	if s.last.Backup != 0 {
		c := s.last
		st.LastBackup = &c
	}
	return st
}
