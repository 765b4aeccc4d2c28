// Package storetest is the conformance suite of object stores: what every kind of store.Store must do.
//
//	func TestDir(t *testing.T) { storetest.Run(t, func(t *testing.T) store.Store { ... }) }
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Run runs the suite; open returns a new empty store for every part.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"ReadsWhatWasCreated", readBack},
		{"CreateNeverOverwrites", createOnce},
		{"OneOfManyCreatorsWins", createRace},
		{"RangesAreExact", ranges},
		{"ReplaceNeedsTheVersion", replace},
		{"OneOfManyReplacersWins", replaceRace},
		{"ListIsCompleteAndOrdered", list},
		{"DeleteIsIdempotent", remove},
		{"BadNamesAreRefused", names},
		{"CancelledCallsDoNothing", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

var bg = context.Background()

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func content(seed, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i>>3 + i*seed + seed)
	}
	return b
}

func readBack(t *testing.T, s store.Store) {
	for i, n := range []int{0, 1, 4095, 70_001, 6 << 20} {
		name := fmt.Sprintf("packs/%02d/object-%d", i, n)
		must(t, s.Create(bg, name, content(i, n)))
		b, v, err := s.Get(bg, name)
		must(t, err)
		if !bytes.Equal(b, content(i, n)) || v == "" {
			t.Fatalf("%s: %d bytes came back, version %q", name, len(b), v)
		}
		info, err := s.Stat(bg, name)
		must(t, err)
		if info != (store.Info{Name: name, Size: int64(n)}) {
			t.Fatalf("stat: %+v", info)
		}
	}
	_, _, err := s.Get(bg, "packs/none")
	wants(t, err, store.ErrNotFound)
	_, err = s.Stat(bg, "packs/none")
	wants(t, err, store.ErrNotFound)
	_, err = s.Stat(bg, "packs/00") // a folder is no object
	wants(t, err, store.ErrNotFound)
}

func createOnce(t *testing.T, s store.Store) {
	body := content(7, 300_000)
	must(t, s.Create(bg, "body/a", body))
	_, err := s.Replace(bg, "body/b", body, "")
	must(t, err)
	if !bytes.Equal(body, content(7, 300_000)) {
		t.Fatal("the store changed the caller's bytes")
	}
	must(t, s.Create(bg, "manifests/1", []byte("first")))
	wants(t, s.Create(bg, "manifests/1", []byte("other")), store.ErrExists)
	must(t, s.Create(bg, "manifests/1", []byte("first")))
	b, _, err := s.Get(bg, "manifests/1")
	must(t, err)
	if string(b) != "first" {
		t.Fatalf("overwritten with %q", b)
	}
}

func createRace(t *testing.T, s store.Store) {
	errs := race(func(i int) error { return s.Create(bg, "manifests/2", content(i, 3000+i)) })
	won := -1
	for i, err := range errs {
		if err == nil {
			if won >= 0 {
				t.Fatalf("%d and %d both won", won, i)
			}
			won = i
			continue
		}
		wants(t, err, store.ErrExists)
	}
	if won < 0 {
		t.Fatal("nobody won")
	}
	b, _, err := s.Get(bg, "manifests/2")
	must(t, err)
	if !bytes.Equal(b, content(won, 3000+won)) {
		t.Fatal("the content is not the winner's")
	}
}

func race(fn func(i int) error) []error {
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	return errs
}

func ranges(t *testing.T, s store.Store) {
	body := content(3, 10_000)
	must(t, s.Create(bg, "x/y", body))
	for _, r := range [][2]int64{{0, 10_000}, {0, 1}, {9_999, 1}, {5_000, 4_321}, {10_000, 0}, {17, 0}} {
		b, err := s.GetRange(bg, "x/y", r[0], r[1])
		must(t, err)
		if !bytes.Equal(b, body[r[0]:r[0]+r[1]]) {
			t.Fatalf("range %v: wrong bytes", r)
		}
	}
	for _, r := range [][2]int64{{0, 10_001}, {9_999, 2}, {10_000, 1}, {20_000, 5}, {10_001, 0}} {
		_, err := s.GetRange(bg, "x/y", r[0], r[1])
		wants(t, err, store.ErrShort)
	}
	for _, r := range [][2]int64{{-1, 5}, {0, -1}, {0, store.MaxObject + 1}} {
		_, err := s.GetRange(bg, "x/y", r[0], r[1])
		wants(t, err, store.ErrInvalid)
	}
	_, err := s.GetRange(bg, "x/none", 0, 5)
	wants(t, err, store.ErrNotFound)
}

func replace(t *testing.T, s store.Store) {
	_, err := s.Replace(bg, "head", []byte("one"), "no such version")
	wants(t, err, store.ErrChanged)
	v1, err := s.Replace(bg, "head", []byte("one"), "")
	must(t, err)
	_, err = s.Replace(bg, "head", []byte("another one"), "")
	wants(t, err, store.ErrChanged)
	again, err := s.Replace(bg, "head", []byte("one"), "") // the answer was lost
	must(t, err)
	v2, err := s.Replace(bg, "head", []byte("two"), v1)
	must(t, err)
	_, err = s.Replace(bg, "head", []byte("three"), v1)
	wants(t, err, store.ErrChanged)
	b, v, err := s.Get(bg, "head")
	must(t, err)
	if string(b) != "two" || v != v2 || v1 == v2 || again != v1 {
		t.Fatalf("%q, versions %q %q %q %q", b, v1, again, v2, v)
	}
	_, err = s.Replace(bg, "head", []byte("three"), v)
	must(t, err)
}

func replaceRace(t *testing.T, s store.Store) {
	v, err := s.Replace(bg, "head", []byte("start"), "")
	must(t, err)
	for round := range 3 {
		next := make([]store.Version, 8)
		errs := race(func(i int) (err error) {
			next[i], err = s.Replace(bg, "head", fmt.Appendf(nil, "round %d by %d", round, i), v)
			return err
		})
		won := slices.Index(errs, nil)
		if won < 0 {
			t.Fatalf("nobody won: %v", errs)
		}
		for i, err := range errs {
			if i != won {
				wants(t, err, store.ErrChanged)
			}
		}
		b, now, err := s.Get(bg, "head")
		must(t, err)
		if string(b) != fmt.Sprintf("round %d by %d", round, won) || now != next[won] {
			t.Fatalf("%q is not what %d wrote", b, won)
		}
		v = now
	}
}

func listed(t *testing.T, s store.Store, prefix string) (out []string) {
	t.Helper()
	must(t, s.List(bg, prefix, func(i store.Info) error {
		out = append(out, fmt.Sprintf("%s:%d", i.Name, i.Size))
		return nil
	}))
	return out
}

func list(t *testing.T, s store.Store) {
	if got := listed(t, s, ""); len(got) != 0 {
		t.Fatalf("a new store holds %v", got)
	}
	var want []string
	for i, n := range []string{"config", "packs/aa/1", "packs/aa/2", "packs/a-", "packs/b", "packs/aa.x", "packs2/z", "head"} {
		must(t, s.Create(bg, n, content(1, i)))
		want = append(want, fmt.Sprintf("%s:%d", n, i))
	}
	slices.SortFunc(want, func(a, b string) int {
		an, _, _ := strings.Cut(a, ":")
		bn, _, _ := strings.Cut(b, ":")
		return strings.Compare(an, bn)
	})
	if got := listed(t, s, ""); !slices.Equal(got, want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
	var packs []string
	for _, w := range want {
		if strings.HasPrefix(w, "packs/") {
			packs = append(packs, w)
		}
	}
	if got := listed(t, s, "packs/"); !slices.Equal(got, packs) {
		t.Fatalf("got %v\nwant %v", got, packs)
	}
	if got := listed(t, s, "nothing/"); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
	stop := errors.New("enough")
	wants(t, s.List(bg, "packs/", func(store.Info) error { return stop }), stop)
	wants(t, s.List(bg, "packs", func(store.Info) error { return nil }), store.ErrInvalid)
}

func remove(t *testing.T, s store.Store) {
	must(t, s.Create(bg, "packs/1", []byte("x")))
	must(t, s.Delete(bg, "packs/1"))
	must(t, s.Delete(bg, "packs/1"))
	must(t, s.Delete(bg, "never/was"))
	_, _, err := s.Get(bg, "packs/1")
	wants(t, err, store.ErrNotFound)
	must(t, s.Create(bg, "packs/1", []byte("y")))
}

func names(t *testing.T, s store.Store) {
	for _, n := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.b", "a b", "ä", "a\x00b", "a\\b", strings.Repeat("a", 600)} {
		wants(t, s.Create(bg, n, nil), store.ErrInvalid)
		_, _, err := s.Get(bg, n)
		wants(t, err, store.ErrInvalid)
		_, err = s.GetRange(bg, n, 0, 1)
		wants(t, err, store.ErrInvalid)
		_, err = s.Stat(bg, n)
		wants(t, err, store.ErrInvalid)
		_, err = s.Replace(bg, n, nil, "")
		wants(t, err, store.ErrInvalid)
		wants(t, s.Delete(bg, n), store.ErrInvalid)
	}
	if s.String() == "" {
		t.Fatal("the store has no name")
	}
}

func cancelled(t *testing.T, s store.Store) {
	must(t, s.Create(bg, "a", []byte("x")))
	ctx, cancel := context.WithCancel(bg)
	cancel()
	wants(t, s.Create(ctx, "b", []byte("x")), context.Canceled)
	_, _, err := s.Get(ctx, "a")
	wants(t, err, context.Canceled)
	_, err = s.GetRange(ctx, "a", 0, 1)
	wants(t, err, context.Canceled)
	wants(t, s.Delete(ctx, "a"), context.Canceled)
	wants(t, s.List(ctx, "", func(store.Info) error { return nil }), context.Canceled)
	_, _, err = s.Get(bg, "b")
	wants(t, err, store.ErrNotFound)
	_, _, err = s.Get(bg, "a")
	must(t, err)
}
