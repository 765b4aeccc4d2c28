package backupfmt

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// nameLedger is the object that remembers when each pack and list was last read and found sound, so that a verification with a
// budget takes the oldest first. It is a convenience: a damaged or missing ledger only means that everything is due.
const nameLedger = "ledger"

type ledger struct {
	Checked  map[string]int64 `json:"checked"` // name -> Unix seconds
	Checksum string           `json:"checksum"`

	version store.Version
}

func (r *Repo) readLedger(ctx context.Context) (*ledger, error) {
	l := &ledger{}
	b, v, err := r.st.Get(ctx, nameLedger)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	l.version = v
	if err == nil {
		again := &ledger{}
		if json.Unmarshal(b, again) == nil && again.Checked != nil {
			if text, err := again.encode(); err == nil && bytes.Equal(text, b) {
				l.Checked = again.Checked
			}
		}
	}
	if l.Checked == nil {
		l.Checked = map[string]int64{}
	}
	return l, nil
}

func (l *ledger) encode() ([]byte, error) {
	c := ledger{Checked: l.Checked}
	b, err := json.Marshal(&c)
	if err != nil {
		return nil, fmt.Errorf("backup: encode ledger: %w", err)
	}
	sum := blake3.Sum256(b)
	c.Checksum = hex.EncodeToString(sum[:])
	return json.Marshal(&c)
}

// save writes the ledger. If another verification wrote one meanwhile, that one stays: only time is lost.
func (l *ledger) save(ctx context.Context, st store.Store) error {
	b, err := l.encode()
	if err != nil {
		return err
	}
	if _, err := st.Replace(ctx, nameLedger, b, l.version); err != nil && !errors.Is(err, store.ErrChanged) {
		return err
	}
	return nil
}

// sort puts what was checked longest ago, or never, first.
func (l *ledger) sort(names []string) {
	slices.SortFunc(names, func(a, b string) int {
		if d := l.Checked[a] - l.Checked[b]; d != 0 {
			if d < 0 {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
}

// oldest is when the object was checked that was checked longest ago; zero if one never was, or there is none.
func (l *ledger) oldest(refs map[string]Ref) time.Time {
	var t int64
	for name := range refs {
		at := l.Checked[name]
		if at == 0 {
			return time.Time{}
		}
		if t == 0 || at < t {
			t = at
		}
	}
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(t, 0).UTC()
}
