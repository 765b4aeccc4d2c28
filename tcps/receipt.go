package tcps

import "slices"

// ReceiptType is what a receipt is evidence of.
type ReceiptType string

// The receipt types. Stage receipts (pipeline and production) form chains;
// the others stand alone.
const (
	ReceiptPipeline           ReceiptType = "pipeline"   // a stage of a work order's pipeline
	ReceiptProduction         ReceiptType = "production" // a production stage of a SKU
	ReceiptWorkOrderCreated   ReceiptType = "work_order_created"
	ReceiptWorkOrderStarted   ReceiptType = "work_order_started"
	ReceiptStageCompleted     ReceiptType = "stage_completed"
	ReceiptWorkOrderCompleted ReceiptType = "work_order_completed"
	ReceiptWorkOrderCancelled ReceiptType = "work_order_cancelled"
	ReceiptWorkOrderRefused   ReceiptType = "work_order_refused"
	ReceiptWIPLimitChanged    ReceiptType = "wip_limit_changed"
	ReceiptGate               ReceiptType = "gate" // a failed quality gate
	ReceiptAndonEvent         ReceiptType = "andon_event"
	ReceiptResolution         ReceiptType = "resolution"
)

// ReceiptStatus is the verdict of a receipt.
type ReceiptStatus string

// The verdicts. Pipeline receipts are completed or failed, production receipts
// pass, fail or warning, andon receipts open or resolved.
const (
	ReceiptCompleted ReceiptStatus = "completed"
	ReceiptFailed    ReceiptStatus = "failed"
	ReceiptPass      ReceiptStatus = "pass"
	ReceiptFail      ReceiptStatus = "fail"
	ReceiptWarning   ReceiptStatus = "warning"
	ReceiptOpen      ReceiptStatus = "open"
	ReceiptResolved  ReceiptStatus = "resolved"
	ReceiptPending   ReceiptStatus = "pending"
)

// Bad reports whether the status says that the stage did not succeed.
func (s ReceiptStatus) Bad() bool { return s == ReceiptFail || s == ReceiptFailed }

// receiptVersion is the layout of receipts this version writes.
const receiptVersion = "1.0.0"

// Receipt is the proof that something happened. No receipt: did not happen.
// A stored receipt never changes.
type Receipt struct {
	ReceiptID        string         `json:"receipt_id"`
	ReceiptVersion   string         `json:"receipt_version"`
	ReceiptType      ReceiptType    `json:"receipt_type"`
	Stage            string         `json:"stage,omitempty"`
	Timestamp        Time           `json:"timestamp"`
	Status           ReceiptStatus  `json:"status"`
	WorkOrderID      string         `json:"work_order_id,omitempty"`
	SKUID            string         `json:"sku_id,omitempty"`
	AndonEventID     string         `json:"andon_event_id,omitempty"`
	Inputs           map[string]any `json:"inputs,omitempty"`
	Outputs          map[string]any `json:"outputs,omitempty"`
	Validation       map[string]any `json:"validation,omitempty"`
	Checksums        *FileChecksums `json:"checksums,omitempty"`
	DurationMS       int64          `json:"duration_ms"`
	Evidence         map[string]any `json:"evidence,omitempty"`
	Details          map[string]any `json:"details,omitempty"`
	Errors           []string       `json:"errors,omitempty"`
	Metadata         map[string]any `json:"metadata,omitempty"`
	Executor         string         `json:"executor,omitempty"`
	OntologyRefs     []string       `json:"ontology_refs,omitempty"`
	PreviousReceipt  string         `json:"previous_receipt,omitempty"` // empty for the first of a chain
	NextStage        string         `json:"next_stage,omitempty"`
	ReceiptChainHash string         `json:"receipt_chain_hash,omitempty"` // BLAKE3-256, hex
	Signature        string         `json:"signature,omitempty"`          // Ed25519, hex
	Checksum         string         `json:"checksum"`
}

// FileChecksums are the digests of the files a stage produced.
type FileChecksums struct {
	Algorithm string            `json:"algorithm" jsonschema:"always sha256"`
	Files     map[string]string `json:"files" jsonschema:"path to SHA-256 in hex"`
}

func (r *Receipt) docChecksum() *string { return &r.Checksum }

func (r *Receipt) docNormalise() {
	if r.Checksums != nil {
		someMap(&r.Checksums.Files)
	}
}

// PipelineStage is a stage of the work-order pipeline.
type PipelineStage string

// pipelineStages in order, with their SLO in minutes.
var pipelineStages = []struct {
	stage      PipelineStage
	sloMinutes int
}{
	{"pull", 5},
	{"plan", 10},
	{"generate", 30},
	{"extract", 15},
	{"render", 20},
	{"build", 10},
	{"test", 30},
	{"release", 15},
	{"publish", 20},
	{"verify", 15},
}

// PipelineStages returns the stages of the work-order pipeline in order.
func PipelineStages() []PipelineStage {
	out := make([]PipelineStage, len(pipelineStages))
	for i, s := range pipelineStages {
		out[i] = s.stage
	}
	return out
}

// SLOMinutes is how long the stage should take at most.
func (s PipelineStage) SLOMinutes() int {
	if i := s.index(); i >= 0 {
		return pipelineStages[i].sloMinutes
	}
	return 0
}

func (s PipelineStage) index() int { return slices.Index(PipelineStages(), s) }

// ParsePipelineStage reads a pipeline stage or one of its aliases.
func ParsePipelineStage(s string) (PipelineStage, error) {
	if s == "" {
		return "", missing("stage")
	}
	if v, ok := parseName(s, PipelineStages(), map[string]PipelineStage{
		"template": "render", "compile": "build", "compilation": "build", "testing": "test",
	}); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidStage, "%q is not a pipeline stage; use one of %s", s, names(PipelineStages())).on("stage")
}

// ProductionStage is a production stage of a SKU.
type ProductionStage string

// ProductionStages returns the production stages of a SKU in order.
func ProductionStages() []ProductionStage {
	return []ProductionStage{
		"shacl_validation", "compilation", "test_execution", "security_scan", stageDeterministic,
		"quality_metrics", "release_verification", "smoke_test", "marketplace_validation", "publication",
	}
}

const stageDeterministic ProductionStage = "deterministic_build"

// ParseProductionStage reads a production stage or the alias used in receipts.
func ParseProductionStage(s string) (ProductionStage, error) {
	if s == "" {
		return "", missing("stage")
	}
	if v, ok := parseName(s, ProductionStages(), map[string]ProductionStage{
		"shacl": "shacl_validation", "compile": "compilation", "test": "test_execution", "testing": "test_execution",
		"security": "security_scan", "deterministic": stageDeterministic, "quality": "quality_metrics",
		"release": "release_verification", "smoke": "smoke_test", "validate": "marketplace_validation",
		"deploy": "publication", "publish": "publication",
	}); ok {
		return v, nil
	}
	return "", refuse(CodeInvalidStage, "%q is not a production stage; use one of %s", s, names(ProductionStages())).on("stage")
}

// chainOf names the chain a receipt belongs to, "" if none: the pipeline of a
// work order or the production of a SKU.
func chainOf(t ReceiptType, order, sku string) string {
	switch {
	case t == ReceiptPipeline && order != "":
		return "order:" + order
	case t == ReceiptProduction && sku != "":
		return "sku:" + sku
	}
	return ""
}

func (r *Receipt) chain() string { return chainOf(r.ReceiptType, r.WorkOrderID, r.SKUID) }
