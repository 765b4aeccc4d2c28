package keys

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Carried is what a generation takes over from the one before it.
type Carried struct {
	ChunkKey [32]byte             // names chunks, for ever
	Epochs   map[uint32]*[32]byte // keys of objects that are not sealed anew yet; empty when all are
}

const carriedInfo = "erlmcp backup carried keys v1"

// carriedAAD binds the carried keys to their place.
func (m *Master) carriedAAD(epoch uint32) ([]byte, error) {
	return m.ctx.aad(struct {
		Carried    uint32 `json:"carried_by_epoch"`
		Generation uint32 `json:"generation"`
	}{epoch, m.gen})
}

func (m *Master) sealCarried(epoch uint32, c *Carried, rnd io.Reader) (string, error) {
	plain := append([]byte(nil), c.ChunkKey[:]...)
	for _, n := range slices.Sorted(maps.Keys(c.Epochs)) {
		plain = append(binary.LittleEndian.AppendUint32(plain, n), c.Epochs[n][:]...)
	}
	key, err := m.derived(carriedInfo)
	if err != nil {
		return "", err
	}
	aad, err := m.carriedAAD(epoch)
	if err != nil {
		return "", err
	}
	a, err := gcm(key)
	if err != nil {
		return "", err
	}
	nonce, err := random(rnd, 12)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(a.Seal(nonce, nonce, plain, aad)), nil
}

// OpenCarried returns what an epoch carries, nil if nothing: ErrWrongKey, ErrDamaged.
func (m *Master) OpenCarried(e *Epoch) (*Carried, error) {
	if e.Carried == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(e.Carried)
	if err != nil || len(b) < 12 {
		return nil, fmt.Errorf("%w: epoch %d", ErrDamaged, e.Epoch)
	}
	key, err := m.derived(carriedInfo)
	if err != nil {
		return nil, err
	}
	aad, err := m.carriedAAD(e.Epoch)
	if err != nil {
		return nil, err
	}
	a, err := gcm(key)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, b[:12], b[12:], aad)
	if err != nil || len(plain) < 32 || (len(plain)-32)%36 != 0 {
		return nil, fmt.Errorf("%w: what epoch %d carries was not sealed with this repository's key", ErrWrongKey, e.Epoch)
	}
	c := &Carried{ChunkKey: [32]byte(plain), Epochs: map[uint32]*[32]byte{}}
	for plain = plain[32:]; len(plain) > 0; plain = plain[36:] {
		c.Epochs[binary.LittleEndian.Uint32(plain)] = (*[32]byte)(plain[4:36])
	}
	return c, nil
}
