package backupfmt

import (
	"context"
	"errors"
	"strings"

	"github.com/erlmcp/erlmcp/backupfmt/object"
)

// proofs checks the signatures of what drills found, and notes the links from before the repository was signed.
func (v *verifier) proofs(ctx context.Context) error {
	if v.rep.Signing == nil {
		return nil
	}
	for _, l := range v.rep.Chain.Links {
		if !l.sig.proven {
			v.rep.Unsigned = append(v.rep.Unsigned, manifestName(l.Seq))
		}
	}
	for _, n := range v.order {
		if !strings.HasPrefix(n, folderProofs) {
			continue
		}
		c, err := v.r.open(ctx, n, object.Proof, nil)
		if errors.Is(err, object.ErrNoKey) {
			continue // see Proofs
		}
		counts := true
		if err == nil {
			counts, err = v.r.proofCounts(n, c, v.rep.Signing)
		}
		if err != nil {
			if err := v.fail(n, nil, err); err != nil {
				return err
			}
		} else if !counts {
			v.rep.Unsigned = append(v.rep.Unsigned, n)
		}
	}
	return nil
}

// pieceSigned: a piece is signed, or holds nothing from after the repository was signed.
func (v *verifier) pieceSigned(name string, p *Piece) {
	switch s := v.rep.Signing; {
	case s == nil || p == nil || p.sig.proven:
	case p.Last <= s.Logs[p.Life]:
		v.rep.Unsigned = append(v.rep.Unsigned, name)
	default:
		v.damage(Damage{Kind: "unsigned", Object: name, Reason: p.sig.why(), From: p.First, To: p.Last})
	}
}
