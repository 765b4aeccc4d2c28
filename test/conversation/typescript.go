package conversation

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/test/nodejs"
)

//go:embed client.mjs
var clientMJS []byte

// TypeScript returns a client that runs client.mjs with the official
// TypeScript SDK. dir is where the program may be written.
func TypeScript(tools *nodejs.Tools, dir string) (Client, error) {
	program := filepath.Join(dir, "client.mjs")
	if err := os.WriteFile(program, clientMJS, 0o600); err != nil {
		return nil, err
	}
	sdk := tools.Module("@modelcontextprotocol", "sdk")
	return func(urls []string, run string, tries int) (got Report) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, tools.Node, program, sdk, strings.Join(urls, ","), strconv.Itoa(tries), run)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if err == nil {
			err = json.Unmarshal(stdout.Bytes(), &got)
		}
		if err != nil {
			got.Error = fmt.Sprintf("node: %v\n%s%s", err, stdout.Bytes(), stderr.Bytes())
		}
		return got
	}, nil
}
