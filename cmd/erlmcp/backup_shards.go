package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const backupShardsLong = `shards spreads the packs of a repository, nearly all of its bytes, over several places: disks or buckets. Everything else, and the table of
the places, stays in the first one, which is the one to name with --repo.

  shards list          the places, and what each holds
  shards add URL       another place: an empty directory, or a bucket with nothing below the prefix
  shards close ID      it takes no new packs (first: the first place); shards open ID undoes that
  shards rebalance     move packs to where they would be stored now: after add or close
  shards remove ID     forget a place that is closed and empty, or, with --lost, one that is gone

A pack is in one place only: what is lost with a place only a copy of the repository can bring back (erlmcp backup copy reads all places and makes one
tree of them; a copy may have shards of its own). Backups go on while a place is away.

The chain of backups vouches for the table, so that nobody without the key can send packs elsewhere or hide some: all commands but list need the
passphrase, and in a signed repository the signing key. A table that the chain does not name is refused; shards accept takes it as it is.

Exit codes: 0 success; 1 failure; 2 wrong usage or configuration.`

func (a *app) backupShardsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "shards", Short: "Spread a repository over several places", Long: backupShardsLong,
		Example: "  erlmcp backup shards add /mnt/second/erlmcp-packs --repo /var/backups/erlmcp\n  erlmcp backup shards rebalance --repo /var/backups/erlmcp",
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var lost bool
	remove := a.shardCommand("remove ID", "Forget a place that is closed and empty, or lost",
		"remove takes a place out of the table. It must be closed and empty (shards close, shards rebalance; restart servers that use the repository in between),\n"+
			"unless --lost says that it is gone, with what it held: erlmcp backup verify then says what that was.",
		"  erlmcp backup shards remove 0123456789abcdef", 1,
		func(ctx context.Context, st store.Store, t shardTarget, args []string, _ *meter) (any, string, error) {
			s, err := shardsOf(st)
			if err != nil {
				return nil, "", err
			}
			return map[string]any{"removed": args[0]}, "removed shard " + args[0], s.Remove(ctx, args[0], lost, t.repo.AnnounceShards(ctx, false))
		})
	remove.Flags().BoolVar(&lost, "lost", false, "it is gone with everything it held")
	cmd.AddCommand(a.shardsListCommand(), a.shardsAddCommand(), a.shardsCloseCommand(true), a.shardsCloseCommand(false), a.shardsRebalanceCommand(), a.shardsAcceptCommand(), remove)
	return cmd
}

// shardCommand is the frame of the commands that change the table.
func (a *app) shardCommand(use, short, long, example string, args int,
	work func(ctx context.Context, st store.Store, t shardTarget, args []string, m *meter) (doc any, text string, err error),
) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + "\n\nExit codes: 0 done; 1 not done; 2 wrong usage or configuration.", Example: example, Args: cobra.ExactArgs(args),
	}
	r := a.repoFlags(cmd).signing(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := r.load(cmd)
		if err != nil {
			return err
		}
		t, _, err := r.target(cfg)
		if err != nil {
			return err
		}
		t.Rate = 0 // packs that move do not pass through a repository
		return onSignal(func(ctx context.Context) error {
			repo, err := t.Open(ctx)
			if err != nil {
				return backup.Explain(err, t.String())
			}
			st := repo.Store()
			m := a.newMeter(r.asJSON)
			defer m.close()
			doc, text, err := work(ctx, st, shardTarget{t, repo}, args, m)
			if err != nil {
				return backup.Explain(err, t.String())
			}
			return r.result(m, doc, func() error { _, err := fmt.Fprintln(a.out, text); return err })
		})
	}
	return cmd
}

// shardTarget is the repository whose table is changed.
type shardTarget struct {
	backup.Target
	repo *backupfmt.Repo
}

func (a *app) shardsAcceptCommand() *cobra.Command {
	return a.shardCommand("accept", "Take the table of shards as it is",
		"accept says that the table of shards is right, whoever wrote it: after it was put right by hand, or for one that an older program made. Look at shards list first.\n"+
			"Until then a table that the chain does not name is refused by every command.",
		"  erlmcp backup shards accept --repo /var/backups/erlmcp --key-file backup.key", 0,
		func(ctx context.Context, st store.Store, t shardTarget, _ []string, _ *meter) (any, string, error) {
			return map[string]any{"accepted": true}, "the table of shards is accepted as it is", t.repo.AcceptShards(ctx)
		})
}

// shardsOf is a repository that has shards.
func shardsOf(st store.Store) (*shard.Store, error) {
	s, ok := st.(*shard.Store)
	if !ok {
		return nil, fmt.Errorf("%w: the repository has no shards", shard.ErrInvalid)
	}
	return s, nil
}

// firstOf is the place that holds the table.
func firstOf(st store.Store) store.Store {
	if s, ok := st.(*shard.Store); ok {
		return s.Store
	}
	return st
}

func (a *app) shardsAddCommand() *cobra.Command {
	return a.shardCommand("add URL", "Let a repository use another place for packs",
		"add makes an empty directory, or the prefix of a bucket, a place for packs. New packs are spread over all places; shards rebalance moves old ones.\n"+
			"A server learns of it when it is restarted; until then it goes on with the places it knows.",
		"  erlmcp backup shards add /mnt/second/erlmcp-packs --repo /var/backups/erlmcp", 1,
		func(ctx context.Context, st store.Store, t shardTarget, args []string, _ *meter) (any, string, error) {
			l, err := store.ParseLocation(args[0], t.Env)
			if err != nil {
				return nil, "", err
			}
			place, err := l.Open(ctx, true)
			if err != nil {
				return nil, "", err
			}
			p, err := shard.Add(ctx, firstOf(st), place, l.String(), time.Now(), t.repo.AnnounceShards(ctx, false))
			return p, fmt.Sprintf("added shard %s at %s", p.ID, p.Location), err
		})
}

func (a *app) shardsCloseCommand(closed bool) *cobra.Command {
	use, short, text := "close ID", "Let a place take no new packs", "closed"
	if !closed {
		use, short, text = "open ID", "Let a closed place take packs again", "opened"
	}
	return a.shardCommand(use, short, short+"; what it holds stays there until shards rebalance.", "  erlmcp backup shards "+use[:len(use)-2]+"first --repo /var/backups/erlmcp", 1,
		func(ctx context.Context, st store.Store, t shardTarget, args []string, _ *meter) (any, string, error) {
			s, err := shardsOf(st)
			if err != nil {
				return nil, "", err
			}
			return map[string]any{text: args[0]}, text + " shard " + args[0], shard.Close(ctx, s.Store, args[0], closed, t.repo.AnnounceShards(ctx, false))
		})
}

func (a *app) shardsRebalanceCommand() *cobra.Command {
	return a.shardCommand("rebalance", "Move packs to where they would be stored now",
		"rebalance moves packs after a place was added or closed. A pack is deleted only after it is stored elsewhere: it may be interrupted or killed anywhere,\n"+
			"and everything can be restored meanwhile.",
		"  erlmcp backup shards rebalance --repo /var/backups/erlmcp", 0,
		func(ctx context.Context, st store.Store, t shardTarget, _ []string, m *meter) (any, string, error) {
			s, err := shardsOf(st)
			if err != nil {
				return nil, "", err
			}
			if _, err := t.repo.Chain(ctx); err != nil { // the table is the right one
				return nil, "", err
			}
			moved, bytes, err := s.Rebalance(ctx, func(_ string, done, total int64) {
				m.tell(backup.Progress{Phase: "move", Done: done, Total: total, Unit: "bytes"})
			})
			return map[string]any{"moved": moved, "bytes": bytes}, fmt.Sprintf("moved %d packs, %s", moved, bytesText(bytes)), err
		})
}

// shardDoc is one place in the document of `shards list`.
type shardDoc struct {
	ID       string `json:"id"`
	Location string `json:"location"`
	Closed   bool   `json:"closed,omitempty"`
	Packs    int    `json:"packs"`
	Bytes    int64  `json:"bytes"`
	Problem  string `json:"problem,omitempty"` // it cannot be reached
}

func (a *app) shardsListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "Show the places of a repository, and what each holds",
		Long: "list shows the places over which the packs of a repository are spread.\n\nExit codes: 0 shown; 1 a place cannot be reached, or the repository cannot " +
			"be read; 2 wrong usage or configuration.",
		Example: "  erlmcp backup shards list --repo /var/backups/erlmcp", Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := r.load(cmd)
		if err != nil {
			return err
		}
		t, _, err := r.target(cfg)
		if err != nil {
			return err
		}
		t.Rate = 0
		return onSignal(func(ctx context.Context) error {
			held, err := survey(ctx, t)
			if err != nil {
				return backup.Explain(err, t.String())
			}
			return r.printShards(held)
		})
	}
	return cmd
}

// survey looks at all places of a repository; one without shards has one.
func survey(ctx context.Context, t backup.Target) ([]shardDoc, error) {
	st, err := t.Store(ctx, false)
	if err != nil {
		return nil, err
	}
	if _, err := backupfmt.OpenKeyless(ctx, st, nil); err != nil {
		return nil, err
	}
	s, ok := st.(*shard.Store)
	if !ok {
		d := shardDoc{ID: shard.First, Location: t.String()}
		err := st.List(ctx, "packs/", func(i store.Info) error { d.Packs++; d.Bytes += i.Size; return nil })
		return []shardDoc{d}, err
	}
	held, err := s.Survey(ctx)
	if err != nil {
		return nil, err
	}
	var docs []shardDoc
	for _, h := range held {
		d := shardDoc{ID: h.ID, Location: h.Location, Closed: h.Closed, Packs: h.Packs, Bytes: h.Bytes, Problem: h.Problem}
		if d.ID == shard.First {
			d.Location = t.String()
		}
		docs = append(docs, d)
	}
	return docs, nil
}

func (r *repoFlags) printShards(docs []shardDoc) error {
	var away error
	for _, d := range docs {
		if d.Problem != "" {
			away = errors.Join(away, errors.New(d.Problem))
		}
	}
	if r.asJSON {
		if err := writeJSON(r.a.out, docs); err != nil {
			return err
		}
		return away
	}
	w := tabwriter.NewWriter(r.a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SHARD\tPACKS\tBYTES\tSTATE\tPLACE")
	for _, d := range docs {
		state := "open"
		switch {
		case d.Problem != "":
			state = "AWAY"
		case d.Closed:
			state = "closed"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", d.ID, d.Packs, bytesText(d.Bytes), state, d.Location)
	}
	return errors.Join(w.Flush(), away)
}
