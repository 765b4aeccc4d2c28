// Command tcpsdump reads the files of an erlmcp data directory for forensics: who changed what, when, and is it all
// still there. It never locks and never writes, so it may run beside a server and on damaged input.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/internal/version"
)

// Exit codes.
const (
	exitClean  = 0
	exitDamage = 1 // damage was found, or the input could not be read
	exitUsage  = 2
)

// errDamage ends a command whose output has named the damage already.
var errDamage = errors.New("damage found")

// errUsage marks arguments that make no sense together.
var errUsage = errors.New("wrong usage")

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errw io.Writer) int {
	started := false
	root := command(out, &started)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errw)
	cmd, err := root.ExecuteC()
	switch {
	case err == nil:
		return exitClean
	case errors.Is(err, errDamage):
		return exitDamage
	case !started || errors.Is(err, errUsage):
		fmt.Fprintf(errw, "tcpsdump: %s\nRun '%s --help' for usage.\n", err, cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(errw, "tcpsdump: %s\n", err)
	return exitDamage
}

func command(out io.Writer, started *bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "tcpsdump",
		Short: "Read erlmcp's files offline: log, store, chain, snapshots, backups",
		Long: `tcpsdump reads the files of an erlmcp data directory for forensics.

It is read-only and takes no lock: it may run on a directory in use, on a copy,
and on damaged files, where it shows what is still valid and names what is not.

Exit codes: 0 clean, 1 damage found or unreadable input, 2 wrong usage.

An encrypted directory is verified without the key; to see its contents give
the key in ERLMCP_DATA_KEY (64 hex digits or base64) or with --key-file.`,
		SilenceUsage: true, SilenceErrors: true, Version: version.String(),
		PersistentPreRun: func(*cobra.Command, []string) { *started = true },
	}
	var k keyFlags
	root.PersistentFlags().StringVar(&k.file, "key-file", "", "file with the data key (64 hex digits, base64 or 32 raw bytes)")
	root.AddCommand(walCommand(out, &k), storeCommand(out, &k), chainCommand(out, &k),
		snapshotCommand(out), backupCommand(out), diffCommand(out, &k), exportCommand(out, &k))
	return root
}
