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
}

// Copy copies a repository, byte by byte and without a key: afterwards the target is a repository of the same identity and content.
// What is there already is not sent again, so an interrupted copy goes on where it was. Every object is checked before it is sent:
// damage does not spread (ErrDamaged). A target that holds another repository is refused: ErrIsRepo. Objects that a prune removed from the
// source stay in the target, and links that the target has beyond the source are damage of its chain: copy one way only.
func Copy(ctx context.Context, from, to store.Store, progress func(name string, done, total int64)) (*CopyReport, error) {
	if err := sameRepo(ctx, from, to); err != nil {
		return nil, err
	}
	// The head is read first: what it names is in the listing then, whatever is added meanwhile.
	head, _, err := from.Get(ctx, nameHead)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	var names []store.Info
	if err := from.List(ctx, "", func(i store.Info) error { names = append(names, i); return nil }); err != nil {
		return nil, err
	}
	have := map[string]int64{}
	if err := to.List(ctx, "", func(i store.Info) error { have[i.Name] = i.Size; return nil }); err != nil {
		return nil, err
	}
	rep := &CopyReport{}
	var total int64 // to be sent
	for _, i := range names {
		if size, ok := have[i.Name]; (!ok || size != i.Size) && i.Name != nameHead && i.Name != nameLedger {
			total += i.Size
		}
	}
	// What is named comes before what names it, so that the copy is a sound repository at every moment.
	for _, stage := range [][]string{
		{folderKeys, folderEpochs}, {folderPacks, folderLists, folderArchive, folderProofs}, {folderManifest}, {nameConfig},
	} {
		for _, i := range names {
			if !hasAnyPrefix(i.Name, stage) {
				continue
			}
			if size, ok := have[i.Name]; ok && size == i.Size {
				rep.Present++
				continue
			}
			n, err := copyObject(ctx, from, to, i.Name)
			if err != nil {
				return rep, err
			}
			rep.Copied++
			rep.Bytes += n
			if progress != nil {
				progress(i.Name, rep.Bytes, max(total, rep.Bytes))
			}
		}
	}
	if head == nil {
		return rep, nil
	}
	n, err := copyHead(ctx, to, head)
	rep.Bytes += n
	return rep, err
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

func copyObject(ctx context.Context, from, to store.Store, name string) (int64, error) {
	b, _, err := from.Get(ctx, name)
	if err != nil {
		return 0, err
	}
	if !hasAnyPrefix(name, []string{folderKeys, folderEpochs, nameConfig}) {
		if b, err = sound(name, b); err != nil {
			return 0, err
		}
	}
	return int64(len(b)), to.Create(ctx, name, b)
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
