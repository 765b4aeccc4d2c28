package backupfmt

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/sign"
)

// Signing says since when a repository is signed. Every signed link repeats it, so that it cannot be lost with one of them, and only a trusted
// key can say another: nobody else can move what was signed to before the beginning.
type Signing struct {
	From  uint64            `json:"from"`           // first link that is signed; from it on every link must be
	Since time.Time         `json:"since"`          // drill proofs made later must be signed
	Logs  map[string]uint64 `json:"logs,omitempty"` // life -> newest archived entry when it began: later ones must be in signed pieces
}

func (s *Signing) same(o *Signing) bool {
	return o != nil && s.From == o.From && s.Since.Equal(o.Since) && maps.Equal(s.Logs, o.Logs)
}

// trust are the keys whose signatures count; a signer trusts itself. Empty: signatures are not looked at.
func (o Options) trust() sign.Trust {
	t := append(sign.Trust(nil), o.Trust...)
	if o.Signer != nil && !t.Has(o.Signer.Public()) {
		t = append(t, o.Signer.Public())
	}
	return t
}

// trusting reports whether only what is signed counts.
func (r *Repo) trusting() bool { return len(r.trust) > 0 }

// signature is who says to have signed an object, and whether that was proven.
type signature struct {
	by     sign.PublicKey
	there  bool // there is one
	proven bool // it is good, and of a trusted key
}

// why says, for a signature that is not proven, what is wrong with it.
func (s signature) why() string {
	if !s.there {
		return "it carries no signature"
	}
	return fmt.Sprintf("it is signed by %s, which is not a trusted key", s.by)
}

// unsigned is the refusal of an object that no trusted key signed.
func (s signature) unsigned(name string, seq uint64) error {
	return &DamageError{Kind: "unsigned", Object: name, Seq: seq, Reason: s.why(), Cause: ErrUnsigned}
}

// signedClear looks at the signature of a clear section. A signature that claims to be of a trusted key and is not good is a forgery.
func (r *Repo) signedClear(name string, h *object.Header, clear []byte) (signature, *sign.Signature, error) {
	bare, sig := sign.Detach(clear)
	if sig == nil {
		return signature{}, nil, nil
	}
	s := signature{by: sig.Key, there: true}
	if !r.trust.Has(sig.Key) {
		return s, sig, nil
	}
	if err := sig.Verify(sign.Subject{Kind: byte(h.Kind), Repo: h.Repo, Object: h.ID}, bare); err != nil {
		return s, sig, &DamageError{Kind: "forged", Object: name, Reason: "its signature is not one of the key that it names", Cause: errors.Join(ErrUnsigned, err)}
	}
	s.proven = true
	return s, sig, nil
}

// signed looks at the signature of a whole object, and whether its frames are those that were signed.
func (r *Repo) signed(name string, c *object.Content) (signature, error) {
	s, sig, err := r.signedClear(name, &c.Header, c.Clear)
	if err != nil || !s.proven || r.keyless {
		return s, err
	}
	forged := func(cause error) (signature, error) {
		return s, &DamageError{Kind: "forged", Object: name, Reason: "its content is not what was signed", Cause: errors.Join(ErrUnsigned, cause)}
	}
	commitment, err := sign.NewCommitment(c.Extra)
	if err != nil {
		return forged(err)
	}
	for i := range c.Places {
		frame, err := c.Frame(i)
		if err != nil {
			return s, fmt.Errorf("backup: %s: %w", name, err)
		}
		commitment.Add(frame)
	}
	if sum := commitment.Sum(); subtle.ConstantTimeCompare(sum[:], sig.Commitment[:]) != 1 {
		return forged(nil)
	}
	return s, nil
}

// checkSigned refuses a chain that is not signed as it says itself: the newest link by a trusted key, and every link from the beginning that it
// names. What is older counts as unsigned.
func (r *Repo) checkSigned(c *Chain, head headMark) error {
	if !r.trusting() || len(c.Links) == 0 {
		return nil
	}
	newest := c.Links[len(c.Links)-1]
	if newest.Signing == nil || !newest.sig.proven {
		return newest.sig.unsigned(manifestName(newest.Seq), newest.Seq)
	}
	c.Signing = newest.Signing
	for _, l := range c.Links {
		if l.Seq < newest.Signing.From {
			continue
		}
		if !l.sig.proven {
			return l.sig.unsigned(manifestName(l.Seq), l.Seq)
		}
		if !newest.Signing.same(l.Signing) {
			return &DamageError{Kind: "replayed", Object: manifestName(l.Seq), Seq: l.Seq, Reason: "it says another beginning of the signatures than the newest link", Cause: ErrUnsigned}
		}
	}
	if head.Seq >= newest.Signing.From && !head.sig.proven {
		return head.sig.unsigned(nameHead, 0)
	}
	return nil
}

// Signed reports whether a trusted key signed a link.
func (l *Link) Signed() bool { return l.sig.proven }

// Signer is the key that a link says to be signed with; false: it is not signed. Without Options.Trust nobody has checked that.
func (l *Link) Signer() (sign.PublicKey, bool) { return l.sig.by, l.sig.there }

// allSigned refuses a run of which a part is not signed.
func (r *Repo) allSigned(run []*Link) error {
	if !r.trusting() {
		return nil
	}
	for _, l := range run {
		if !l.sig.proven {
			return l.sig.unsigned(manifestName(l.Seq), l.Seq)
		}
	}
	return nil
}

// maySign says with what a link behind newest must be signed: ErrSignKey if it must and nothing is there to do it, ErrNotSigned if it would be the
// first one that is signed, which has to be said.
func (r *Repo) maySign(newest *Link) (*Signing, error) {
	var signing *Signing
	if newest != nil {
		signing = newest.Signing
	}
	switch {
	case r.o.Signer == nil && signing != nil:
		return nil, fmt.Errorf("%w from link %d on", ErrSignKey, signing.From)
	case r.o.Signer != nil && signing == nil:
		return nil, ErrNotSigned
	case r.o.Signer != nil && !newest.sig.proven:
		return nil, newest.sig.unsigned(manifestName(newest.Seq), newest.Seq)
	}
	return signing, nil
}

// writable finds out early that nothing can be added to a chain.
func (r *Repo) writable(c *Chain) error {
	var newest *Link
	if n := len(c.Links); n > 0 {
		newest = c.Links[n-1]
	}
	_, err := r.maySign(newest)
	return err
}

// BeginSigning adds a link from which on everything is signed with Options.Signer, and fences the archives, so that nobody goes on without a
// key. What is there already stays, and counts as unsigned: with Options.Trust it is not restored. On a repository that is signed it begins
// anew, for a key that must no longer count. It may be killed anywhere: the same call goes on.
func (r *Repo) BeginSigning(ctx context.Context) (*Link, error) {
	if r.o.Signer == nil {
		return nil, fmt.Errorf("%w: no key to sign with", ErrInvalid)
	}
	head, _, err := r.readHead(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.walk(ctx, r.fresh, head) // nothing that is there needs a signature
	if err != nil {
		return nil, err
	}
	f := &fencer{r: r, ends: map[string]uint64{}, holds: func(_ *object.Content, p *Piece) bool {
		return p.sig.proven && p.sig.by == r.o.Signer.Public()
	}}
	if err := f.fenceArchives(ctx, c); err != nil {
		return nil, err
	}
	table, err := shard.Digest(ctx, r.st)
	if err == nil && table != "" {
		err = r.checkShards(ctx, &Chain{}) // nor does that
	}
	if err != nil {
		return nil, err
	}
	inv := Inventory{Kind: BeginSign, Signing: &Signing{Since: r.o.Now().UTC(), Logs: f.ends}}
	l, err := r.commit(ctx, c, inv, Details{}, func(*Link) error { return nil })
	if err == nil && table != "" {
		err = r.AcceptShards(ctx)
	}
	return l, err
}

// ownSignature is that of what this Repo just wrote.
func (r *Repo) ownSignature() signature {
	if r.o.Signer == nil {
		return signature{}
	}
	return signature{by: r.o.Signer.Public(), there: true, proven: true}
}

// sealSigned is sealOne, signed if there is a key to sign with.
func (r *Repo) sealSigned(kind object.Kind, clear []byte, frames ...[]byte) (b []byte, id object.ID, d object.Digest, err error) {
	if id, err = r.newID(); err != nil {
		return nil, id, d, err
	}
	var salt []byte
	if r.o.Signer != nil {
		about := sign.Subject{Kind: byte(kind), Repo: r.id, Object: id}
		if clear, salt, err = r.o.Signer.Attach(about, clear, r.o.Rand, frames...); err != nil {
			return nil, id, d, err
		}
	}
	b, d, err = r.sealAs(kind, id, clear, salt, frames...)
	return b, id, d, err
}
