package avx_test

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	fastjson "github.com/segmentio/encoding/json"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/internal/avx"
)

func TestZeroUpperChangesNoResult(t *testing.T) {
	text := []byte(`{"text":"` + strings.Repeat("a", 300) + `"}`)
	var slow, fast map[string]any
	require.NoError(t, json.Unmarshal(text, &slow))
	_, err := fastjson.Parse(text, &fast, 0)
	require.NoError(t, err)
	before := sha256.Sum256(text)
	avx.ZeroUpper()
	require.Equal(t, before, sha256.Sum256(text))
	require.Equal(t, slow, fast)
}

// What ZeroUpper is for: compare the two on the processors at hand. When they
// no longer differ, because the decoder cleans up itself, the package can go.
func BenchmarkDigestAfterDecoding(b *testing.B) {
	text := []byte(`{"text":"` + strings.Repeat("a", 300) + `"}`)
	for name, zero := range map[string]func(){"as it is": func() {}, "with ZeroUpper": avx.ZeroUpper} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var into map[string]any
				if _, err := fastjson.Parse(text, &into, 0); err != nil {
					b.Fatal(err)
				}
				zero()
				sha256.Sum256(text)
			}
		})
	}
}
