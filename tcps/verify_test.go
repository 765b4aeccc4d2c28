package tcps_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

// forgeAt changes a stored document of any table and gives it a right checksum.
func (b *bench) forgeAt(table, key string, change func(doc map[string]any)) {
	b.t.Helper()
	var doc map[string]any
	require.NoError(b.t, json.Unmarshal(b.raw(table, key), &doc))
	change(doc)
	b.corrupt(table, key, seal(b.t, doc))
}

// changeKeys returns the keys of the change log that begin with a prefix.
func (b *bench) changeKeys(prefix string) []string {
	b.t.Helper()
	var keys []string
	require.NoError(b.t, b.store.View(context.Background(), func(tx *engine.Tx) error {
		return tx.Scan(tcps.TableChanges, engine.Prefix([]byte(prefix)), func(k, _ []byte) bool {
			keys = append(keys, string(k))
			return true
		})
	}))
	return keys
}

// scene is a small ledger in which every kind of document occurs.
type scene struct {
	*bench
	dep, blocked, stopped, done tcps.WorkOrder
	event                       tcps.Andon
	pull, plan                  tcps.Receipt
}

func newScene(t *testing.T) *scene {
	s := &scene{bench: start(t)}
	s.dep = s.running(tcps.BucketFeatures)
	s.blocked = s.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.Dependencies = []string{s.dep.ID} })
	s.stopped = s.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	s.event = s.andon("SKU-1")
	s.pull, s.plan = s.put(pipeline(s.dep.ID, "pull")), s.put(pipeline(s.dep.ID, "plan"))
	_, err := s.SetWIPLimit(s.ctx, tcps.SetWIPLimitInput{Bucket: "cost", Limit: 1})
	require.NoError(t, err)
	s.done = s.running(tcps.BucketCost)
	s.complete(s.done.ID, "SKU-2")
	s.sound()
	return s
}

func TestVerifyAllFindsEachKindOfDamage(t *testing.T) {
	set := func(key string, value any) func(map[string]any) {
		return func(d map[string]any) { d[key] = value }
	}
	for _, c := range []struct {
		name   string
		damage func(s *scene)
		check  string
		text   string
	}{
		{"an order is not JSON", func(s *scene) { s.corrupt(tcps.TableWorkOrders, s.dep.ID, []byte("{")) }, tcps.CheckJSON, "not JSON"},
		{"an order has a member of the wrong type", func(s *scene) {
			s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("priority", "urgent"))
		}, tcps.CheckJSON, "does not decode"},
		{"an order is stored under another id", func(s *scene) { s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("id", "WO-9")) }, tcps.CheckJSON, "calls itself"},
		{"an order was edited", func(s *scene) {
			raw := strings.Replace(string(s.raw(tcps.TableWorkOrders, s.dep.ID)), `"priority":4`, `"priority":6`, 1)
			s.corrupt(tcps.TableWorkOrders, s.dep.ID, []byte(raw))
		}, tcps.CheckChecksums, "altered"},
		{"an order lost its checksum", func(s *scene) {
			var doc map[string]any
			require.NoError(s.t, json.Unmarshal(s.raw(tcps.TableWorkOrders, s.dep.ID), &doc))
			delete(doc, "checksum")
			raw, _ := json.Marshal(doc)
			s.corrupt(tcps.TableWorkOrders, s.dep.ID, raw)
		}, tcps.CheckChecksums, "no checksum"},
		{"an order is gone", func(s *scene) { s.corrupt(tcps.TableWorkOrders, s.dep.ID, nil) }, tcps.CheckChanges, "it is gone"},
		{"an order that others need is gone", func(s *scene) { s.corrupt(tcps.TableWorkOrders, s.dep.ID, nil) }, tcps.CheckReferences, "dependency"},
		{"an order was rolled back", func(s *scene) {
			s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("revision", 1))
		}, tcps.CheckChanges, "rolled back"},
		{"an order was changed without the ledger", func(s *scene) {
			s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("revision", 99))
		}, tcps.CheckChanges, "has 4 entries"},
		{"an order came from nowhere", func(s *scene) {
			var doc map[string]any
			require.NoError(s.t, json.Unmarshal(s.raw(tcps.TableWorkOrders, s.dep.ID), &doc))
			doc["id"] = "WO-9"
			s.corrupt(tcps.TableWorkOrders, "WO-9", seal(s.t, doc))
		}, tcps.CheckChanges, "has 0 entries"},
		{"unknown status", func(s *scene) { s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("status", "asleep")) }, tcps.CheckReferences, "unknown"},
		{"unknown bucket", func(s *scene) { s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("bucket", "kitchen")) }, tcps.CheckReferences, "unknown"},
		{"priority out of range", func(s *scene) { s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("priority", 11)) }, tcps.CheckReferences, "1..10"},
		{"blocked by nothing", func(s *scene) { s.forgeAt(tcps.TableWorkOrders, s.blocked.ID, set("blocked_by", []any{})) }, tcps.CheckReferences, "blocked by nothing"},
		{"started in spite of a dependency", func(s *scene) {
			s.forgeAt(tcps.TableWorkOrders, s.blocked.ID, set("status", "in_progress"))
		}, tcps.CheckReferences, "in spite of"},
		{"dependency finished but still blocking", func(s *scene) {
			s.forgeAt(tcps.TableWorkOrders, s.dep.ID, set("status", "completed"))
		}, tcps.CheckReferences, "blocked_by is"},
		{"event resolved but still blocking", func(s *scene) {
			s.forgeAt(tcps.TableAndons, s.event.EventID, set("status", "resolved"))
		}, tcps.CheckReferences, "still blocks"},
		{"resolved without a resolution", func(s *scene) {
			s.forgeAt(tcps.TableAndons, s.event.EventID, set("status", "closed"))
		}, tcps.CheckReferences, "does not agree"},
		{"blocking event is gone", func(s *scene) { s.corrupt(tcps.TableAndons, s.event.EventID, nil) }, tcps.CheckReferences, "cannot be read"},
		{"an event names an order that never was", func(s *scene) {
			s.forgeAt(tcps.TableAndons, s.event.EventID, set("work_order_id", "WO-9"))
		}, tcps.CheckReferences, "WO-9 does not exist"},
		{"an event is not JSON", func(s *scene) { s.corrupt(tcps.TableAndons, s.event.EventID, []byte("x")) }, tcps.CheckJSON, "not JSON"},
		{"a receipt is gone", func(s *scene) { s.corrupt(tcps.TableReceipts, s.pull.ReceiptID, nil) }, tcps.CheckChanges, "it is gone"},
		{"a receipt of an order is gone", func(s *scene) { s.corrupt(tcps.TableReceipts, s.pull.ReceiptID, nil) }, tcps.CheckReferences, "receipt"},
		{"the predecessor of a receipt is gone", func(s *scene) { s.corrupt(tcps.TableReceipts, s.pull.ReceiptID, nil) }, tcps.CheckChains, "step previous"},
		{"an event's receipt is gone", func(s *scene) { s.corrupt(tcps.TableReceipts, s.event.Receipts[0], nil) }, tcps.CheckReferences, "receipt"},
		{"a receipt names an event that never was", func(s *scene) {
			s.forgeAt(tcps.TableReceipts, s.event.Receipts[0], set("andon_event_id", "ANDON-9"))
		}, tcps.CheckReferences, "ANDON-9"},
		{"a chain forks", func(s *scene) {
			s.forgeAt(tcps.TableReceipts, s.plan.ReceiptID, func(d map[string]any) { delete(d, "previous_receipt") })
		}, tcps.CheckChains, "same predecessor"},
		{"a WIP limit was edited", func(s *scene) {
			raw := strings.Replace(string(s.raw(tcps.TableWIPLimits, "cost")), `"limit":1`, `"limit":9`, 1)
			s.corrupt(tcps.TableWIPLimits, "cost", []byte(raw))
		}, tcps.CheckChecksums, "altered"},
		{"a WIP limit is gone", func(s *scene) { s.corrupt(tcps.TableWIPLimits, "cost", nil) }, tcps.CheckChanges, "it is gone"},
		{"a change-log entry is gone", func(s *scene) {
			s.corrupt(tcps.TableChanges, s.changeKeys("work_order\x00" + s.dep.ID)[1], nil)
		}, tcps.CheckChanges, "has 3 entries"},
		{"a change-log entry was edited", func(s *scene) {
			k := s.changeKeys("work_order\x00" + s.dep.ID)[1]
			s.corrupt(tcps.TableChanges, k, []byte(strings.Replace(string(s.raw(tcps.TableChanges, k)), "tester", "nobody", 1)))
		}, tcps.CheckChecksums, "altered"},
		{"a change-log entry was moved", func(s *scene) {
			k := s.changeKeys("work_order\x00" + s.dep.ID)[1]
			s.corrupt(tcps.TableChanges, k+"x", s.raw(tcps.TableChanges, k))
		}, tcps.CheckJSON, "calls itself"},
		{"a change-log entry of an unknown entity", func(s *scene) {
			k := s.changeKeys("work_order\x00" + s.dep.ID)[1]
			var doc map[string]any
			require.NoError(s.t, json.Unmarshal(s.raw(tcps.TableChanges, k), &doc))
			doc["entity"] = "spoon"
			s.corrupt(tcps.TableChanges, strings.Replace(k, "work_order", "spoon", 1), seal(s.t, doc))
		}, tcps.CheckChanges, "unknown"},
		{"a deletion that did not happen", func(s *scene) {
			keys := s.changeKeys("work_order\x00" + s.dep.ID)
			s.forgeAt(tcps.TableChanges, keys[len(keys)-1], set("action", "deleted"))
		}, tcps.CheckChanges, "was deleted at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			c.damage(s)
			rep, err := s.VerifyAll(s.ctx)
			require.NoError(t, err)
			require.False(t, rep.Valid)
			require.False(t, rep.Checks[c.check].Passed, "%v", rep.Findings)
			found := false
			for _, f := range rep.Findings {
				require.NotEmpty(t, f.Message)
				require.NotEmpty(t, f.Advice)
				found = found || f.Check == c.check && strings.Contains(f.Message, c.text)
			}
			require.True(t, found, "want %q among %v", c.text, rep.Findings)
		})
	}
}

func TestVerifyAllCountsWhatItRead(t *testing.T) {
	s := newScene(t)
	rep := s.sound()
	require.Greater(t, rep.FilesChecked, 20)
	for _, c := range tcps.Checks() {
		require.True(t, rep.Checks[c].Passed)
		require.NotZero(t, rep.Checks[c].Checked, c)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.VerifyAll(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestFindingsAreBounded(t *testing.T) {
	b := start(t)
	_, err := b.store.Update(b.ctx, func(tx *engine.Tx) error {
		for i := range 1100 {
			if err := tx.Put(tcps.TableReceipts, []byte{'r', byte(i >> 8), byte(i)}, []byte("rubbish")); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
	rep, err := b.VerifyAll(b.ctx)
	require.NoError(t, err)
	require.Len(t, rep.Findings, 1000)
	require.Equal(t, 100, rep.Omitted)
}

func TestReadingADamagedDocumentNamesIt(t *testing.T) {
	s := newScene(t)
	raw := strings.Replace(string(s.raw(tcps.TableWorkOrders, s.dep.ID)), `"priority":4`, `"priority":6`, 1)
	s.corrupt(tcps.TableWorkOrders, s.dep.ID, []byte(raw))
	for name, call := range map[string]func() error{
		"get": func() error { _, err := s.GetWorkOrder(s.ctx, s.dep.ID); return err },
		"complete": func() error {
			_, err := s.CompleteWorkOrder(s.ctx, tcps.CompleteWorkOrderInput{ID: s.dep.ID, SKUID: "SKU-5"})
			return err
		},
		"list": func() error { _, err := s.ListWorkOrders(s.ctx, tcps.ListWorkOrdersInput{}); return err },
		"depend": func() error {
			_, err := s.AddDependency(s.ctx, tcps.AddDependencyInput{ID: s.blocked.ID, DependsOn: s.dep.ID})
			return err
		},
	} {
		err := call()
		if name == "depend" {
			require.NoError(t, err, "nothing to do, nothing to read")
			continue
		}
		e := refused(t, err, tcps.CodeChecksumMismatch, "")
		require.Contains(t, e.Message, s.dep.ID, name)
		require.Contains(t, e.Message, "erlmcp verify")
		require.Equal(t, tcps.TableWorkOrders, e.Details["table"])
	}
}
