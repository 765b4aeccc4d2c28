package backupfmt

import (
	"context"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Span is the archived log of one life.
type Span struct {
	Life      string    `json:"life"`
	First     uint64    `json:"first"`
	Last      uint64    `json:"last"`
	FirstTime time.Time `json:"first_time,omitzero"`
	LastTime  time.Time `json:"last_time,omitzero"`
	Pieces    int       `json:"pieces"`
	Bytes     int64     `json:"bytes"`
}

// Spans tells what log is archived: one listing, and the beginning of the first and the last piece of every life. Gaps between
// them are found by Plan and Verify.
func (r *Repo) Spans(ctx context.Context) ([]Span, error) {
	type ends struct {
		span                Span
		first, before, last store.Info
	}
	var lives []*ends
	err := r.st.List(ctx, folderArchive, func(i store.Info) error {
		p, ok := parsePieceName(i)
		if !ok {
			return nil
		}
		if n := len(lives); n == 0 || lives[n-1].span.Life != p.life {
			lives = append(lives, &ends{span: Span{Life: p.life}, first: i})
		}
		e := lives[len(lives)-1]
		e.before, e.last = e.last, i
		e.span.Pieces++
		e.span.Bytes += i.Size
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]Span, 0, len(lives))
	for _, e := range lives {
		first, err := r.pieceMeta(ctx, e.first)
		if err != nil {
			return nil, err
		}
		last, err := r.pieceMeta(ctx, e.last)
		if err == nil && last.Fence { // holds nothing
			if e.span.Pieces--; e.span.Pieces == 0 {
				continue
			}
			e.span.Bytes -= e.last.Size
			last, err = r.pieceMeta(ctx, e.before)
		}
		if err != nil {
			return nil, err
		}
		e.span.First, e.span.FirstTime, e.span.Last, e.span.LastTime = first.First, first.FirstTime, last.Last, last.LastTime
		out = append(out, e.span)
	}
	return out, nil
}
