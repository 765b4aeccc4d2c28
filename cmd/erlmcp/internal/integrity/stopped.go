package integrity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
	"github.com/erlmcp/erlmcp/wal"
)

// StoppedOptions say where to look and how to open it.
type StoppedOptions struct {
	DataDir string
	Engine  engine.Options
	Now     func() time.Time
}

// ErrNothingThere means that the directory is not a data directory, or empty: there is nothing to check.
var ErrNothingThere = errors.New("there is no store in this directory")

// Stopped checks a directory that no server uses, and calls done after each check. An error means that the checks could not be
// run; damage is a report with Valid false. Until the log is known to be undamaged nothing is written.
func Stopped(ctx context.Context, o StoppedOptions, done func(Check)) (Report, error) {
	begin := o.Now()
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return Report{}, err
	}
	logDir := filepath.Join(dir, "wal")
	if _, err := os.Stat(logDir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Report{}, fmt.Errorf("%s: %w", dir, ErrNothingThere)
		}
		return Report{}, err
	}
	check, encrypted, err := inspectLog(ctx, logDir, o.Engine.Key)
	if err != nil {
		return Report{}, fmt.Errorf("%s: %w", logDir, err)
	}
	if encrypted && o.Engine.Key == nil && len(check.Findings) == 0 {
		return Report{}, fmt.Errorf("%s: %w: set ERLMCP_DATA_KEY or name the key file with --data-key-file", dir, engine.ErrKeyRequired)
	}
	r := Report{Mode: "stopped", DataDir: dir}
	if len(check.Findings) > 0 {
		r.add(done, check)
		r.skipRest(done, "the log is damaged: opening the store would write to the directory, which must stay as it was found")
		r.conclude(begin, o.Now())
		return r, nil
	}
	store, err := engine.Open(dir, o.Engine)
	if err != nil {
		if !errors.Is(err, engine.ErrCorrupt) {
			return Report{}, fmt.Errorf("open %s: %w", dir, err)
		}
		r.add(done, check)
		files := newCheck(CheckFiles)
		files.Findings = append(files.Findings, openFinding(dir, err))
		r.add(done, files)
		r.skipRest(done, "the store cannot be opened")
		r.conclude(begin, o.Now())
		return r, nil
	}
	defer store.Close()
	ledger, err := tcps.New(store, tcps.Options{})
	if err != nil {
		return Report{}, err
	}
	live, err := Live(ctx, store, ledger, dir, o.Now, func(c Check) { done(join(check, c)) })
	if err != nil {
		return Report{}, err
	}
	for i, c := range live.Checks {
		live.Checks[i] = join(check, c)
	}
	live.Mode = r.Mode
	live.conclude(begin, o.Now())
	return live, nil
}

// skipRest reports the checks that did not run as not passed: what was not looked at is not known to be good.
func (r *Report) skipRest(done func(Check), why string) {
	ran := map[string]bool{}
	for _, c := range r.Checks {
		ran[c.Name] = true
	}
	for _, k := range kinds {
		if !ran[k.name] {
			c := newCheck(k.name)
			c.Skipped = why
			r.add(done, c)
		}
	}
}

// join adds what the inspection of the log saw to the live check of the log: it reads also what is not in use any more, and saw
// the torn tail before the open cut it. Other checks are returned as they are.
func join(inspected *Check, live Check) Check {
	if live.Name != inspected.Name {
		return live
	}
	live.Checked = max(inspected.Checked, live.Checked)
	live.Notes = append(live.Notes, inspected.Notes...)
	return live
}

// inspectLog reads every segment without opening the log.
func inspectLog(ctx context.Context, dir string, key []byte) (*Check, bool, error) {
	c := newCheck(CheckLog)
	alive := func(wal.SegmentInfo) error { return ctx.Err() }
	report, err := wal.Inspect(vfs.Default, dir, wal.InspectOptions{Key: key}, wal.Visitor{Segment: alive})
	var bad *wal.CorruptError
	if errors.As(err, &bad) { // not even readable so far that damage could be told from what is intact
		c.Findings = append(c.Findings, logFinding(bad.Finding))
		return c, false, nil
	}
	if err != nil {
		return c, false, err
	}
	c.Checked = entries(report.FirstIndex, report.LastIndex)
	for _, f := range report.Findings {
		if f.Severity == wal.SeverityDamage {
			c.Findings = append(c.Findings, logFinding(f))
			continue
		}
		c.Notes = append(c.Notes, fmt.Sprintf("%s (%s)", f, f.Advice))
	}
	return c, report.Encrypted, nil
}

func logFinding(f wal.Finding) Finding {
	where := "write-ahead log"
	if f.File != "" {
		where = fmt.Sprintf("%s, offset %d", f.File, f.Offset)
	}
	means := ""
	switch {
	case f.FirstIndex != 0 && f.LastIndex != 0:
		means = fmt.Sprintf("changes %d to %d of the log cannot be trusted", f.FirstIndex, f.LastIndex)
	case f.FirstIndex != 0:
		means = fmt.Sprintf("changes from %d of the log on cannot be trusted", f.FirstIndex)
	}
	return Finding{Where: where, What: f.Message, Means: means, Next: f.Advice}
}

// openFinding turns a refusal of the engine into a finding.
func openFinding(dir string, err error) Finding {
	var bad *engine.CorruptError
	if !errors.As(err, &bad) {
		return Finding{Where: dir, What: err.Error(), Next: "copy the directory, then restore the newest backup into a new one"}
	}
	f := Finding{Where: bad.Where, What: bad.What, Means: bad.Means, Next: bad.Advice}
	if f.Where == "" {
		f.Where = dir
	}
	if bad.Cause != nil {
		cause, _, _ := strings.Cut(bad.Cause.Error(), "\n")
		f.What += ": " + cause
	}
	if bad.Intact != "" {
		f.Means += "; intact: " + bad.Intact
	}
	return f
}
