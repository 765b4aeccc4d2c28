package conversation

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// good returns a report of a conversation in which nothing went wrong.
func good() Report {
	r := Report{Sessions: 1, Updates: 2}
	for _, w := range WantedInSession {
		r.Steps = append(r.Steps, stepReport{Name: w.name, Text: w.text, Attempts: 1})
	}
	r.Progress = []string{"count/001", "count/002", "count/003", "count/004", "count/005"}
	r.Logs = []string{"Tool execution started", "Tool processing data", "Tool execution completed"}
	return r
}

func TestJudgeFindsWhatIsWrong(t *testing.T) {
	effects := filepath.Join(t.TempDir(), "effects")
	require.NoError(t, os.WriteFile(effects, []byte("run count 1\nfinished count 1\n"), 0o600))
	require.Empty(t, Judge(WantedInSession, good(), 0, effects))
	for name, spoil := range map[string]func(r *Report){
		"ended early":     func(r *Report) { r.Error = "no answer" },
		"is missing":      func(r *Report) { r.Steps = r.Steps[:5] },
		"ended with":      func(r *Report) { r.Steps[5].Text = "something else" },
		"to be repeated":  func(r *Report) { r.Steps[3].Attempts = 3 },
		"2 sessions":      func(r *Report) { r.Sessions = 2 },
		"never arrived":   func(r *Report) { r.Progress = r.Progress[1:] },
		"log message":     func(r *Report) { r.Logs = nil },
		"changes unheard": func(r *Report) { r.Unheard = 2 },
		"streams broke":   func(r *Report) { r.Breaks = []string{"a", "b"} },
	} {
		r := good()
		spoil(&r)
		require.Contains(t, strings.Join(Judge(WantedInSession, r, 1, effects), "\n"), name)
	}
}

func TestJudgeCountsEffects(t *testing.T) {
	require.Empty(t, JudgeTrace("run a 1\nrun a 1\nfinished a 1\n", 1), "a kill may repeat what was not finished")
	require.Len(t, JudgeTrace("run a 1\nrun a 1\nfinished a 1\n", 0), 1, "nothing explains the second run")
	require.Len(t, JudgeTrace("run a 1\nfinished a 1\nrun a 1\nfinished a 1\n", 1), 1, "a finished step never runs again")
	require.Len(t, JudgeTrace("run a 1\n", 1), 1, "a step must finish")
	require.Len(t, JudgeTrace("nonsense\n", 1), 1)
}

func TestRecordKnowsTheRules(t *testing.T) {
	post := httptest.NewRequest(http.MethodPost, "/mcp", nil)
	post.Header.Set("Mcp-Session-Id", "s")
	resume := func(last string) *http.Request {
		get := httptest.NewRequest(http.MethodGet, "/mcp", nil)
		get.Header.Set("Mcp-Session-Id", "s")
		get.Header.Set("Last-Event-Id", last)
		return get
	}
	ask := event{id: "x_1", data: []byte(`{"id":1,"method":"elicitation/create"}`)}
	tests := map[string]func(r *record){
		"": func(r *record) { // a replay of what the client does not have, and a repeated position
			r.event(post, event{id: "x_0"})
			r.event(post, ask)
			get := resume("x_0")
			r.request(get)
			r.event(get, event{id: "x_0"})
			r.event(get, ask)
		},
		"came again": func(r *record) {
			r.event(post, ask)
			get := resume("x_1")
			r.request(get)
			r.event(get, ask)
		},
		"is now": func(r *record) {
			r.event(post, ask)
			r.event(post, event{id: "x_1", data: []byte(`{"id":2}`)})
		},
		"never got": func(r *record) { r.request(resume("y_7")) },
		"two requests of one session": func(r *record) {
			r.event(post, ask)
			r.event(post, event{id: "x_2", data: ask.data})
		},
		"the id 1 for two": func(r *record) {
			r.plain(post, ask.data)
			r.plain(post, ask.data)
		},
	}
	for want, play := range tests {
		r := newRecord()
		play(r)
		if want == "" {
			require.Empty(t, r.rules())
		} else {
			require.Contains(t, strings.Join(r.rules(), "\n"), want)
		}
	}
}
