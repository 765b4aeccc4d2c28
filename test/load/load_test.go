package load

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompareFindsWhatIsLostDoubledDifferentAndUnexplained(t *testing.T) {
	known := map[string]*record{"a": {name: "a", id: "WO-1", status: "queued", revision: 1, receipts: 1}}
	good := document{ID: "WO-1", Source: "a", Status: "queued", Revision: 1, Receipts: []string{"r"}}
	older, fewer, other := good, good, good
	older.Revision, fewer.Receipts, other.ID = 0, nil, "WO-2"
	nobody := func(string) bool { return false }
	for _, c := range []struct {
		name  string
		found map[string][]document
		want  string
	}{
		{"as acknowledged", map[string][]document{"a": {good}}, ""},
		{"not there", map[string][]document{}, "LOST"},
		{"there twice", map[string][]document{"a": {good, other}}, "TWICE"},
		{"an older state", map[string][]document{"a": {older}}, "DIFFERENT"},
		{"without its receipt", map[string][]document{"a": {fewer}}, "DIFFERENT"},
		{"under another id", map[string][]document{"a": {other}}, "DIFFERENT"},
		{"one more that nobody made", map[string][]document{"a": {good}, "b": {other}}, "UNEXPLAINED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems := compare(known, c.found, nobody)
			if c.want == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			require.Contains(t, problems[0], c.want)
		})
	}
}

func TestARepeatWithAnotherAnswerIsAViolation(t *testing.T) {
	c := &client{rnd: rand.New(rand.NewPCG(1, 1)), orders: map[string]*record{}, andons: map[string]*record{}}
	create := c.invent()
	require.Equal(t, "work_order_create", create.tool, "there is nothing else to do yet")
	c.open = create
	answer := json.RawMessage(fmt.Sprintf(`{"id":"WO-1","demand_signal":%q,"status":"queued","revision":1,"receipts":["r"]}`, create.name))
	require.Empty(t, c.acknowledge(create, answer))
	require.Nil(t, c.open)
	repeat := &call{tool: create.tool, args: create.args, repeats: &c.recent[0]}
	require.Empty(t, c.acknowledge(repeat, answer))
	require.Contains(t, c.acknowledge(repeat, json.RawMessage(`{"id":"WO-2","revision":1}`)), "repeated")

	read := &call{tool: "work_order_get", target: c.active[0]}
	require.Empty(t, c.acknowledge(read, json.RawMessage(`{"work_order":`+string(answer)+`,"receipts":[]}`)))
	require.Contains(t, c.acknowledge(read, json.RawMessage(`{"work_order":{"id":"WO-1","status":"pending","revision":1}}`)), "was acknowledged as")

	start := c.advance(c.active[0])
	require.Contains(t, c.acknowledge(start, answer), "left revision 1", "a change must change something")
}
