package node

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/wal"
)

// good are the vitals of a server that has nothing to complain about.
func good() vitals {
	return vitals{
		phase: admin.PhaseServing, store: engine.Stats{FreeDisk: 10 << 30}, minFreeDisk: 128 << 20, maxUnflushed: 256 << 20,
		memory: 40 << 20, ledger: &admin.Ledger{WorkInProgress: map[string]int{"security": 2}},
	}
}

func TestAServerWithoutTroubleIsHealthy(t *testing.T) {
	h := judge(good())
	require.Equal(t, admin.Green, h.Status)
	for _, name := range []string{"process", "wal", "store", "queue", "disk", "mcp", "kanban", "andon"} {
		require.Equal(t, admin.Green, h.Components[name].Status, name)
		require.NotEmpty(t, h.Components[name].Message, name)
	}
}

func TestEveryTroubleHasItsComponentAndLevel(t *testing.T) {
	for _, tc := range []struct {
		name      string
		change    func(*vitals)
		component string
		level     admin.Level
		message   string
	}{
		{"much memory", func(v *vitals) { v.memory = 500 << 20 }, "process", admin.Yellow, "500 MiB"},
		{"too much memory", func(v *vitals) { v.memory = 2 << 30 }, "process", admin.Red, "2048 MiB"},
		{"queue", func(v *vitals) { v.store.Pending = 100 }, "queue", admin.Yellow, "100 transactions waiting"},
		{"long queue", func(v *vitals) { v.store.Pending = 1001 }, "queue", admin.Red, "1001"},
		{"connections", func(v *vitals) { v.mcp = mcp.Stats{Sessions: 600, Streams: 400} }, "mcp", admin.Yellow, "600 sessions, 400 streams"},
		{"many connections", func(v *vitals) { v.mcp = mcp.Stats{Sessions: 5001} }, "mcp", admin.Red, "5001 sessions"},
		{"disk nearly full", func(v *vitals) { v.store.FreeDisk = 200 << 20 }, "disk", admin.Yellow, "writes stop below 128 MiB"},
		{"disk full", func(v *vitals) { v.store.FreeDisk = 1 << 20 }, "disk", admin.Red, "writes are refused, reads go on"},
		{"unflushed", func(v *vitals) { v.store.UnflushedBytes = 256 << 20 }, "store", admin.Yellow, "storage.max_unflushed"},
		{"store failed", func(v *vitals) { v.storeErr = errors.New("fsync: EIO") }, "store", admin.Red, "fsync: EIO"},
		{"log failed", func(v *vitals) { v.log = wal.Stats{Failed: true} }, "wal", admin.Red, "refused by the disk"},
		{"ledger unreadable", func(v *vitals) { v.ledger, v.ledgerErr = nil, errors.New("checksum_mismatch") }, "ledger", admin.Red, "checksum_mismatch"},
		{"over the limit", func(v *vitals) { v.ledger.OverLimit = []string{"security"} }, "kanban", admin.Yellow, "over the WIP limit: security"},
		{"critical andon", func(v *vitals) { v.ledger.OpenAndons, v.ledger.CriticalAndons = 3, 1 }, "andon", admin.Yellow, "3 open, 1 of them critical"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := good()
			tc.change(&v)
			h := judge(v)
			require.Equal(t, tc.level, h.Components[tc.component].Status)
			require.Contains(t, h.Components[tc.component].Message, tc.message)
			require.Equal(t, tc.level, h.Status, "the whole is as bad as its worst part")
		})
	}
}

func TestUnknownFreeSpaceIsNoTrouble(t *testing.T) {
	v := good()
	v.store.FreeDisk = math.MaxUint64
	require.Equal(t, admin.Green, judge(v).Components["disk"].Status)
}

func TestOpenAndonsThatAreNotCriticalDoNotDegrade(t *testing.T) {
	v := good()
	v.ledger.OpenAndons = 4
	require.Equal(t, admin.Green, judge(v).Status)
}

func TestRecoveringAndStoppingAreNotJudgedByMissingParts(t *testing.T) {
	for _, phase := range []admin.Phase{admin.PhaseRecovering, admin.PhaseStopping} {
		h := judge(vitals{phase: phase})
		require.Equal(t, admin.Yellow, h.Status)
		require.Len(t, h.Components, 2)
	}
}

func TestAddressesOfAllInterfacesBecomeReachable(t *testing.T) {
	require.Equal(t, "127.0.0.1:8080", reachable("0.0.0.0:8080"))
	require.Equal(t, "127.0.0.1:8080", reachable("[::]:8080"))
	require.Equal(t, "[::1]:8080", reachable("[::1]:8080"))
	require.Equal(t, "10.0.0.1:80", reachable("10.0.0.1:80"))
	require.True(t, isLoopback("127.0.0.1"))
	require.True(t, isLoopback("localhost"))
	require.False(t, isLoopback("0.0.0.0"))
	require.False(t, isLoopback("10.0.0.1"))
}

func TestBackupsOfWhichNobodyKnowsWhetherTheyRestoreAreRedButTheServerStays(t *testing.T) {
	v := good()
	v.now, v.maxProofAge, v.drills = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), 35*24*time.Hour, true
	v.backup = &backup.Status{Since: v.now.AddDate(0, -6, 0), LastProof: v.now.Add(-34 * 24 * time.Hour)}
	require.Equal(t, admin.Green, judge(v).Components["backup"].Status)
	v.backup.LastProof = v.now.Add(-36 * 24 * time.Hour)
	h := judge(v)
	require.Equal(t, admin.Red, h.Components["backup"].Status)
	require.Contains(t, h.Components["backup"].Message, "no restore was proven for 36 days; run erlmcp drill")
	require.Equal(t, admin.Yellow, h.Status, "no balancer takes a server out because of its backups")
	v.backup.LastProof = time.Time{}
	require.Equal(t, admin.Red, judge(v).Components["backup"].Status, "never proven, for longer than that")
	v.drills = false
	require.Equal(t, admin.Green, judge(v).Components["backup"].Status, "the drills were switched off")
	v.backup.Jobs = []backup.JobState{{Job: "full", Runs: 3, InARow: 2, Last: backup.Run{Result: "the line is cut"}}}
	h = judge(v)
	require.Equal(t, admin.Yellow, h.Components["backup"].Status)
	require.Contains(t, h.Components["backup"].Message, "full failed 2 times in a row: the line is cut")
}

func TestCertificatesThatEndAreToldOf(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	v := good()
	v.now = now
	require.NotContains(t, judge(v).Components, "certificates", "a single node has none")
	v.certificates = &certificates{own: now.AddDate(0, 6, 0), authority: now.AddDate(90, 0, 0)}
	require.Equal(t, admin.Green, judge(v).Components["certificates"].Status)
	require.Contains(t, judge(v).Components["certificates"].Message, "ends in 183 days")
	v.certificates.warnings = []string{"the certificate of n1 ends in 20 days"}
	require.Equal(t, admin.Yellow, judge(v).Components["certificates"].Status)
	v.certificates.own = now
	require.Equal(t, admin.Red, judge(v).Components["certificates"].Status, "no new connection can be made")
	v.phase = admin.PhaseRecovering
	require.Equal(t, admin.Red, judge(v).Components["certificates"].Status, "and this may be why it waits")
}
