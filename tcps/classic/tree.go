// Package classic writes the ledger as the directory tree that older tools know, priv/tcps: one JSON document per entity, the same
// facts as RDF in Turtle, and flat indexes.
//
//	metadata.json            what this is: log index, state hash, time, counts
//	receipts/ID.json         documents with their SHA-256 checksums, as they are stored
//	work_orders/ID.json
//	andon_events/ID.json
//	kanban/BUCKET.json       WIP limits
//	ontology/*.ttl           receipts, work_orders, andon_events, changes (the change log)
//	indexes/*.ndjson         sku, bucket, stage, status, severity: one {"key","id"} per line, in the order of ids
//	backups/                 empty
//	manifest.json            {timestamp, version, files: [{path, size, sha256}]}
//
// The tree goes into a directory, or into a tar.gz archive with a SHA-256 side file, which may be encrypted (archive.go, seal.go). It is a
// copy for people and tools; a store is restored from a repository of package backupfmt.
package classic

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
)

// Source is a consistent state of the ledger.
type Source interface {
	// Rows calls fn for every row of a table, ascending by key; key and value are valid during the call.
	Rows(ctx context.Context, table string, fn func(key, value []byte) error) error
}

// Metadata describes the tree.
type Metadata struct {
	Type       string         `json:"type"` // "full"
	Format     string         `json:"format"`
	Timestamp  time.Time      `json:"timestamp"`
	LogID      string         `json:"log_id,omitempty"`
	LogIndex   uint64         `json:"log_index"`
	StateHash  string         `json:"state_hash"`
	Parent     string         `json:"parent,omitempty"` // a full archive has none
	Counts     map[string]int `json:"counts"`
	Compressed string         `json:"compression,omitempty"`
}

// Sink takes files. Names are slash-separated and relative.
type Sink interface {
	Dir(name string) error
	File(name string, size int64, content io.Reader) error
}

// kind is a folder of documents.
type kind struct{ table, folder, class, prefix string }

var kinds = []kind{
	{tcps.TableReceipts, "receipts", "Receipt", "Receipt_"},
	{tcps.TableWorkOrders, "work_orders", "WorkOrder", "WorkOrder_"},
	{tcps.TableAndons, "andon_events", "AndonEvent", "Andon_"},
	{tcps.TableWIPLimits, "kanban", "", ""},
}

// indexes name the members that have a flat index.
var indexes = map[string]map[string]string{ // table -> member -> file
	tcps.TableReceipts:   {"sku_id": "sku_receipts", "stage": "stage_receipts"},
	tcps.TableWorkOrders: {"bucket": "bucket_work_orders", "status": "status_work_orders"},
	tcps.TableAndons:     {"severity": "severity_andons", "status": "status_andons"},
}

// Write writes the tree. Memory does not grow with the ledger: what is gathered while documents are written is kept in temporary files.
func Write(ctx context.Context, src Source, meta Metadata, to Sink) (Metadata, error) {
	w := &writer{ctx: ctx, src: src, to: to}
	defer w.close()
	meta.Type, meta.Format, meta.Counts = "full", "erlmcp-classic-1", map[string]int{}
	if err := w.count(meta.Counts); err != nil {
		return meta, err
	}
	if err := w.json("metadata.json", meta); err != nil {
		return meta, err
	}
	for _, k := range kinds {
		if err := w.documents(k); err != nil {
			return meta, err
		}
	}
	if err := w.ontology(kind{tcps.TableChanges, "changes", "Change", "Change_"}); err != nil {
		return meta, err
	}
	if err := to.Dir("backups"); err != nil {
		return meta, err
	}
	return meta, w.manifest(meta.Timestamp)
}

type writer struct {
	ctx   context.Context
	src   Source
	to    Sink
	files *spool // lines of the manifest
	n     int
}

func (w *writer) close() {
	if w.files != nil {
		w.files.close()
	}
}

func (w *writer) count(counts map[string]int) error {
	for _, k := range append(kinds, kind{table: tcps.TableChanges, folder: "changes"}) {
		counts[k.folder] = 0
		err := w.src.Rows(w.ctx, k.table, func(_, _ []byte) error { counts[k.folder]++; return w.ctx.Err() })
		if err != nil {
			return fmt.Errorf("classic: count %s: %w", k.folder, err)
		}
	}
	return nil
}

// file hands a file to the sink and notes it for the manifest.
func (w *writer) file(name string, size int64, content io.Reader) error {
	sum := sha256.New()
	if err := w.to.File(name, size, io.TeeReader(content, sum)); err != nil {
		return fmt.Errorf("classic: write %s: %w", name, err)
	}
	if w.files == nil {
		var err error
		if w.files, err = newSpool(); err != nil {
			return err
		}
	}
	line, err := json.Marshal(Entry{Path: name, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))})
	if err != nil {
		return fmt.Errorf("classic: encode the manifest: %w", err)
	}
	if w.n++; w.n > 1 {
		line = append([]byte(",\n    "), line...)
	}
	return w.files.write(line)
}

func (w *writer) json(name string, doc any) error {
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("classic: encode %s: %w", name, err)
	}
	b = append(b, '\n')
	return w.file(name, int64(len(b)), strings.NewReader(string(b)))
}

// documents writes the folder of a kind, then its ontology and its indexes.
func (w *writer) documents(k kind) error {
	if err := w.to.Dir(k.folder); err != nil {
		return err
	}
	err := w.src.Rows(w.ctx, k.table, func(key, value []byte) error {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		return w.file(path.Join(k.folder, fileName(key)+".json"), int64(len(value)), strings.NewReader(string(value)))
	})
	if err != nil {
		return err
	}
	if k.class != "" {
		if err := w.ontology(k); err != nil {
			return err
		}
	}
	for _, member := range sorted(indexes[k.table]) {
		if err := w.index(k.table, member, indexes[k.table][member]); err != nil {
			return err
		}
	}
	return nil
}

// fileName makes a key a file name: what is not a plain character becomes %XX, and a long one ends with its digest.
func fileName(key []byte) string {
	var b strings.Builder
	for i, c := range key {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() <= 180 {
		return b.String()
	}
	sum := sha256.Sum256(key)
	return b.String()[:100] + "-" + hex.EncodeToString(sum[:])
}

// gather collects a file whose size is not known beforehand.
func (w *writer) gather(name, table, head string, each func(s *spool, key, value []byte) error) error {
	s, err := newSpool()
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.write([]byte(head)); err != nil {
		return err
	}
	err = w.src.Rows(w.ctx, table, func(key, value []byte) error {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		return each(s, key, value)
	})
	if err != nil {
		return err
	}
	size, r, err := s.rewind()
	if err != nil {
		return err
	}
	return w.file(name, size, r)
}

func (w *writer) ontology(k kind) error {
	return w.gather(path.Join("ontology", k.folder+".ttl"), k.table, turtleHead, func(s *spool, key, value []byte) error {
		return s.write(turtle(k, key, value))
	})
}

func (w *writer) index(table, member, name string) error {
	return w.gather(path.Join("indexes", name+".ndjson"), table, "", func(s *spool, key, value []byte) error {
		var doc map[string]any
		if err := json.Unmarshal(value, &doc); err != nil {
			return nil //nolint:nilerr // a damaged document is in the tree as it is; verify names it
		}
		v, ok := doc[member].(string)
		if !ok || v == "" {
			return nil
		}
		line, err := json.Marshal(map[string]string{"key": v, "id": string(key)})
		if err != nil {
			return fmt.Errorf("classic: encode index %s: %w", name, err)
		}
		return s.write(append(line, '\n'))
	})
}

// Entry is one file of the manifest.
type Entry struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// manifest comes last, because it knows the digests of all others.
func (w *writer) manifest(at time.Time) error {
	size, files, err := w.files.rewind()
	if err != nil {
		return err
	}
	head := fmt.Sprintf("{\n  \"timestamp\": %q,\n  \"version\": \"1.0.0\",\n  \"files\": [\n    ", at.UTC().Format(time.RFC3339Nano))
	const tail = "\n  ]\n}\n"
	err = w.to.File("manifest.json", int64(len(head))+size+int64(len(tail)), io.MultiReader(strings.NewReader(head), files, strings.NewReader(tail)))
	if err != nil {
		return fmt.Errorf("classic: write manifest.json: %w", err)
	}
	return nil
}

// spool is a temporary file that nobody else sees.
type spool struct {
	f *os.File
	w *bufio.Writer
	n int64
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "erlmcp-classic-")
	if err != nil {
		return nil, fmt.Errorf("classic: temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil { // it lives as long as it is open
		_ = f.Close()
		return nil, fmt.Errorf("classic: temporary file: %w", err)
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (s *spool) write(b []byte) error {
	n, err := s.w.Write(b)
	s.n += int64(n)
	return err
}

func (s *spool) rewind() (int64, io.Reader, error) {
	if err := s.w.Flush(); err != nil {
		return 0, nil, err
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return 0, nil, err
	}
	return s.n, bufio.NewReaderSize(s.f, 64<<10), nil
}

func (s *spool) close() { _ = s.f.Close() }
