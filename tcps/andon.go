package tcps

import "slices"

// FailureType is the kind of defect behind an andon event.
type FailureType string

// The failure types.
const (
	FailureSHACL          FailureType = "shacl_violation"
	FailureTest           FailureType = "test_failure"
	FailureNonDeterminism FailureType = "non_determinism"
	FailureMissingReceipt FailureType = "missing_receipt"
	FailureCompilation    FailureType = "compilation_failure"
	FailureSecurity       FailureType = "security_vulnerability"
	FailurePerformance    FailureType = "performance_regression"
	FailureBuildTimeout   FailureType = "build_timeout"
)

// FailureTypes returns all failure types.
func FailureTypes() []FailureType {
	return []FailureType{
		FailureSHACL, FailureTest, FailureNonDeterminism, FailureMissingReceipt, FailureCompilation,
		FailureSecurity, FailurePerformance, FailureBuildTimeout,
	}
}

// ParseFailureType reads a failure type in any accepted spelling.
func ParseFailureType(s string) (FailureType, error) {
	if s == "" {
		return "", missing("failure_type")
	}
	if v, ok := parseName(s, FailureTypes(), map[string]FailureType{
		"shaclviolation": FailureSHACL, "non_deterministic": FailureNonDeterminism, "compile_failure": FailureCompilation,
	}); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidFailureType, "%q is not a failure type; use one of %s", s, names(FailureTypes())).on("failure_type")
}

// severity is the default severity of a failure type. The sources name it for
// five types; an open vulnerability is as bad as broken code, the other two
// slow the line without breaking the product.
func (f FailureType) severity() Severity {
	switch f {
	case FailureSHACL, FailureCompilation, FailureNonDeterminism, FailureSecurity:
		return SeverityCritical
	}
	return SeverityMedium
}

// Severity says how bad an andon event is.
type Severity string

// The severities, worst first.
const (
	SeverityCritical Severity = "critical" // respond immediately, quarantine
	SeverityHigh     Severity = "high"     // respond within 1 h, quarantine, resolve within 1 day
	SeverityMedium   Severity = "medium"   // respond within 4 h, resolve within 1 week
	SeverityLow      Severity = "low"      // respond within 24 h, fix or accept the risk
)

// Severities returns all severities, worst first.
func Severities() []Severity {
	return []Severity{SeverityCritical, SeverityHigh, SeverityMedium, SeverityLow}
}

// ParseSeverity reads a severity; "warning" of older exports is medium.
func ParseSeverity(s string) (Severity, error) {
	if v, ok := parseName(s, Severities(), map[string]Severity{"warning": SeverityMedium}); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidSeverity, "%q is not a severity; use one of %s", s, names(Severities())).on("severity")
}

// Quarantines reports whether products stay quarantined until resolution.
func (s Severity) Quarantines() bool { return s == SeverityCritical || s == SeverityHigh }

// AndonStage is where a defect was found.
type AndonStage string

// The stages of an andon event.
const (
	AndonCompilation AndonStage = "compilation"
	AndonTesting     AndonStage = "testing"
	AndonValidation  AndonStage = "validation"
	AndonExecution   AndonStage = "execution"
	AndonIntegration AndonStage = "integration"
	AndonDeployment  AndonStage = "deployment"
)

// AndonStages returns all stages of andon events.
func AndonStages() []AndonStage {
	return []AndonStage{AndonCompilation, AndonTesting, AndonValidation, AndonExecution, AndonIntegration, AndonDeployment}
}

// ParseAndonStage reads a stage in any accepted spelling.
func ParseAndonStage(s string) (AndonStage, error) {
	if s == "" {
		return "", missing("stage")
	}
	if v, ok := parseName(s, AndonStages(), nil); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidStage, "%q is not a stage of an andon event; use one of %s", s, names(AndonStages())).on("stage")
}

// AndonStatus is the state of an andon event.
type AndonStatus string

// The states of an andon event.
const (
	AndonOpen          AndonStatus = "open"
	AndonInvestigating AndonStatus = "investigating" // acknowledged by somebody
	AndonResolved      AndonStatus = "resolved"
	AndonClosed        AndonStatus = "closed"
)

// AndonStatuses returns all states of andon events.
func AndonStatuses() []AndonStatus {
	return []AndonStatus{AndonOpen, AndonInvestigating, AndonResolved, AndonClosed}
}

// ParseAndonStatus reads a state; IN_PROGRESS of the runbooks is investigating.
func ParseAndonStatus(s string) (AndonStatus, error) {
	if v, ok := parseName(s, AndonStatuses(), map[string]AndonStatus{"in_progress": AndonInvestigating}); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidStatus, "%q is not an andon status; use one of %s", s, names(AndonStatuses())).on("status")
}

// Unresolved reports whether an event in this state still stops the line.
func (s AndonStatus) Unresolved() bool { return s == AndonOpen || s == AndonInvestigating }

// Values of Andon.DetectedBy and Andon.ActionTaken.
const (
	DetectedAutomated = "AUTOMATED"
	DetectedHuman     = "HUMAN"

	ActionProductionStopped = "PRODUCTION_STOPPED"
	ActionQuarantine        = "QUARANTINE"
	ActionNotifyTeam        = "NOTIFY_TEAM"
	ActionRollback          = "ROLLBACK"
)

// Andon is a defect that stops the line for a SKU. Events are never deleted.
type Andon struct {
	EventID             string         `json:"event_id"`
	FailureType         FailureType    `json:"failure_type"`
	Severity            Severity       `json:"severity"`
	SKUID               string         `json:"sku_id"`
	Stage               AndonStage     `json:"stage"`
	Timestamp           Time           `json:"timestamp"`
	UpdatedAt           Time           `json:"updated_at"`
	Status              AndonStatus    `json:"status"`
	Details             map[string]any `json:"details"`
	Metadata            map[string]any `json:"metadata"`
	DetectedBy          string         `json:"detected_by"`
	ActionTaken         string         `json:"action_taken"`
	Quarantined         bool           `json:"quarantined"`
	WorkOrderID         string         `json:"work_order_id,omitempty"`         // this order is stopped until resolution
	RelatedWorkOrderID  string         `json:"related_work_order_id,omitempty"` // this order is concerned but goes on (it is the cure, or merely late)
	AssignedTo          string         `json:"assigned_to,omitempty"`
	EstimatedResolution Time           `json:"estimated_resolution,omitempty"`
	AcknowledgedAt      Time           `json:"acknowledged_at,omitempty"`
	Resolution          *Resolution    `json:"resolution,omitempty"`
	ResolutionTimestamp Time           `json:"resolution_timestamp,omitempty"`
	ClosedAt            Time           `json:"closed_at,omitempty"`
	RCAID               string         `json:"rca_id,omitempty"`
	Receipts            []string       `json:"receipts"` // of trigger and resolution
	Revision            uint64         `json:"revision"`
	Checksum            string         `json:"checksum"`
}

// Resolution is how an andon event was resolved.
type Resolution struct {
	RootCause             string `json:"root_cause"`
	FixApplied            string `json:"fix_applied"`
	PreventionAdded       string `json:"prevention_added"`
	FixVerified           bool   `json:"fix_verified"`
	Resolver              string `json:"resolver"`
	ResolutionTimeMinutes int64  `json:"resolution_time_minutes"`
}

func (a *Andon) docChecksum() *string { return &a.Checksum }

func (a *Andon) docNormalise() {
	someMap(&a.Details)
	someMap(&a.Metadata)
	some(&a.Receipts)
}

// stops reports whether the event holds back its SKU and orders under the
// configured severities.
func (l *Ledger) stops(a *Andon) bool {
	return a.Status.Unresolved() && slices.Contains(l.o.BlockSeverities, a.Severity)
}
