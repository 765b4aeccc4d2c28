package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// BackupTarget is the repository at url as the configuration describes it. environ holds the passphrase and the keys of buckets.
func BackupTarget(c *config.Config, url string, environ []string) (t backup.Target, err error) {
	env := func(name string) (value string) {
		for _, kv := range environ {
			if n, v, _ := strings.Cut(kv, "="); n == name {
				value = v
			}
		}
		return value
	}
	t.Env = env
	if t.Location, err = store.ParseLocation(url, env); err != nil {
		return t, err
	}
	t.Rate, t.PackSize, t.Plain = c.Backup.LimitRate, c.Backup.PackSize, !c.Backup.Encryption
	if !t.Plain {
		if t.Secret, _, err = c.BackupSecret("", environ); err != nil {
			return t, err
		}
	}
	if t.Signer, err = c.BackupSigner("", environ); err != nil {
		return t, err
	}
	t.Trust, err = c.BackupTrust(nil)
	return t, err
}

// ScratchDir is a directory that does not exist yet, with the time in its name; dir "": backup.scratch_dir, else the temporary directory.
func ScratchDir(c *config.Config, dir string, now time.Time) string {
	if dir == "" {
		dir = c.Backup.ScratchDir
	}
	if dir == "" {
		dir = os.TempDir()
	}
	return filepath.Join(dir, fmt.Sprintf("erlmcp-drill-%s-%d", now.UTC().Format("20060102T150405.000"), os.Getpid()))
}

// newBackups makes the service that backs the store up; nil if no repository is configured.
func (n *Node) newBackups(s *engine.Store) (*backup.Service, error) {
	c := n.cfg.Backup
	if c.Repository == "" {
		return nil, nil
	}
	options := EngineOptions(n.cfg, n.o.Key, n.log.With("component", "drill"))
	o := backup.Options{
		Store: s, Archive: c.Archive, Verify: c.Verify, ScrubBudget: c.ScrubBudget, MaxChain: int(c.MaxChain), HoldLog: n.cfg.Storage.RetainLog + c.HoldLog,
		Policy: backupfmt.Policy{Last: 1, Hourly: c.KeepHourly, Daily: c.KeepDaily}, MaxUnused: c.MaxUnused, Engine: options, Checks: integrity.DrillChecks,
		Leader: n.leads, Life: func(ctx context.Context) (object.ID, error) { return n.lifeOf(ctx, s) },
		Scratch: func() string { return ScratchDir(n.cfg, "", n.o.Now()) }, Logger: n.log.With("component", "backup"), Event: n.o.BackupEvent,
	}
	var err error
	if o.Target, err = BackupTarget(n.cfg, c.Repository, n.o.Environ); err != nil {
		return nil, err
	}
	if !o.Target.Plain && o.Target.Secret == nil {
		return nil, &config.Error{
			Where: n.cfg.Origin("backup.repository").String(), Key: "backup.repository",
			Problem: "there is no passphrase for it: set " + config.BackupKeyEnv + " or backup.key_file, or say backup.encryption: off",
		}
	}
	for _, url := range c.Copies {
		t, err := BackupTarget(n.cfg, url, n.o.Environ)
		if err != nil {
			return nil, err
		}
		o.Copies = append(o.Copies, t)
	}
	for _, f := range []struct {
		text string
		into *backup.Schedule
	}{{c.Full, &o.Full}, {c.Scrub, &o.Scrub}, {c.Drill, &o.Drill}} {
		if f.text != config.Off {
			if *f.into, err = backup.Cron(f.text); err != nil {
				return nil, err
			}
		}
	}
	if c.Incremental > 0 {
		o.Incremental = backup.Every(c.Incremental)
	}
	return backup.New(o)
}

// Backup stores the node's state in a repository, beside its work. One backup runs at a time; another one waits.
func (n *Node) Backup(ctx context.Context, r admin.BackupRequest, report backup.Report) (backup.Created, error) {
	p := n.parts.Load()
	if p == nil || n.currentPhase() != admin.PhaseServing {
		return backup.Created{}, fmt.Errorf("the server is %s", n.currentPhase())
	}
	if r.Target == nil || p.backups != nil && r.Target.String() == p.backups.Target().String() && r.Target.Rate == 0 && r.Target.Signer == nil {
		if p.backups == nil {
			return backup.Created{}, errors.New("no repository is named, and the server is not configured with one: use --repo URL, or the setting backup.repository")
		}
		if r.Target != nil { // whoever names the repository must be able to open it
			if _, err := r.Target.Open(ctx); err != nil {
				return backup.Created{}, backup.Explain(err, r.Target.String())
			}
		}
		c, err := p.backups.Create(ctx, r.Options, report)
		return c, backup.Explain(err, p.backups.Target().String())
	}
	select {
	case n.backups <- struct{}{}:
	case <-ctx.Done():
		return backup.Created{}, ctx.Err()
	}
	defer func() { <-n.backups }()
	began := n.o.Now().UTC()
	n.log.Info("backup begins", "repository", r.Target.String(), "type", r.Options.Type)
	repo, err := r.Target.Open(ctx)
	var created backup.Created
	if err == nil {
		var life object.ID
		if life, err = n.lifeOf(ctx, p.store); err == nil {
			created, err = backup.Create(ctx, p.store, repo, life, r.Options, report)
		}
		if err == nil && !created.Unchanged {
			err = backup.Remember(ctx, p.store, repo, r.Options.AcceptRollback)
		}
	}
	if ctx.Err() == nil && !created.Unchanged {
		run := backup.Run{Began: began, Seconds: n.o.Now().Sub(began).Seconds(), OK: err == nil, Result: created.Text()}
		if err != nil {
			run.Result = err.Error()
		}
		n.byHand(ctx, p, backup.Manual{What: "backup", Repository: r.Target.String(), Run: run})
	}
	if err != nil {
		n.log.Warn("backup failed", "repository", r.Target.String(), "error", err)
		return created, backup.Explain(err, r.Target.String())
	}
	n.log.Info("backup stored", "repository", r.Target.String(), "backup", created.Backup, "type", created.Type, "index", created.Index)
	return created, nil
}

// byHand keeps what somebody did, for the status.
func (n *Node) byHand(ctx context.Context, p *parts, m backup.Manual) {
	if err := backup.RecordManual(ctx, p.store, m); err != nil {
		n.log.Warn("a backup or drill by hand could not be recorded", "what", m.What, "repository", m.Repository, "error", err)
	}
}

// Drilled hears of a drill that a command carried out. One on the repository of the schedules counts like theirs.
func (n *Node) Drilled(ctx context.Context, d admin.Drilled) error {
	p := n.parts.Load()
	if p == nil || n.currentPhase() != admin.PhaseServing {
		return fmt.Errorf("the server is %s", n.currentPhase())
	}
	if p.backups != nil && p.backups.Target().String() == d.Repository {
		return p.backups.Note(ctx, d.Proof)
	}
	n.byHand(ctx, p, backup.Manual{What: "drill", Repository: d.Repository, Run: backup.RunOf(d.Proof)})
	return nil
}

// backupStatus is nil while no repository is configured.
func (p *parts) backupStatus() *backup.Status {
	if p.backups == nil {
		return nil
	}
	s := p.backups.Status()
	return &s
}

// judgeBackup: backups that fail are trouble; backups of which nobody knows whether they restore are red.
func judgeBackup(s *backup.Status, now time.Time, maxProofAge time.Duration, drills bool, add func(name string, l admin.Level, value any, format string, args ...any)) {
	if s == nil {
		return
	}
	var troubles []string
	for _, j := range s.Jobs {
		if j.Runs > 0 && !j.Last.OK && j.InARow > 0 && !(j.Job == backup.JobArchive && s.Archive != nil && s.Archive.Failing.IsZero()) {
			troubles = append(troubles, fmt.Sprintf("%s failed %d times in a row: %s", j.Job, j.InARow, j.Last.Result))
		}
	}
	if s.Archive != nil && !s.Archive.Failing.IsZero() {
		troubles = append(troubles, fmt.Sprintf("the log is not archived since %s: %s", s.Archive.Failing.UTC().Format(time.RFC3339), s.Archive.Error))
	}
	proven := s.LastProof
	if proven.IsZero() {
		proven = s.Since
	}
	level := admin.Yellow
	if age := now.Sub(proven); drills && age > maxProofAge {
		troubles = append(troubles, fmt.Sprintf("no restore was proven for %d days; run erlmcp drill", int(age.Hours()/24)))
		level = admin.Red
	}
	if len(troubles) > 0 {
		add("backup", level, nil, "%s", strings.Join(troubles, "; "))
		return
	}
	text := "no backup yet"
	if b := s.LastBackup; b != nil {
		text = fmt.Sprintf("newest backup %d, index %d", b.Backup, b.Index)
	}
	add("backup", admin.Green, nil, "%s", text)
}

// backupMetrics are the numbers of the schedules.
func (m emitter) backupMetrics(s *backup.Status) {
	if s == nil {
		return
	}
	for _, j := range s.Jobs {
		m.counter("erlmcp_backup_runs_total", "Runs of backup jobs.", j.Runs-j.Failures, "job", j.Job, "outcome", "ok")
		m.counter("erlmcp_backup_runs_total", "Runs of backup jobs.", j.Failures, "job", j.Job, "outcome", "failed")
		m.gauge("erlmcp_backup_failures_in_a_row", "Failed runs since the last success.", float64(j.InARow), "job", j.Job)
		m.gauge("erlmcp_backup_last_duration_seconds", "Duration of the newest run.", j.Last.Seconds, "job", j.Job)
		if !j.LastSuccess.IsZero() {
			m.gauge("erlmcp_backup_last_success_timestamp_seconds", "When the newest successful run began.", float64(j.LastSuccess.UnixMilli())/1000, "job", j.Job)
		}
	}
	if a := s.Archive; a != nil {
		m.gauge("erlmcp_backup_archived_index", "Newest archived log entry.", float64(a.Index))
		m.gauge("erlmcp_backup_archive_lag_entries", "Log entries that are not archived yet.", float64(a.Behind))
		m.gauge("erlmcp_backup_archive_failing", "1 while the log cannot be archived.", truth(!a.Failing.IsZero()))
	}
	if b := s.LastBackup; b != nil {
		m.gauge("erlmcp_backup_last_index", "Log index of the newest backup.", float64(b.Index))
		m.gauge("erlmcp_backup_last_stored_bytes", "Bytes that the newest backup stored.", float64(b.NewBytes))
	}
	if !s.LastProof.IsZero() {
		m.gauge("erlmcp_backup_last_proof_timestamp_seconds", "When the newest drill that found the backups to restore was run.", float64(s.LastProof.UnixMilli())/1000)
	}
}
