package replication

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// newLogger gives raft a logger that ends in slog.
func newLogger(to *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(slogSink{to})
	return l
}

var quiet = map[string]bool{
	"installing snapshot on": true, "installSnapshot rejected to": true, "appendEntries rejected, sending older logs": true,
	"opening snapshot": true, "failed to open snapshot": true, "failed to send snapshot to": true, "failed to get log": true,
}

type slogSink struct{ to *slog.Logger }

// Accept is called for every message of raft.
func (s slogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	at := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		at = slog.LevelError
	case level == hclog.Warn:
		at = slog.LevelWarn
	case level == hclog.Info:
		at = slog.LevelInfo
	}
	if quiet[msg] { // a member that has to fetch the state; said once a second by the member itself, not every 10 ms
		at = slog.LevelDebug
	}
	if !s.to.Enabled(context.Background(), at) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	s.to.Log(context.Background(), at, "raft: "+msg, args...)
}
