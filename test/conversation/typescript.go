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
	"time"

	"github.com/erlmcp/erlmcp/test/nodejs"
)

//go:embed client.mjs
var clientMJS []byte

// typescript returns a client that runs client.mjs with the official
// TypeScript SDK. dir is where the program may be written.
func typescript(tools *nodejs.Tools, dir string) (func(url string, tries int) report, error) {
	program := filepath.Join(dir, "client.mjs")
	if err := os.WriteFile(program, clientMJS, 0o600); err != nil {
		return nil, err
	}
	sdk := tools.Module("@modelcontextprotocol", "sdk")
	return func(url string, tries int) (got report) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, tools.Node, program, sdk, url, strconv.Itoa(tries))
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
