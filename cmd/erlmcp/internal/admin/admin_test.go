package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/tcps/classic"
)

// fakeSource answers with fixed documents.
type fakeSource struct {
	Tasks  // only of tests about tasks
	verify func(ctx context.Context, done func(integrity.Check)) (integrity.Report, error)
	backup func(ctx context.Context, r BackupRequest, report backup.Report) (backup.Created, error)
}

func (f fakeSource) Classic(context.Context, ClassicRequest) (classic.Archive, error) {
	return classic.Archive{File: "f"}, nil
}

func (f fakeSource) Backup(ctx context.Context, r BackupRequest, report backup.Report) (backup.Created, error) {
	return f.backup(ctx, r, report)
}

func (fakeSource) Drilled(context.Context, Drilled) error { return nil }
func (fakeSource) Status(context.Context) Status          { return Status{Running: true, PID: 42} }
func (fakeSource) Health(context.Context) Health {
	return Health{Status: Yellow, Phase: PhaseServing, Components: map[string]Component{"disk": {Status: Yellow, Message: "m"}}}
}

func (fakeSource) ListSessions(_ context.Context, after string, limit int) ([]mcp.SessionInfo, error) {
	return []mcp.SessionInfo{{ID: after + "+", Subscriptions: make([]string, limit)}}, nil
}

func (fakeSource) Session(_ context.Context, id string) (mcp.SessionInfo, error) {
	if id == "broken" {
		return mcp.SessionInfo{}, errors.New("the store is closing")
	}
	return mcp.SessionInfo{ID: id, Client: "c"}, nil
}

func (fakeSource) TerminateSession(_ context.Context, id string) error {
	if id != "known" {
		return mcp.ErrNoSession
	}
	return nil
}

func (fakeSource) Audit(_ context.Context, q mcp.AuditQuery, fn func(mcp.AuditRecord) error) error {
	for range q.Limit {
		if err := fn(mcp.AuditRecord{Tool: q.Tool, Principal: q.Principal, Outcome: q.Outcome, Time: q.Since}); err != nil {
			return err
		}
	}
	if q.Tool == "broken" {
		return errors.New("the store is closing")
	}
	return nil
}

func (f fakeSource) Verify(ctx context.Context, done func(integrity.Check)) (integrity.Report, error) {
	return f.verify(ctx, done)
}

// serve runs a server for src on a fresh directory whose path is too long for a plain socket address.
func serve(t *testing.T, src Source) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	require.NoError(t, os.MkdirAll(dir, 0o700))
	l, err := Listen(dir)
	require.NoError(t, err)
	srv := Server(src)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return dir
}

func TestDocumentsTravelOverTheSocket(t *testing.T) {
	dir := serve(t, fakeSource{})
	c := NewClient(dir)
	s, err := c.Status(context.Background())
	require.NoError(t, err)
	require.Equal(t, 42, s.PID)
	h, err := c.Health(context.Background())
	require.NoError(t, err)
	require.Equal(t, Yellow, h.Status)
	require.Equal(t, "m", h.Components["disk"].Message)
}

func TestSessionsTravelOverTheSocket(t *testing.T) {
	c := NewClient(serve(t, fakeSource{}))
	list, err := c.ListSessions(context.Background(), "a/b?", 7)
	require.NoError(t, err)
	require.Equal(t, "a/b?+", list[0].ID)
	require.Len(t, list[0].Subscriptions, 7)
	info, err := c.Session(context.Background(), "x y")
	require.NoError(t, err)
	require.Equal(t, "x y", info.ID)
	_, err = c.Session(context.Background(), "broken")
	require.ErrorContains(t, err, "the store is closing")
	require.NoError(t, c.TerminateSession(context.Background(), "known"))
	require.ErrorIs(t, c.TerminateSession(context.Background(), "other"), mcp.ErrNoSession)
}

// fakeTasks answers with the id it was asked for.
type fakeTasks struct{}

func (fakeTasks) ListTasks(_ context.Context, after string, limit int, f mcp.TaskFilter) ([]mcp.TaskInfo, error) {
	return []mcp.TaskInfo{{ID: after + "+", Attempt: limit, Tool: f.Tool, Status: f.Status, Principal: f.Principal}}, nil
}

func (fakeTasks) Task(_ context.Context, id string) (mcp.TaskInfo, error) {
	return mcp.TaskInfo{ID: id}, nil
}

func (fakeTasks) CancelTask(context.Context, string) (mcp.TaskInfo, error) {
	return mcp.TaskInfo{}, mcp.ErrNoTask
}

func (fakeTasks) RetryTask(context.Context, string) (mcp.TaskInfo, error) {
	return mcp.TaskInfo{}, mcp.ErrNotRetryable
}

func TestTasksTravelOverTheSocket(t *testing.T) {
	c := NewClient(serve(t, fakeSource{Tasks: fakeTasks{}}))
	ctx := context.Background()
	filter := mcp.TaskFilter{Tool: "a&b", Status: mcp.TaskWorking, Principal: "x y"}
	list, err := c.ListTasks(ctx, "a/b?", 7, filter)
	require.NoError(t, err)
	require.Equal(t, []mcp.TaskInfo{{ID: "a/b?+", Attempt: 7, Tool: "a&b", Status: mcp.TaskWorking, Principal: "x y"}}, list)
	info, err := c.Task(ctx, "x y")
	require.NoError(t, err)
	require.Equal(t, "x y", info.ID)
	_, err = c.CancelTask(ctx, "x")
	require.ErrorIs(t, err, mcp.ErrNoTask)
	_, err = c.RetryTask(ctx, "x")
	require.ErrorIs(t, err, mcp.ErrNotRetryable)
}

func TestVerifyStreamsEachCheckAndThenTheReport(t *testing.T) {
	second := make(chan struct{})
	dir := serve(t, fakeSource{verify: func(_ context.Context, done func(integrity.Check)) (integrity.Report, error) {
		done(integrity.Check{Name: "a", Passed: true})
		<-second // proves that the first check arrived before the second one ended
		done(integrity.Check{Name: "b"})
		return integrity.Report{Index: 7, Checks: []integrity.Check{{Name: "a"}, {Name: "b"}}}, nil
	}})
	var seen []string
	report, err := NewClient(dir).Verify(context.Background(), func(c integrity.Check) {
		if seen = append(seen, c.Name); c.Name == "a" {
			close(second)
		}
	})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, seen)
	require.EqualValues(t, 7, report.Index)
}

func TestVerifyReportsWhyItCouldNotRun(t *testing.T) {
	dir := serve(t, fakeSource{verify: func(context.Context, func(integrity.Check)) (integrity.Report, error) {
		return integrity.Report{}, errors.New("the store is closing")
	}})
	_, err := NewClient(dir).Verify(context.Background(), nil)
	require.ErrorContains(t, err, "the store is closing")
}

func TestVerifyEndsInTheServerWhenTheClientLeaves(t *testing.T) {
	ended := make(chan struct{})
	dir := serve(t, fakeSource{verify: func(ctx context.Context, done func(integrity.Check)) (integrity.Report, error) {
		done(integrity.Check{Name: "a"})
		<-ctx.Done()
		close(ended)
		return integrity.Report{}, ctx.Err()
	}})
	ctx, cancel := context.WithCancel(context.Background())
	_, err := NewClient(dir).Verify(ctx, func(integrity.Check) { cancel() })
	require.Error(t, err)
	<-ended
}

func TestServerThatDiesInTheMiddleIsAnError(t *testing.T) {
	dir := serve(t, fakeSource{verify: func(_ context.Context, done func(integrity.Check)) (integrity.Report, error) {
		done(integrity.Check{Name: "a"})
		panic(http.ErrAbortHandler)
	}})
	_, err := NewClient(dir).Verify(context.Background(), nil)
	require.ErrorContains(t, err, "stopped before the check was finished")
}

func TestNobodyListeningIsErrNoServer(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "missing")).Status(context.Background())
	require.ErrorIs(t, err, ErrNoServer)

	dir := t.TempDir() // a socket file left by a killed process
	l, err := Listen(dir)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.FileExists(t, SocketPath(dir))
	_, err = NewClient(dir).Status(context.Background())
	require.ErrorIs(t, err, ErrNoServer)

	again, err := Listen(dir)
	require.NoError(t, err, "the next server replaces the leftover")
	require.NoError(t, again.Close())
}

func TestUnexpectedAnswersAreErrors(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(dir)
	require.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/status" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		_, _ = io.WriteString(w, "not JSON")
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	_, err = NewClient(dir).Status(context.Background())
	require.ErrorContains(t, err, "418")
	_, err = NewClient(dir).Health(context.Background())
	require.ErrorContains(t, err, "invalid character")
}

func TestBackupTravelsWithItsTargetProgressResultAndErrors(t *testing.T) {
	want := backup.Target{Location: store.Location{S3: &store.S3Options{Endpoint: "h:1", Bucket: "b", SecretKey: "k"}}, Secret: []byte{0, 1, 255}, Rate: 7}
	next := make(chan struct{})
	f := fakeSource{backup: func(ctx context.Context, r BackupRequest, report backup.Report) (backup.Created, error) {
		switch r.Options.Label {
		case "bad":
			return backup.Created{}, errors.New("no: try this")
		case "long":
			close(next)
			<-ctx.Done()
			return backup.Created{}, ctx.Err()
		}
		if !reflect.DeepEqual(r.Target, &want) {
			return backup.Created{}, fmt.Errorf("came as %+v", r.Target)
		}
		report(backup.Progress{Phase: "rows", Done: 5, Total: 9, Unit: "bytes"})
		return backup.Created{Backup: 3, Type: r.Options.Type}, nil
	}}
	c := NewClient(serve(t, f))
	var seen []backup.Progress
	got, err := c.Backup(context.Background(), BackupRequest{Target: &want, Options: backup.CreateOptions{Type: "full"}}, func(p backup.Progress) { seen = append(seen, p) })
	require.NoError(t, err)
	require.Equal(t, backup.Created{Backup: 3, Type: "full"}, got)
	require.Equal(t, []backup.Progress{{Phase: "rows", Done: 5, Total: 9, Unit: "bytes"}}, seen)

	_, err = c.Backup(context.Background(), BackupRequest{Options: backup.CreateOptions{Label: "bad"}}, nil)
	require.EqualError(t, err, "no: try this")

	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-next; cancel() }()
	_, err = c.Backup(ctx, BackupRequest{Options: backup.CreateOptions{Label: "long"}}, nil)
	require.ErrorIs(t, err, context.Canceled, "a client that leaves ends the backup")
}

func TestRunFileIsPrivateCompleteAndRemoved(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "serve.json.tmp"), []byte("old"), 0o666))
	want := RunFile{PID: 1, Listen: "127.0.0.1:1", StartedAt: time.Unix(5, 0).UTC()}
	require.NoError(t, WriteRunFile(dir, want))
	info, err := os.Stat(filepath.Join(dir, "serve.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	got, err := ReadRunFile(dir)
	require.NoError(t, err)
	require.Equal(t, want, got)

	require.NoError(t, Cleanup(dir))
	_, err = ReadRunFile(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, Cleanup(dir), "nothing to clean is fine")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "serve.json"), []byte("{"), 0o600))
	_, err = ReadRunFile(dir)
	require.ErrorContains(t, err, "serve.json")
}

func TestWorseKeepsTheWorseLevel(t *testing.T) {
	require.Equal(t, Green, Worse(Green, Green))
	require.Equal(t, Yellow, Worse(Green, Yellow))
	require.Equal(t, Red, Worse(Yellow, Red))
	require.Equal(t, Red, Worse(Red, Green))
}

func TestAuditRecordsTravelWithTheirQuery(t *testing.T) {
	c := NewClient(serve(t, fakeSource{}))
	q := mcp.AuditQuery{Tool: "a tool", Principal: "p", Outcome: "ok", Since: time.Date(2026, 11, 21, 12, 0, 0, 1000, time.UTC), Limit: 3}
	var got []mcp.AuditRecord
	collect := func(rec mcp.AuditRecord) error { got = append(got, rec); return nil }
	require.NoError(t, c.Audit(context.Background(), q, collect))
	require.Len(t, got, 3)
	require.Equal(t, mcp.AuditRecord{Tool: "a tool", Principal: "p", Outcome: "ok", Time: q.Since}, got[0])
	q.Tool = "broken"
	require.ErrorContains(t, c.Audit(context.Background(), q, collect), "the store is closing")
	stop := errors.New("stop")
	require.ErrorIs(t, c.Audit(context.Background(), q, func(mcp.AuditRecord) error { return stop }), stop)
}
