package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
)

// state is a set of rows in the order of (table, key), wherever it is kept.
type state struct {
	name  string
	index uint64
	hash  [32]byte // as recorded; zero: unknown
	rows  func(ctx context.Context, fn func(*snapshot.Entry) error) error
	close func() error
}

// stateFlags are what it takes to open a state.
type stateFlags struct {
	key     *keyFlags
	repoKey string // key file of a repository
	verify  []string
}

// openState opens a data directory, a snapshot file, or REPO@ID, a backup in a repository (REPO@latest the newest).
func openState(ctx context.Context, arg string, f stateFlags) (*state, error) {
	if repo, id, ok := cutLast(arg, "@"); ok && !exists(vfs.Default, arg) {
		return openBackup(ctx, repo, id, f)
	}
	st, err := os.Stat(arg)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return openSnapshot(arg)
	}
	if exists(vfs.Default, vfs.Default.PathJoin(arg, "config")) && exists(vfs.Default, vfs.Default.PathJoin(arg, "manifests")) {
		return openBackup(ctx, arg, "latest", f)
	}
	key, err := f.key.load()
	if err != nil {
		return nil, err
	}
	r, err := engine.OpenReadOnly(vfs.Default, arg, engine.ReadOptions{Key: key})
	if err != nil {
		return nil, err
	}
	s := &state{name: arg, close: r.Close}
	s.index, s.hash = r.Applied()
	s.rows = func(ctx context.Context, fn func(*snapshot.Entry) error) error {
		return r.Rows("", func(row engine.Row) error {
			if row.Sealed {
				return fmt.Errorf("%s is encrypted: give the key in ERLMCP_DATA_KEY or with --key-file", arg)
			}
			e := snapshot.Entry{Table: row.Table, Key: row.Key, Value: row.Value, ModIndex: row.ModIndex}
			if !row.Deadline.IsZero() {
				e.Deadline = row.Deadline.UnixMilli()
			}
			return errors.Join(fn(&e), ctx.Err())
		})
	}
	return s, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func openSnapshot(file string) (*state, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sf, err := snapshot.Open(f, st.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
	}
	s := &state{name: file, index: sf.Header().Index, hash: sf.Footer().StateHash, close: f.Close}
	s.rows = func(ctx context.Context, fn func(*snapshot.Entry) error) error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		r, err := snapshot.NewReader(f, snapshot.ReaderOptions{})
		if err != nil {
			return err
		}
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = errors.Join(fn(e), ctx.Err())
			}
			if err != nil {
				return err
			}
		}
	}
	return s, nil
}

func openBackup(ctx context.Context, url, id string, f stateFlags) (*state, error) {
	var seq uint64
	if id != "latest" {
		var err error
		if seq, err = strconv.ParseUint(id, 10, 64); err != nil || seq == 0 {
			return nil, fmt.Errorf("%w: %q is not the number of a backup; write REPO@12 or REPO@latest", errUsage, id)
		}
	}
	repo, err := f.repository(ctx, url)
	if err != nil {
		return nil, err
	}
	c, err := repo.Chain(ctx)
	if err != nil {
		return nil, err
	}
	if all := c.Backups(""); seq == 0 && len(all) > 0 {
		seq = all[len(all)-1].Seq
	}
	view, err := repo.View(ctx, seq)
	if err != nil {
		return nil, err
	}
	st := view.State()
	return &state{
		name: fmt.Sprintf("%s@%d", url, seq), index: st.Index, hash: st.Hash, close: func() error { return nil },
		rows: func(ctx context.Context, fn func(*snapshot.Entry) error) error { return view.Rows(ctx, fn) },
	}, nil
}

// same compares everything of two rows but the deadline's sub-millisecond part, which is never stored.
func same(a, b *snapshot.Entry) bool {
	return a.ModIndex == b.ModIndex && a.Deadline == b.Deadline && bytes.Equal(a.Value, b.Value)
}

func deadlineText(ms int64) string {
	if ms == 0 {
		return ""
	}
	return " until " + when(ms)
}
