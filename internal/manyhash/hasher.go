package manyhash

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

const (
	chunkSize = 1024
	blockSize = 64
	maxLanes  = 16

	// Largest is the size up to which a message is spread over lanes; a larger one fills them by itself.
	Largest = 64 << 10

	// fewest is how many chunks it takes for the lanes to pay.
	fewest = 3

	flagStart  = 1
	flagEnd    = 2
	flagParent = 4
	flagRoot   = 8
	flagKeyed  = 16
)

var iv = [8]uint32{0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19}

// group is what a kernel works on: column l of every field belongs to lane l. kernels_amd64.s knows the offsets.
type group struct {
	cv      [8][maxLanes]uint32
	block   [maxLanes][blockSize]byte
	counter [maxLanes]uint32 // number of the chunk; messages are far too short for its upper half
	length  [maxLanes]uint32
	flags   [maxLanes]uint32
}

// Hasher hashes lists of messages. Not for concurrent use.
type Hasher struct {
	key   [8]uint32
	base  uint32 // flags of every block
	one   *blake3.Hasher
	lanes int

	g     group
	cvs   [][8]uint32 // of the chunks of messages that have several
	tall  []tree      // these messages
	chunk [maxLanes]lane
	used  int // lanes that hold a parent
}

// tree is a message of several chunks; its chaining values are cvs[at:at+n].
type tree struct{ msg, at, n int }

// lane is a chunk being hashed.
type lane struct {
	rest  []byte
	busy  bool
	first bool
	root  bool
	to    int // message if root, else position in cvs
}

// New returns a hasher.
func New() *Hasher { return &Hasher{key: iv, one: blake3.New(), lanes: lanes} }

// NewKeyed returns a hasher of the keyed mode.
func NewKeyed(key *[32]byte) *Hasher {
	h := &Hasher{base: flagKeyed, lanes: lanes}
	for i := range h.key {
		h.key[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	one, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("manyhash: " + err.Error()) // of a key that has not 32 bytes
	}
	h.one = one
	return h
}

// Sum puts the digest of msgs[i] into out[i]; out is as long as msgs. Messages are not changed or kept.
func (h *Hasher) Sum(msgs [][]byte, out [][32]byte) {
	chunks := 0
	for _, m := range msgs {
		if len(m) <= Largest {
			chunks += max(1, (len(m)+chunkSize-1)/chunkSize)
		}
	}
	wide := h.lanes > 0 && chunks >= fewest
	for i, m := range msgs {
		if !wide || len(m) > Largest {
			h.alone(m, &out[i])
		}
	}
	if wide {
		h.chunks(msgs, out)
		h.parents(out)
	}
	clear(h.chunk[:])
}

func (h *Hasher) alone(m []byte, out *[32]byte) {
	h.one.Reset()
	_, _ = h.one.Write(m) // a hash never fails
	h.one.Sum(out[:0])
}

// chunks hashes all chunks; those of a message that has only one are its digest.
func (h *Hasher) chunks(msgs [][]byte, out [][32]byte) {
	h.cvs, h.tall = h.cvs[:0], h.tall[:0]
	next, at := 0, 0 // message and position in it
	for {
		busy := 0
		for l := range h.lanes {
			c := &h.chunk[l]
			if !c.busy {
				for next < len(msgs) && len(msgs[next]) > Largest {
					next++
				}
				if next == len(msgs) {
					continue
				}
				at = h.load(c, l, msgs[next], next, at)
				if at == 0 {
					next++
				}
			}
			busy++
			h.feed(c, l)
		}
		if busy == 0 {
			return
		}
		compress(h.lanes, &h.g)
		for l := range h.lanes {
			c := &h.chunk[l]
			if !c.busy || len(c.rest) > 0 {
				continue
			}
			c.busy = false
			h.done(l, out)
		}
	}
}

// load gives a lane the chunk of message m at that position, and returns the position of the chunk behind it, 0 if there is none.
func (h *Hasher) load(c *lane, l int, m []byte, number, at int) int {
	end := min(at+chunkSize, len(m))
	*c = lane{rest: m[at:end], busy: true, first: true, root: len(m) <= chunkSize, to: number}
	if !c.root {
		if at == 0 {
			h.tall = append(h.tall, tree{msg: number, at: len(h.cvs), n: (len(m) + chunkSize - 1) / chunkSize})
		}
		c.to = len(h.cvs)
		h.cvs = append(h.cvs, [8]uint32{})
	}
	for i := range h.key {
		h.g.cv[i][l] = h.key[i]
	}
	h.g.counter[l] = uint32(at / chunkSize)
	if end == len(m) {
		return 0
	}
	return end
}

// feed gives a lane the next block of its chunk.
func (h *Hasher) feed(c *lane, l int) {
	flags := h.base
	if c.first {
		flags |= flagStart
		c.first = false
	}
	if len(c.rest) > blockSize {
		h.g.block[l] = [blockSize]byte(c.rest)
		h.g.length[l], h.g.flags[l] = blockSize, flags
		c.rest = c.rest[blockSize:]
		return
	}
	n := copy(h.g.block[l][:], c.rest)
	clear(h.g.block[l][n:])
	if flags |= flagEnd; c.root {
		flags |= flagRoot
	}
	h.g.length[l], h.g.flags[l] = uint32(n), flags
	c.rest = nil
}

// parents joins chaining values in pairs, level by level; one that has no partner goes up as it is.
func (h *Hasher) parents(out [][32]byte) {
	for len(h.tall) > 0 {
		higher := h.tall[:0]
		for _, t := range h.tall {
			for k := 0; k+1 < t.n; k += 2 {
				h.pair(t, k, out)
			}
			if t.n%2 == 1 { // its place was read: all pairs of the message are in lanes or done
				h.cvs[t.at+t.n/2] = h.cvs[t.at+t.n-1]
			}
			if t.n = (t.n + 1) / 2; t.n > 1 {
				higher = append(higher, t)
			}
		}
		h.flush(out)
		h.tall = higher
	}
}

// pair gives the next lane a parent: chaining values k and k+1 of a message. Its own goes to place k/2.
func (h *Hasher) pair(t tree, k int, out [][32]byte) {
	l := h.used
	c, flags := &h.chunk[l], h.base|flagParent
	if *c = (lane{to: t.at + k/2}); t.n == 2 {
		*c = lane{to: t.msg, root: true}
		flags |= flagRoot
	}
	b := h.g.block[l][:0]
	for _, cv := range h.cvs[t.at+k : t.at+k+2] {
		for _, word := range cv {
			b = binary.LittleEndian.AppendUint32(b, word)
		}
	}
	for i := range h.key {
		h.g.cv[i][l] = h.key[i]
	}
	h.g.counter[l], h.g.length[l], h.g.flags[l] = 0, blockSize, flags
	if h.used++; h.used == h.lanes {
		h.flush(out)
	}
}

// flush hashes the parents that are in lanes.
func (h *Hasher) flush(out [][32]byte) {
	if h.used > 0 {
		compress(h.lanes, &h.g)
	}
	for l := range h.used {
		h.done(l, out)
	}
	h.used = 0
}

// done takes the result of a lane.
func (h *Hasher) done(l int, out [][32]byte) {
	c := &h.chunk[l]
	for i := range h.key {
		if word := h.g.cv[i][l]; c.root {
			binary.LittleEndian.PutUint32(out[c.to][4*i:], word)
		} else {
			h.cvs[c.to][i] = word
		}
	}
}
