package mcp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
)

// This file holds what tasks look like in the engine's tables, and nothing
// else; docs/format.md ("Tasks") describes the same.
//
//	mcp_tasks        id                    -> taskRecord
//	mcp_task_steps   id "/" %08d position  -> stepEntry
//	                 id "/state"           -> what Task.Checkpoint stored
//	mcp_task_idem    SHA-256(principal 0 key) -> idemEntry
//	mcp_task_queue   "r" due[8] id         -> tool 0 principal   waits for a worker until due or later
//	                 "l" id                -> leaseEntry         a worker has it
//	                 "x" expires[8] id     -> nothing            ended; removed after expires
//	                 "o" owner             -> ownerEntry         a runtime that may hold leases
//
// Times in keys are Unix milliseconds, big-endian, so that keys sort by time.
// Every task has exactly one row "r", "l" or "x", and its record says which:
// Ended, Owner and Due are the same facts. All change in one transaction.
const (
	tableTasks = "mcp_tasks"
	tableSteps = "mcp_task_steps"
	tableQueue = "mcp_task_queue"
	tableIdem  = "mcp_task_idem"
)

// A TaskStatus is where a task stands, in the words of SEP-2663.
type TaskStatus string

// The states. The last three are final.
const (
	TaskWorking       TaskStatus = "working"        // waiting for a worker, or with one
	TaskInputRequired TaskStatus = "input_required" // waiting for the client's answers
	TaskCompleted     TaskStatus = "completed"      // it has a result, which may be a tool error
	TaskFailed        TaskStatus = "failed"         // it has a JSON-RPC error
	TaskCancelled     TaskStatus = "cancelled"
)

// Final reports whether s is an end.
func (s TaskStatus) Final() bool {
	return s == TaskCompleted || s == TaskFailed || s == TaskCancelled
}

// taskRecord is one row of mcp_tasks. Times are Unix milliseconds.
type taskRecord struct {
	ID        string          `json:"id"`
	Principal string          `json:"principal"`
	Scopes    []string        `json:"scopes"` // of the principal; null: no authentication
	Tool      string          `json:"tool"`
	Args      json.RawMessage `json:"args,omitempty"`      // checked, with defaults
	Responses json.RawMessage `json:"responses,omitempty"` // inputResponses of the creating call
	Asks      string          `json:"asks,omitempty"`      // what the client can be asked: e(licitation), s(ampling), r(oots)
	Trace     string          `json:"trace,omitempty"`     // W3C traceparent of the creating call; steps link to it
	Waited    bool            `json:"waited,omitempty"`    // made for a call that waits: the client does not know the id
	Idem      []byte          `json:"idem,omitempty"`      // key of the row in mcp_task_idem

	Status  TaskStatus     `json:"status"`
	Message string         `json:"message,omitempty"`
	Pending []pendingInput `json:"pending,omitempty"` // while input_required

	Result json.RawMessage `json:"result,omitempty"` // a CallToolResult
	Error  *jsonrpc.Error  `json:"error,omitempty"`

	Created int64 `json:"created"`
	Updated int64 `json:"updated"`
	Ended   int64 `json:"ended,omitempty"`
	Expires int64 `json:"expires,omitempty"` // after the end
	TTL     int64 `json:"ttl"`               // ms, counted from the end
	Poll    int64 `json:"poll"`              // ms

	Owner     string `json:"owner,omitempty"` // who has the lease
	Token     uint64 `json:"token"`           // fencing token: grows with every change of hands
	Due       int64  `json:"due,omitempty"`   // of the row "r", while nobody has the lease
	Attempt   int    `json:"attempt"`         // starts of the handler
	Failures  int    `json:"failures,omitempty"`
	Questions int    `json:"questions,omitempty"` // asked so far: numbers the keys
	Resumes   int    `json:"resumes,omitempty"`   // starts after an interruption
	Ran       int64  `json:"ran,omitempty"`       // ms of running time so far
}

// pendingInput is a question that the client has not answered.
type pendingInput struct {
	Key      string          `json:"key"`
	Position int             `json:"position"` // of the step that asked
	Method   string          `json:"method"`
	Params   json.RawMessage `json:"params,omitempty"`
}

// Kinds of journal entries.
const (
	stepCall  = "step"
	stepSleep = "sleep"
	stepInput = "input"
)

// stepEntry is one row of mcp_task_steps.
type stepEntry struct {
	Kind   string          `json:"kind"`
	Name   string          `json:"name"`
	Result json.RawMessage `json:"result,omitempty"` // step
	Error  string          `json:"error,omitempty"`  // a failed step that the handler lived with, or a question nobody answered
	Until  int64           `json:"until,omitempty"`  // sleep: its end; input: no answer counts after it
	At     int64           `json:"at"`               // when it was journaled

	Asked   map[string]string          `json:"asked,omitempty"`   // input: key -> name that the handler gave it
	Answers map[string]json.RawMessage `json:"answers,omitempty"` // input: key -> answer
}

// leaseEntry is the value of a row "l".
type leaseEntry struct {
	Owner     string `json:"owner"`
	Token     uint64 `json:"token"`
	News      uint64 `json:"news,omitempty"`      // grows when somebody else changed the record
	Principal string `json:"principal,omitempty"` // of the task; empty in rows of older versions
}

// ownerEntry is the value of a row "o".
type ownerEntry struct {
	Node string `json:"node,omitempty"`
	Beat uint64 `json:"beat"` // grows while the owner lives
}

// idemEntry is the value of a row of mcp_task_idem.
type idemEntry struct {
	Task string `json:"task"`
	Hash []byte `json:"hash"` // SHA-256(tool 0 arguments)
}

func timedKey(kind byte, ms int64, id string) []byte {
	key := make([]byte, 0, 9+len(id))
	key = append(key, kind)
	key = binary.BigEndian.AppendUint64(key, uint64(ms))
	return append(key, id...)
}

// splitTimedKey undoes timedKey.
func splitTimedKey(key []byte) (ms int64, id string, ok bool) {
	if len(key) < 10 {
		return 0, "", false
	}
	return int64(binary.BigEndian.Uint64(key[1:])), string(key[9:]), true
}

func readyKey(due int64, id string) []byte      { return timedKey('r', due, id) }
func expiryKey(expires int64, id string) []byte { return timedKey('x', expires, id) }
func leaseKey(id string) []byte                 { return append([]byte{'l'}, id...) }
func ownerKey(owner string) []byte              { return append([]byte{'o'}, owner...) }

func stepKey(id string, position int) []byte { return fmt.Appendf(nil, "%s/%08d", id, position) }
func stateKey(id string) []byte              { return []byte(id + "/state") }
func stepPrefix(id string) []byte            { return []byte(id + "/") }

func idemKey(principal, key string) []byte {
	sum := sha256.Sum256([]byte(principal + "\x00" + key))
	return sum[:]
}

func requestHash(tool string, args json.RawMessage) []byte {
	h := sha256.New()
	h.Write([]byte(tool))
	h.Write([]byte{0})
	h.Write(args)
	return h.Sum(nil)
}

// ErrNoTask: no task has the id (any more), or, for a client, it is somebody else's.
var ErrNoTask = errors.New("mcp: no such task")

// loadTask reads a record.
func loadTask(tx *engine.Tx, id string) (*taskRecord, error) {
	value, err := tx.Get(tableTasks, []byte(id))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, ErrNoTask
	}
	if err != nil {
		return nil, err
	}
	return decodeTask(value)
}

func decodeTask(value []byte) (*taskRecord, error) {
	rec := new(taskRecord)
	if err := json.Unmarshal(value, rec); err != nil {
		return nil, fmt.Errorf("mcp: record of a task: %w", err)
	}
	return rec, nil
}

// getJSON reads a row; found is false when there is none.
func getJSON(tx *engine.Tx, table string, key []byte, into any) (found bool, err error) {
	value, err := tx.Get(table, key)
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(value, into); err != nil {
		return false, fmt.Errorf("mcp: row %s of %s: %w", hex.EncodeToString(key), table, err)
	}
	return true, nil
}

// save writes the record.
func (rec *taskRecord) save(tx *engine.Tx) error {
	return putJSON(tx, tableTasks, []byte(rec.ID), rec)
}

// lease gives the task to owner with a new fencing token.
func (rec *taskRecord) lease(tx *engine.Tx, owner string) error {
	if err := rec.leaveQueue(tx); err != nil {
		return err
	}
	rec.Owner, rec.Due = owner, 0
	rec.Token++
	return putJSON(tx, tableQueue, leaseKey(rec.ID), leaseEntry{Owner: owner, Token: rec.Token, Principal: rec.Principal})
}

// enqueue takes the lease away and lets the task wait until due.
func (rec *taskRecord) enqueue(tx *engine.Tx, due int64) error {
	if err := rec.leaveQueue(tx); err != nil {
		return err
	}
	rec.Owner, rec.Due = "", due
	rec.Token++
	return tx.Put(tableQueue, readyKey(due, rec.ID), []byte(rec.Tool+"\x00"+rec.Principal))
}

// splitReady takes the value of a row "r" apart. Rows of older versions have no principal.
func splitReady(value []byte) (tool, principal string) {
	tool, principal, _ = strings.Cut(string(value), "\x00")
	return tool, principal
}

// end makes the task final.
func (rec *taskRecord) end(tx *engine.Tx, status TaskStatus, message string) error {
	if err := rec.leaveQueue(tx); err != nil {
		return err
	}
	now := tx.Now().UnixMilli()
	rec.Owner, rec.Due, rec.Pending = "", 0, nil
	rec.Token++
	rec.Status, rec.Message = status, message
	rec.Updated, rec.Ended, rec.Expires = now, now, now+rec.TTL
	return tx.Put(tableQueue, expiryKey(rec.Expires, rec.ID), nil)
}

// leaveQueue removes the task's row from mcp_task_queue. A record that was
// never saved has none.
func (rec *taskRecord) leaveQueue(tx *engine.Tx) error {
	switch {
	case rec.Status.Final():
		return tx.Delete(tableQueue, expiryKey(rec.Expires, rec.ID))
	case rec.Owner != "":
		return tx.Delete(tableQueue, leaseKey(rec.ID))
	case rec.Due != 0:
		return tx.Delete(tableQueue, readyKey(rec.Due, rec.ID))
	}
	return nil
}

// touch notes a change that clients can see.
func (rec *taskRecord) touch(tx *engine.Tx) { rec.Updated = max(rec.Updated, tx.Now().UnixMilli()) }

// ttlMs is the time from creation for which the task is certainly kept: known
// once it has ended, without limit before.
func (rec *taskRecord) ttlMs() *int64 {
	if !rec.Status.Final() {
		return nil
	}
	ms := max(1, rec.Expires-rec.Created)
	return &ms
}

func isoTime(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
