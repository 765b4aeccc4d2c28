package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Caller calls the tools of one server. Each client of a test has its own, with its own connections.
type Caller struct {
	url, metrics string
	web          *http.Client
}

// Caller returns a new client of the server.
func (s *Server) Caller() *Caller {
	return &Caller{url: s.run.MCPURL, metrics: "http://" + s.run.Metrics + "/metrics", web: &http.Client{Transport: &http.Transport{}, Timeout: Patience}}
}

// Close drops idle connections.
func (c *Caller) Close() { c.web.CloseIdleConnections() }

// Refused is an answer that says no: the tool ran and nothing was changed, unless Code is "unknown_outcome".
type Refused struct {
	Code, Message string
}

// Error implements error.
func (e *Refused) Error() string { return "refused: " + e.Code + ": " + e.Message }

// Call calls a tool in one request of protocol 2026-07-28 and returns its structured answer. *Refused is an answer that
// says no; any other error means that the outcome is unknown.
func (c *Caller) Call(ctx context.Context, tool string, args map[string]any) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": "tools/call",
		"params": map[string]any{
			"_meta": map[string]any{
				"io.modelcontextprotocol/protocolVersion":    "2026-07-28",
				"io.modelcontextprotocol/clientCapabilities": map[string]any{},
			},
			"name": tool, "arguments": args,
		},
	})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool,
	} {
		req.Header.Set(k, v)
	}
	resp, err := c.web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return decode(resp.StatusCode, raw)
}

// decode reads the JSON-RPC answer, plain or as the data of an event stream.
func decode(status int, raw []byte) (json.RawMessage, error) {
	for line := range bytes.SplitSeq(raw, []byte("\n")) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			raw = data
		}
	}
	var answer struct {
		Result *struct {
			IsError    bool            `json:"isError"`
			Structured json.RawMessage `json:"structuredContent"`
		} `json:"result"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("HTTP %d, %q: %w", status, raw, err)
	}
	switch {
	case answer.Result == nil:
		return nil, fmt.Errorf("HTTP %d: %s", status, raw)
	case answer.Result.IsError:
		no := new(Refused)
		if err := json.Unmarshal(answer.Result.Structured, no); err != nil {
			return nil, fmt.Errorf("%s: %w", raw, err)
		}
		return nil, no
	}
	return answer.Result.Structured, nil
}

// Metrics scrapes the server: the samples of each metric summed over its labels, histograms by _count and _sum.
func (c *Caller) Metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.metrics, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, number := line, line[strings.LastIndexByte(line, ' ')+1:]
		if i := strings.IndexAny(line, "{ "); i >= 0 {
			name = line[:i]
		}
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		values[name] += v
	}
	return values, lines.Err()
}
