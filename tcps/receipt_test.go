package tcps_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
)

// pipeline is a complete pipeline receipt of a stage.
func pipeline(order, stage string) tcps.StoreReceiptInput {
	return tcps.StoreReceiptInput{
		WorkOrderID: order, Stage: stage, Status: "completed", DurationMS: 1200,
		Inputs: map[string]any{"source": "a.go"}, Outputs: map[string]any{"artifact": "a.bin"}, Validation: map[string]any{"passed": true},
		Checksums: &tcps.FileChecksums{Algorithm: "sha256", Files: map[string]string{"a.bin": strings.Repeat("ab", 32)}},
	}
}

func production(sku, stage, status string) tcps.StoreReceiptInput {
	return tcps.StoreReceiptInput{SKUID: sku, Stage: stage, Status: status, Evidence: map[string]any{"log": "ok"}}
}

func (b *bench) put(in tcps.StoreReceiptInput) tcps.Receipt {
	b.t.Helper()
	r, err := b.StoreReceipt(b.ctx, in)
	require.NoError(b.t, err)
	return r
}

func failed(in tcps.StoreReceiptInput) tcps.StoreReceiptInput {
	in.Status, in.Validation = "failed", map[string]any{"passed": false}
	return in
}

func TestPipelineReceiptsFormAChain(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	previous := tcps.Receipt{}
	for i, stage := range tcps.PipelineStages() {
		r := b.put(pipeline(w.ID, string(stage)))
		require.Equal(t, string(stage)+"-"+w.ID+"-20260126", r.ReceiptID)
		require.Equal(t, "1.0.0", r.ReceiptVersion)
		require.Equal(t, previous.ReceiptID, r.PreviousReceipt)
		require.Greater(t, r.Timestamp, previous.Timestamp, "a millisecond apart at least")
		require.Equal(t, "SKU-1", r.SKUID)
		if i < 9 {
			require.Equal(t, string(tcps.PipelineStages()[i+1]), r.NextStage)
		}
		previous = r
	}
	rep, err := b.VerifyChain(b.ctx, tcps.VerifyChainInput{WorkOrderID: w.ID})
	require.NoError(t, err)
	require.True(t, rep.Valid && rep.Complete, "%v", rep.Issues)
	require.Empty(t, rep.Code)
	require.Len(t, rep.Receipts, 10)
	require.Equal(t, previous.ReceiptChainHash, rep.ChainHash)
	require.Len(t, b.get(w.ID).Receipts, 11)

	_, err = b.StoreReceipt(b.ctx, pipeline(w.ID, "verify"))
	refused(t, err, tcps.CodeReceiptFork, "")
	b.sound()
}

func TestChainHashIsBLAKE3OverPreviousHashAndCanonicalReceipt(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketFeatures)
	hash := make([]byte, 32)
	for _, stage := range []string{"pull", "plan"} {
		r := b.put(pipeline(w.ID, stage))
		var doc map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(b.raw(tcps.TableReceipts, r.ReceiptID), &doc))
		delete(doc, "checksum")
		delete(doc, "receipt_chain_hash")
		body, err := json.Marshal(doc)
		require.NoError(t, err)
		body, err = tcps.CanonicalJSON(body)
		require.NoError(t, err)
		sum := blake3.Sum256(append(hash, body...))
		require.Equal(t, hex.EncodeToString(sum[:]), r.ReceiptChainHash)
		hash = sum[:]
	}
}

func TestReceiptsThatBreakTheChainAreRefused(t *testing.T) {
	b := start(t)
	w, other := b.order(tcps.BucketFeatures), b.order(tcps.BucketFeatures)
	store := func(in tcps.StoreReceiptInput) error {
		_, err := b.StoreReceipt(b.ctx, in)
		return err
	}
	e := refused(t, store(pipeline(w.ID, "plan")), tcps.CodeMissingPrevious, "stage")
	require.Equal(t, "pull", e.Details["expected_stage"])
	pull := b.put(pipeline(w.ID, "pull"))
	foreign := b.put(pipeline(other.ID, "pull"))
	e = refused(t, store(pipeline(w.ID, "build")), tcps.CodeMissingPrevious, "stage")
	require.Equal(t, "plan", e.Details["expected_stage"])
	refused(t, store(pipeline(w.ID, "pull")), tcps.CodeReceiptFork, "stage")

	in := pipeline(w.ID, "plan")
	in.PreviousReceipt = "nowhere"
	refused(t, store(in), tcps.CodeMissingPrevious, "")
	in.PreviousReceipt = foreign.ReceiptID
	refused(t, store(in), tcps.CodeInvalidPrevious, "previous_receipt")
	in.PreviousReceipt = pull.ReceiptID
	plan := b.put(in)
	in.Stage = "generate"
	refused(t, store(in), tcps.CodeReceiptFork, "previous_receipt")

	// A failed stage is repeated; the retry names the failed attempt.
	bad := b.put(failed(pipeline(w.ID, "generate")))
	require.Equal(t, plan.ReceiptID, bad.PreviousReceipt)
	refused(t, store(pipeline(w.ID, "extract")), tcps.CodeMissingPrevious, "stage")
	retry := b.put(pipeline(w.ID, "generate"))
	require.Equal(t, bad.ReceiptID, retry.PreviousReceipt)
	require.Equal(t, bad.ReceiptID+"-2", retry.ReceiptID)
	b.put(pipeline(w.ID, "extract"))

	in = pipeline(w.ID, "template")
	in.ReceiptID = retry.ReceiptID
	e = refused(t, store(in), tcps.CodeReceiptExists, "receipt_id")
	require.ErrorIs(t, e, tcps.ErrReceiptExists)
	in.ReceiptID = "my-own-id"
	require.Equal(t, "render", b.put(in).Stage)
	rep, err := b.VerifyChain(b.ctx, tcps.VerifyChainInput{WorkOrderID: w.ID})
	require.NoError(t, err)
	require.True(t, rep.Valid, "%v", rep.Issues)
	require.False(t, rep.Complete)
	require.Equal(t, tcps.CodeIncomplete, rep.Code)
	require.Equal(t, []string{"build", "test", "release", "publish", "verify"}, rep.MissingStages)
	b.sound()
}

func TestReceiptTimestamps(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketFeatures)
	in := pipeline(w.ID, "pull")
	in.Timestamp = "2026-01-26T10:00:06Z"
	_, err := b.StoreReceipt(b.ctx, in)
	refused(t, err, tcps.CodeFutureTimestamp, "timestamp")
	in.Timestamp = "noon"
	_, err = b.StoreReceipt(b.ctx, in)
	refused(t, err, tcps.CodeInvalidField, "timestamp")
	in.Timestamp = "2026-01-26T09:00:00+00:00"
	r := b.put(in)
	require.Equal(t, tcps.Time("2026-01-26T09:00:00.000Z"), r.Timestamp)
	next := pipeline(w.ID, "plan")
	next.Timestamp = "2026-01-26T09:00:00Z"
	_, err = b.StoreReceipt(b.ctx, next)
	refused(t, err, tcps.CodeNotChronological, "timestamp")
	next.Timestamp = "2026-01-26T10:00:05Z"
	b.put(next)
}

func TestReceiptFieldsAreChecked(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketFeatures)
	for _, c := range []struct {
		name   string
		in     tcps.StoreReceiptInput
		change func(*tcps.StoreReceiptInput)
		code   tcps.Code
		field  string
	}{
		{"no stage", pipeline(w.ID, ""), nil, tcps.CodeMissingRequiredField, "stage"},
		{"unknown stage", pipeline(w.ID, "lunch"), nil, tcps.CodeInvalidStage, "stage"},
		{"no status", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Status = "" }, tcps.CodeMissingRequiredField, "status"},
		{"wrong status", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Status = "open" }, tcps.CodeInvalidField, "status"},
		{"no inputs", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Inputs = nil }, tcps.CodeMissingRequiredField, "inputs"},
		{"no outputs", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Outputs = nil }, tcps.CodeMissingRequiredField, "outputs"},
		{"no verdict", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Validation = map[string]any{"passed": "yes"} }, tcps.CodeMissingRequiredField, "validation.passed"},
		{"contradicting verdict", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Validation = map[string]any{"passed": false} }, tcps.CodeInvalidField, "validation.passed"},
		{"no checksums", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Checksums = nil }, tcps.CodeMissingRequiredField, "checksums"},
		{"other algorithm", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.Checksums = &tcps.FileChecksums{Algorithm: "md5"} }, tcps.CodeInvalidField, "checksums.algorithm"},
		{"bad digest", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) {
			in.Checksums = &tcps.FileChecksums{Algorithm: "sha256", Files: map[string]string{"a": "zz"}}
		}, tcps.CodeInvalidField, "checksums.files"},
		{"negative duration", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.DurationMS = -1 }, tcps.CodeInvalidField, "duration_ms"},
		{"unknown order", pipeline("WO-0", "pull"), nil, tcps.CodeWorkOrderNotFound, ""},
		{"no order", pipeline("", "pull"), func(in *tcps.StoreReceiptInput) { in.ReceiptType = "pipeline" }, tcps.CodeMissingRequiredField, "work_order_id"},
		{"bad id", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.ReceiptID = "a b" }, tcps.CodeInvalidField, "receipt_id"},
		{"a type that only the ledger writes", pipeline(w.ID, "pull"), func(in *tcps.StoreReceiptInput) { in.ReceiptType = "resolution" }, tcps.CodeInvalidField, "receipt_type"},
		{"production without SKU", production("", "compile", "pass"), nil, tcps.CodeMissingRequiredField, "sku_id"},
		{"production without evidence", production("SKU-1", "compile", "pass"), func(in *tcps.StoreReceiptInput) { in.Evidence = nil }, tcps.CodeMissingRequiredField, "evidence"},
		{"production stage unknown", production("SKU-1", "pull", "pass"), nil, tcps.CodeInvalidStage, "stage"},
		{"production status unknown", production("SKU-1", "compile", "maybe"), nil, tcps.CodeInvalidField, "status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := c.in
			if c.change != nil {
				c.change(&in)
			}
			_, err := b.StoreReceipt(b.ctx, in)
			refused(t, err, c.code, c.field)
		})
	}
	require.Len(t, b.get(w.ID).Receipts, 1, "refused receipts leave nothing")
	b.sound()
}

func (b *bench) produce(sku string, gap time.Duration) []tcps.Receipt {
	b.t.Helper()
	var out []tcps.Receipt
	for _, s := range []string{"shacl", "compile", "test", "security", "deterministic", "quality", "release", "smoke", "validate", "deploy"} {
		out = append(out, b.put(production(sku, s, "PASS")))
		b.clock.advance(gap)
	}
	return out
}

func TestSKUChainIsVerifiedAsAWhole(t *testing.T) {
	b := start(t)
	verify := func(sku string) tcps.ChainReport {
		rep, err := b.VerifyChain(b.ctx, tcps.VerifyChainInput{SKUID: sku})
		require.NoError(t, err)
		return rep
	}
	require.Equal(t, tcps.CodeNoReceiptsFound, verify("SKU-0").Code)
	require.False(t, verify("SKU-0").Valid)

	list := b.produce("SKU-1", time.Hour)
	require.Equal(t, "shacl_validation", list[0].Stage)
	rep := verify("SKU-1")
	require.True(t, rep.Complete, "%v", rep.Issues)

	d, err := b.VerifyDeterministic(b.ctx, "SKU-1")
	require.NoError(t, err)
	require.True(t, d.Deterministic)

	b.put(production("SKU-2", "shacl", "pass"))
	b.clock.advance(24*time.Hour + time.Second)
	b.put(production("SKU-2", "compile", "pass"))
	rep = verify("SKU-2")
	require.Equal(t, tcps.CodeTimestampGapTooLarge, rep.Code)
	require.Len(t, rep.MissingStages, 8)

	b.put(production("SKU-3", "shacl", "fail"))
	b.put(production("SKU-3", "shacl", "pass"))
	require.Equal(t, tcps.CodeIncomplete, verify("SKU-3").Code, "a retry after a failure is no duplicate")
	b.put(production("SKU-3", "shacl", "warning"))
	require.Equal(t, tcps.CodeDuplicateStages, verify("SKU-3").Code)

	d, err = b.VerifyDeterministic(b.ctx, "SKU-3")
	require.NoError(t, err)
	require.Equal(t, tcps.CodeIncomplete, d.Code)
	b.put(production("SKU-3", "deterministic", "fail"))
	d, err = b.VerifyDeterministic(b.ctx, "SKU-3")
	require.NoError(t, err)
	require.Equal(t, tcps.CodeNonDeterministic, d.Code)
	require.Equal(t, map[string]any{"log": "ok"}, d.Evidence)
	b.put(production("SKU-3", "deterministic", "pass"))
	d, err = b.VerifyDeterministic(b.ctx, "SKU-3")
	require.NoError(t, err)
	require.Equal(t, tcps.CodeDuplicateReceipts, d.Code)

	for in, field := range map[tcps.VerifyChainInput]string{{}: "sku_id", {SKUID: "a", WorkOrderID: "b"}: "sku_id", {SKUID: "a b"}: "sku_id", {WorkOrderID: "a b"}: "work_order_id"} {
		_, err := b.VerifyChain(b.ctx, in)
		var e *tcps.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, field, e.Field)
	}
	_, err = b.VerifyChain(b.ctx, tcps.VerifyChainInput{WorkOrderID: "WO-0"})
	refused(t, err, tcps.CodeWorkOrderNotFound, "")
	b.sound()
}

// forge changes a stored receipt and gives it a right checksum again, as an
// attacker who knows the format would.
func (b *bench) forge(id string, change func(doc map[string]any)) {
	b.t.Helper()
	var doc map[string]any
	require.NoError(b.t, json.Unmarshal(b.raw(tcps.TableReceipts, id), &doc))
	change(doc)
	b.corrupt(tcps.TableReceipts, id, seal(b.t, doc))
}

func TestVerificationFindsEachKindOfDamage(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	later := float64(time.Date(2026, 1, 27, 0, 0, 0, 0, time.UTC).UnixMilli())
	for _, c := range []struct {
		name   string
		damage func(b *bench, r tcps.Receipt)
		step   string
		code   tcps.Code
		chain  tcps.Code
	}{
		{"nothing", func(*bench, tcps.Receipt) {}, "", "", tcps.CodeIncomplete},
		{"evidence edited", func(b *bench, r tcps.Receipt) {
			raw := strings.Replace(string(b.raw(tcps.TableReceipts, r.ReceiptID)), `"log":"ok"`, `"log":"no"`, 1)
			b.corrupt(tcps.TableReceipts, r.ReceiptID, []byte(raw))
		}, tcps.StepChecksum, tcps.CodeChecksumMismatch, tcps.CodeInvalidReceipts},
		{"not JSON", func(b *bench, r tcps.Receipt) {
			b.corrupt(tcps.TableReceipts, r.ReceiptID, append([]byte(`{"receipt_type":"production","sku_id":"SKU-1","timestamp":1769421600001,`), 0xff))
		}, tcps.StepSchema, tcps.CodeMalformedDocument, tcps.CodeInvalidReceipts},
		{"forged with a new checksum", func(b *bench, r tcps.Receipt) {
			b.forge(r.ReceiptID, func(d map[string]any) { d["evidence"] = map[string]any{"log": "forged"} })
		}, tcps.StepPrevious, tcps.CodeChainHashMismatch, tcps.CodeInvalidReceipts},
		{"evidence removed", func(b *bench, r tcps.Receipt) {
			b.forge(r.ReceiptID, func(d map[string]any) { delete(d, "evidence") })
		}, tcps.StepSchema, tcps.CodeMissingRequiredField, tcps.CodeInvalidReceipts},
		{"previous removed from the store", func(b *bench, r tcps.Receipt) {
			b.corrupt(tcps.TableReceipts, r.PreviousReceipt, nil)
		}, tcps.StepPrevious, tcps.CodeMissingPrevious, tcps.CodeMissingPrevious},
		{"timestamp before the previous one", func(b *bench, r tcps.Receipt) {
			b.forge(r.ReceiptID, func(d map[string]any) { d["timestamp"] = 1000.0 })
		}, tcps.StepTimestamps, tcps.CodeNotChronological, tcps.CodeInvalidReceipts},
		{"timestamp in the future", func(b *bench, r tcps.Receipt) {
			b.forge(r.ReceiptID, func(d map[string]any) { d["timestamp"] = later })
		}, tcps.StepTimestamps, tcps.CodeFutureTimestamp, tcps.CodeInvalidReceipts},
		{"another version", func(b *bench, r tcps.Receipt) {
			b.forge(r.ReceiptID, func(d map[string]any) { d["receipt_version"] = "9" })
		}, tcps.StepSchema, tcps.CodeInvalidField, tcps.CodeInvalidReceipts},
		{"stored under another id", func(b *bench, r tcps.Receipt) {
			b.forge(r.ReceiptID, func(d map[string]any) { d["receipt_id"] = "somebody-else" })
		}, tcps.StepStorage, tcps.CodeInvalidReceipts, tcps.CodeInvalidReceipts},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := startWith(t, tcps.Options{SigningKey: private})
			b.put(production("SKU-1", "shacl", "pass"))
			r := b.put(production("SKU-1", "compile", "pass"))
			require.NotEmpty(t, r.Signature)
			c.damage(b, r)

			v, err := b.VerifyReceipt(b.ctx, r.ReceiptID)
			require.NoError(t, err)
			require.Equal(t, c.step == "", v.Valid)
			if c.step != "" {
				require.Contains(t, failures(v), c.step+" "+string(c.code))
			}
			tamper, err := b.CheckTampering(b.ctx, r.ReceiptID)
			require.NoError(t, err)
			require.Equal(t, c.step == "", tamper.Authentic)
			require.Contains(t, tamper.Evidence, "signature")

			rep, err := b.VerifyChain(b.ctx, tcps.VerifyChainInput{SKUID: "SKU-1"})
			require.NoError(t, err)
			require.Equal(t, c.chain, rep.Code, "%v", rep.Issues)

			all, err := b.VerifyAll(b.ctx)
			require.NoError(t, err)
			require.Equal(t, c.step == "", all.Valid, "%v", all.Findings)
		})
	}
}

func failures(v tcps.ReceiptVerification) []string {
	var out []string
	for _, s := range v.Steps {
		if !s.Passed {
			out = append(out, s.Name+" "+string(s.Code))
		}
	}
	return out
}

func TestSignaturesAreChecked(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	other, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	b := startWith(t, tcps.Options{SigningKey: private})
	r := b.put(production("SKU-1", "shacl", "pass"))
	state := func(l *tcps.Ledger) (bool, string) {
		rep, err := l.CheckTampering(b.ctx, r.ReceiptID)
		require.NoError(t, err)
		return rep.Authentic, rep.Evidence["signature"]
	}
	ok, s := state(b.Ledger)
	require.True(t, ok)
	require.Equal(t, "valid", s)
	noKey, err := tcps.New(b.store, tcps.Options{})
	require.NoError(t, err)
	ok, s = state(noKey)
	require.True(t, ok)
	require.Contains(t, s, "not checked")
	wrongKey, err := tcps.New(b.store, tcps.Options{VerifyKey: other})
	require.NoError(t, err)
	ok, s = state(wrongKey)
	require.False(t, ok)
	require.Equal(t, "invalid", s)
	all, err := wrongKey.VerifyAll(b.ctx)
	require.NoError(t, err)
	require.False(t, all.Valid)
	_, err = tcps.New(b.store, tcps.Options{SigningKey: private[:5]})
	require.Error(t, err)
	_, err = tcps.New(b.store, tcps.Options{VerifyKey: other[:5]})
	require.Error(t, err)
}

func TestBatchVerificationCounts(t *testing.T) {
	b := start(t)
	list := b.produce("SKU-1", time.Second)
	b.corrupt(tcps.TableReceipts, list[9].ReceiptID, []byte(`{"receipt_type":"production"}`))
	v, err := b.VerifyReceipts(b.ctx, []string{list[0].ReceiptID, list[9].ReceiptID, "nowhere"})
	require.NoError(t, err)
	require.Equal(t, 1, v.Valid)
	require.Equal(t, 3, v.Total)
	require.Len(t, v.Invalid, 2)
	require.Contains(t, failures(v.Invalid[1]), "storage_key receipt_not_found")
	_, err = b.VerifyReceipts(b.ctx, nil)
	refused(t, err, tcps.CodeMissingRequiredField, "receipt_ids")
	_, err = b.VerifyReceipts(b.ctx, make([]string, 1001))
	refused(t, err, tcps.CodeInvalidField, "receipt_ids")
	_, err = b.VerifyReceipt(b.ctx, "nowhere")
	refused(t, err, tcps.CodeReceiptNotFound, "")
	_, err = b.GetReceipt(b.ctx, "nowhere")
	refused(t, err, tcps.CodeReceiptNotFound, "")
}

func TestListReceipts(t *testing.T) {
	b := start(t)
	w := b.running(tcps.BucketFeatures)
	b.put(pipeline(w.ID, "pull"))
	b.produce("SKU-1", time.Second)
	a := b.andon("SKU-1")
	count := func(in tcps.ListReceiptsInput) int {
		n := 0
		for in.Limit = 3; ; {
			page, err := b.ListReceipts(b.ctx, in)
			require.NoError(t, err)
			n += len(page.Receipts)
			if in.Cursor = page.NextCursor; in.Cursor == "" {
				return n
			}
		}
	}
	require.Equal(t, 3, count(tcps.ListReceiptsInput{WorkOrderID: w.ID}))
	require.Equal(t, 1, count(tcps.ListReceiptsInput{WorkOrderID: w.ID, ReceiptType: "pipeline"}))
	require.Equal(t, 11, count(tcps.ListReceiptsInput{SKUID: "SKU-1"}))
	require.Equal(t, 10, count(tcps.ListReceiptsInput{SKUID: "SKU-1", Status: "pass"}))
	require.Equal(t, 1, count(tcps.ListReceiptsInput{SKUID: "SKU-1", Stage: "smoke_test"}))
	require.Equal(t, 1, count(tcps.ListReceiptsInput{Stage: "smoke_test"}))
	require.Equal(t, 1, count(tcps.ListReceiptsInput{AndonEventID: a.EventID}))
	require.Equal(t, 0, count(tcps.ListReceiptsInput{SKUID: "SKU-2"}))
	_, err := b.ListReceipts(b.ctx, tcps.ListReceiptsInput{})
	refused(t, err, tcps.CodeMissingRequiredField, "sku_id")
	_, err = b.ListReceipts(b.ctx, tcps.ListReceiptsInput{Stage: "lunch"})
	refused(t, err, tcps.CodeInvalidStage, "stage")
	_, err = b.ListReceipts(b.ctx, tcps.ListReceiptsInput{SKUID: "a b"})
	refused(t, err, tcps.CodeInvalidField, "sku_id")
}
