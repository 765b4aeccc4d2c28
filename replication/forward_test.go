package replication

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/stretchr/testify/require"
)

func forwardingFleet(t *testing.T, n int) *fleet {
	f := newFleet(t, n, nil)
	f.forward = true
	return f.startAll()
}

func view(s *engine.Store, key string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var v []byte
	err := s.View(ctx, func(tx *engine.Tx) (err error) {
		v, err = tx.Get("t", []byte(key))
		return err
	})
	return string(v), err
}

func TestEveryMemberTakesWritesAndCurrentReads(t *testing.T) {
	f := forwardingFleet(t, 3)
	want := map[string]string{}
	for i := range 10 {
		for j, p := range f.peers {
			k := fmt.Sprintf("k%d-%d", i, j)
			_, err := put(p.store, k, "v")
			require.NoError(t, err, "on %s", p.id)
			require.Equal(t, "v", local(p.store, k), "its own write, without asking anybody")
			for _, o := range f.peers {
				v, err := view(o.store, k)
				require.NoError(t, err)
				require.Equal(t, "v", v, "written on %s, read on %s", p.id, o.id)
			}
			want[k] = "v"
		}
	}
	f.converge(want)
}

// increment adds one on any store; it says whether the addition was certainly done.
func increment(s *engine.Store) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := s.Update(ctx, func(tx *engine.Tx) error {
		n := 0
		v, err := tx.Get("t", []byte("sum"))
		if err == nil {
			n, err = strconv.Atoi(string(v))
		}
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			return err
		}
		return tx.Put("t", []byte("sum"), strconv.AppendInt(nil, int64(n+1), 10))
	}, engine.WithMaxTries(10000))
	return err
}

func TestWritesOnFollowersHappenOnceWhileLeadersDieAndStreamsBreak(t *testing.T) {
	f := forwardingFleet(t, 3)
	require.NoError(t, increment(f.peers[0].store))
	f.leader()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	sure, maybe := 1, 0
	for w := range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				f.mu.Lock()
				s := f.peers[(w+i)%3].store
				f.mu.Unlock()
				if s == nil {
					continue
				}
				err := increment(s)
				mu.Lock()
				switch {
				case err == nil:
					sure++
				case nothingWritten(err), errors.Is(err, engine.ErrUnavailable):
				default:
					maybe++
				}
				mu.Unlock()
			}
		}()
	}
	for round := range 4 {
		for _, p := range f.peers { // the streams break, the members do not
			f.unplug(p.id, true)
			f.unplug(p.id, false)
		}
		time.Sleep(50 * time.Millisecond)
		l := f.leader()
		if round%2 == 0 {
			f.crash(l, vfs.CrashCloneCfg{})
			f.leader()
			f.start(l)
		} else {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = l.node.HandOver(ctx)
			cancel()
		}
	}
	close(stop)
	wg.Wait()
	v, err := view(f.leader().store, "sum")
	require.NoError(t, err)
	got, err := strconv.Atoi(v)
	require.NoError(t, err)
	t.Logf("%d acknowledged, %d unknown, sum %d", sure, maybe, got)
	require.GreaterOrEqual(t, got, sure, "an acknowledged write is missing")
	require.LessOrEqual(t, got, sure+maybe, "a write happened twice")
	f.converge(nil)
}

func TestFollowerFindsOutWhatBecameOfAWriteWhenTheLeaderDies(t *testing.T) {
	f := forwardingFleet(t, 3)
	f.put("k", "v")
	unknown := 0
	for round := range 3 {
		l, p := f.leader(), f.follower()
		results := make(chan error, 20)
		for i := range cap(results) {
			go func() {
				_, err := put(p.store, fmt.Sprintf("r%d-%d", round, i), "v")
				results <- err
			}()
		}
		f.crash(l, vfs.CrashCloneCfg{})
		for range cap(results) {
			if err := <-results; err != nil {
				require.ErrorIs(t, err, engine.ErrUnknownOutcome)
				t.Log(err)
				unknown++
			}
		}
		f.start(l)
	}
	require.Zero(t, unknown, "the other two were there all the time and could have found out")
	want := map[string]string{}
	for round := range 3 {
		for i := range 20 {
			want[fmt.Sprintf("r%d-%d", round, i)] = "v"
		}
	}
	f.converge(want)
}

func TestMinorityRefusesClearlyAndNamesWhoItHeardFrom(t *testing.T) {
	f := forwardingFleet(t, 3)
	f.put("k", "old")
	f.converge(nil)
	p := f.follower()
	_, err := put(p.store, "k2", "v")
	require.NoError(t, err)
	l := f.leader()
	f.isolate(p)
	f.eventually("its noticing", func() bool { return p.node.Status().Leader == "" }) // until then it sends into the void
	_, err = put(p.store, "k", "lost")
	require.ErrorIs(t, err, engine.ErrUnavailable)
	require.NotErrorIs(t, err, engine.ErrUnknownOutcome)
	require.Contains(t, err.Error(), "last heard from "+l.id)
	require.Contains(t, err.Error(), "nothing was written")
	_, err = view(p.store, "k")
	require.ErrorIs(t, err, engine.ErrUnavailable)
	require.Equal(t, "old", local(p.store, "k"), "a stale read on request")
	f.join(p)
	f.converge(map[string]string{"k": "old"})
}

func TestForwardingRefusesStrangersAndNonsense(t *testing.T) {
	f := forwardingFleet(t, 3)
	f.put("k", "v")
	l := f.leader()
	talk := func(member string, send ...[]byte) (frame, error) {
		here, there := net.Pipe()
		defer here.Close()
		ended := make(chan error, 1)
		go func() { ended <- l.node.ServeForward(member, there) }()
		go func() {
			for _, b := range send {
				_, _ = here.Write(b)
			}
		}()
		require.NoError(t, here.SetReadDeadline(time.Now().Add(patience)))
		fr := newFrames(here)
		for {
			x, err := fr.read()
			if err != nil || x.kind != frameWelcome {
				return x, err
			}
		}
	}
	raw := func(kind byte, id uint64, payload []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(9+len(payload)))
		b = append(b, kind)
		b = binary.BigEndian.AppendUint64(b, id)
		return append(b, payload...)
	}
	boot := bytes.Repeat([]byte{7}, bootBytes)
	for name, c := range map[string]struct {
		member string
		hello  []byte
		text   string
	}{
		"not a member":    {"", raw(frameHello, 1, append(bytes.Clone(boot), "n9"...)), "n9 is not a member"},
		"false name":      {"n1", raw(frameHello, 1, append(bytes.Clone(boot), "n2"...)), "n1 says that it is n2"},
		"newer protocol":  {"", raw(frameHello, 2, append(bytes.Clone(boot), "n1"...)), "protocol 2"},
		"asks a follower": {"", nil, ""},
	} {
		if c.hello == nil {
			continue
		}
		x, err := talk(c.member, c.hello)
		require.NoError(t, err, name)
		require.Equal(t, frameReject, x.kind, name)
		require.Contains(t, string(x.payload), c.text)
	}
	hello := raw(frameHello, 1, append(bytes.Clone(boot), f.follower().id...))
	for _, bad := range [][]byte{raw(99, 1, nil), {0, 0, 0, 1, 2}, {0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9}} {
		_, err := talk("", hello, bad)
		require.Error(t, err)
	}
	require.NoError(t, l.node.Err())
}
