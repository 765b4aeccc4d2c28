package wal

import (
	"fmt"
	"time"
)

// Severity of a Finding.
const (
	// SeverityInfo: normal after a crash, for example a torn tail.
	SeverityInfo = "info"
	// SeverityRepaired: redundant bytes were damaged, all data is intact.
	SeverityRepaired = "repaired"
	// SeverityDamage: data is damaged or missing.
	SeverityDamage = "damage"
)

// Kinds of findings. Stable: tools and tests may compare them.
const (
	KindTornTail       = "torn-tail"        // last write did not finish; it was never acknowledged
	KindBadBatch       = "bad-batch"        // a batch that was durable is invalid
	KindChainBreak     = "chain-break"      // a segment does not continue the one before it
	KindBadHeader      = "bad-header"       // both header copies of a used segment are invalid
	KindHeaderCopy     = "header-copy"      // one of the two header copies is invalid
	KindBadFooter      = "bad-footer"       // footer of a sealed segment is invalid
	KindBadIdentity    = "bad-identity"     // LOG file missing or invalid, rebuilt from the segments
	KindMissingSegment = "missing-segment"  // a segment the log needs is not there
	KindMisplaced      = "misplaced"        // a segment file holds another segment, or one of another log
	KindWrongSize      = "wrong-size"       // a segment file is shorter or longer than a segment
	KindNotFile        = "not-a-file"       // a directory, pipe or device stands under the name of a file
	KindUnknownFile    = "unknown-file"     // a file that is not part of the log
	KindEncryptedNoKey = "encrypted-no-key" // records cannot be shown without the key
	KindUnreadable     = "unreadable"       // the disk refused to read
)

// A Finding is one thing worth knowing about a log's files.
type Finding struct {
	Kind       string `json:"kind"`
	Severity   string `json:"severity"`
	Segment    uint64 `json:"segment,omitempty"`
	File       string `json:"file,omitempty"`
	Offset     int64  `json:"offset"`
	Length     int64  `json:"length,omitempty"` // bytes concerned; 0: up to the end of the segment
	FirstIndex uint64 `json:"first_index,omitempty"`
	LastIndex  uint64 `json:"last_index,omitempty"` // 0: unknown or to the end
	Message    string `json:"message"`
	Advice     string `json:"advice,omitempty"`
}

func (f Finding) String() string {
	s := fmt.Sprintf("%s: %s", f.Kind, f.Message)
	if f.File != "" {
		s += fmt.Sprintf(" [%s @ %d]", f.File, f.Offset)
	}
	return s
}

// A Report is the result of verifying a log.
type Report struct {
	LogID      [16]byte
	Encrypted  bool
	Segments   int
	Batches    uint64
	Records    uint64 // entries and control records
	Bytes      int64  // verified, from the first batch to the tail
	FirstIndex uint64
	LastIndex  uint64
	Chain      [32]byte // chain value after the last batch
	Findings   []Finding
	Clean      bool // no finding of severity damage
	TornTail   bool // the last write did not finish (normal after a crash)
}

// Damage returns the findings of severity damage.
func (r *Report) Damage() (d []Finding) {
	for _, f := range r.Findings {
		if f.Severity == SeverityDamage {
			d = append(d, f)
		}
	}
	return d
}

// Recovery says what Open found and did.
type Recovery struct {
	Created  bool      // the log is new
	Segments int       // in use
	Entries  uint64    // readable
	Bytes    int64     // verified
	TornTail *Finding  // the cut last batch, if any
	Repairs  []Finding // redundant bytes found damaged; data intact
	Duration time.Duration
}

// Advice texts, in one place so that they stay consistent.
const (
	adviceDamage = "do not start writers on this directory; copy it first, run `tcpsdump chain DIR` to see the extent, then restore the newest backup into a new directory, or let a cluster peer resend the range"
	adviceTorn   = "nothing to do: the write was never acknowledged"
	adviceRepair = "no data is affected; if it happens again, suspect the disk and run `erlmcp verify`"
	adviceKind   = "take away what stands under that name; if it is a segment or LOG, put the file back, or restore the newest backup into a new directory"
	adviceFile   = "put the file back under its name if it was moved, or restore the newest backup into a new directory"
)
