package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/replication/cluster"
)

func (a *app) clusterCA() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Replace the cluster's certificate authority while it runs",
		Args:  knownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(
		a.clusterAuthority("rotate", "authority", "Begin to replace the authority; nothing stops",
			`rotate makes a new certificate authority. Every member first trusts both, then gets a certificate of the new one, then the old one
is trusted no more: clients and writes notice nothing. erlmcp cluster status shows how far it is and whom it waits for. Do it when
ca.key may have leaked, or before the authority ends.

Join tokens made before it is done are worth nothing afterwards, and a cluster secret lets nobody in any more: use tokens.`,
			"the rotation has begun; erlmcp cluster status shows how far it is"),
		a.clusterAuthority("finish", "authority-finish", "Finish a rotation without the members that cannot be reached",
			`finish lets a rotation that is under way go on without members that cannot be reached. When they come back, the others are strangers
to them: erlmcp cluster ca accept lets them in again, with their stores.`,
			"the rotation goes on without the members that cannot be reached"),
		a.clusterAccept())
	return cmd
}

func (a *app) clusterAuthority(use, op, short, long, done string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs, Example: "  erlmcp cluster ca " + use + " --data /var/lib/erlmcp"}
	s := a.settingFlags(cmd, dataFlag)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := a.order(cmd, s, admin.ClusterRequest{Op: op}, nil); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out, done)
		return err
	}
	return cmd
}

func (a *app) clusterAccept() *cobra.Command {
	var addresses []string
	cmd := &cobra.Command{
		Use:   "accept [TOKEN]",
		Short: "Let a member in again that was away while the authority was rotated, or until its certificate ended",
		Long: `accept asks the cluster that made the token for a certificate, and trusts its authority from now on. The member keeps its name and its
store; its server must be stopped. The token is the argument, or the environment variable ERLMCP_CLUSTER_TOKEN.`,
		Example: "  erlmcp cluster token --data A\n  erlmcp cluster ca accept --data B erlmcp1.eyJ...",
		Args:    cobra.MaximumNArgs(1),
	}
	s := a.settingFlags(cmd, dataFlag)
	cmd.Flags().StringSliceVar(&addresses, "via", nil, "`HOST:PORT` of members to ask, instead of those in the token")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		token, err := a.joinToken(args)
		if err != nil {
			return err
		}
		if _, err := admin.NewClient(cfg.DataDir).Status(cmd.Context()); !errors.Is(err, admin.ErrNoServer) {
			return fmt.Errorf("a server runs on %s: stop it first", cfg.DataDir)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
		defer cancel()
		if err := cluster.Accept(ctx, cfg.DataDir, cluster.JoinOptions{Token: token, Addresses: addresses, Now: time.Now()}); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "the member has a certificate of today's authority.\n\nNext:\n  erlmcp serve --data %s --set cluster.required=on\n", cfg.DataDir)
		return err
	}
	return cmd
}

// joinToken is the argument, or what the environment has.
func (a *app) joinToken(args []string) (string, error) {
	token := lookup(a.environ, "ERLMCP_CLUSTER_TOKEN")
	if len(args) == 1 {
		token = args[0]
	}
	if token == "" {
		return "", &exitError{code: exitUsage, err: errors.New("no token: give it as the argument or in ERLMCP_CLUSTER_TOKEN; `erlmcp cluster token` on a member prints one")}
	}
	return token, nil
}
