package object

import "fmt"

// Reseal returns a sound object sealed with the key of another epoch: same kind, id, frames and meaning. What others know of an
// object is the digest of its first form, and where its frames lie in that. Both stay true: the new form carries that digest, its
// identity, at the beginning of its clear section, where it is authenticated with the rest, and its frames lie Header.Shift further.
// So an object can be given new keys in its place, before or after what names it, and a repository is whole at every moment in between.
//
// The result depends on nothing but the arguments: to do it twice is to do it once, and no nonce meets another plaintext.
func Reseal(stored []byte, kind Kind, repo ID, keys KeySource, epoch uint32, key *[32]byte) ([]byte, error) {
	c, err := Open(stored, kind, repo, nil, keys)
	if err != nil {
		return nil, err
	}
	h := c.Header
	if !h.Sealed || key == nil || h.Epoch == epoch {
		return nil, fmt.Errorf("%w: object %s of epoch %d cannot be resealed for epoch %d", ErrNoKey, h.ID, h.Epoch, epoch)
	}
	w, err := newWriter(Header{Kind: h.Kind, Sealed: true, Resealed: true, Epoch: epoch, Repo: h.Repo, ID: h.ID}, key,
		append(append(make([]byte, 0, identitySize+len(c.Clear)), c.Digest[:]...), c.Clear...))
	if err != nil {
		return nil, err
	}
	w.Adopt(make([]byte, 0, len(stored)+identitySize+2*bigShard))
	for _, p := range c.Places {
		plain, err := c.opener.unseal(p.Number, false, stored[p.Offset:p.Offset+p.Length], nil)
		if err != nil {
			return nil, err
		}
		w.seal(p.Number, false, plain)
		w.stored = append(w.stored, p.Length)
	}
	at := h.covered() - int64(h.Dir)
	sum := sum256(stored[HeaderSize : HeaderSize+h.Clear])
	plain, err := c.opener.unseal(h.Frames, true, stored[at:h.covered()], &sum)
	if err != nil {
		return nil, err
	}
	out, _, err := w.finish(Packed{plain: plain})
	return out, err
}
