package fuzz

import (
	"math/rand/v2"
	"testing"

	"github.com/erlmcp/erlmcp/engine"
)

// TestRandomInputs drives the bodies of the native fuzz targets with random
// bytes: without coverage, but at full speed and in every run of the tests.
// ERLMCP_FUZZ_INPUTS says how many inputs each target gets.
func TestRandomInputs(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	scale := env(t, "ERLMCP_FUZZ_INPUTS", uint64(raceScale(80)))
	ws := engine.WriteSet{Actor: "a", IdempotencyKey: "k", IdempotencyDeadline: 1, Ops: []engine.Op{{Table: "t", Key: []byte("k")}}}
	valid := ws.Encode(nil)
	for _, target := range []struct {
		name string
		size int
		n    uint64
		run  func([]byte) error
	}{
		{"log damage", 60, 5 * scale, logDamage},
		{"log forged", 40, 5 * scale, logForged},
		{"crash recovery", 60, scale, crashRecovery},
		{"write set", 80, 50 * scale, func(p []byte) error {
			// Half of the inputs are valid ones with a few bytes changed.
			if len(p) > 6 && p[0]&1 == 0 {
				b := append([]byte(nil), valid...)
				for i := 1; i+1 < len(p) && i < 6; i += 2 {
					b[int(p[i])%len(b)] = p[i+1]
				}
				p = b
			}
			return writeSet(p)
		}},
		{"store row", 50, scale / 5, func(p []byte) error {
			if len(p) > 20 && p[0]&1 == 0 {
				copy(p, "dalpha\x00key-0")
			}
			return storeRow(p[:len(p)/2], p[len(p)/2:])
		}},
		{"interleaving", 120, 2 * scale, interleave},
	} {
		t.Run(target.name, func(t *testing.T) {
			for i := range target.n {
				rng := rand.New(rand.NewPCG(seed, i))
				in := seedBytes(rng, rng.IntN(target.size))
				if err := target.run(in); err != nil {
					t.Fatalf("seed %d, input %d (%q): %v", seed, i, in, err)
				}
			}
			t.Logf("%d inputs from seed %d", target.n, seed)
		})
	}
}
