package tcps

import (
	"fmt"
	"maps"
)

// Code names one kind of refusal. The values are part of the public contract:
// they appear in tool results, HTTP answers and logs.
type Code string

// The codes of the ledger, grouped by what they speak about.
const (
	// Anything that is looked up by id.
	CodeNotFound          Code = "not_found"
	CodeWorkOrderNotFound Code = "work_order_not_found"
	CodeAndonNotFound     Code = "andon_not_found"
	CodeReceiptNotFound   Code = "receipt_not_found"
	CodeAlreadyExists     Code = "already_exists"

	// Input.
	CodeMissingRequiredField Code = "missing_required_field"
	CodeInvalidField         Code = "invalid_field"
	CodeInvalidBucket        Code = "invalid_bucket"
	CodeInvalidStatus        Code = "invalid_status"
	CodeInvalidStage         Code = "invalid_stage"
	CodeInvalidSignalType    Code = "invalid_signal_type"
	CodeInvalidFailureType   Code = "invalid_failure_type"
	CodeInvalidSeverity      Code = "invalid_severity"
	CodeInvalidCursor        Code = "invalid_cursor"
	CodeTooLarge             Code = "too_large"

	// Kanban pull signals.
	CodeRejected       Code = "rejected"
	CodeMissingBucket  Code = "missing_bucket"
	CodeMissingPayload Code = "missing_payload"
	CodeInvalidPayload Code = "invalid_payload"
	CodeLimitReached   Code = "limit_reached"

	// Work order states and queues.
	CodeAlreadyStarted        Code = "already_started"
	CodeInvalidTransition     Code = "invalid_transition"
	CodeInvalidSequence       Code = "invalid_sequence"
	CodeWIPLimit              Code = "wip_limit"
	CodeBlockedByDependencies Code = "blocked_by_dependencies"
	CodeBlockedByAndons       Code = "blocked_by_andons"
	CodeCircularDependency    Code = "circular_dependency"
	CodeInvalidQueueOrder     Code = "invalid_queue_order"
	CodeSKUMismatch           Code = "sku_mismatch"
	CodeFailedReceipts        Code = "failed_receipts"
	CodeHasDependents         Code = "has_dependents"
	CodeDeleteForbidden       Code = "delete_forbidden"

	// Quality gates.
	CodeGateFailed Code = "gate_failed"
	CodeGateNotRun Code = "gate_not_run"

	// Andon.
	CodeAlreadyAcknowledged Code = "already_acknowledged"
	CodeAlreadyResolved     Code = "already_resolved"
	CodeNotResolved         Code = "not_resolved"
	CodeAlreadyClosed       Code = "already_closed"
	CodeRCARequired         Code = "rca_required"

	// Receipts.
	CodeReceiptExists         Code = "receipt_exists"
	CodeReceiptFork           Code = "receipt_fork"
	CodeMissingPrevious       Code = "missing_previous_receipt"
	CodeInvalidPrevious       Code = "invalid_previous_receipt"
	CodeNotChronological      Code = "not_chronological"
	CodeTimestampGapTooLarge  Code = "timestamp_gap_too_large"
	CodeIncomplete            Code = "incomplete"
	CodeDuplicateStages       Code = "duplicate_stages"
	CodeInvalidReceipts       Code = "invalid_receipts"
	CodeNoReceiptsFound       Code = "no_receipts_found"
	CodeChainHashMismatch     Code = "chain_hash_mismatch"
	CodeNonDeterministic      Code = "non_deterministic"
	CodeDuplicateReceipts     Code = "duplicate_receipts"
	CodeFutureTimestamp       Code = "future_timestamp"
	CodeBadSignature          Code = "bad_signature"
	CodeMissingChecksum       Code = "missing_checksum"
	CodeChecksumMismatch      Code = "checksum_mismatch"
	CodeMalformedDocument     Code = "malformed_document"
	CodeIdempotencyMismatch   Code = "idempotency_mismatch"
	CodeInvalidIdempotencyKey Code = "invalid_idempotency_key"
)

// Error is a refusal by a rule of the ledger. Nothing was changed, except
// where the message says what was recorded (a refused pull signal, a failed
// gate). Message is written for the person or program that made the call and
// says what to do next.
//
// errors.Is(err, ErrNotFound) and the like compare codes only.
type Error struct {
	Code    Code           `json:"code"`
	Message string         `json:"message"`
	Field   string         `json:"field,omitempty"`   // the offending input field, if one is to blame
	Details map[string]any `json:"details,omitempty"` // machine-readable facts, keys in lower_snake
}

// Error returns the message, prefixed by the code.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is reports whether target is an *Error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// with returns a copy of e that carries one more detail.
func (e *Error) with(key string, value any) *Error {
	c := *e
	c.Details = maps.Clone(e.Details)
	if c.Details == nil {
		c.Details = make(map[string]any, 1)
	}
	c.Details[key] = value
	return &c
}

// on returns a copy of e that blames an input field.
func (e *Error) on(field string) *Error {
	c := *e
	c.Field = field
	return &c
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func missing(field string) *Error {
	return refuse(CodeMissingRequiredField, "field %q is required and was not given", field).on(field)
}

func invalid(field, format string, args ...any) *Error {
	return refuse(CodeInvalidField, "field %q %s", field, fmt.Sprintf(format, args...)).on(field)
}

// Sentinels for errors.Is, one per code that callers branch on.
var (
	ErrNotFound              = &Error{Code: CodeNotFound, Message: "not found"}
	ErrWorkOrderNotFound     = &Error{Code: CodeWorkOrderNotFound, Message: "work order not found"}
	ErrAndonNotFound         = &Error{Code: CodeAndonNotFound, Message: "andon event not found"}
	ErrReceiptNotFound       = &Error{Code: CodeReceiptNotFound, Message: "receipt not found"}
	ErrAlreadyExists         = &Error{Code: CodeAlreadyExists, Message: "already exists"}
	ErrMissingRequiredField  = &Error{Code: CodeMissingRequiredField, Message: "a required field is missing"}
	ErrInvalidField          = &Error{Code: CodeInvalidField, Message: "a field is invalid"}
	ErrInvalidBucket         = &Error{Code: CodeInvalidBucket, Message: "unknown bucket"}
	ErrInvalidStatus         = &Error{Code: CodeInvalidStatus, Message: "unknown status"}
	ErrInvalidStage          = &Error{Code: CodeInvalidStage, Message: "unknown stage"}
	ErrInvalidSignalType     = &Error{Code: CodeInvalidSignalType, Message: "unknown signal type"}
	ErrInvalidFailureType    = &Error{Code: CodeInvalidFailureType, Message: "unknown failure type"}
	ErrInvalidSeverity       = &Error{Code: CodeInvalidSeverity, Message: "unknown severity"}
	ErrInvalidCursor         = &Error{Code: CodeInvalidCursor, Message: "unknown cursor"}
	ErrTooLarge              = &Error{Code: CodeTooLarge, Message: "too large"}
	ErrRejected              = &Error{Code: CodeRejected, Message: "signal rejected"}
	ErrMissingBucket         = &Error{Code: CodeMissingBucket, Message: "bucket missing"}
	ErrMissingPayload        = &Error{Code: CodeMissingPayload, Message: "payload missing"}
	ErrInvalidPayload        = &Error{Code: CodeInvalidPayload, Message: "payload invalid"}
	ErrLimitReached          = &Error{Code: CodeLimitReached, Message: "WIP limit reached"}
	ErrAlreadyStarted        = &Error{Code: CodeAlreadyStarted, Message: "already started"}
	ErrInvalidTransition     = &Error{Code: CodeInvalidTransition, Message: "move not allowed"}
	ErrInvalidSequence       = &Error{Code: CodeInvalidSequence, Message: "stage out of order"}
	ErrWIPLimit              = &Error{Code: CodeWIPLimit, Message: "WIP limit reached"}
	ErrBlockedByDependencies = &Error{Code: CodeBlockedByDependencies, Message: "blocked by dependencies"}
	ErrBlockedByAndons       = &Error{Code: CodeBlockedByAndons, Message: "blocked by andon events"}
	ErrCircularDependency    = &Error{Code: CodeCircularDependency, Message: "circular dependency"}
	ErrInvalidQueueOrder     = &Error{Code: CodeInvalidQueueOrder, Message: "not a permutation of the queue"}
	ErrSKUMismatch           = &Error{Code: CodeSKUMismatch, Message: "SKU mismatch"}
	ErrFailedReceipts        = &Error{Code: CodeFailedReceipts, Message: "failed receipts"}
	ErrHasDependents         = &Error{Code: CodeHasDependents, Message: "other orders depend on it"}
	ErrDeleteForbidden       = &Error{Code: CodeDeleteForbidden, Message: "deleting is disabled"}
	ErrGateFailed            = &Error{Code: CodeGateFailed, Message: "quality gate failed"}
	ErrGateNotRun            = &Error{Code: CodeGateNotRun, Message: "quality gate not run"}
	ErrAlreadyAcknowledged   = &Error{Code: CodeAlreadyAcknowledged, Message: "already acknowledged"}
	ErrAlreadyResolved       = &Error{Code: CodeAlreadyResolved, Message: "already resolved"}
	ErrNotResolved           = &Error{Code: CodeNotResolved, Message: "not resolved yet"}
	ErrAlreadyClosed         = &Error{Code: CodeAlreadyClosed, Message: "already closed"}
	ErrRCARequired           = &Error{Code: CodeRCARequired, Message: "root cause analysis required"}
	ErrReceiptExists         = &Error{Code: CodeReceiptExists, Message: "receipt exists"}
	ErrReceiptFork           = &Error{Code: CodeReceiptFork, Message: "receipt chain fork"}
	ErrMissingPrevious       = &Error{Code: CodeMissingPrevious, Message: "previous receipt missing"}
	ErrInvalidPrevious       = &Error{Code: CodeInvalidPrevious, Message: "previous receipt invalid"}
	ErrNotChronological      = &Error{Code: CodeNotChronological, Message: "timestamps out of order"}
	ErrFutureTimestamp       = &Error{Code: CodeFutureTimestamp, Message: "timestamp in the future"}
	ErrMissingChecksum       = &Error{Code: CodeMissingChecksum, Message: "checksum missing"}
	ErrChecksumMismatch      = &Error{Code: CodeChecksumMismatch, Message: "checksum mismatch"}
	ErrMalformedDocument     = &Error{Code: CodeMalformedDocument, Message: "document malformed"}
	ErrIdempotencyMismatch   = &Error{Code: CodeIdempotencyMismatch, Message: "idempotency key reused"}
	ErrInvalidIdempotencyKey = &Error{Code: CodeInvalidIdempotencyKey, Message: "idempotency key invalid"}
)
