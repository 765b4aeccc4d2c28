package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/replication/port"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/stretchr/testify/require"
)

// liar is a member with a good certificate that answers what it likes when it is asked for entries.
func liar(t *testing.T, a *trust.Authority, name string, answer func(q entriesAsk) any) (address string, asked func() int) {
	key, csr, err := trust.Request(name)
	require.NoError(t, err)
	der, err := a.Issue(csr, name, time.Now())
	require.NoError(t, err)
	id, err := trust.NewIdentity(a, der, key)
	require.NoError(t, err)
	p, err := port.Listen("127.0.0.1:0", id, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{}), addr: p.Addr()}
	n := make(chan struct{}, 1000)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n <- struct{}{}
		var q entriesAsk
		if json.NewDecoder(r.Body).Decode(&q) == nil {
			_ = json.NewEncoder(w).Encode(answer(q))
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	p.Handle(port.Admin, func(c port.Conn) { l.conns <- c })
	return p.Addr().String(), func() int { return len(n) }
}

// filled is a cluster of one with a log of some length.
func filled(t *testing.T, name, text string) *site {
	s := newSite(t, name)
	s.retain = 1 << 30
	_, err := Init(s.dir, InitOptions{Name: name, Advertise: s.addr, Now: time.Now()})
	require.NoError(t, err)
	s.run()
	s.db()
	for i := range 60 {
		s.put(fmt.Sprintf("%s-%d", text, i), strings.Repeat(text, 2000))
	}
	return s
}

// TestALyingPeerIsRefusedAndTheNextOneAsked: a member offers entries that are altered, too few, of another place or of another
// cluster, or nonsense. Nothing of it is written, and an honest member mends the log.
func TestALyingPeerIsRefusedAndTheNextOneAsked(t *testing.T) {
	honest := filled(t, "n1", "sound")
	other := filled(t, "n9", "alien")
	entries := func(s *site, q entriesAsk) []wal.Entry {
		a, err := s.m.onEntries(t.Context(), "", q)
		require.NoError(t, err)
		for i := range a.Entries {
			a.Entries[i].Data = bytes.Clone(a.Entries[i].Data)
		}
		return a.Entries
	}
	authority := honest.m.id.Authority()
	lies := map[string]func(q entriesAsk) any{
		"altered": func(q entriesAsk) any {
			list := entries(honest, q)
			data := list[len(list)/2].Data
			data[len(data)/2] ^= 1
			return entriesAnswer{list}
		},
		"a term that never was": func(q entriesAsk) any {
			list := entries(honest, q)
			list[0].Term++
			return entriesAnswer{list}
		},
		"too few":       func(entriesAsk) any { return entriesAnswer{} },
		"another place": func(q entriesAsk) any { return entriesAnswer{entries(honest, entriesAsk{q.From + 1, q.To + 1})} },
		"cut": func(q entriesAsk) any {
			list := entries(honest, q)
			list[0].Data = list[0].Data[:len(list[0].Data)/2]
			return entriesAnswer{list}
		},
		"another cluster's": func(q entriesAsk) any { return entriesAnswer{entries(other, q)} },
		"nonsense":          func(entriesAsk) any { return []string{"what?"} },
	}
	// The damaged member has the honest one's log, as it was when it stopped.
	victim := t.TempDir()
	honest.stop()
	require.NoError(t, os.CopyFS(victim, os.DirFS(honest.dir)))
	honest.run()
	honest.db()
	segments, err := filepath.Glob(filepath.Join(victim, "wal", "*.seg"))
	require.NoError(t, err)
	slices.Sort(segments)
	require.Greater(t, len(segments), 2)
	whole, err := os.ReadFile(segments[1])
	require.NoError(t, err)
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 0x20

	me, err := loadMember(victim)
	require.NoError(t, err)
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			address, asked := liar(t, authority, "n2", lie)
			require.NoError(t, os.WriteFile(segments[1], damaged, 0o600))
			me.Peers = []string{address}
			require.NoError(t, me.save(victim))
			done, err := Mend(t.Context(), victim, engineOptions())
			require.Error(t, err)
			require.Empty(t, done)
			require.Positive(t, asked())
			now, err := os.ReadFile(segments[1])
			require.NoError(t, err)
			require.Equal(t, damaged, now, "nothing was written")

			me.Peers = []string{address, honest.addr}
			require.NoError(t, me.save(victim))
			before := asked()
			done, err = Mend(t.Context(), victim, engineOptions())
			require.NoError(t, err)
			require.Len(t, done, 1)
			require.Greater(t, asked(), before, "the liar was asked first")
			now, err = os.ReadFile(segments[1])
			require.NoError(t, err)
			require.True(t, bytes.Equal(whole, now))
		})
	}
	t.Run("of another cluster, by its certificate", func(t *testing.T) {
		require.NoError(t, os.WriteFile(segments[1], damaged, 0o600))
		me.Peers = []string{other.addr, honest.addr}
		require.NoError(t, me.save(victim))
		done, err := Mend(t.Context(), victim, engineOptions())
		require.NoError(t, err)
		require.Len(t, done, 1)
		me.Peers = []string{other.addr}
		require.NoError(t, me.save(victim))
		require.NoError(t, os.WriteFile(segments[1], damaged, 0o600))
		_, err = Mend(t.Context(), victim, engineOptions())
		require.ErrorIs(t, err, trust.ErrStranger)
	})
}
