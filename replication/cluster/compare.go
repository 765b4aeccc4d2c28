package cluster

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// compare asks the others, once a second, for the state hash at the index this member has just applied, and how far back the
// leader's log reaches. A member that a majority of the voters contradicts, all with the same hash, is wrong: equal log,
// equal state. It says so, stops and is rebuilt. Two members that contradict each other without a majority can only say so.
func (m *Member) compare(ctx context.Context) {
	behind := 0
	for {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
		node, store, err := m.opened()
		if err != nil {
			continue
		}
		s := node.Status()
		var others []raft.Server
		voters := 0
		for _, p := range s.Members {
			if p.Suffrage == raft.Voter {
				voters++
			}
			if string(p.ID) != m.name {
				others = append(others, p)
			}
		}
		index, mine := store.StateHash()
		if len(others) == 0 || index == 0 {
			continue
		}
		if m.leftBehind(ctx, s.LeaderAddress, s.LastIndex) {
			if behind++; behind >= 3 {
				m.RebuildNow(fmt.Sprintf("the leader's log no longer reaches back to entry %d", s.LastIndex))
				return
			}
		} else {
			behind = 0
		}
		if m.replace(ctx, s, store.Damaged()) {
			return
		}
		if other, agree := m.contradicted(ctx, others, index, mine); agree > voters/2 {
			m.RebuildNow(fmt.Sprintf("at entry %d this member's state is %x, that of %d others is %x", index, mine[:8], agree, other[:8]))
			return
		} else if agree > 0 {
			m.log.Error("members contradict each other about the state and there is no majority to say who is wrong; run erlmcp verify on all of them",
				"index", index, "here", fmt.Sprintf("%x", mine[:8]), "there", fmt.Sprintf("%x", other[:8]))
		}
	}
}

// RebuildNow gives up the store: Rebuild is closed, and the next Start fetches the state from another member.
func (m *Member) RebuildNow(reason string) {
	m.log.Error("this member stops serving and fetches its state from another one", "reason", reason)
	m.wantRebuild(reason)
}

// leftBehind reports whether the leader cannot continue this member's log.
func (m *Member) leftBehind(ctx context.Context, leader string, last uint64) bool {
	if leader == "" || leader == m.advertise {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var a pong
	if err := m.tell(ctx, leader, "/ping", struct{}{}, &a); err != nil || a.State != "Leader" {
		return false
	}
	return a.First > last
}

// contradicted returns the hash that most others have instead of ours, and how many voters.
func (m *Member) contradicted(ctx context.Context, others []raft.Server, index uint64, mine [32]byte) (hash []byte, voters int) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	type answer struct {
		voter bool
		got   hashAnswer
	}
	answers := make(chan answer, len(others))
	for _, p := range others {
		go func() {
			a := answer{voter: p.Suffrage == raft.Voter}
			if m.tell(ctx, string(p.Address), "/hash", hashAsk{Index: index}, &a.got) != nil {
				a.got.Known = false
			}
			answers <- a
		}()
	}
	count := map[string]int{}
	for range others {
		a := <-answers
		if a.voter && a.got.Known && !bytes.Equal(a.got.Hash, mine[:]) {
			count[string(a.got.Hash)]++
		}
	}
	for h, n := range count {
		if n > voters {
			hash, voters = []byte(h), n
		}
	}
	return hash, voters
}
