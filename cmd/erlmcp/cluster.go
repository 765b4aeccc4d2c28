package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/replication/cluster"
)

const clusterLong = `cluster makes clusters and looks after them. A cluster is several servers (members) with the same state: every change is on the
disks of a majority before it is acknowledged, any member serves any client, and when a member dies the others go on.

  erlmcp cluster init  --data A --name n1 --advertise 10.0.0.1:7400     the first member; A may hold a store already
  erlmcp serve --data A --set cluster.required=on
  erlmcp cluster token --data A                                         prints a join token
  erlmcp cluster join  --data B --name n2 --advertise 10.0.0.2:7400 TOKEN   on another machine, with an empty directory
  erlmcp serve --data B --set cluster.required=on

cluster.required keeps a server whose directory was lost from beginning anew as a single node. docs/cluster.md is the operator's guide.`

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Make a cluster, join one, look after one",
		Long:  clusterLong,
		Example: `  erlmcp cluster init --help
  erlmcp cluster status --data /var/lib/erlmcp
  erlmcp cluster transfer --data /var/lib/erlmcp`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(a.clusterInit(), a.clusterJoin(), a.clusterStatus(), a.clusterToken(), a.clusterRecover(),
		a.clusterOrder("transfer [NAME]", "Give leadership to another voter",
			"transfer gives leadership to the named voter, or to the one that is furthest. Clients notice a pause of some milliseconds.", 0),
		a.clusterOrder("remove NAME", "Take a member out",
			"remove takes a member out of the cluster for good: it gets no more changes and its vote does not count. Stop its server\nbefore or after. To come back it joins anew, with an empty directory.", 1),
		a.clusterOrder("promote NAME", "Let a non-voter vote",
			"promote makes a non-voter a voter. It should be close to the others: the slowest of a majority decides how fast writes are.", 1),
		a.clusterOrder("rotate", "Renew this member's certificate now",
			"rotate gives the member a new key and certificate. It does so by itself after two thirds of the certificate's year.", -1),
		a.clusterRepair(), a.clusterCA())
	return cmd
}

func (a *app) clusterInit() *cobra.Command {
	var name, advertise string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a data directory the first member of a new cluster",
		Long: `init makes the cluster's own certificate authority and the first member. The directory may be empty or hold a single node's
store: the cluster then begins with what is in it. Nothing is copied or exported. The server must be stopped.`,
		Example: "  erlmcp cluster init --data /var/lib/erlmcp --name n1 --advertise 10.0.0.1:7400",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag)
	cmd.Flags().StringVar(&name, "name", hostname(), "`NAME` of this member, for ever")
	cmd.Flags().StringVar(&advertise, "advertise", "", "`HOST:PORT` of this member's port, as the other members call it")
	_ = cmd.MarkFlagRequired("advertise")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		if _, err := admin.NewClient(cfg.DataDir).Status(cmd.Context()); !errors.Is(err, admin.ErrNoServer) {
			return fmt.Errorf("a server runs on %s: stop it first", cfg.DataDir)
		}
		id, err := cluster.Init(cfg.DataDir, cluster.InitOptions{Name: name, Advertise: advertise, Now: time.Now()})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s is the first member of cluster %s.\n\nNext:\n  erlmcp serve --data %s --set cluster.required=on\n  erlmcp cluster token --data %s\n",
			name, id.Authority().ClusterID(), cfg.DataDir, cfg.DataDir)
		return err
	}
	return cmd
}

func hostname() string {
	h, _ := os.Hostname()
	h, _, _ = strings.Cut(h, ".")
	return h
}

func (a *app) clusterJoin() *cobra.Command {
	var name, advertise string
	var addresses []string
	cmd := &cobra.Command{
		Use:   "join [TOKEN]",
		Short: "Make an empty data directory a member of a cluster",
		Long: `join asks the cluster that made the token for a certificate and prepares the data directory; serve does the rest: it lets itself
be admitted, fetches the state and, if it is to be a voter, votes as soon as it has caught up. The token is the argument, or the
environment variable ERLMCP_CLUSTER_TOKEN.`,
		Example: "  erlmcp cluster join --data /var/lib/erlmcp --name n2 --advertise 10.0.0.2:7400 erlmcp1.eyJ...",
		Args:    cobra.MaximumNArgs(1),
	}
	s := a.settingFlags(cmd, dataFlag)
	cmd.Flags().StringVar(&name, "name", hostname(), "`NAME` of this member, for ever")
	cmd.Flags().StringVar(&advertise, "advertise", "", "`HOST:PORT` of this member's port, as the other members call it")
	cmd.Flags().StringSliceVar(&addresses, "via", nil, "`HOST:PORT` of members to ask, instead of those in the token")
	_ = cmd.MarkFlagRequired("advertise")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		token, err := a.joinToken(args)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
		defer cancel()
		o := cluster.JoinOptions{Name: name, Advertise: advertise, Token: token, Addresses: addresses, Now: time.Now()}
		if err := cluster.Join(ctx, cfg.DataDir, o); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s may join the cluster.\n\nNext:\n  erlmcp serve --data %s --set cluster.required=on\n", name, cfg.DataDir)
		return err
	}
	return cmd
}

func lookup(environ []string, name string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// order sends a request to the server of the data directory.
func (a *app) order(cmd *cobra.Command, s *settings, r admin.ClusterRequest, into any) (*config.Config, error) {
	cfg, err := s.load(cmd)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
	defer cancel()
	err = admin.NewClient(cfg.DataDir).Cluster(ctx, r, into)
	if errors.Is(err, admin.ErrNoServer) {
		err = fmt.Errorf("no server answers on %s: this command needs a running member (any one will do)", cfg.DataDir)
	}
	return cfg, err
}

// clusterOrder is a command that only passes a name on; args: 0 optional, 1 required, -1 none.
func (a *app) clusterOrder(use, short, long string, args int) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.MaximumNArgs(1)}
	switch args {
	case 1:
		cmd.Args = cobra.ExactArgs(1)
	case -1:
		cmd.Args = cobra.NoArgs
	}
	op, _, _ := strings.Cut(use, " ")
	s := a.settingFlags(cmd, dataFlag)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r := admin.ClusterRequest{Op: op}
		if len(args) == 1 {
			r.Name = args[0]
		}
		if _, err := a.order(cmd, s, r, nil); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out, "done")
		return err
	}
	return cmd
}

func (a *app) clusterToken() *cobra.Command {
	var ttl time.Duration
	var uses int
	var nonvoter bool
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a join token",
		Long: `token prints a token with which a machine becomes a member. Whoever has it can join until it expires or is used up; for a voter it
is worth as much as the data, because voters get the key of the cluster's certificate authority. A running voter is needed.`,
		Example: "  erlmcp cluster token --data /var/lib/erlmcp\n  erlmcp cluster token --ttl 24h --uses 3\n  erlmcp cluster token --non-voter",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag)
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is valid, 1s to 720h")
	cmd.Flags().IntVar(&uses, "uses", 1, "how often it may be used; 0: any number")
	cmd.Flags().BoolVar(&nonvoter, "non-voter", false, "for a member that has everything and does not vote, such as a standby in another region")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var token string
		if _, err := a.order(cmd, s, admin.ClusterRequest{Op: "token", TTL: ttl, Uses: uses, Voter: !nonvoter}, &token); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out, token)
		return err
	}
	return cmd
}

func (a *app) clusterStatus() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the members, who leads, and what happened lately",
		Long: `status asks the member on this data directory, which asks all others.

Exit codes: 0 a majority is there; 1 no answer, or no majority; 2 wrong usage.`,
		Example: "  erlmcp cluster status --data /var/lib/erlmcp\n  erlmcp cluster status --json | jq -r .leader",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var st cluster.Status
		if _, err := a.order(cmd, s, admin.ClusterRequest{Op: "status"}, &st); err != nil {
			return err
		}
		var err error
		if asJSON {
			err = writeJSON(a.out, st)
		} else {
			err = printCluster(a.out, st)
		}
		if err == nil && !st.Quorum {
			return &exitError{code: exitFailure}
		}
		return err
	}
	return cmd
}

func printCluster(out io.Writer, st cluster.Status) error {
	fmt.Fprintf(out, "cluster %s, seen by %s (%s, term %d)\n", st.Cluster, st.Name, st.State, st.Term)
	switch {
	case st.Quorum:
		fmt.Fprintf(out, "leader  %s %s\n", st.Leader, st.LeaderURL)
	default:
		fmt.Fprintf(out, "NO MAJORITY: %s\n", st.QuorumError)
	}
	if st.Rebuild != "" {
		fmt.Fprintf(out, "REBUILDING: %s\n", st.Rebuild)
	}
	if r := st.Rotation; r != nil {
		fmt.Fprintf(out, "ROTATING THE AUTHORITY: %s, %s -> %s, since %s; waiting for %s\n", r.Phase, r.Old, r.New, r.Began.Format(time.RFC3339), strings.Join(r.Waiting, ", "))
	}
	for _, w := range st.Warnings {
		fmt.Fprintf(out, "WARNING: %s\n", w)
	}
	fmt.Fprintf(out, "state   %.16s at entry %d\n\n", st.StateHash, st.StateIndex)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVOTES\tSTATE\tAPPLIED\tADDRESS\tCLIENTS\tVERSION\tCERTIFICATE")
	for _, m := range st.Members {
		votes := "yes"
		if !m.Votes {
			votes = "no"
			if m.Voter {
				votes = "not yet"
			}
		}
		until := ""
		if m.Certificate != nil {
			until = fmt.Sprintf("%.8s until %s", m.Issuer, m.Certificate.UTC().Format(time.DateOnly))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", m.Name, votes, m.State, m.Applied, m.Address, m.URL, m.Version, until)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(st.Events) > 0 {
		fmt.Fprintln(out)
	}
	w = tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, e := range st.Events {
		took := ""
		if e.Duration > 0 {
			took = fmt.Sprintf("%.2f s", e.Duration)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Time.UTC().Format(time.RFC3339), e.Kind, e.Old, e.New, took, e.Reason)
	}
	return w.Flush()
}

func (a *app) clusterRecover() *cobra.Command {
	var sure, single bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "After losing the majority for ever: go on with this member alone",
		Long: `recover makes the member on this data directory the only one of its cluster. It is for the day when more than half of the voters are
lost for ever: while they may come back, wait for them, nothing is lost until then.

Changes that only the lost members have are LOST, even acknowledged ones. Take the member with the highest APPLIED in
erlmcp cluster status. The member gets a new certificate authority: with their old directories the others cannot reach it any more. Let
them join anew, with empty ones; started as they are, they would go on as the old cluster, with a history of its own.

With --single-node the directory also stops being a member: serve then runs it as a single node. A cluster of one member that
was never more needs only that.

The server must be stopped.`,
		Example: "  erlmcp cluster recover --data /var/lib/erlmcp --accept-data-loss",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag, dataKeyFileFlag)
	cmd.Flags().BoolVar(&sure, "accept-data-loss", false, "you know what is lost")
	cmd.Flags().BoolVar(&single, "single-node", false, "make it a single node's directory again")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		if !sure {
			return &exitError{code: exitUsage, err: errors.New("nothing was done: changes that only other members have would be lost for ever; say --accept-data-loss if that is what you want (erlmcp cluster recover --help)")}
		}
		key, err := cfg.DataKey(a.environ, nil)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
		defer cancel()
		r, err := cluster.Recover(ctx, cfg.DataDir, node.EngineOptions(cfg, key, newLogger(a.err, cfg.Log)))
		if err != nil {
			return err
		}
		fmt.Fprintf(a.out, "%s is the only member now. Its state ends at entry %d (%.16s).\nLet the other members join anew, with empty directories: with their old ones they are strangers to it.\n", r.Name, r.Index, r.StateHash)
		required := " --set cluster.required=on"
		if single {
			required = ""
			if _, err := cluster.Leave(cfg.DataDir, time.Now()); err != nil {
				return err
			}
			fmt.Fprintln(a.out, "The directory is a single node's again.")
		}
		_, err = fmt.Fprintf(a.out, "\nNext:\n  erlmcp serve --data %s%s\n", cfg.DataDir, required)
		return err
	}
	return cmd
}
