package tcps

import "slices"

// Status is the state of a work order.
type Status string

// The states. Completed and cancelled are final.
const (
	StatusPending    Status = "pending"     // created on hold, awaiting validation
	StatusQueued     Status = "queued"      // waiting in its bucket's queue
	StatusInProgress Status = "in_progress" // holds a WIP slot
	StatusBlocked    Status = "blocked"     // waits for a dependency or an andon resolution
	StatusCompleted  Status = "completed"
	StatusCancelled  Status = "cancelled"
)

// Statuses returns all states of a work order.
func Statuses() []Status {
	return []Status{StatusPending, StatusQueued, StatusInProgress, StatusBlocked, StatusCompleted, StatusCancelled}
}

// ParseStatus reads a status in any accepted spelling; "failed" of older
// exports is cancelled.
func ParseStatus(s string) (Status, error) {
	if v, ok := parseName(s, Statuses(), map[string]Status{"failed": StatusCancelled, "inprogress": StatusInProgress, "canceled": StatusCancelled}); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidStatus, "%q is not a work order status; use one of %s", s, names(Statuses())).on("status")
}

// Final reports whether an order in this state never moves again.
func (s Status) Final() bool { return s == StatusCompleted || s == StatusCancelled }

// moves lists the allowed transitions of a work order.
var moves = map[Status][]Status{
	StatusPending:    {StatusQueued, StatusCancelled},
	StatusQueued:     {StatusInProgress, StatusBlocked, StatusCancelled},
	StatusBlocked:    {StatusQueued, StatusCancelled},
	StatusInProgress: {StatusCompleted, StatusCancelled, StatusBlocked},
}

// CanMove reports whether an order may go from one state to another.
func CanMove(from, to Status) bool { return slices.Contains(moves[from], to) }

// WorkStage is a step in the life of a work order.
type WorkStage string

// The stages of a work order, in order.
const (
	WorkRequirements   WorkStage = "requirements"
	WorkDesign         WorkStage = "design"
	WorkImplementation WorkStage = "implementation"
	WorkTesting        WorkStage = "testing"
	WorkIntegration    WorkStage = "integration"
	WorkDeployment     WorkStage = "deployment"
	WorkPublished      WorkStage = "published"
)

// WorkStages returns the stages of a work order in order.
func WorkStages() []WorkStage {
	return []WorkStage{WorkRequirements, WorkDesign, WorkImplementation, WorkTesting, WorkIntegration, WorkDeployment, WorkPublished}
}

// ParseWorkStage reads a work order stage in any accepted spelling.
func ParseWorkStage(s string) (WorkStage, error) {
	if s == "" {
		return "", missing("stage")
	}
	if v, ok := parseName(s, WorkStages(), map[string]WorkStage{
		"requirements_stage": WorkRequirements, "design_stage": WorkDesign, "implementation_stage": WorkImplementation,
		"testing_stage": WorkTesting, "integration_stage": WorkIntegration, "deployment_stage": WorkDeployment, "published_stage": WorkPublished,
	}); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidStage, "%q is not a stage of a work order; use one of %s", s, names(WorkStages())).on("stage")
}

func (s WorkStage) index() int { return slices.Index(WorkStages(), s) }

// WorkOrder is one piece of demanded work.
type WorkOrder struct {
	ID                 string         `json:"id"`
	Bucket             Bucket         `json:"bucket"`
	Priority           int            `json:"priority"` // 1..10, 10 is the most urgent
	Status             Status         `json:"status"`
	Description        string         `json:"description"`
	PullSignal         PullSignal     `json:"pull_signal"`
	DemandSignal       string         `json:"demand_signal"` // source text of the signal
	CreatedAt          Time           `json:"created_at"`
	UpdatedAt          Time           `json:"updated_at"`
	StartedAt          Time           `json:"started_at,omitempty"` // first start; a later restart keeps it
	CompletedAt        Time           `json:"completed_at,omitempty"`
	CancelledAt        Time           `json:"cancelled_at,omitempty"`
	SLADeadline        Time           `json:"sla_deadline"`
	CurrentStage       WorkStage      `json:"current_stage,omitempty"`
	StagesCompleted    []WorkStage    `json:"stages_completed"`
	Receipts           []string       `json:"receipts"` // ids, oldest first
	SKUID              string         `json:"sku_id,omitempty"`
	Dependencies       []string       `json:"dependencies"`      // ids this order depends on
	BlockedBy          []string       `json:"blocked_by"`        // of those, the unfinished ones
	BlockedByAndons    []string       `json:"blocked_by_andons"` // unresolved andon events that stop this order
	CancellationReason string         `json:"cancellation_reason,omitempty"`
	ReworkCount        int            `json:"rework_count"` // starts after the first one
	AssignedTo         string         `json:"assigned_to,omitempty"`
	Metadata           map[string]any `json:"metadata"`
	QueueClass         int            `json:"queue_class"`    // 10 - priority of the order's slot in the queue, 0 first
	QueuePosition      int64          `json:"queue_position"` // order inside the class, unix microseconds of creation unless reordered
	SLAAndonID         string         `json:"sla_andon_id,omitempty"`
	Revision           uint64         `json:"revision"`
	Checksum           string         `json:"checksum"`
}

func (w *WorkOrder) docChecksum() *string { return &w.Checksum }

func (w *WorkOrder) docNormalise() {
	some(&w.StagesCompleted)
	some(&w.Receipts)
	some(&w.Dependencies)
	some(&w.BlockedBy)
	some(&w.BlockedByAndons)
	someMap(&w.Metadata)
}

// some makes a nil slice an empty one, so that JSON says [] and never null.
func some[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}

func someMap[V any](m *map[string]V) {
	if *m == nil {
		*m = map[string]V{}
	}
}

// open reports whether the order still waits for or holds work.
func (w *WorkOrder) open() bool { return !w.Status.Final() }

// settle gives a waiting or running order the state its blockers demand and
// reports whether that changed it.
func (w *WorkOrder) settle() bool {
	held := len(w.BlockedBy)+len(w.BlockedByAndons) > 0
	switch {
	case held && (w.Status == StatusQueued || w.Status == StatusInProgress):
		w.Status = StatusBlocked
	case !held && w.Status == StatusBlocked:
		w.Status = StatusQueued
	default:
		return false
	}
	return true
}

// remove returns list without v, keeping order.
func remove(list []string, v string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return x == v })
}

// include returns list with v, once.
func include(list []string, v string) []string {
	if slices.Contains(list, v) {
		return list
	}
	return append(slices.Clip(list), v)
}
