package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/mcp"
)

// source is what commands look into: that of a running server, or that of a stopped directory.
type source interface {
	admin.Tasks
	ListSessions(ctx context.Context, after string, limit int) ([]mcp.SessionInfo, error)
	Session(ctx context.Context, id string) (mcp.SessionInfo, error)
	TerminateSession(ctx context.Context, id string) error
	Audit(ctx context.Context, q mcp.AuditQuery, fn func(mcp.AuditRecord) error) error
}

// reach is how a command gets at a runtime, with the flags that say so.
type reach struct {
	a      *app
	s      *settings
	asJSON bool
	wait   time.Duration
}

func (a *app) reachFlags(cmd *cobra.Command) *reach {
	r := &reach{a: a, s: a.settingFlags(cmd, dataFlag, dataKeyFileFlag)}
	cmd.Flags().BoolVar(&r.asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&r.wait, "timeout", 10*time.Second, "longest wait for a running server's answer")
	return r
}

// with runs fn on the runtime of the running server, or on that of the directory when there is none.
func (r *reach) with(cmd *cobra.Command, change bool, fn func(ctx context.Context, from source) error) error {
	cfg, err := r.s.load(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), r.wait)
	defer cancel()
	return r.a.onRuntime(ctx, cmd.Context(), cfg, change, fn)
}

// onRuntime gives the running server asking, and a stopped directory, which is slower to open, reading.
func (a *app) onRuntime(asking, reading context.Context, cfg *config.Config, change bool, fn func(ctx context.Context, from source) error) error {
	err := fn(asking, admin.NewClient(cfg.DataDir))
	if !errors.Is(err, admin.ErrNoServer) {
		return err
	}
	key, err := cfg.DataKey(a.environ, nil)
	if err != nil {
		return err
	}
	stopped, err := node.OpenStopped(cfg, key, change)
	if err != nil {
		return err
	}
	return errors.Join(fn(reading, stopped), stopped.Close())
}

// complete proposes the ids of the running server's things, which list gives with a word about each.
func (r *reach) complete(list func(ctx context.Context, from source, fn func(id, about string) bool) error) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		cfg, err := r.s.load(cmd)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var ids []string
		_ = list(ctx, admin.NewClient(cfg.DataDir), func(id, about string) bool { // no server: nothing to propose
			if strings.HasPrefix(id, prefix) {
				ids = append(ids, id+"\t"+about)
			}
			return len(ids) < 100
		})
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

// eachOf calls fn for everything a paged list has until fn returns false.
func eachOf[T any](list func(after string, limit int) ([]T, error), id func(T) string, fn func(T) bool) error {
	const page = 1000
	for after := ""; ; {
		found, err := list(after, page)
		if err != nil {
			return err
		}
		for _, one := range found {
			if !fn(one) {
				return nil
			}
		}
		if len(found) < page {
			return nil
		}
		after = id(found[len(found)-1])
	}
}

// findOne returns the one id that begins with prefix among those of each; what names the kind of thing, and none is the error when
// there is no such thing.
func findOne(what, prefix string, none error, each func(fn func(id, about string) bool) error) (string, error) {
	var found []string
	err := each(func(id, _ string) bool {
		if strings.HasPrefix(id, prefix) {
			found = append(found, id)
		}
		return len(found) < 2
	})
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("%s %q: %w; `erlmcp %s list` shows those that exist", what, prefix, none, what)
	case len(found) > 1:
		return "", fmt.Errorf("more than one %s begins with %q: give more of the id", what, prefix)
	}
	return found[0], nil
}

// harmless keeps what clients chose from steering the terminal: what does not print becomes a JSON escape.
func harmless(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}

// oneLine is harmless text of at most 80 characters.
func oneLine(text string) string {
	text = harmless(text)
	if r := []rune(text); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return text
}
