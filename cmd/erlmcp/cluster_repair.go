package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/replication/cluster"
	"github.com/erlmcp/erlmcp/wal"
)

func (a *app) clusterRepair() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Mend a stopped member's damaged log from the others, or fetch a running member's state anew",
		Long: `repair on a stopped member puts the damaged batches of its log back, byte for byte, with the entries of other members. What they offer is
written only if the chain of hashes in this member's log proves it; whoever offers anything else is refused. Nothing that is not
damaged is changed. Some damage cannot be put back so, because only this member had the bytes: a missing file, a damaged vote.
repair says so and changes nothing; serve then sets the store aside and fetches everything.

On a running member repair gives up the store and fetches the state from another member, verified, while the process lives. Use it
when erlmcp verify finds damage there.

Exit codes: 0 nothing is damaged (any more); 1 something is; 2 wrong usage.`,
		Example: "  erlmcp cluster repair --data /var/lib/erlmcp",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag, dataKeyFileFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: the list of batches that were put back")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Minute)
		defer cancel()
		err = admin.NewClient(cfg.DataDir).Cluster(ctx, admin.ClusterRequest{Op: "repair"}, nil)
		if !errors.Is(err, admin.ErrNoServer) {
			if err == nil {
				_, err = fmt.Fprintln(a.out, "the member fetches its state anew")
			}
			return err
		}
		key, err := cfg.DataKey(a.environ, nil)
		if err != nil {
			return err
		}
		done, err := cluster.Mend(ctx, cfg.DataDir, node.EngineOptions(cfg, key, newLogger(a.err, cfg.Log)))
		if asJSON {
			if done == nil {
				done = []wal.Mended{}
			}
			return errors.Join(writeJSON(a.out, done), err)
		}
		for _, d := range done {
			fmt.Fprintf(a.out, "put back: segment %d, offset %d, batch %d, entries %d to %d, %d bytes had changed; the chain proves it\n",
				d.Segment, d.Offset, d.Batch, d.FirstIndex, d.LastIndex, d.Changed)
		}
		switch {
		case errors.Is(err, wal.ErrMend):
			return fmt.Errorf("%w\nNothing was changed there. Start the server: it sets the store aside and fetches everything from another member", err)
		case err != nil:
			return err
		case len(done) == 0:
			_, err = fmt.Fprintln(a.out, "the log is not damaged")
		}
		return err
	}
	return cmd
}
