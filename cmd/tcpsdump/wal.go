package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
)

// walFlags choose what `tcpsdump wal` shows.
type walFlags struct {
	from, to           uint64
	key, table         string
	asJSON, full       bool
	segments, batches  bool
	reads, withControl bool
}

func walCommand(out io.Writer, k *keyFlags) *cobra.Command {
	var f walFlags
	c := &cobra.Command{
		Use:   "wal DIR",
		Short: "Show the log: segments, batches, and every change as table/key/value",
		Long: `Show the write-ahead log of a data directory (or of its wal/ directory).

By default every committed change is shown, oldest first: index, time, actor,
operation, then one line per row written (+) or deleted (-). Records behind
damage are shown too, as far as they are valid in themselves, and the damage is
named at the end.

A change that the engine refused when it was applied (a conflict) is marked
REFUSED if the store can be read; it changed nothing.`,
		Example: `  tcpsdump wal ./data                             every change
  tcpsdump wal ./data --table work_orders --key WO-1700000000000000-000001
  tcpsdump wal ./data --key 'WO-17*' --json | jq .
  tcpsdump wal ./data --from 100 --to 120 --batches
  tcpsdump wal ./data --segments`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if f.to != 0 && f.to < f.from {
				return fmt.Errorf("%w: --to %d is below --from %d", errUsage, f.to, f.from)
			}
			key, err := k.load()
			if err != nil {
				return err
			}
			return dumpWAL(out, vfs.Default, args[0], key, f)
		},
	}
	fl := c.Flags()
	fl.Uint64Var(&f.from, "from", 0, "first log index to show")
	fl.Uint64Var(&f.to, "to", 0, "last log index to show")
	fl.StringVar(&f.key, "key", "", "only rows with this key; a * at the end matches any continuation; 0x... for hex")
	fl.StringVar(&f.table, "table", "", "only rows of this table")
	fl.BoolVar(&f.asJSON, "json", false, "one JSON object per line")
	fl.BoolVar(&f.segments, "segments", false, "show segment files only")
	fl.BoolVar(&f.batches, "batches", false, "show batches (group commits) as well")
	fl.BoolVar(&f.reads, "reads", false, "show what each transaction had read")
	fl.BoolVar(&f.withControl, "control", false, "show the log's control records as well")
	fl.BoolVar(&f.full, "full", false, "do not shorten values")
	c.MarkFlagsMutuallyExclusive("segments", "batches")
	return c
}

// walDump is one run of `tcpsdump wal`.
type walDump struct {
	walFlags
	out     *bufio.Writer
	enc     *json.Encoder
	refused map[uint64]string // log index -> reason, from the store
	shown   int
	bad     []uint64 // entries that do not decode
}

func dumpWAL(out io.Writer, fs vfs.FS, dir string, key []byte, f walFlags) error {
	log, err := logDir(fs, dir)
	if err != nil {
		return err
	}
	d := &walDump{walFlags: f, out: bufio.NewWriterSize(out, 64<<10)}
	d.enc = json.NewEncoder(d.out)
	defer d.out.Flush() //nolint:errcheck // checked below
	if log != dir {
		d.refused = refusedEntries(fs, dir, key)
	}
	v := wal.Visitor{}
	if f.segments || f.batches {
		v.Segment = d.segment
	}
	if f.batches {
		v.Batch = d.batch
	}
	if !f.segments {
		v.Record = d.record
	}
	r, err := wal.Inspect(fs, log, wal.InspectOptions{Key: key, From: f.from, To: f.to}, v)
	if err != nil {
		return err
	}
	if err := d.summary(&r); err != nil {
		return err
	}
	if err := d.out.Flush(); err != nil {
		return err
	}
	if !r.Clean || len(d.bad) > 0 {
		return errDamage
	}
	return nil
}

func (d *walDump) segment(s wal.SegmentInfo) error {
	if d.asJSON {
		return d.enc.Encode(struct {
			Kind string `json:"kind"`
			wal.SegmentInfo
			PrevChain string `json:"prev_chain"`
			Chain     string `json:"chain"`
		}{"segment", s, hex.EncodeToString(s.PrevChain[:]), hex.EncodeToString(s.Chain[:])})
	}
	state := "active"
	if s.Sealed {
		state = "sealed"
	}
	_, err := fmt.Fprintf(d.out, "segment %d  %s  %s  %s  %d batches  %d entries  %d of %d bytes  since %s  chain %x\n",
		s.ID, s.File, state, span(s.FirstIndex, s.LastIndex), s.Batches, s.Entries, s.Tail, s.Size, when(s.CreatedMs), s.Chain[:8])
	return err
}

func (d *walDump) batch(b wal.BatchInfo) error {
	if d.asJSON {
		return d.enc.Encode(struct {
			Kind string `json:"kind"`
			wal.BatchInfo
			Chain string `json:"chain"`
		}{"batch", b, hex.EncodeToString(b.Chain[:])})
	}
	note := ""
	if b.Unlinked {
		note = "  FOLLOWS DAMAGE: valid in itself, not connected by the chain"
	}
	_, err := fmt.Fprintf(d.out, " batch %d  offset %d  %d bytes  %s  term %d  commit %d  %d records  %s  chain %x%s\n",
		b.Number, b.Offset, b.Length, span(b.FirstIndex, b.LastIndex), b.Term, b.CommitIndex, b.Records, when(b.TimeMs), b.Chain[:8], note)
	return err
}

func (d *walDump) record(r wal.RecordInfo) error {
	if r.Control != "" {
		return d.control(r)
	}
	if r.Entry.Type != engine.EntryWriteSet {
		return d.opaque(r)
	}
	ws, err := engine.DecodeWriteSet(r.Entry.Data)
	if err != nil {
		d.bad = append(d.bad, r.Entry.Index)
		if d.asJSON {
			return d.enc.Encode(map[string]any{"kind": "undecodable", "index": r.Entry.Index, "error": err.Error()})
		}
		_, err = fmt.Fprintf(d.out, "%d  UNDECODABLE write set: %v\n", r.Entry.Index, err)
		return err
	}
	ops := ws.Ops[:0:0]
	for _, op := range ws.Ops {
		if d.matches(op.Table, op.Key) {
			ops = append(ops, op)
		}
	}
	if len(ops) == 0 && (d.table != "" || d.key != "") {
		return nil
	}
	d.shown++
	if d.asJSON {
		return d.changeJSON(r, ws, ops)
	}
	return d.changeText(r, ws, ops)
}

func (d *walDump) control(r wal.RecordInfo) error {
	if !d.withControl {
		return nil
	}
	if d.asJSON {
		return d.enc.Encode(map[string]any{"kind": "control", "control": r.Control, "segment": r.Segment, "batch": r.Batch, "data": hex.EncodeToString(r.Entry.Data)})
	}
	_, err := fmt.Fprintf(d.out, "control %s  segment %d  batch %d  %s\n", r.Control, r.Segment, r.Batch, text(r.Entry.Data, d.limit()))
	return err
}

// opaque shows an entry that is not a write set (raft's own, for example).
func (d *walDump) opaque(r wal.RecordInfo) error {
	if d.table != "" || d.key != "" {
		return nil
	}
	d.shown++
	if d.asJSON {
		return d.enc.Encode(map[string]any{"kind": "entry", "index": r.Entry.Index, "term": r.Entry.Term, "type": r.Entry.Type, "data": hex.EncodeToString(r.Entry.Data)})
	}
	_, err := fmt.Fprintf(d.out, "%d  term %d  entry type %d  %s\n", r.Entry.Index, r.Entry.Term, r.Entry.Type, text(r.Entry.Data, d.limit()))
	return err
}

func (d *walDump) limit() int {
	if d.full {
		return 0
	}
	return 200
}

func (d *walDump) matches(table string, key []byte) bool {
	if d.table != "" && table != d.table {
		return false
	}
	return d.key == "" || keyMatches(d.key, key)
}

// keyMatches: pattern is text or 0x hex, a trailing * matches the rest.
func keyMatches(pattern string, key []byte) bool {
	p, prefix := strings.CutSuffix(pattern, "*")
	want := []byte(p)
	if h, isHex := strings.CutPrefix(p, "0x"); isHex {
		if b, err := hex.DecodeString(h); err == nil {
			want = b
		}
	}
	if prefix {
		return bytes.HasPrefix(key, want)
	}
	return bytes.Equal(key, want)
}

func (d *walDump) changeText(r wal.RecordInfo, ws *engine.WriteSet, ops []engine.Op) error {
	verdict := ""
	if why, ok := d.refused[r.Entry.Index]; ok {
		verdict = "  REFUSED (" + why + "): changed nothing"
	}
	fmt.Fprintf(d.out, "%d  %s  %s  %s%s", r.Entry.Index, when(ws.Time), orDash(ws.Actor), orDash(ws.Label), verdict)
	if ws.IdempotencyKey != "" {
		fmt.Fprintf(d.out, "  idempotency-key %s", text([]byte(ws.IdempotencyKey), d.limit()))
	}
	fmt.Fprintln(d.out)
	if d.reads {
		for _, x := range ws.Reads {
			fmt.Fprintf(d.out, "   ? %s/%s @%d\n", x.Table, text(x.Key, d.limit()), x.ModIndex)
		}
	}
	for _, op := range ops {
		switch {
		case op.Delete:
			fmt.Fprintf(d.out, "   - %s/%s\n", op.Table, text(op.Key, d.limit()))
		case op.Deadline != 0:
			fmt.Fprintf(d.out, "   + %s/%s until %s = %s\n", op.Table, text(op.Key, d.limit()), when(op.Deadline), text(op.Value, d.limit()))
		default:
			fmt.Fprintf(d.out, "   + %s/%s = %s\n", op.Table, text(op.Key, d.limit()), text(op.Value, d.limit()))
		}
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return text([]byte(s), 200)
}

func (d *walDump) changeJSON(r wal.RecordInfo, ws *engine.WriteSet, ops []engine.Op) error {
	type opJSON struct {
		Op       string   `json:"op"`
		Table    string   `json:"table"`
		Key      textJSON `json:"key"`
		Value    textJSON `json:"value,omitempty"`
		Deadline string   `json:"deadline,omitempty"`
	}
	type readJSON struct {
		Table   string   `json:"table"`
		Key     textJSON `json:"key"`
		Version uint64   `json:"version"`
	}
	line := struct {
		Kind           string     `json:"kind"`
		Index          uint64     `json:"index"`
		Term           uint64     `json:"term"`
		Segment        uint64     `json:"segment"`
		Batch          uint64     `json:"batch"`
		Offset         int64      `json:"offset"`
		Time           string     `json:"time"`
		Actor          string     `json:"actor,omitempty"`
		Label          string     `json:"label,omitempty"`
		IdempotencyKey string     `json:"idempotency_key,omitempty"`
		Refused        string     `json:"refused,omitempty"`
		Reads          []readJSON `json:"reads,omitempty"`
		Ops            []opJSON   `json:"ops"`
	}{
		Kind: "change", Index: r.Entry.Index, Term: r.Entry.Term, Segment: r.Segment, Batch: r.Batch, Offset: r.Offset,
		Time: when(ws.Time), Actor: ws.Actor, Label: ws.Label, IdempotencyKey: ws.IdempotencyKey, Refused: d.refused[r.Entry.Index],
		Ops: []opJSON{},
	}
	if d.reads {
		for _, x := range ws.Reads {
			line.Reads = append(line.Reads, readJSON{x.Table, textJSON(x.Key), x.ModIndex})
		}
	}
	for _, op := range ops {
		o := opJSON{Op: "put", Table: op.Table, Key: textJSON(op.Key), Value: textJSON(op.Value)}
		if op.Delete {
			o.Op, o.Value = "delete", nil
		}
		if op.Deadline != 0 {
			o.Deadline = when(op.Deadline)
		}
		line.Ops = append(line.Ops, o)
	}
	return d.enc.Encode(line)
}

func (d *walDump) summary(r *wal.Report) error {
	if d.asJSON {
		for _, f := range r.Findings {
			err := d.enc.Encode(struct {
				Kind string      `json:"kind"`
				F    wal.Finding `json:"finding"`
			}{"finding", f})
			if err != nil {
				return err
			}
		}
		return d.enc.Encode(map[string]any{
			"kind": "summary", "log_id": hex.EncodeToString(r.LogID[:]), "segments": r.Segments, "batches": r.Batches,
			"first_index": r.FirstIndex, "last_index": r.LastIndex, "clean": r.Clean && len(d.bad) == 0, "shown": d.shown,
		})
	}
	printFindings(d.out, r.Findings)
	state := "clean"
	if !r.Clean || len(d.bad) > 0 {
		state = "DAMAGED"
	}
	fmt.Fprintf(d.out, "-- log %x: %d segments, %d batches, %s, %d changes shown, %s\n",
		r.LogID[:4], r.Segments, r.Batches, span(r.FirstIndex, r.LastIndex), d.shown, state)
	return nil
}
