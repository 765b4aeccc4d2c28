// Package forensic explains damage in a data directory the way a good doctor does: what is damaged, what is certainly
// intact, what it means for the data, and what to do next.
//
// It only reads, takes no lock, and works beside a running server and on input of any kind. The facts come from
// wal.Inspect and from the store's files; this package puts them together and words them.
package forensic

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
)

// A Letter is the result of examining a data directory.
type Letter struct {
	Dir       string      `json:"dir"`
	Log       *wal.Report `json:"-"`
	Store     *Store      `json:"store,omitempty"`
	Diagnoses []Diagnosis `json:"diagnoses"`
}

// Store says what the materialised state holds on disk.
type Store struct {
	AppliedIndex uint64 `json:"applied_index"`
	StateHash    string `json:"state_hash,omitempty"`
	Error        string `json:"error,omitempty"` // why it cannot be read
}

// A Diagnosis explains one damage.
type Diagnosis struct {
	Kind    string   `json:"kind"`
	Damaged string   `json:"damaged"`
	Where   string   `json:"where,omitempty"`
	Intact  []string `json:"intact"`
	Meaning []string `json:"meaning"`
	Keys    []string `json:"keys,omitempty"` // rows last written by the damaged range, as table/key
	From    string   `json:"from,omitempty"` // time range of the damaged part, as far as it is known
	To      string   `json:"to,omitempty"`
	Next    []string `json:"next"`
}

// Damaged reports whether anything is wrong.
func (l *Letter) Damaged() bool { return len(l.Diagnoses) > 0 }

// maxKeys bounds the keys a diagnosis lists.
const maxKeys = 20

// Examine looks at the data directory dir (or a bare log directory). The error says that nothing could be examined; all
// damage is in the letter.
func Examine(fs vfs.FS, dir string, key []byte) (*Letter, error) {
	if _, err := fs.Stat(dir); err != nil {
		return nil, err
	}
	l := &Letter{Dir: dir, Diagnoses: []Diagnosis{}}
	log, isData := dir, false
	if sub := fs.PathJoin(dir, "wal"); exists(fs, sub) {
		log, isData = sub, true
	}
	times, err := l.inspect(fs, log, key)
	if err != nil && !isData {
		return nil, err
	}
	if err != nil {
		l.unreadableLog(err)
	}
	var r *engine.Reader
	if isData {
		r = l.openStore(fs, key)
		if r != nil {
			defer r.Close() //nolint:errcheck // read only
		}
	}
	if l.Log != nil {
		for _, f := range l.Log.Damage() {
			l.explain(f, r, times)
		}
		l.compare()
	}
	return l, nil
}

func exists(fs vfs.FS, path string) bool {
	_, err := fs.Stat(path)
	return err == nil
}

// batchTime is when a valid batch was written.
type batchTime struct {
	first, last uint64
	ms          int64
}

func (l *Letter) inspect(fs vfs.FS, log string, key []byte) (times []batchTime, err error) {
	r, err := wal.Inspect(fs, log, wal.InspectOptions{Key: key}, wal.Visitor{})
	if err != nil {
		return nil, err
	}
	l.Log = &r
	if r.Clean {
		return nil, nil
	}
	_, err = wal.Inspect(fs, log, wal.InspectOptions{Key: key}, wal.Visitor{Batch: func(b wal.BatchInfo) error {
		times = append(times, batchTime{b.FirstIndex, b.LastIndex, b.TimeMs})
		return nil
	}})
	return times, err
}

func (l *Letter) unreadableLog(err error) {
	l.Diagnoses = append(l.Diagnoses, Diagnosis{
		Kind: "log-unreadable", Damaged: "the log cannot be read: " + err.Error(),
		Intact:  []string{"nothing is known about the log"},
		Meaning: []string{"changes that had not reached the store yet cannot be shown"},
		Next:    []string{"check the key, the permissions and the disk (`dmesg`), then run this again"},
	})
}

func (l *Letter) openStore(fs vfs.FS, key []byte) *engine.Reader {
	r, err := engine.OpenReadOnly(fs, l.Dir, engine.ReadOptions{Key: key})
	if err != nil {
		l.Store = &Store{Error: err.Error()}
		l.Diagnoses = append(l.Diagnoses, Diagnosis{
			Kind: "store-unreadable", Damaged: "the store (the materialised state) cannot be read: " + err.Error(),
			Where: fs.PathJoin(l.Dir, "store"), Intact: l.logIntact(),
			Meaning: []string{"the log alone holds the newest changes, but not the rows that were written before its first index"},
			Next:    []string{"copy the directory before anything else", "restore the newest backup into a new directory; the log shows what changed since (`tcpsdump wal " + l.Dir + "`)"},
		})
		return nil
	}
	applied, hash := r.Applied()
	l.Store = &Store{AppliedIndex: applied, StateHash: fmt.Sprintf("%x", hash)}
	return r
}

func (l *Letter) logIntact() []string {
	if l.Log == nil || !l.Log.Clean {
		return []string{"see below for the log"}
	}
	return []string{fmt.Sprintf("the log is whole: index %d to %d", l.Log.FirstIndex, l.Log.LastIndex)}
}

// explain turns a finding about the log into a diagnosis.
func (l *Letter) explain(f wal.Finding, r *engine.Reader, times []batchTime) {
	d := Diagnosis{Kind: f.Kind, Damaged: f.Message}
	if f.File != "" {
		d.Where = fmt.Sprintf("wal/%s, offset %d", f.File, f.Offset)
	}
	f.LastIndex = rangeEnd(f.FirstIndex, f.LastIndex, times)
	first, last := f.FirstIndex, f.LastIndex
	if last == 0 && l.Store != nil {
		last = max(first, l.Store.AppliedIndex)
	}
	l.intact(&d, first, times)
	l.meaning(&d, f, first, last)
	d.From, d.To = timeRange(first, last, times)
	if r != nil && first != 0 {
		d.Keys = writtenBy(r, first, max(first, last))
	}
	d.Next = []string{
		"do not start a server on this directory; copy it first (`cp -a " + l.Dir + " COPY`), for the damage may spread with the disk's trouble",
		"see the surroundings: `tcpsdump wal " + l.Dir + fmt.Sprintf(" --from %d --to %d --batches`", max(1, sub(first, 5)), max(first, last)+5),
		afterwards(f.Kind),
	}
	l.Diagnoses = append(l.Diagnoses, d)
}

// afterwards is what to do once the directory is copied and looked at.
func afterwards(kind string) string {
	switch kind {
	case wal.KindMissingSegment, wal.KindMisplaced:
		return "put the file back under its name if it was moved; else restore the newest backup into a new directory, or let a cluster peer resend the range"
	case wal.KindUnreadable:
		return "look at the disk (`dmesg`, smartctl); when it reads again, start the server: nothing needs to be repaired then"
	}
	return "restore the newest backup into a new directory, or let a cluster peer resend the range"
}

// rangeEnd is the last index the damage can concern: the batch behind it that is valid in itself is not damaged.
func rangeEnd(first, last uint64, times []batchTime) uint64 {
	for _, t := range times {
		if first != 0 && t.first > first && t.last >= t.first && (last == 0 || t.first-1 < last) {
			return t.first - 1
		}
	}
	return last
}

func sub(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

func (l *Letter) intact(d *Diagnosis, first uint64, times []batchTime) {
	if first > l.Log.FirstIndex && l.Log.FirstIndex > 0 {
		d.Intact = append(d.Intact, fmt.Sprintf("the log from index %d to %d: every byte verified by the chain", l.Log.FirstIndex, first-1))
	}
	after := 0
	var lo, hi uint64
	for _, t := range times {
		if first != 0 && t.first > first && t.last >= t.first {
			if after == 0 {
				lo = t.first
			}
			hi = max(hi, t.last)
			after++
		}
	}
	if after > 0 {
		d.Intact = append(d.Intact, fmt.Sprintf("%d batches behind the damage (index %d to %d) are valid in themselves", after, lo, hi))
	}
	if l.Store != nil && l.Store.Error == "" {
		d.Intact = append(d.Intact, fmt.Sprintf("the store opens and holds the state after index %d", l.Store.AppliedIndex))
	}
	if len(d.Intact) == 0 {
		d.Intact = []string{"nothing that can be proven"}
	}
}

func (l *Letter) meaning(d *Diagnosis, f wal.Finding, first, last uint64) {
	switch {
	case l.Store == nil || l.Store.Error != "" || first == 0:
		d.Meaning = append(d.Meaning, "which changes are concerned cannot be told from these files alone")
	case f.LastIndex != 0 && l.Store.AppliedIndex >= f.LastIndex:
		d.Meaning = append(d.Meaning,
			fmt.Sprintf("all changes of the damaged range (index %d to %d) had reached the store: no row is lost", first, f.LastIndex),
			"what is lost is their history: who wrote them, in which order, and restores to a point inside the range")
	case l.Store.AppliedIndex >= first:
		d.Meaning = append(d.Meaning,
			fmt.Sprintf("changes %d to %d had reached the store and are not lost", first, l.Store.AppliedIndex),
			fmt.Sprintf("changes from index %d on were acknowledged and are not in the store: only a peer or a backup with its log archive has them", l.Store.AppliedIndex+1))
	case f.LastIndex != 0:
		d.Meaning = append(d.Meaning,
			fmt.Sprintf("changes %d to %d were acknowledged, had not reached the store (it holds %d) and cannot be read here: only a peer or a backup with its log archive has them", first, f.LastIndex, l.Store.AppliedIndex),
			"changes behind them are intact and can be read with `tcpsdump wal`, but a server does not skip what lies between")
	default:
		d.Meaning = append(d.Meaning,
			fmt.Sprintf("changes from index %d on were acknowledged and had not reached the store (it holds %d): only a peer or a backup with its log archive has them", first, l.Store.AppliedIndex))
	}
	if last >= first && first != 0 {
		d.Meaning = append(d.Meaning, fmt.Sprintf("at most %d log entries are concerned", last-first+1))
	}
}

// compare holds the log against the store.
func (l *Letter) compare() {
	if l.Store == nil || l.Store.Error != "" || !l.Log.Clean {
		return
	}
	applied := l.Store.AppliedIndex
	if l.Log.LastIndex >= applied || l.Log.LastIndex == 0 && l.Log.FirstIndex == 0 && applied == 0 {
		return
	}
	l.Diagnoses = append(l.Diagnoses, Diagnosis{
		Kind:    "log-behind-store",
		Damaged: fmt.Sprintf("the log ends at index %d, but the store has applied index %d: the log's end, or the whole log, was replaced or lost", l.Log.LastIndex, applied),
		Intact:  []string{fmt.Sprintf("the store opens and holds the state after index %d", applied)},
		Meaning: []string{fmt.Sprintf("changes after index %d may be lost; those up to it are in the store", applied)},
		Next:    []string{"copy the directory first", "put the original wal/ folder back if it was moved, else restore the newest backup into a new directory"},
	})
}

// timeRange is the time from the last valid batch before the range to the first one behind it.
func timeRange(first, last uint64, times []batchTime) (from, to string) {
	for _, t := range times {
		if t.last < first {
			from = stamp(t.ms)
		}
		if to == "" && last != 0 && t.first > last {
			to = stamp(t.ms)
		}
	}
	return from, to
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// writtenBy lists rows whose newest version was written by entries in [first, last].
func writtenBy(r *engine.Reader, first, last uint64) (keys []string) {
	more := 0
	err := r.Rows("", func(row engine.Row) error {
		if row.ModIndex < first || row.ModIndex > last {
			return nil
		}
		if len(keys) == maxKeys {
			more++
			return nil
		}
		keys = append(keys, row.Table+"/"+printable(row.Key))
		return nil
	})
	if more > 0 {
		keys = append(keys, fmt.Sprintf("... and %d more", more))
	}
	if err != nil {
		keys = append(keys, "(the store could not be read to its end: "+err.Error()+")")
	}
	return keys
}

func printable(b []byte) string {
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return fmt.Sprintf("0x%x", b)
		}
	}
	return string(b)
}

// WriteText writes the letter for a person. It writes nothing when there is nothing to say.
func (l *Letter) WriteText(w io.Writer) {
	for i, d := range l.Diagnoses {
		fmt.Fprintf(w, "\nDAMAGE %d of %d: %s [%s]\n", i+1, len(l.Diagnoses), d.Damaged, d.Kind)
		if d.Where != "" {
			fmt.Fprintf(w, "  where        %s\n", d.Where)
		}
		section(w, "intact", d.Intact)
		section(w, "it means", d.Meaning)
		if d.From != "" || d.To != "" {
			fmt.Fprintf(w, "  time         from %s to %s\n", orUnknown(d.From), orUnknown(d.To))
		}
		if len(d.Keys) > 0 {
			fmt.Fprintf(w, "  rows         %s\n", strings.Join(d.Keys, "\n               "))
		}
		section(w, "next", d.Next)
	}
	if l.Damaged() {
		fmt.Fprintln(w)
	}
}

func section(w io.Writer, name string, lines []string) {
	for i, s := range lines {
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(w, "  %-12s %s\n", name, s)
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
