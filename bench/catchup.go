package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/erlmcp/erlmcp/bench/clusters"
	"github.com/erlmcp/erlmcp/bench/report"
)

// catchupRun is one run of the command catchup.
type catchupRun struct {
	*common
	mib  int
	size int
}

func runCatchup(args []string) error {
	r := &catchupRun{common: newCommon("catchup", []string{"erlmcp", "raft-wal", "raft-boltdb", "etcd"}, 3, args)}
	r.flags.IntVar(&r.mib, "mib", 128, "MiB of new rows that the follower misses; they are all there is")
	r.flags.IntVar(&r.size, "size", 1024, "bytes of a row")
	cleanup, err := r.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return err
	}
	if r.mib < 1 || r.size < 16 {
		return fmt.Errorf("-mib must be at least 1, -size at least 16")
	}
	kinds, err := clusters.Pick(r.names())
	if err != nil {
		return err
	}
	type way struct {
		kind      string
		snapshots bool
	}
	all := map[way][]time.Duration{}
	for rep := range r.reps {
		for _, k := range kinds {
			for _, snapshots := range []bool{false, true} {
				d, err := r.once(k.Name, snapshots, rep)
				if err != nil {
					return err
				}
				all[way{k.Name, snapshots}] = append(all[way{k.Name, snapshots}], d)
			}
		}
		fmt.Fprintf(os.Stderr, "catchup: repetition %d of %d done\n", rep+1, r.reps)
	}
	t := report.NewTable("cluster", "from the log: s", "MB/s", "from a snapshot: s", "MB/s")
	rate := func(d time.Duration) string {
		return fmt.Sprintf("%.0f", float64(r.mib)*(1<<20)/1e6/d.Seconds())
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }
	for _, k := range kinds {
		log, state := report.Median(all[way{k.Name, false}]), report.Median(all[way{k.Name, true}])
		t.Row(k.Name, seconds(log), rate(log), seconds(state), rate(state))
	}
	return r.finish(fmt.Sprintf("A follower that missed %d MiB of rows of %d bytes, from the start of its process until it has applied what the leader has; nothing is written meanwhile; %d repetitions, medians.\n\n%s",
		r.mib, r.size, r.reps, t))
}

// once lets a follower miss everything and measures how long it needs.
func (r *catchupRun) once(kind string, snapshots bool, rep int) (time.Duration, error) {
	dir := filepath.Join(r.dir, fmt.Sprintf("catchup-%v-%d", snapshots, rep))
	defer os.RemoveAll(dir)
	unix.Sync()
	p, err := startCluster(kind, dir, func(o *clusters.Options) { o.Snapshots = snapshots })
	if err != nil {
		return 0, err
	}
	defer p.kill()
	leader, err := p.settled()
	if err != nil {
		return 0, err
	}
	late := (leader + 1) % clusterSize
	p.down(late, false)
	rows := order{Do: "fill", Writers: 64, Size: r.size, Count: r.mib << 20 / r.size, Seed: r.seed}
	if _, err := p.members[leader].do(rows); err != nil {
		return 0, err
	}
	if snapshots { // and a few rows behind it, so that there is something to follow
		if _, err := p.members[leader].do(order{Do: "compact"}); err != nil {
			return 0, err
		}
		if _, err := p.members[leader].do(order{Do: "fill", Writers: 1, Size: r.size, Count: 10, From: rows.Count, Seed: r.seed}); err != nil {
			return 0, err
		}
	}
	unix.Sync()
	began := time.Now()
	if err := p.up(late); err != nil {
		return 0, err
	}
	if _, err := p.settled(); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, p.check(late, rows)
}

// check sees to it that what came was the rows: the members are equally far, and
// what the late one holds on the disk is about as much.
func (p *clusterProc) check(late int, rows order) error {
	states, err := p.states()
	if err != nil {
		return err
	}
	for i, s := range states {
		if s.Applied < uint64(rows.Count) {
			return fmt.Errorf("%s: member %d has applied only %d of %d writes", p.kind, i, s.Applied, rows.Count)
		}
	}
	if strings.HasPrefix(p.kind, "raft-") {
		return nil // its rows are in memory
	}
	used, err := usedMB(p.options[late].Dir)
	if err == nil && used < float64(rows.Count*rows.Size>>20)/4 {
		err = fmt.Errorf("%s: the late member holds only %.0f MiB", p.kind, used)
	}
	return err
}
