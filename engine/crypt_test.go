package engine

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

// The vector is from the specification of XAES-256-GCM (C2SP).
func TestValueEncryptionIsXAES256GCM(t *testing.T) {
	s, err := newXAES(bytes.Repeat([]byte{1}, 32), nil)
	require.NoError(t, err)
	nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
	got, err := s.sealWith(nil, nonce, nil, []byte("XAES-256-GCM"))
	require.NoError(t, err)
	require.Equal(t, "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271", hex.EncodeToString(got[sealNonce:]))
	plain, err := s.open(nil, nil, got)
	require.NoError(t, err)
	require.Equal(t, "XAES-256-GCM", string(plain))
}

func TestEncryptedStoreHidesValuesAndNeedsItsKey(t *testing.T) {
	fs := vfs.NewMem()
	o := small(fs)
	o.Key = bytes.Repeat([]byte{7}, 32)
	o.Indexes = testIndexes()
	s := open(t, o)
	secret := "attack at dawn"
	put(t, s, "t", "k", secret)
	put(t, s, "t", "k", secret+" again")
	_, err := s.Checkpoint()
	require.NoError(t, err)
	put(t, s, "t", "k2", secret)
	require.Equal(t, secret+" again", get(t, s, "t", "k"))
	_, hash := s.StateHash()
	require.NoError(t, s.Close())

	for _, dir := range []string{"data", "data/wal", "data/store"} {
		names, err := fs.List(dir)
		require.NoError(t, err)
		for _, n := range names {
			require.NotContains(t, readAll(t, fs, fs.PathJoin(dir, n)), secret, n)
		}
	}
	bad := o
	bad.Key = nil
	_, err = Open("data", bad)
	require.ErrorIs(t, err, ErrKeyRequired)
	bad.Key = bytes.Repeat([]byte{8}, 32)
	_, err = Open("data", bad)
	require.ErrorIs(t, err, ErrWrongKey)
	s = open(t, o)
	require.Equal(t, secret, get(t, s, "t", "k2"))
	rep, err := s.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, rep.Findings)
	require.Equal(t, hash, rep.StateHash)

	r, err := OpenReadOnly(fs, "data", ReadOptions{})
	require.NoError(t, err)
	require.NoError(t, r.Rows("t", func(row Row) error {
		require.True(t, row.Sealed)
		require.Nil(t, row.Value)
		return nil
	}))
	_, err = r.Verify(bg)
	require.ErrorIs(t, err, ErrKeyRequired)
	require.NoError(t, r.Close())

	plain := open(t, small(vfs.NewMem()))
	put(t, plain, "t", "k", secret)
	put(t, plain, "t", "k", secret+" again")
	put(t, plain, "t", "k2", secret)
	_, other := plain.StateHash()
	require.Equal(t, hash, other, "encryption does not change the state")
}

func TestKeyForAPlainStoreIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	require.NoError(t, open(t, small(fs)).Close())
	o := small(fs)
	o.Key = make([]byte, 32)
	_, err := Open("data", o)
	require.ErrorIs(t, err, ErrWrongKey)
}

func TestSealedValueIsBoundToItsRow(t *testing.T) {
	s, err := newSealer(make([]byte, 32), seeded8{seeded(1)})
	require.NoError(t, err)
	sealed, err := s.seal(nil, []byte("row a"), []byte("value"))
	require.NoError(t, err)
	_, err = s.open(nil, []byte("row b"), sealed)
	require.ErrorIs(t, err, ErrMalformed)
	for i := range sealed {
		sealed[i] ^= 0x40
		_, err = s.open(nil, []byte("row a"), sealed)
		require.ErrorIs(t, err, ErrMalformed, "byte %d", i)
		sealed[i] ^= 0x40
	}
	for n := range sealed {
		_, err = s.open(nil, []byte("row a"), sealed[:n])
		require.ErrorIs(t, err, ErrMalformed)
	}
}

// seeded8 makes a reader of a PRNG.
type seeded8 struct{ *rand.Rand }

func (r seeded8) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}
