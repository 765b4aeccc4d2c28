package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wipOf reads a register with a request of protocol 2026-07-28; meta and header ask for staleness.
func wipOf(t *testing.T, url, meta, header string) (limit int, index uint64, age *float64, refusal string) {
	t.Helper()
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wip_get","arguments":{"bucket":"cost"},"_meta":{` + meta +
		`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": "2026-07-28",
		"Mcp-Method": "tools/call", "Mcp-Name": "wip_get",
	} {
		req.Header.Set(k, v)
	}
	if header != "" {
		req.Header.Set("Erlmcp-Stale", header)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, line := range bytes.Split(raw, []byte("\n")) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			raw = data
		}
	}
	var a struct {
		Result struct {
			IsError    bool
			Meta       map[string]json.RawMessage `json:"_meta"`
			Structured struct {
				Code    string
				Buckets []struct{ Limit int }
			} `json:"structuredContent"`
		}
		Error *struct {
			Code    int
			Message string
		}
	}
	require.NoError(t, json.Unmarshal(raw, &a), "%s", raw)
	switch {
	case a.Error != nil:
		return 0, 0, nil, fmt.Sprint(a.Error.Code)
	case a.Result.IsError:
		return 0, 0, nil, a.Result.Structured.Code
	}
	require.Len(t, a.Result.Structured.Buckets, 1, "%s", raw)
	var s struct {
		Index      uint64
		AgeSeconds *float64
	}
	if m := a.Result.Meta["io.erlmcp/staleness"]; m != nil {
		require.NoError(t, json.Unmarshal(m, &s))
	}
	return a.Result.Structured.Buckets[0].Limit, s.Index, s.AgeSeconds, ""
}

// TestStaleReadsOnACutOffMember: the cut-off side answers whoever asks for it, and says how old the answer is.
func TestStaleReadsOnACutOffMember(t *testing.T) {
	const stale = `"io.erlmcp/stale":true,`
	net := newFabric(t, 3)
	f := newFleetOn(t, 3, net)
	set := func(limit, at int) {
		t.Helper()
		_, err := f.persist(t.Context(), at, "wip_set_limit", map[string]any{"bucket": "cost", "limit": limit, "idempotency_key": fmt.Sprint("stale-", limit)})
		require.NoError(t, err)
	}
	set(1, 0)
	_, others := f.followers()
	alone, with := others[0], others[1]
	url := f.url(f.nodes[alone])
	limit, index, age, _ := wipOf(t, url, stale, "")
	require.NotZero(t, index)
	require.NotNil(t, age)
	require.Less(t, *age, 30.0)
	_, index, _, _ = wipOf(t, url, "", "")
	require.Zero(t, index, "nobody asked for it")
	require.Contains(t, []int{0, 1, 2}, limit)

	net.cut(alone)
	cut := time.Now()
	time.Sleep(100 * time.Millisecond) // the age is told from what is proven before the cut
	set(2, with)
	f.wait("a current read is refused", func() bool {
		_, _, _, refusal := wipOf(t, url, "", "")
		return refusal == "unavailable"
	})
	limit, index, age, refusal := wipOf(t, url, stale, "")
	require.Empty(t, refusal)
	require.Equal(t, 1, limit, "what it knew before it was cut off")
	require.NotZero(t, index)
	require.NotNil(t, age)
	require.GreaterOrEqual(t, *age, time.Since(cut).Seconds()-0.5, "it knows how long it has been alone")
	limit, _, age, _ = wipOf(t, url, "", "true")
	require.Equal(t, 1, limit, "the header means the same")
	require.NotNil(t, age)

	_, _, _, refusal = wipOf(t, url, `"io.erlmcp/stale":0.2,`, "")
	require.Equal(t, "-32015", refusal, "older than accepted")
	_, _, _, refusal = wipOf(t, url, "", "0.2")
	require.Equal(t, "-32015", refusal)
	_, _, _, refusal = wipOf(t, url, `"io.erlmcp/stale":"yes",`, "")
	require.Equal(t, "-32602", refusal)

	net.mendAll()
	f.wait("it is fresh again", func() bool {
		limit, _, age, refusal := wipOf(t, url, `"io.erlmcp/stale":2,`, "")
		return refusal == "" && limit == 2 && *age <= 2
	})
}
