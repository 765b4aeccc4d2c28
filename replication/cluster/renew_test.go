package cluster

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/stretchr/testify/require"
)

// TestCertificateRenewsItselfInTime: after two thirds of its year, by the member's clock, and not before; on disk too.
func TestCertificateRenewsItselfInTime(t *testing.T) {
	for _, age := range []struct {
		months int
		due    bool
	}{{7, false}, {9, true}} {
		s := newSite(t, "n1")
		_, err := Init(s.dir, InitOptions{Name: "n1", Advertise: s.addr, Now: time.Now().AddDate(0, -age.months, 0)})
		require.NoError(t, err)
		first, err := trust.Load(filepath.Join(s.dir, Folder))
		require.NoError(t, err)
		s.run()
		s.db()
		if !age.due {
			require.Equal(t, first.Expires(), s.m.id.Expires(), "not yet")
			s.stop()
			continue
		}
		wait(t, "a new certificate", func() bool { return s.m.id.Expires().After(time.Now().AddDate(0, 11, 0)) })
		wait(t, "the new certificate on disk", func() bool {
			id, err := trust.Load(filepath.Join(s.dir, Folder))
			return err == nil && id.Expires().Equal(s.m.id.Expires())
		})
		require.Equal(t, first.Authority().ClusterID(), s.m.id.Authority().ClusterID())
		s.stop()
	}
}

// TestCertificatesThatEndSoonAreWarnedOf: with the days that are left, and what to do.
func TestCertificatesThatEndSoonAreWarnedOf(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	require.Empty(t, ends("it", now.Add(certificateSoon+time.Hour), now, certificateSoon, "do"))
	require.Equal(t, "it ends in 29 days, on 2026-07-01: do", ends("it", now.Add(certificateSoon-time.Hour), now, certificateSoon, "do"))
	require.Equal(t, "it ended on 2026-06-01: do", ends("it", now, now, certificateSoon, "do"))

	s := newSite(t, "n1")
	_, err := Init(s.dir, InitOptions{Name: "n1", Advertise: s.addr, Now: time.Now().AddDate(-99, -8, 0)})
	require.NoError(t, err)
	s.run()
	s.db()
	defer s.stop()
	_, _, warnings := s.m.Certificates()
	require.NotEmpty(t, warnings)
	require.Contains(t, warnings[len(warnings)-1], "the cluster's authority ends in 1")
	st, err := s.m.Status(t.Context())
	require.NoError(t, err)
	require.Contains(t, st.Warnings[len(st.Warnings)-1], "erlmcp cluster ca rotate")
}
