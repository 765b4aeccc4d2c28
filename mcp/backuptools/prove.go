package backuptools

import (
	"context"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
)

type (
	verifyIn struct {
		ReadData bool    `json:"read_data,omitempty" jsonschema:"read every byte; without it the chain, and names and sizes of everything else"`
		Budget   float64 `json:"budget,omitempty" jsonschema:"with read_data: share of the bytes to read, above 0 and below 1, what was read longest ago first; default all"`
		Heal     bool    `json:"heal,omitempty" jsonschema:"with read_data: write back what parity restores"`
	}
	verifyOut struct {
		Sound    bool        `json:"sound"`
		Lost     bool        `json:"lost" jsonschema:"some damage cannot be restored from parity"`
		Objects  int         `json:"objects"`
		Bytes    int64       `json:"bytes"`
		Read     int64       `json:"read_bytes"`
		Backups  int         `json:"backups"`
		Findings int         `json:"findings"`
		Damage   []damaged   `json:"damage" jsonschema:"the first 100 findings"`
		Gaps     []gapOfLife `json:"gaps,omitempty" jsonschema:"log that was never archived: known, no damage"`
	}
	damaged struct {
		Kind    string   `json:"kind"`
		Object  string   `json:"object"`
		Reason  string   `json:"reason"`
		Backups []uint64 `json:"backups,omitempty" jsonschema:"that cannot be restored because of it"`
		From    uint64   `json:"from,omitempty" jsonschema:"first log entry that is lost"`
		To      uint64   `json:"to,omitempty"`
		Healed  bool     `json:"healed,omitempty" jsonschema:"nothing is lost"`
		Written bool     `json:"written,omitempty" jsonschema:"and it was written back"`
	}
	gapOfLife struct {
		Life string `json:"life"`
		From uint64 `json:"from"`
		To   uint64 `json:"to"`
	}
	drillIn struct {
		Backup uint64 `json:"backup,omitempty" jsonschema:"restore exactly this backup; default the newest state there is"`
	}
	drillOut struct {
		OK        bool      `json:"ok" jsonschema:"the backups restore"`
		Began     time.Time `json:"began"`
		Backup    uint64    `json:"backup,omitempty" jsonschema:"newest backup that was restored"`
		Index     uint64    `json:"index,omitempty"`
		StateHash string    `json:"state_hash,omitempty"`
		Rows      uint64    `json:"rows,omitempty"`
		Entries   uint64    `json:"entries,omitempty" jsonschema:"of the log, replayed"`
		RTO       float64   `json:"rto_seconds" jsonschema:"from the beginning until the store was open"`
		Checks    []checked `json:"checks"`
		Scratch   string    `json:"scratch,omitempty" jsonschema:"what was restored, kept after a failure"`
		Error     string    `json:"error,omitempty"`
	}
	checked struct {
		Name    string  `json:"name"`
		OK      bool    `json:"ok"`
		Message string  `json:"message,omitempty"`
		Seconds float64 `json:"seconds"`
	}
)

// maxDamage bounds the findings of an answer.
const maxDamage = 100

func (t *tools) addVerify() {
	tool := describe[verifyOut](kind{idempotent: true}, "backup_verify", "Verify the backups",
		"Check this server's backup repository: the chain of backups, that everything is there, and with read_data every byte. Damage is named with what it costs. "+
			"With heal, what parity restores is written back; nothing else is changed but the record of what was read when.")
	addTask(t, tool, func(ctx context.Context, task *mcp.Task, in verifyIn) (verifyOut, error) {
		if in.Budget < 0 || in.Budget >= 1 || (in.Budget != 0 || in.Heal) && !in.ReadData {
			return verifyOut{}, fmt.Errorf("%w: budget is above 0 and below 1; budget and heal need read_data", backupfmt.ErrInvalid)
		}
		rep, err := t.s.Verify(ctx, backupfmt.VerifyOptions{ReadData: in.ReadData, Budget: in.Budget, Heal: in.Heal}, progress(task))
		if err != nil {
			return verifyOut{}, err
		}
		return verified(rep), nil
	})
}

func verified(rep *backupfmt.VerifyReport) verifyOut {
	out := verifyOut{
		Sound: rep.OK(), Lost: rep.Lost(), Objects: rep.Objects, Bytes: rep.Bytes, Read: rep.BytesSum, Findings: len(rep.Damage), Damage: []damaged{},
	}
	if rep.Chain != nil {
		out.Backups = len(rep.Chain.Backups(""))
	}
	for _, d := range rep.Damage[:min(len(rep.Damage), maxDamage)] {
		out.Damage = append(out.Damage, damaged{d.Kind, d.Object, d.Reason, d.Backups, d.From, d.To, d.Healed, d.Written})
	}
	for _, g := range rep.Gaps[:min(len(rep.Gaps), maxDamage)] {
		out.Gaps = append(out.Gaps, gapOfLife{g.Life, g.From, g.To})
	}
	return out
}

func (t *tools) addDrill() {
	tool := describe[drillOut](kind{}, "drill_run", "Prove that the backups restore",
		"Restore the newest state (or one backup) into a scratch directory of the server, open it with the engine, compare its hash with the recorded one, run the integrity checks and the "+
			"queries of everyday, and measure how long that took. The proof is stored in the repository, also of a failure. The data of the server is not touched; the scratch is removed after a success.")
	addTask(t, tool, func(ctx context.Context, task *mcp.Task, in drillIn) (drillOut, error) {
		p, err := t.s.Drill(ctx, backup.DrillOptions{
			Target: backupfmt.Target{Seq: in.Backup}, Scratch: t.s.ScratchFor(taskMark(task)),
		}, progress(task))
		if err != nil {
			return drillOut{}, err
		}
		return drilled(p), nil
	})
}

func drilled(p *backupfmt.DrillProof) drillOut {
	out := drillOut{
		OK: p.OK, Began: p.Began, Backup: p.Backup, Index: p.Index, StateHash: p.StateHash, Rows: p.Rows, Entries: p.Entries, RTO: p.RTO.Seconds(),
		Checks: []checked{}, Scratch: p.Scratch, Error: p.Error,
	}
	for _, c := range p.Checks {
		out.Checks = append(out.Checks, checked{c.Name, c.OK, c.Message, c.Took.Seconds()})
	}
	return out
}
