package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication/port"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/erlmcp/erlmcp/wal"
)

// A damaged log of a stopped member is mended with the entries of others (wal.Mend): they are asked for over the port, with this
// member's certificate, and believed only if the log's own chain says so.

const (
	entriesBytes = 1 << 20  // of entries in one answer, or one entry
	maxEntries   = 96 << 20 // bytes of an answer
)

type entriesAsk struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

type entriesAnswer struct {
	Entries []wal.Entry `json:"entries"`
}

// onEntries tells entries that this member has applied: those are the same everywhere, for ever.
func (m *Member) onEntries(_ context.Context, _ string, q entriesAsk) (a entriesAnswer, err error) {
	_, store, err := m.opened()
	if err != nil {
		return a, err
	}
	size := 0
	for i := q.From; i <= min(q.To, store.AppliedIndex()) && size < entriesBytes; i++ {
		e, err := store.Log().Get(i)
		if errors.Is(err, wal.ErrNotFound) {
			break
		}
		if err != nil {
			return a, err
		}
		a.Entries = append(a.Entries, e)
		size += len(e.Data) + 64
	}
	if len(a.Entries) == 0 {
		return a, &refused{text: fmt.Sprintf("%s does not have entry %d in its log (any more)", m.name, q.From)}
	}
	return a, nil
}

// Mend mends the log of the stopped member in dir. The error says what could not be mended and why; what is returned was mended.
// No process may use the directory.
func Mend(ctx context.Context, dir string, o engine.Options) (done []wal.Mended, err error) {
	me, err := loadMember(dir)
	if err != nil {
		return nil, err
	}
	id, err := loadIdentity(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "wal")); err != nil {
		return nil, fmt.Errorf("%w: %s has no log: start the server, it fetches everything from another member", ErrMember, dir)
	}
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
	}
	lock, err := fs.Lock(fs.PathJoin(dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("%w: %s is in use, stop the server first: %w", ErrMember, dir, err)
	}
	defer lock.Close()
	peers := me.Peers
	if len(peers) == 0 {
		peers = []string{nobody}
	}
	var failed []error
	for _, p := range peers {
		some, err := wal.Mend(ctx, filepath.Join(dir, "wal"), wal.MendOptions{FS: fs, Key: o.Key, Entries: entriesOf(id, p)})
		done = append(done, some...)
		if err == nil {
			return done, nil
		}
		if ctx.Err() != nil {
			return done, err
		}
		// The next one is asked after ErrMend too: entries that were cut may look like a damage that nobody can put back.
		failed = append(failed, fmt.Errorf("%s: %w", p, err))
	}
	return done, fmt.Errorf("%w: no other member could help: %w", ErrMember, errors.Join(failed...))
}

// nobody is who is asked when no other member is known.
const nobody = "no member"

// entriesOf asks one member.
func entriesOf(id *trust.Identity, address string) func(context.Context, uint64, uint64) ([]wal.Entry, error) {
	if address == nobody {
		return func(context.Context, uint64, uint64) ([]wal.Entry, error) {
			return nil, fmt.Errorf("%w: no other member is known", ErrMember)
		}
	}
	web := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return port.Dial(ctx, id, port.Admin, "", address)
		},
	}}
	return func(ctx context.Context, from, to uint64) ([]wal.Entry, error) {
		body, err := json.Marshal(entriesAsk{from, to})
		if err != nil {
			return nil, err
		}
		var a entriesAnswer
		err = exchangeUpTo(ctx, web, "http://member/entries", body, &a, maxEntries)
		return a.Entries, err
	}
}
