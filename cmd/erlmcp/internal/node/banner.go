package node

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
)

// banner is what a person sees on stdout once the server is ready.
type banner struct {
	Version, DataDir, Executable string
	Endpoints                    admin.Endpoints
	NeedsToken                   bool // requests over HTTP need a bearer token
}

type clientServer struct {
	Type    string   `json:"type,omitempty"`
	URL     string   `json:"url,omitempty"`
	Command string   `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`

	Headers map[string]string `json:"headers,omitempty"`
}

// clientConfig is the block that MCP clients read.
func clientConfig(s clientServer) string {
	doc := map[string]map[string]clientServer{"mcpServers": {"erlmcp": s}}
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err.Error() // unreachable: strings only
	}
	return string(out)
}

func writeBanner(w io.Writer, b banner) error {
	var s strings.Builder
	fmt.Fprintf(&s, "erlmcp %s is ready\n\n", b.Version)
	for _, line := range [][2]string{
		{"MCP", b.Endpoints.MCP}, {"TCP", b.Endpoints.TCP}, {"health", b.Endpoints.Health}, {"metrics", b.Endpoints.Metrics}, {"data", b.DataDir},
	} {
		if line[1] != "" {
			fmt.Fprintf(&s, "  %-8s %s\n", line[0], line[1])
		}
	}
	overHTTP := clientServer{Type: "http", URL: b.Endpoints.MCP}
	note := ""
	if b.NeedsToken {
		overHTTP.Headers = map[string]string{"Authorization": "Bearer TOKEN"}
		note = " (for TOKEN see `erlmcp token create`; clients that speak OAuth leave the headers out)"
	}
	if overHTTP.URL != "" {
		fmt.Fprintf(&s, "\nClient configuration, over HTTP%s:\n%s\n", note, clientConfig(overHTTP))
	}
	fmt.Fprintf(&s, "\nor over stdio, where the client starts the server (stop this one first: a data directory has one owner):\n%s\n",
		clientConfig(clientServer{Command: b.Executable, Args: []string{"serve", "--stdio", "--data", b.DataDir}}))
	s.WriteString("\nCtrl-C stops it.\n")
	_, err := io.WriteString(w, s.String())
	return err
}
