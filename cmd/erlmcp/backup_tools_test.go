package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp/backuptools"
)

const toolSecret = "ERLMCP_BACKUP_ENCRYPTION_KEY=a passphrase of the tools' tests"

// toolServer is a server with an empty repository whose schedules do nothing for now, but for the first backup.
func toolServer(t *testing.T, settings ...string) *server {
	t.Helper()
	base := t.TempDir()
	env := environment(t, toolSecret)
	require.Zero(t, runEnv(t, env, "backup", "init", "--repo", filepath.Join(base, "repo"), "--kdf", "pbkdf2").code)
	return startEnv(t, env, filepath.Join(base, "data"), toolSettings(base, settings...)...)
}

func toolSettings(base string, settings ...string) []string {
	args := []string{"--set", "backup.repository=" + filepath.Join(base, "repo"), "--set", "backup.scratch_dir=" + filepath.Join(base, "scratch"), "--set", "backup.incremental=off"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	return args
}

// again starts the server of a directory after its end.
func (s *server) again(settings ...string) *server {
	s.t.Helper()
	return startEnv(s.t, environment(s.t, toolSecret), s.dir, toolSettings(filepath.Dir(s.dir), settings...)...)
}

// use calls a tool with the official client; the answer must say the same as text and as structure, and fit the announced schema.
func use(t *testing.T, session *sdk.ClientSession, tool string, args map[string]any, into any) *sdk.CallToolResult {
	t.Helper()
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: args})
	require.NoError(t, err)
	content := toJSON(t, res.StructuredContent)
	for found, err := range session.Tools(t.Context(), nil) {
		require.NoError(t, err)
		if found.Name != tool {
			continue
		}
		var schema jsonschema.Schema
		require.NoError(t, json.Unmarshal([]byte(toJSON(t, found.OutputSchema)), &schema))
		resolved, err := schema.Resolve(nil)
		require.NoError(t, err)
		require.NoError(t, resolved.Validate(res.StructuredContent), content)
	}
	if into != nil {
		require.False(t, res.IsError, content)
		require.JSONEq(t, content, res.Content[0].(*sdk.TextContent).Text)
		require.NoError(t, json.Unmarshal([]byte(content), into))
	}
	return res
}

type (
	toolCreated struct {
		Backup    uint64
		Type      string
		Index     uint64
		StateHash string `json:"state_hash"`
	}
	toolList struct {
		Total   int
		Backups []struct {
			Backup    uint64
			Label     string
			StateHash string `json:"state_hash"`
		}
		Log []struct{ First, Last uint64 }
	}
	toolRefusal struct {
		Code, Message string
		Retry         bool
	}
)

func refusalOf(t *testing.T, res *sdk.CallToolResult) (why toolRefusal) {
	t.Helper()
	require.True(t, res.IsError)
	require.NoError(t, json.Unmarshal([]byte(toJSON(t, res.StructuredContent)), &why))
	require.Equal(t, why.Code+": "+why.Message, res.Content[0].(*sdk.TextContent).Text)
	return why
}

func TestBackupToolsDoTheWorkOfTheCommands(t *testing.T) {
	s := toolServer(t)
	some(t, s, "a", 5)
	session := s.connect()
	var full, second toolCreated
	use(t, session, "backup_create", map[string]any{"type": "full", "label": "before the upgrade"}, &full)
	require.Equal(t, "full", full.Type)
	some(t, s, "b", 5)
	use(t, session, "backup_create", nil, &second)
	require.Equal(t, "incremental", second.Type)
	require.Equal(t, "invalid_arguments", refusalOf(t, use(t, session, "backup_create", map[string]any{"type": "half"}, nil)).Code)

	var list toolList
	use(t, session, "backup_list", nil, &list)
	require.Equal(t, 2, list.Total)
	require.Equal(t, second.Backup, list.Backups[0].Backup, "newest first")
	require.Contains(t, list.Backups[1].Label, "before the upgrade task-")
	require.NotEmpty(t, list.Log)
	var page toolList
	use(t, session, "backup_list", map[string]any{"limit": 1, "before": second.Backup}, &page)
	require.Equal(t, full.Backup, page.Backups[0].Backup)

	var plan struct {
		Backups []uint64
		Index   uint64
		Entries uint64 `json:"log_entries"`
		Command string
	}
	use(t, session, "restore_plan", map[string]any{"index": second.Index - 2}, &plan)
	require.Equal(t, []uint64{full.Backup}, plan.Backups)
	require.Equal(t, second.Index-2, plan.Index)
	require.Equal(t, second.Index-2-full.Index, plan.Entries)
	require.Contains(t, plan.Command, fmt.Sprintf("restore --at-index %d --to DIR", second.Index-2))
	why := refusalOf(t, use(t, session, "restore_plan", map[string]any{"index": second.Index + 1_000_000}, nil))
	require.Equal(t, "not_reached", why.Code)
	require.Equal(t, "no_backup", refusalOf(t, use(t, session, "restore_plan", map[string]any{"backup": 99}, nil)).Code)
	require.Equal(t, "invalid_arguments", refusalOf(t, use(t, session, "restore_plan", map[string]any{"backup": 1, "index": 2}, nil)).Code)

	var sound struct {
		Sound bool
		Read  int64 `json:"read_bytes"`
		Bytes int64
	}
	use(t, session, "backup_verify", map[string]any{"read_data": true}, &sound)
	require.True(t, sound.Sound)
	require.Equal(t, "invalid_arguments", refusalOf(t, use(t, session, "backup_verify", map[string]any{"heal": true}, nil)).Code)

	var proof struct {
		OK     bool
		Hash   string `json:"state_hash"`
		Backup uint64
		RTO    float64 `json:"rto_seconds"`
		Checks []struct {
			Name string
			OK   bool
		}
	}
	use(t, session, "drill_run", map[string]any{"backup": second.Backup}, &proof)
	require.True(t, proof.OK)
	require.Equal(t, second.StateHash, proof.Hash)
	require.Positive(t, proof.RTO)
	var names []string
	for _, c := range proof.Checks {
		names = append(names, c.Name)
	}
	require.Subset(t, names, []string{"integrity", "queries"})
	left, err := os.ReadDir(filepath.Join(filepath.Dir(s.dir), "scratch"))
	require.NoError(t, err)
	require.Empty(t, left, "scratch is removed after a success")
	st := status(t, s.dir)
	require.False(t, st.Backup.LastProof.IsZero(), "a drill on demand counts")

	// Damage is an answer, not an error, and named.
	packs, err := filepath.Glob(filepath.Join(filepath.Dir(s.dir), "repo", "packs", "*", "*"))
	require.NoError(t, err)
	if len(packs) == 0 {
		packs, err = filepath.Glob(filepath.Join(filepath.Dir(s.dir), "repo", "packs", "*"))
		require.NoError(t, err)
	}
	require.NotEmpty(t, packs)
	for _, p := range packs {
		require.NoError(t, os.Remove(p))
	}
	var bad struct {
		Sound  bool
		Lost   bool
		Damage []struct {
			Kind    string
			Backups []uint64
		}
	}
	use(t, session, "backup_verify", nil, &bad)
	require.False(t, bad.Sound)
	require.True(t, bad.Lost)
	require.Equal(t, "missing", bad.Damage[0].Kind)
	require.NotEmpty(t, bad.Damage[0].Backups)
	use(t, session, "drill_run", nil, &proof)
	require.False(t, proof.OK, "what does not restore gets no good proof")
}

func TestBackupToolsAreForOperators(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	ann := createToken(t, file, "--name", "ann", "--scope", "tcps:write")
	ops := createToken(t, file, "--name", "ops", "--scope", "operator")
	s := toolServer(t, "auth.token_file="+file, "auth.tool_scopes=*=tcps:write")
	for _, tool := range backuptools.Names {
		err := callTool(t, s.run.MCPURL, ann, tool, nil)
		require.ErrorContains(t, err, "Forbidden", tool)
	}
	require.NoError(t, callTool(t, s.run.MCPURL, ops, "backup_list", nil))
	require.Error(t, callTool(t, s.run.MCPURL, ops, "work_order_list", nil), "the scope is for the backups alone")
	require.Zero(t, s.stop())

	// The owner may decide otherwise, by name or prefix.
	s = s.again("auth.token_file="+file, "auth.tool_scopes=backup_*=tcps:write")
	require.NoError(t, callTool(t, s.run.MCPURL, ann, "backup_list", nil))
	require.ErrorContains(t, callTool(t, s.run.MCPURL, ann, "restore_plan", nil), "Forbidden")
	require.Zero(t, s.stop())

	// Anonymous clients of other machines get none of them; those of this machine own it.
	listed := func(s *server) (names []string) {
		for tool, err := range s.connect().Tools(t.Context(), nil) {
			require.NoError(t, err)
			names = append(names, tool.Name)
		}
		return names
	}
	s = s.again()
	require.Subset(t, listed(s), backuptools.Names)
	require.Zero(t, s.stop())
	s = s.again("auth.allow_anonymous=on", "server.listen=0.0.0.0:0", "server.allowed_hosts=*")
	require.Subset(t, listed(s), backuptools.Names, "a flag is stronger than the setting: it is on loopback")
}

// taskRPC sends a request of a client that knows tasks.
func taskRPC(t *testing.T, url, method, name string, params map[string]any) (map[string]any, error) {
	t.Helper()
	params["_meta"] = map[string]any{
		"io.modelcontextprotocol/protocolVersion":    "2026-07-28",
		"io.modelcontextprotocol/clientCapabilities": map[string]any{"extensions": map[string]any{"io.modelcontextprotocol/tasks": map[string]any{}}},
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	require.NoError(t, err)
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": name,
	} {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer struct {
		Result map[string]any
		Error  any
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&answer))
	require.Nil(t, answer.Error)
	return answer.Result, nil
}

// makeTask calls a task tool and returns the id of the task.
func makeTask(t *testing.T, s *server, tool string, args map[string]any) string {
	t.Helper()
	made, err := taskRPC(t, s.run.MCPURL, "tools/call", tool, map[string]any{"name": tool, "arguments": args})
	require.NoError(t, err)
	id, _ := made["taskId"].(string)
	require.NotEmpty(t, id, "%v", made)
	return id
}

// awaitTask polls a task until its status is wanted.
func awaitTask(t *testing.T, s *server, id, want string) (task map[string]any) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		task, err = taskRPC(t, s.run.MCPURL, "tasks/get", id, map[string]any{"taskId": id})
		require.NoError(t, err)
		return task["status"] == want
	}, 2*patience, 20*time.Millisecond, "%v", task)
	return task
}

// fill makes a store whose full backup takes a while at the rate of the test: documents that do not compress well.
func fill(t *testing.T, s *server, n int) {
	t.Helper()
	for i := range n {
		c := order(fmt.Sprintf("fill-%d", i))
		c.args["signal"].(map[string]any)["description"] = noise(6000, i)
		_, err := callRaw(http.DefaultClient, s.run.MCPURL, c)
		require.NoError(t, err)
	}
}

func noise(n, seed int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	var b strings.Builder
	x := uint64(seed)*2862933555777941757 + 3037000493
	for range n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b.WriteByte(letters[x%64])
	}
	return b.String()
}

func TestABackupTaskGoesOnAfterKillNineAndMakesOneBackup(t *testing.T) {
	s := toolServer(t)
	fill(t, s, 60)
	require.Zero(t, s.stop())
	base := filepath.Dir(s.dir)
	wait := []time.Duration{0, 100 * time.Millisecond, 250 * time.Millisecond, 400 * time.Millisecond}
	var ids []string
	for round, pause := range wait {
		s = s.again("backup.limit_rate=1MiB")
		id := makeTask(t, s, "backup_create", map[string]any{"type": "full", "label": fmt.Sprint("round ", round)})
		ids = append(ids, id)
		require.Eventually(t, func() bool { // it is at work, and counts as nothing yet
			at, _ := filepath.Glob(filepath.Join(base, "repo", "sessions", "*"))
			return len(at) > round || showTask(t, s.dir, id).Status != "working"
		}, patience, 5*time.Millisecond)
		time.Sleep(pause) // where it is hit does not matter: no outcome depends on it
		s.kill()
	}
	s = s.again()
	for round, id := range ids {
		task := awaitTask(t, s, id, "completed")
		result := task["result"].(map[string]any)
		require.NotEqual(t, true, result["isError"], "%v", result)
		var list toolList
		use(t, s.connect(), "backup_list", nil, &list)
		n := 0
		for _, b := range list.Backups {
			if strings.HasPrefix(b.Label, fmt.Sprintf("round %d task-", round)) {
				n++
				require.EqualValues(t, result["structuredContent"].(map[string]any)["backup"], b.Backup)
			}
		}
		require.Equal(t, 1, n, "one call, one backup")
	}
	var sound struct{ Sound bool }
	use(t, s.connect(), "backup_verify", map[string]any{"read_data": true}, &sound)
	require.True(t, sound.Sound)
	var proof struct{ OK bool }
	use(t, s.connect(), "drill_run", nil, &proof)
	require.True(t, proof.OK)
}

func TestADrillTaskGoesOnAfterKillNineAndLeavesNoScratch(t *testing.T) {
	s := toolServer(t)
	fill(t, s, 60)
	use(t, s.connect(), "backup_create", nil, &toolCreated{})
	require.Zero(t, s.stop())
	scratch := filepath.Join(filepath.Dir(s.dir), "scratch")
	s = s.again("backup.limit_rate=500KiB")
	id := makeTask(t, s, "drill_run", nil)
	require.Eventually(t, func() bool {
		found, _ := filepath.Glob(filepath.Join(scratch, "*"))
		return len(found) > 0
	}, patience, 5*time.Millisecond)
	s.kill()
	s = s.again()
	task := awaitTask(t, s, id, "completed")
	require.Equal(t, true, task["result"].(map[string]any)["structuredContent"].(map[string]any)["ok"], "%v", task)
	left, err := os.ReadDir(scratch)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestABackupTaskIsCancelledWithoutHarm(t *testing.T) {
	s := toolServer(t)
	fill(t, s, 40)
	require.Zero(t, s.stop())
	s = s.again("backup.limit_rate=100KiB")
	id := makeTask(t, s, "backup_create", map[string]any{"type": "full"})
	require.Eventually(t, func() bool {
		at, _ := filepath.Glob(filepath.Join(filepath.Dir(s.dir), "repo", "sessions", "*"))
		return len(at) > 0
	}, patience, 5*time.Millisecond)
	_, err := taskRPC(t, s.run.MCPURL, "tasks/cancel", id, map[string]any{"taskId": id})
	require.NoError(t, err)
	awaitTask(t, s, id, "cancelled")
	require.Zero(t, s.stop())
	s = s.again()
	var list toolList
	use(t, s.connect(), "backup_list", nil, &list)
	for _, b := range list.Backups {
		require.NotContains(t, b.Label, "task-")
	}
	use(t, s.connect(), "backup_create", map[string]any{"type": "full"}, &toolCreated{})
}
