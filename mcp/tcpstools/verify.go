package tcpstools

import (
	"context"
	"fmt"
	"slices"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/tcps"
)

type (
	storeVerifyIn struct {
		Skip []string `json:"skip,omitempty" jsonschema:"checks to leave out: ledger, storage"`
	}
	storeVerifyOut struct {
		Intact  bool                 `json:"intact"`
		Ledger  *tcps.VerifyReport   `json:"ledger,omitempty"`
		Storage *engine.VerifyReport `json:"storage,omitempty"`
	}
)

// addVerifyTask adds the check of everything as a durable task: on a large
// store it takes longer than clients wait for a call. A check that is done is
// not repeated when the server is restarted during the next one.
func (t *tools) addVerifyTask() {
	closed := false
	tool := &sdk.Tool{
		Name: "store_verify", Title: "Verify everything",
		Description: "Check the whole store: every document, index, reference and receipt chain of the ledger (as ledger_verify), then every stored row " +
			"against the state hash and every file against its checksums. Takes long on a large store; a client that knows tasks gets one and polls it, for others the call waits.",
		Annotations:  &sdk.ToolAnnotations{Title: "Verify everything", ReadOnlyHint: true, IdempotentHint: true, OpenWorldHint: &closed},
		OutputSchema: outputSchema[storeVerifyOut](),
	}
	mcp.AddTaskTool(t.rt, tool, mcp.TaskOptions{Resumable: true, TimeLimit: 12 * time.Hour},
		func(ctx context.Context, task *mcp.Task, in storeVerifyIn) (storeVerifyOut, error) {
			out := storeVerifyOut{Intact: true}
			for _, name := range in.Skip {
				if name != "ledger" && name != "storage" {
					return out, fmt.Errorf("skip: there is no check %q; there are ledger and storage", name)
				}
			}
			if !slices.Contains(in.Skip, "ledger") {
				if err := task.Progress("checking the documents of the ledger"); err != nil {
					return out, err
				}
				report, err := mcp.Step(ctx, task, "ledger", t.ledger.VerifyAll)
				if err != nil {
					return out, err
				}
				out.Ledger, out.Intact = &report, report.Valid
			}
			if !slices.Contains(in.Skip, "storage") {
				if err := task.Progress("checking every row and file of the storage"); err != nil {
					return out, err
				}
				report, err := mcp.Step(ctx, task, "storage", t.store.Verify)
				if err != nil {
					return out, err
				}
				out.Storage, out.Intact = &report, out.Intact && report.OK()
			}
			return out, task.Progress("done")
		})
}
