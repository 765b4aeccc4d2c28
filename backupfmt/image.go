package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
)

// WriteSnapshot writes the state of a source as one self-contained snapshot: for a follower that starts from nothing, or as a plain
// file for forensics. It is not encrypted.
func WriteSnapshot(ctx context.Context, w io.Writer, src Source, chain [32]byte) (snapshot.Footer, error) {
	st := src.State()
	sw, err := snapshot.NewWriter(w, snapshot.Header{
		Index: st.Index, Term: st.Term, Chain: chain, LogID: st.LogID, Created: st.Time, Membership: st.Membership,
	}, snapshot.WriterOptions{})
	if err != nil {
		return snapshot.Footer{}, err
	}
	if err := src.Rows(ctx, sw.Add); err != nil {
		return snapshot.Footer{}, err
	}
	f, err := sw.Finish()
	if err == nil && f.StateHash != st.Hash {
		err = fmt.Errorf("%w: the rows that were read have state hash %x, the store says %x", ErrDamaged, f.StateHash, st.Hash)
	}
	return f, err
}

// InstallSnapshot makes a data directory out of a snapshot, which is verified on the way: table files are built from its rows and
// ingested. dir must be absent or empty; after an error nothing is left that opens.
func InstallSnapshot(ctx context.Context, r io.Reader, dir string, o engine.Options) (snapshot.Header, error) {
	sr, err := snapshot.NewReader(r, snapshot.ReaderOptions{})
	if err != nil {
		return snapshot.Header{}, err
	}
	h := sr.Header()
	b, err := engine.NewBuilder(dir, o, engine.BuilderStart{Index: h.Index, Term: h.Term})
	if err != nil {
		return h, err
	}
	var row engine.Row
	for {
		e, err := sr.Next()
		if errors.Is(err, io.EOF) {
			return h, b.Finish(sr.Footer().StateHash)
		}
		if err == nil {
			rowOf(&row, e)
			err = b.Add(&row)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return h, errors.Join(err, b.Abort())
		}
	}
}
