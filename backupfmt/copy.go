package backupfmt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// CopyReport says what a copy did.
type CopyReport struct {
	Copied, Present int
	Bytes           int64 // copied
	Deleted         int   // objects that the source no longer has
	Freed           int64 // bytes of those
}

// CopyOptions of one copy.
type CopyOptions struct {
	// Delete removes from the target what a prune removed from the source. The target must be an older state of the source: ErrDiverged.
	Delete   bool
	Progress func(name string, done, total int64) // bytes; may be nil
}

// Copy copies a repository, byte by byte and without a key: afterwards the target is a repository of the same identity and content.
// What is there already is not sent again, so an interrupted copy goes on where it was. Every object is checked before it is sent:
// damage does not spread (ErrDamaged), and damaged objects of the target are replaced where their size gives them away. A target that holds
// another repository is refused: ErrIsRepo. Without Delete, objects that a prune removed from the source stay in the target. Links that the
// target has beyond the source are damage of its chain: copy one way only.
func Copy(ctx context.Context, from, to store.Store, progress func(name string, done, total int64)) (*CopyReport, error) {
	return Mirror(ctx, from, to, CopyOptions{Progress: progress})
}

// Mirror is Copy with options.
func Mirror(ctx context.Context, from, to store.Store, o CopyOptions) (*CopyReport, error) {
	if err := sameRepo(ctx, from, to); err != nil {
		return nil, err
	}
	// The head is read first: what it names is in the listing then, whatever is added meanwhile.
	head, _, err := from.Get(ctx, nameHead)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	c := &copier{from: from, to: to, o: o, rep: &CopyReport{}, have: map[string]int64{}}
	if o.Delete {
		if err := olderState(ctx, from, to); err != nil {
			return c.rep, err
		}
	}
	if err := c.survey(ctx); err != nil {
		return c.rep, err
	}
	// What is named comes before what names it, so that the copy is a sound repository at every moment; with the configuration it is one.
	for _, stage := range [][]string{{folderKeys, folderEpochs}, {folderPacks, folderLists, folderArchive, folderProofs}, {folderManifest}} {
		if err := c.stage(ctx, stage); err != nil {
			return c.rep, err
		}
	}
	if head != nil {
		n, err := copyHead(ctx, to, head)
		if c.rep.Bytes += n; err != nil {
			return c.rep, err
		}
	}
	if err := c.stage(ctx, []string{nameConfig}); err != nil {
		return c.rep, err
	}
	if err := c.dropOldKeys(ctx); err != nil || !o.Delete {
		return c.rep, err
	}
	return c.rep, c.remove(ctx)
}

type copier struct {
	from, to store.Store
	o        CopyOptions
	rep      *CopyReport
	names    []store.Info     // of the source
	have     map[string]int64 // of the target
	total    int64
	rekeyed  bool // the source was given new keys that the target does not have everywhere yet
}

func (c *copier) survey(ctx context.Context) error {
	if err := c.from.List(ctx, "", func(i store.Info) error { c.names = append(c.names, i); return nil }); err != nil {
		return err
	}
	if err := c.to.List(ctx, "", func(i store.Info) error { c.have[i.Name] = i.Size; return nil }); err != nil {
		return err
	}
	for _, i := range c.names {
		if size, ok := c.have[i.Name]; (!ok || size != i.Size) && i.Name != nameHead && i.Name != nameLedger {
			c.total += i.Size
		}
	}
	old, err := c.oldKeys(ctx)
	c.rekeyed = len(old) > 0
	return err
}

// stage brings the objects with these beginnings to the target.
func (c *copier) stage(ctx context.Context, prefixes []string) error {
	for _, i := range c.names {
		if hasAnyPrefix(i.Name, prefixes) {
			if err := c.object(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// object brings one object to the target.
func (c *copier) object(ctx context.Context, i store.Info) error {
	size, ok := c.have[i.Name]
	if ok && size == i.Size && !c.rekeyed {
		c.rep.Present++
		return nil
	}
	b, _, err := c.from.Get(ctx, i.Name)
	if err != nil {
		return err
	}
	small := hasAnyPrefix(i.Name, []string{folderKeys, folderEpochs, nameConfig})
	if !small {
		if b, err = sound(i.Name, b); err != nil {
			return err
		}
	}
	if !ok {
		err = c.to.Create(ctx, i.Name, b)
	} else {
		var same bool
		if same, err = c.renew(ctx, i.Name, b, small); same {
			c.rep.Present++
			return nil
		}
	}
	if err != nil {
		return err
	}
	c.rep.Copied++
	c.rep.Bytes += int64(len(b))
	if c.o.Progress != nil {
		c.o.Progress(i.Name, c.rep.Bytes, max(c.total, c.rep.Bytes))
	}
	return nil
}

// renew replaces an object of the target that is damaged, or an older form of the source's: sealed with older keys, or a fence.
func (c *copier) renew(ctx context.Context, name string, b []byte, small bool) (same bool, err error) {
	have, v, err := c.to.Get(ctx, name)
	if err != nil {
		return false, err
	}
	if bytes.Equal(have, b) {
		return true, nil
	}
	if !small && !supersedes(name, b, have) {
		return false, fmt.Errorf("%w: %s is another object in %s than in %s", ErrDiverged, name, c.to, c.from)
	}
	_, err = c.to.Replace(ctx, name, b, v)
	return false, err
}

// supersedes: of two forms of an object, b is the sound one, or the newer one.
func supersedes(name string, b, have []byte) bool {
	was, err := object.Check(have)
	if err != nil {
		return true
	}
	now, err := object.Check(b)
	if err != nil {
		return false
	}
	if now.Identity == was.Identity && now.Header.ID == was.Header.ID {
		return now.Header.Epoch > was.Header.Epoch
	}
	clear, _ := was.Header.ClearOf(have)
	p, err := parsePiece(name, clear)
	return err == nil && p.Fence
}

// oldKeys are the slots and epochs of the target that are of an older generation than the source's newest, and that it no longer has.
func (c *copier) oldKeys(ctx context.Context) ([]string, error) {
	src, dst := Repo{st: c.from}, Repo{st: c.to}
	epochs, err := src.readEpochs(ctx)
	if err != nil {
		return nil, err
	}
	gen := generationOf(epochs)
	if gen == 0 {
		return nil, nil
	}
	there := map[string]bool{}
	for _, i := range c.names {
		there[strings.TrimSuffix(i.Name, secondCopy)] = true
	}
	var out []string
	mine, err := dst.readEpochs(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range mine {
		if name := epochName(e.Epoch); e.Generation < gen && !there[name] {
			out = append(out, name)
		}
	}
	slots, err := dst.Slots(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		if name := folderKeys + s.ID; s.Generation < gen && !there[name] {
			out = append(out, name)
		}
	}
	return out, nil
}

// dropOldKeys ends the rekey of a copy as that of the source ended.
func (c *copier) dropOldKeys(ctx context.Context) error {
	if !c.rekeyed {
		return nil
	}
	old, err := c.oldKeys(ctx)
	if err != nil {
		return err
	}
	dst := Repo{st: c.to}
	for _, name := range old {
		if err := dst.removeTwice(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes from the target what the source no longer has. The source is listed again: what another copy brought to the target
// meanwhile came from there.
func (c *copier) remove(ctx context.Context) error {
	there := map[string]bool{}
	if err := c.from.List(ctx, "", func(i store.Info) error { there[i.Name] = true; return nil }); err != nil {
		return err
	}
	for _, folder := range []string{folderManifest, folderPacks, folderLists, folderArchive, folderProofs, folderKeys} {
		var dead []store.Info
		err := c.to.List(ctx, folder, func(i store.Info) error {
			if _, before := c.have[i.Name]; before && !there[i.Name] {
				dead = append(dead, i)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, i := range dead {
			if err := c.to.Delete(ctx, i.Name); err != nil {
				return err
			}
			c.rep.Deleted++
			c.rep.Freed += i.Size
		}
	}
	return nil
}

// olderState refuses a target that is not an older state of the source: with another history in it, deletion could destroy the only copy of something.
func olderState(ctx context.Context, from, to store.Store) error {
	src, err := OpenKeyless(ctx, from, nil)
	if err != nil {
		return err
	}
	dst, err := OpenKeyless(ctx, to, nil)
	if errors.Is(err, ErrNotRepo) {
		return nil // a new copy
	}
	if err != nil {
		return err
	}
	mark, _, err := dst.readHead(ctx)
	if err != nil || mark.Seq == 0 {
		return err
	}
	head, _, err := src.readHead(ctx)
	if err != nil {
		return err
	}
	diverged := func(why string) error {
		return fmt.Errorf("%w: %s: %s; nothing was changed", ErrDiverged, to, why)
	}
	if mark.Seq > head.Seq {
		return diverged(fmt.Sprintf("it is at link %d, the source at %d", mark.Seq, head.Seq))
	}
	l, err := src.link(ctx, mark.Seq)
	if err == nil && fmt.Sprintf("%x", l.Digest[:]) == mark.Digest {
		return nil
	}
	if err == nil {
		return diverged(fmt.Sprintf("its link %d is not the source's", mark.Seq))
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return sharedPast(ctx, src, dst, mark, diverged)
}

// sharedPast looks at links that both have, when the target's newest was pruned from the source.
func sharedPast(ctx context.Context, src, dst *Repo, mark headMark, diverged func(string) error) error {
	if next, err := src.link(ctx, mark.Seq+1); err == nil {
		if next.Parent != mark.Digest {
			return diverged(fmt.Sprintf("the source's link %d does not continue its link %d", next.Seq, mark.Seq))
		}
		return nil
	}
	shared := 0
	err := dst.st.List(ctx, folderManifest, func(i store.Info) error {
		seq, ok := parseNumber(i.Name)
		if !ok || seq > mark.Seq {
			return nil
		}
		mine, err := src.link(ctx, seq)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		theirs, err := dst.link(ctx, seq)
		if err != nil {
			return err
		}
		if theirs.Digest != mine.Digest {
			return diverged(fmt.Sprintf("its link %d is not the source's", seq))
		}
		shared++
		return nil
	})
	if err == nil && shared == 0 {
		err = diverged("the two have no link in common, so nobody can tell; make a new copy")
	}
	return err
}

func hasAnyPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// sameRepo refuses a target that is another repository or ahead of the source.
func sameRepo(ctx context.Context, from, to store.Store) error {
	read := func(st store.Store) (b []byte, err error) {
		err = getEither(ctx, st, nameConfig, func(c []byte) error { _, err := parseConfig(c); b = c; return err })
		return b, err
	}
	src, err := read(from)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %s", ErrNotRepo, from)
	}
	if err != nil {
		return fmt.Errorf("backup: open %s: %w", from, err)
	}
	dst, err := read(to)
	switch {
	case err != nil && errors.Is(err, store.ErrNotFound):
	case err != nil:
		return fmt.Errorf("backup: open %s: %w", to, err)
	case !bytes.Equal(src, dst):
		return fmt.Errorf("%w: %s is another repository", ErrIsRepo, to)
	}
	return nil
}

// sound returns the bytes of an object as they were written.
func sound(name string, b []byte) ([]byte, error) {
	if _, err := object.Check(b); err == nil {
		return b, nil
	}
	h, err := object.Heal(b)
	if err != nil {
		return nil, &DamageError{Kind: "damaged", Object: name, Reason: "it is not copied", Cause: err}
	}
	return h.Healed, nil
}

func copyHead(ctx context.Context, to store.Store, head []byte) (int64, error) {
	head, err := sound(nameHead, head)
	if err != nil {
		return 0, err
	}
	have, v, err := to.Get(ctx, nameHead)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	if bytes.Equal(have, head) {
		return 0, nil
	}
	_, err = to.Replace(ctx, nameHead, head, v)
	return int64(len(head)), err
}
