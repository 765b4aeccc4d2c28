package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/mcp/auth"
)

const tokenLong = `token manages the static bearer tokens of a server: create makes one and prints it once, list shows what there is,
revoke takes one away. They edit the file that auth.token_file names (or --token-file), which holds hashes only and is
created with mode 0600. A running server notices within a second.

Clients send the header "Authorization: Bearer TOKEN".`

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list and revoke bearer tokens",
		Long:  tokenLong,
		Example: "  erlmcp token create --token-file /etc/erlmcp/tokens --name ci\n" +
			"  erlmcp serve --set auth.token_file=/etc/erlmcp/tokens",
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	return cmd
}

// tokenFile returns the file to edit.
func (s *settings) tokenFile(cmd *cobra.Command) (string, error) {
	cfg, err := s.load(cmd)
	if err != nil {
		return "", err
	}
	if cfg.Auth.TokenFile == "" {
		return "", config.Errors{{Key: "auth.token_file", Problem: "names no file: give --token-file FILE, or set it in the configuration"}}
	}
	return cfg.Auth.TokenFile, nil
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var t auth.Token
	var expires time.Duration
	var asJSON, fromStdin bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it, once",
		Long: `create makes a token of 256 random bits, adds its hash to the token file, and prints the token on stdout. It cannot
be shown again. What it is for is printed on stderr, so that TOKEN=$(erlmcp token create ...) works.

The subject is the principal that the bearer is: sessions, tasks and handles belong to it, and so does its rate limit.
Several tokens may have the same subject. Scopes matter where auth.tool_scopes or auth.required_scopes ask for them;
"*" is every scope.

With --stdin the token is read from stdin instead, for tokens that a secret store made. It must be at least 32 random
characters.`,
		Example: "  erlmcp token create --token-file /etc/erlmcp/tokens --name ci --scope tcps:write --expires-in 2160h\n" +
			"  TOKEN=$(erlmcp token create --config erlmcp.yaml --name laptop --subject ann)",
		Args: cobra.NoArgs,
	}
	s := a.settingFlags(cmd, tokenFileFlag)
	f := cmd.Flags()
	f.StringVar(&t.Name, "name", "", "`NAME`: what the token is for; unique in the file (required)")
	f.StringVar(&t.Subject, "subject", "", "`PRINCIPAL` of the bearer (default: the name)")
	f.StringSliceVar(&t.Scopes, "scope", nil, "`SCOPE` that the token holds (repeatable)")
	f.DurationVar(&expires, "expires-in", 0, "life of the token, such as 2160h; 0: for ever")
	f.BoolVar(&fromStdin, "stdin", false, "read the token from stdin instead of making one")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := s.tokenFile(cmd)
		if err != nil {
			return err
		}
		if t.Name == "" {
			return &exitError{code: exitUsage, err: errors.New("--name is needed: say what the token is for")}
		}
		if expires < 0 {
			return &exitError{code: exitUsage, err: errors.New("--expires-in is negative")}
		}
		if t.Subject == "" {
			t.Subject = t.Name
		}
		t.Created = time.Now().UTC().Truncate(time.Second)
		if expires > 0 {
			t.Expires = t.Created.Add(expires)
		}
		return a.createToken(path, t, fromStdin, asJSON)
	}
	return cmd
}

func (a *app) createToken(path string, t auth.Token, fromStdin, asJSON bool) error {
	var secret string
	var err error
	if fromStdin {
		line, readErr := bufio.NewReaderSize(a.in, 64<<10).ReadString('\n')
		if secret = strings.TrimSpace(line); secret == "" {
			return fmt.Errorf("no token on stdin: %w", readErr)
		}
		t, err = auth.ImportToken(rand.Reader, secret, t)
	} else {
		secret, t, err = auth.NewToken(rand.Reader, t)
	}
	if err != nil {
		return err
	}
	if err := auth.AddToken(path, t); err != nil {
		return err
	}
	if asJSON {
		doc := map[string]any{"id": t.ID, "name": t.Name, "subject": t.Subject, "scopes": t.Scopes, "file": path}
		if !fromStdin {
			doc["token"] = secret
		}
		if !t.Expires.IsZero() {
			doc["expires"] = t.Expires
		}
		return writeJSON(a.out, doc)
	}
	until := "never expires"
	if !t.Expires.IsZero() {
		until = "expires " + t.Expires.Format(time.RFC3339)
	}
	fmt.Fprintf(a.err, "token %s (%s) for %q, scopes [%s], %s; its hash is in %s\n", t.ID, t.Name, t.Subject, strings.Join(t.Scopes, " "), until, path)
	if fromStdin {
		return nil
	}
	fmt.Fprintln(a.err, "The token, which cannot be shown again:")
	_, err = fmt.Fprintln(a.out, secret)
	return err
}

func (a *app) tokenListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Show the tokens, without the tokens themselves",
		Example: "  erlmcp token list --token-file /etc/erlmcp/tokens",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, tokenFileFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := s.tokenFile(cmd)
		if err != nil {
			return err
		}
		list, err := auth.ReadTokens(path)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; `erlmcp token create` makes it", err)
		}
		if err != nil {
			return err
		}
		now := time.Now()
		if asJSON {
			type item struct {
				ID      string    `json:"id"`
				Name    string    `json:"name"`
				Subject string    `json:"subject"`
				Scopes  []string  `json:"scopes"`
				Created time.Time `json:"created"`
				Expires time.Time `json:"expires,omitzero"`
				Expired bool      `json:"expired"`
			}
			items := make([]item, 0, len(list))
			for _, t := range list {
				items = append(items, item{t.ID, t.Name, t.Subject, slices.Concat([]string{}, t.Scopes), t.Created, t.Expires, expired(t, now)})
			}
			return writeJSON(a.out, items)
		}
		w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tNAME\tSUBJECT\tSCOPES\tCREATED\tEXPIRES")
		for _, t := range list {
			until := "never"
			if !t.Expires.IsZero() {
				until = t.Expires.Format(time.RFC3339)
			}
			if expired(t, now) {
				until += " (expired)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Name, t.Subject, strings.Join(t.Scopes, " "), t.Created.Format(time.RFC3339), until)
		}
		return w.Flush()
	}
	return cmd
}

func expired(t auth.Token, now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

func (a *app) tokenRevokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke NAME|ID",
		Short:   "Take a token away",
		Example: "  erlmcp token revoke --token-file /etc/erlmcp/tokens ci",
		Args:    cobra.ExactArgs(1),
	}
	s := a.settingFlags(cmd, tokenFileFlag)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := s.tokenFile(cmd)
		if err != nil {
			return err
		}
		gone, err := auth.RevokeToken(path, args[0])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "revoked %s (%s) of %q; a running server refuses it within a second\n", gone.ID, gone.Name, gone.Subject)
		return err
	}
	return cmd
}
