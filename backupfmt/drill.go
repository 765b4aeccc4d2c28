package backupfmt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
)

// DrillOptions of one drill.
type DrillOptions struct {
	Target  Target
	Scratch string         // directory to restore to; must be absent or empty
	Engine  engine.Options // of the scratch store
	// Checks run on the restored store, in order; queries whose answers are known belong here.
	Checks []DrillCheck
	// Progress of the restore, as in RestoreOptions; may be nil.
	Progress func(phase string, rows, entries uint64)
}

// DrillCheck is a named check of a restored store.
type DrillCheck struct {
	Name string
	Run  func(ctx context.Context, s *engine.Store) error
}

// ProofCheck is the outcome of one check.
type ProofCheck struct {
	Name    string        `json:"name"`
	OK      bool          `json:"ok"`
	Message string        `json:"message,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

// DrillProof is what a drill found. It is stored sealed, so only a holder of the key can have made it, and in a signed repository signed.
type DrillProof struct {
	Version   int           `json:"version"`
	OK        bool          `json:"ok"`
	Began     time.Time     `json:"began"`
	Backup    uint64        `json:"backup,omitempty"` // newest backup that was restored
	Index     uint64        `json:"index,omitempty"`
	StateHash string        `json:"state_hash,omitempty"`
	Rows      uint64        `json:"rows,omitempty"`
	Entries   uint64        `json:"entries,omitempty"` // of the log, replayed
	RTO       time.Duration `json:"rto_ns"`            // from the beginning until the store was open
	Phases    []Phase       `json:"phases,omitempty"`
	Checks    []ProofCheck  `json:"checks"`
	Scratch   string        `json:"scratch,omitempty"` // kept after a failure
	Error     string        `json:"error,omitempty"`
}

// Drill restores into a scratch directory, opens the result, recomputes everything that can be recomputed (state hash, tables, indexes,
// log chain) and runs the checks. What it found is stored as a proof, also a failure, and returned; the error says that the
// drill could not be carried out or its proof not be stored. The scratch directory is removed after a success and kept after a failure.
func (r *Repo) Drill(ctx context.Context, o DrillOptions) (*DrillProof, error) {
	if o.Engine.FS == nil {
		o.Engine.FS = vfs.Default
	}
	c, err := r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.writable(c); err != nil {
		return nil, err // the proof could not be stored
	}
	p := &DrillProof{Version: 1, Began: r.o.Now().UTC(), Checks: []ProofCheck{}}
	err = r.drill(ctx, o, p)
	if ctx.Err() != nil { // given up, which proves nothing
		if p.Phases != nil { // what is there was restored by this drill
			err = errors.Join(err, removeAll(o.Engine.FS, o.Scratch))
		}
		return nil, errors.Join(ctx.Err(), err)
	}
	if err != nil {
		p.Error = err.Error()
	}
	p.OK = p.Error == "" && len(p.Checks) > 0
	for _, c := range p.Checks {
		p.OK = p.OK && c.OK
	}
	if _, err := o.Engine.FS.Stat(o.Scratch); err == nil {
		if p.OK {
			if err := removeAll(o.Engine.FS, o.Scratch); err != nil {
				return p, err
			}
		} else {
			p.Scratch = o.Scratch
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return p, fmt.Errorf("backup: look at %s: %w", o.Scratch, err)
	}
	return p, r.saveProof(ctx, p)
}

func (r *Repo) drill(ctx context.Context, o DrillOptions, p *DrillProof) error {
	plan, err := r.Plan(ctx, o.Target)
	if err != nil {
		return err
	}
	p.Backup = plan.Backup().Seq
	rep, err := r.Restore(ctx, plan, RestoreOptions{Dir: o.Scratch, Engine: o.Engine, Progress: o.Progress})
	if err != nil {
		return err
	}
	p.Index, p.Rows, p.Entries, p.Phases = rep.Index, rep.Rows, rep.Entries, rep.Phases
	p.StateHash = fmt.Sprintf("%x", rep.StateHash)
	s, err := engine.Open(o.Scratch, o.Engine)
	if err != nil {
		return fmt.Errorf("backup: open the restored store: %w", err)
	}
	defer s.Close()
	p.RTO = r.o.Now().Sub(p.Began)
	checks := append([]DrillCheck{{Name: "integrity", Run: integrity}}, o.Checks...)
	for _, c := range checks {
		at := r.o.Now()
		err := c.Run(ctx, s)
		out := ProofCheck{Name: c.Name, OK: err == nil, Took: r.o.Now().Sub(at)}
		if err != nil {
			out.Message = err.Error()
		}
		p.Checks = append(p.Checks, out)
	}
	if err := s.Close(); err != nil {
		return fmt.Errorf("backup: close the restored store: %w", err)
	}
	return nil
}

// integrity is the engine's own verification.
func integrity(ctx context.Context, s *engine.Store) error {
	rep, err := s.Verify(ctx)
	if err != nil {
		return err
	}
	if !rep.OK() {
		f := rep.Findings[0]
		return fmt.Errorf("%w: %d findings, the first: %s %s: %s", ErrDamaged, len(rep.Findings), f.Kind, f.Where, f.Message)
	}
	return nil
}

func (r *Repo) saveProof(ctx context.Context, p *DrillProof) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("backup: encode proof: %w", err)
	}
	for ms := p.Began.UnixMilli(); ; ms++ {
		o, _, _, err := r.sealSigned(object.Proof, nil, b)
		if err != nil {
			return err
		}
		err = r.st.Create(ctx, fmt.Sprintf("%s%016x", folderProofs, ms), o)
		if !errors.Is(err, store.ErrExists) { // two drills in one millisecond
			return err
		}
	}
}

// Proofs returns what drills found, oldest first. With Options.Trust those from before the repository was signed are left out.
func (r *Repo) Proofs(ctx context.Context) ([]*DrillProof, error) {
	chain, err := r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	if err := r.st.List(ctx, folderProofs, func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		return nil, err
	}
	var out []*DrillProof
	for _, n := range names {
		c, err := r.open(ctx, n, object.Proof, nil)
		if errors.Is(err, object.ErrNoKey) {
			continue // made with the keys of an older generation after it had ended: proves nothing
		}
		if err != nil {
			return nil, err
		}
		counts, err := r.proofCounts(n, c, chain.Signing)
		if err != nil {
			return nil, err
		}
		if !counts {
			continue
		}
		frame, err := c.Frame(0)
		if err != nil {
			return nil, fmt.Errorf("backup: %s: %w", n, err)
		}
		var p DrillProof
		if err := json.Unmarshal(frame, &p); err != nil {
			return nil, &DamageError{Kind: "damaged", Object: n, Reason: "it does not decode", Cause: err}
		}
		if at, ok := parseNumber(n); !ok || int64(at) < p.Began.UnixMilli() || int64(at) > p.Began.UnixMilli()+1000 {
			return nil, &DamageError{Kind: "replayed", Object: n, Reason: fmt.Sprintf("it is the proof of %s", p.Began)}
		}
		out = append(out, &p)
	}
	return out, nil
}

// proofCounts: of a signed repository a proof is signed, or older than the signatures, which its name says.
func (r *Repo) proofCounts(name string, c *object.Content, since *Signing) (bool, error) {
	if !r.trusting() || since == nil {
		return true, nil
	}
	sig, err := r.signed(name, c)
	if err != nil || sig.proven {
		return sig.proven, err
	}
	if at, ok := parseNumber(name); ok && int64(at) < since.Since.UnixMilli() {
		return false, nil
	}
	return false, sig.unsigned(name, 0)
}
