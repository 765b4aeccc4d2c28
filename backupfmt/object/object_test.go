package object

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	repo    = ID{1, 2, 3}
	testKey = &[32]byte{7, 7, 7}
)

func keys(epoch uint32) (*[32]byte, error) {
	if epoch != 5 {
		return nil, ErrNoKey
	}
	return testKey, nil
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// build makes an object of incompressible frames.
func build(t testing.TB, rng *rand.Rand, key *[32]byte, sizes ...int) (stored []byte, frames [][]byte, id ID) {
	t.Helper()
	copy(id[:], random(rng, 16))
	w, err := NewWriter(Pack, repo, id, 5, key, []byte("clear section"))
	require.NoError(t, err)
	for _, n := range sizes {
		raw := random(rng, n)
		p, err := Compress(raw)
		require.NoError(t, err)
		_, err = w.Add(p)
		require.NoError(t, err)
		frames = append(frames, raw)
	}
	stored, _, err = w.Finish([]byte("extra"))
	require.NoError(t, err)
	return stored, frames, id
}

func source(key *[32]byte) KeySource {
	if key == nil {
		return nil
	}
	return keys
}

func TestWhatIsSealedIsOpened(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, key := range []*[32]byte{nil, testKey} {
		for _, sizes := range [][]int{nil, {0}, {1, 100, 0}, {300_000, 5, 250_000}} {
			b, frames, id := build(t, rng, key, sizes...)
			h, err := Check(b)
			require.NoError(t, err)
			require.Equal(t, int64(len(b)), h.Size)
			require.Equal(t, h.Header.Size(), h.Size)
			c, err := Open(b, Pack, repo, &id, source(key))
			require.NoError(t, err)
			require.Equal(t, "clear section", string(c.Clear))
			require.Equal(t, "extra", string(c.Extra))
			require.Equal(t, h.Digest, c.Digest)
			require.Len(t, c.Places, len(frames))
			for i, want := range frames {
				got, err := c.Frame(i)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
				// The same by range, as a restore does it.
				o, err := NewOpener(b[:HeaderSize], Pack, repo, &id, source(key))
				require.NoError(t, err)
				p := c.Places[i]
				got, err = o.Frame(p.Number, b[p.Offset:p.Offset+p.Length])
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
			}
		}
	}
}

func TestObjectsInTheWrongPlaceAreForged(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	b, _, id := build(t, rng, testKey, 100)
	other := ID{9}
	_, err := Open(b, List, repo, &id, keys)
	require.ErrorIs(t, err, ErrForged)
	_, err = Open(b, Pack, other, &id, keys)
	require.ErrorIs(t, err, ErrForged)
	_, err = Open(b, Pack, repo, &other, keys)
	require.ErrorIs(t, err, ErrForged)
	_, err = Open(b, Pack, repo, &id, nil)
	require.ErrorIs(t, err, ErrNoKey)
	_, err = Open(b, Pack, repo, &id, func(uint32) (*[32]byte, error) { return &[32]byte{1}, nil })
	require.ErrorIs(t, err, ErrForged)
	plain, _, pid := build(t, rng, nil, 100)
	_, err = Open(plain, Pack, repo, &pid, keys)
	require.ErrorIs(t, err, ErrForged, "a plain object smuggled into an encrypted repository")
}

// reseal makes a changed object consistent again, as somebody without the key could.
func reseal(t *testing.T, covered []byte) []byte {
	t.Helper()
	h, err := ParseHeader(covered)
	if err == nil {
		h.put(covered)
	}
	out, err := finish(append([]byte{}, covered...), ID(covered[32:48]))
	require.NoError(t, err)
	return out
}

func TestConsistentForgeriesAreFoundWithTheKey(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	b, _, id := build(t, rng, testKey, 500, 500)
	good, err := Open(b, Pack, repo, &id, keys)
	require.NoError(t, err)
	covered := b[:good.Header.covered()]
	for name, change := range map[string]func(c []byte) []byte{
		"clear section": func(c []byte) []byte { c[HeaderSize] ^= 1; return c },
		"frame":         func(c []byte) []byte { c[good.Places[1].Offset+9] ^= 1; return c },
		"swapped frames": func(c []byte) []byte {
			p, q := good.Places[0], good.Places[1]
			x := append([]byte{}, c[p.Offset:p.Offset+p.Length]...)
			copy(c[p.Offset:], c[q.Offset:q.Offset+q.Length])
			copy(c[q.Offset:], x)
			return c
		},
		"fewer frames": func(c []byte) []byte {
			p := good.Places[1]
			h := good.Header
			h.Frames--
			h.Body -= p.Length
			c = append(c[:p.Offset], c[p.Offset+p.Length:]...)
			h.put(c)
			return c
		},
		"epoch": func(c []byte) []byte { h := good.Header; h.Epoch = 6; h.put(c); return c },
	} {
		bad := reseal(t, change(append([]byte{}, covered...)))
		_, err := Check(bad)
		require.NoError(t, err, "%s: consistent without the key", name)
		c, err := Open(bad, Pack, repo, &id, keys)
		for i := 0; err == nil && i < len(c.Places); i++ {
			_, err = c.Frame(i)
		}
		require.True(t, errors.Is(err, ErrForged) || errors.Is(err, ErrNoKey), "%s: %v", name, err)
	}
}

func TestNoNonceIsUsedTwiceWithAKey(t *testing.T) {
	seen := map[string]bool{}
	for i := range 1000 {
		n := string(nonceOf(uint32(i)))
		require.Len(t, n, 12)
		require.False(t, seen[n])
		seen[n] = true
	}
	// Different objects and kinds have different keys: the same frame never seals to the same bytes.
	sealed := map[string]bool{}
	for i := range 50 {
		for _, kind := range []Kind{Pack, List} {
			w, err := NewWriter(kind, repo, ID{byte(i)}, 5, testKey, nil)
			require.NoError(t, err)
			p, err := Compress([]byte("the same frame"))
			require.NoError(t, err)
			f, err := w.Add(p)
			require.NoError(t, err)
			b, _, err := w.Finish(nil)
			require.NoError(t, err)
			got := string(b[f.Offset : f.Offset+f.Length])
			require.False(t, sealed[got])
			sealed[got] = true
		}
	}
}

func TestEveryFlippedByteIsFoundAndHealed(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	b, _, _ := build(t, rng, testKey, 900)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= byte(1 + rng.IntN(255))
		_, err := Check(bad)
		require.Error(t, err, "byte %d", i)
		h, err := Heal(bad)
		require.NoError(t, err, "byte %d", i)
		require.True(t, bytes.Equal(b, h.Healed), "byte %d", i)
	}
}

func TestSoundObjectsNeedNoHealing(t *testing.T) {
	b, _, _ := build(t, rand.New(rand.NewPCG(5, 1)), nil, 5000)
	h, err := Heal(b)
	require.NoError(t, err)
	require.Nil(t, h.Healed)
}

func TestTruncatedObjectsAreFoundAndHealedWithinTheParity(t *testing.T) {
	b, _, _ := build(t, rand.New(rand.NewPCG(6, 1)), testKey, 3000)
	for n := range len(b) {
		_, err := Check(b[:n])
		require.Error(t, err)
		h, err := Heal(b[:n])
		if err == nil {
			require.True(t, bytes.Equal(b, h.Healed), "%d bytes", n)
		} else {
			require.True(t, errors.Is(err, ErrUnhealable), "%d bytes: %v", n, err)
		}
	}
	h, err := Heal(b[:len(b)-700])
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, h.Healed))
	_, err = Check(append(bytes.Clone(b), 0))
	require.Error(t, err)
}

func TestLargeObjectsSurviveBadSectorsAndABadStretch(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	var sizes []int
	for range 16 {
		sizes = append(sizes, 1<<20)
	}
	b, _, _ := build(t, rng, testKey, sizes...)
	over := float64(len(b))/float64(16<<20) - 1
	require.Less(t, over, 0.0305, "space for parity")
	damage := func(name string, fn func(bad []byte)) {
		bad := bytes.Clone(b)
		fn(bad)
		h, err := Heal(bad)
		require.NoError(t, err, name)
		require.True(t, bytes.Equal(b, h.Healed), name)
	}
	for trial := range 4 {
		damage(fmt.Sprintf("stretch %d", trial), func(bad []byte) {
			at := rng.IntN(len(bad) - 256<<10)
			copy(bad[at:], random(rng, 256<<10))
		})
		damage(fmt.Sprintf("sectors %d", trial), func(bad []byte) {
			for range 7 {
				at := rng.IntN(len(bad)/4096) * 4096
				clear(bad[at:min(at+4096, len(bad))])
			}
		})
	}
	bad := bytes.Clone(b)
	copy(bad[1<<20:], random(rng, 2<<20))
	_, err := Heal(bad)
	require.ErrorIs(t, err, ErrUnhealable)
}

func TestAnyTwoBadShardsOfASmallObjectHeal(t *testing.T) {
	b, _, _ := build(t, rand.New(rand.NewPCG(8, 1)), testKey, 20_000)
	l := layoutOf(func() int64 { h, _ := ParseHeader(b); return h.covered() }())
	for i := range 16 {
		for j := range i {
			bad := bytes.Clone(b)
			bad[i*l.shard+3] ^= 1
			bad[j*l.shard+5] ^= 1
			h, err := Heal(bad)
			require.NoError(t, err)
			require.Equal(t, 2, h.BadShards)
			require.True(t, bytes.Equal(b, h.Healed))
		}
	}
}

func TestOverlongFramesAreRefused(t *testing.T) {
	_, err := Compress(make([]byte, MaxFrame+1))
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = NewWriter(Pack, repo, ID{}, 0, nil, make([]byte, MaxCovered))
	require.ErrorIs(t, err, ErrTooLarge)
}

func FuzzObject(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 1))
	for _, key := range []*[32]byte{nil, testKey} {
		b, _, _ := build(f, rng, key, 10, 2000)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Check(b)
		if h, err := Heal(b); err == nil && h.Healed != nil {
			_, err := Check(h.Healed)
			require.NoError(t, err)
		}
		for _, k := range []KeySource{nil, keys} {
			if c, err := Open(b, Pack, repo, nil, k); err == nil {
				for i := range c.Places {
					_, _ = c.Frame(i)
				}
			}
		}
	})
}
