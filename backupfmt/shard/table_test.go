package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzTable(f *testing.F) {
	t := table{Version: 1, Serial: 3, Places: []Place{{ID: First}, {ID: "0011223344556677", Location: "/mnt/second"}}}
	good, err := t.encode()
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseTable(b)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		again, err := got.encode()
		require.NoError(t, err)
		require.Equal(t, b, again, "only the text that is written is accepted")
	})
}

func TestPlacesShareNewPacksAndAnAdditionMovesFewOfThem(t *testing.T) {
	places := []Place{{ID: First}, {ID: "a"}, {ID: "b"}}
	more := append(places[:3:3], Place{ID: "c"})
	closed := []Place{{ID: First, Closed: true}, {ID: "a"}, {ID: "b"}}
	count, moved := map[string]int{}, 0
	for i := range 6000 {
		name := packs + string(rune('a'+i%26)) + "/" + string(rune(i))
		was, now := ranked(places, name)[0].ID, ranked(more, name)[0].ID
		count[was]++
		if was != now {
			moved++
			require.Equal(t, "c", now, "nothing moves between places that stay")
		}
		require.NotEqual(t, First, ranked(closed, name)[0].ID)
		if was != First {
			require.Equal(t, was, ranked(closed, name)[0].ID)
		}
	}
	for _, p := range places {
		require.InDelta(t, 2000, count[p.ID], 300)
	}
	require.InDelta(t, 1500, moved, 300)
}
