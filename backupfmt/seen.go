package backupfmt

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrRolledBack: the chain ends before a link that was seen in it earlier, or has another one in its place. Always with a *DamageError.
var ErrRolledBack = errors.New("backup: the repository is older than it was, or another one")

// Mark names a link of the chain that was seen. Whoever keeps the newest one outside of the repository notices when all of it is put back to an older
// state, which is in order by itself and cannot be told from one in which nothing else ever happened.
type Mark struct {
	Seq    uint64 `json:"seq"`    // 0: none
	Digest string `json:"digest"` // of the link, hex, or the beginning of it; empty: not known
}

// String is the form that ParseMark reads.
func (m Mark) String() string {
	if m.Digest == "" {
		return strconv.FormatUint(m.Seq, 10)
	}
	return fmt.Sprintf("%d:%s", m.Seq, m.Digest[:min(len(m.Digest), 16)])
}

// ParseMark reads the number of a link, and after a colon the beginning of its digest, 8 hex digits or more: "412" or "412:9c56ab0de1f2".
func ParseMark(text string) (Mark, error) {
	number, digest, with := strings.Cut(strings.TrimSpace(text), ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	bad := strings.Trim(digest, "0123456789abcdef") != "" || len(digest) > 64 || with && len(digest) < 8
	if err != nil || seq == 0 || bad {
		return Mark{}, fmt.Errorf("%w: %q is not a link: write its number, or number:digest with 8 or more hex digits, as `erlmcp backup list` shows them", ErrInvalid, text)
	}
	return Mark{Seq: seq, Digest: digest}, nil
}

// markOf is the mark of a link.
func markOf(l *Link) Mark { return Mark{Seq: l.Seq, Digest: hex.EncodeToString(l.Digest[:])} }

// Mark is the newest link of a chain.
func (c *Chain) Mark() Mark {
	if len(c.Links) == 0 {
		return Mark{}
	}
	return markOf(c.Links[len(c.Links)-1])
}

// Expect lets every reading of the chain fail with ErrRolledBack if it does not contain, or follow, that link. Of several marks the newest counts.
func (r *Repo) Expect(m Mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Seq > r.seen.Seq || m.Seq == r.seen.Seq && len(m.Digest) > len(r.seen.Digest) {
		r.seen = m
	}
}

// Forget takes back what was expected, and what this Repo saw itself: somebody has put an older state back on purpose.
func (r *Repo) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = Mark{}
}

// Seen is the newest link that was expected, read or written.
func (r *Repo) Seen() Mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// checkSeen compares a chain with what is expected. What a prune removed cannot be compared, but for the digest that its successor, or the prune, names.
func (r *Repo) checkSeen(c *Chain) error {
	m := r.Seen()
	if m.Seq == 0 {
		return nil
	}
	if c.Head < m.Seq {
		return &DamageError{
			Kind: "rolled-back", Object: nameHead, Seq: m.Seq, Reason: fmt.Sprintf("the chain ends with link %d, but link %s was there before", c.Head, m), Cause: ErrRolledBack,
		}
	}
	for _, l := range c.Links {
		said := ""
		switch {
		case l.Seq == m.Seq:
			said = hex.EncodeToString(l.Digest[:])
		case l.Seq == m.Seq+1:
			said = l.Parent
		case l.Kind == Prune:
			for _, v := range l.Live {
				if v.Seq == m.Seq {
					said = v.Digest
				}
			}
		}
		if said != "" && !strings.HasPrefix(said, m.Digest) {
			return &DamageError{
				Kind: "rolled-back", Object: manifestName(m.Seq), Seq: m.Seq, Reason: fmt.Sprintf("link %s was there before, now it is %s: the chain was put back, and continued in another way",
					m, Mark{Seq: m.Seq, Digest: said}), Cause: ErrRolledBack,
			}
		}
	}
	return nil
}
