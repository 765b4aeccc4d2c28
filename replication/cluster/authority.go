package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/hashicorp/raft"
)

// The authority is replaced while everything goes on:
//
//	introduce   the leader makes a new authority; every member trusts both, voters fetch its key from each other (never through
//	            the replicated store, which ends in backups)
//	issue       when all members have said that they do: every member gets a certificate of the new one
//	done        when all members have: the old one is trusted no more
//
// The leader moves the one replicated row from phase to phase; each member makes its own files follow the row (follow) and says so
// in a row of its own. A crash anywhere leaves rows and files from which both go on.

// tableAuthority has the row "rotation", and "member/NAME" -> phase and fingerprint that the member's files follow.
const tableAuthority = "cluster_authority"

var rotationRow = []byte("rotation")

// Phases of a rotation.
const (
	phaseIntroduce = "introduce"
	phaseIssue     = "issue"
	phaseDone      = "done"
)

// rotation is the row "rotation".
type rotation struct {
	Phase   string    `json:"phase"`
	ID      string    `json:"id"`   // of the new authority
	Cert    []byte    `json:"cert"` // its certificate
	Old     string    `json:"old"`
	Began   time.Time `json:"began"`
	Without bool      `json:"without,omitempty"` // do not wait for members that cannot be reached
}

func (r *rotation) running() bool { return r != nil && r.Phase != phaseDone }

// rotationOf reads the row and what the members said, as this member has them. nil: there never was one.
func rotationOf(ctx context.Context, store *engine.Store) (r *rotation, said map[string]string, err error) {
	said = map[string]string{}
	err = store.ViewLocal(ctx, func(tx *engine.Tx) error {
		var bad error
		err := tx.Scan(tableAuthority, engine.Range{}, func(k, v []byte) bool {
			if string(k) == string(rotationRow) {
				r = new(rotation)
				bad = json.Unmarshal(v, r)
			} else {
				said[string(k)] = string(v)
			}
			return bad == nil
		})
		return errors.Join(err, bad)
	})
	return r, said, err
}

func saidKey(name string) string { return "member/" + name }

// word is what a member says when it has followed.
func (r *rotation) word() string { return r.Phase + " " + r.ID }

func (r *rotation) put(tx *engine.Tx) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tx.Put(tableAuthority, rotationRow, raw)
}

func (m *Member) updateAuthority(ctx context.Context, store *engine.Store, fn func(*engine.Tx) error) error {
	_, err := store.Update(internal(ctx), fn, engine.WithActor("cluster:"+m.name), engine.WithLabel("cluster authority"))
	return err
}

// beginRotation carries out the order; only a leader is asked. finish: go on with the one that runs, without the members that
// cannot be reached.
func (m *Member) beginRotation(ctx context.Context, store *engine.Store, finish bool) error {
	m.rotating.Lock()
	defer m.rotating.Unlock()
	if err := store.View(ctx, func(*engine.Tx) error { return nil }); err != nil { // so that the rows are those of now
		return err
	}
	r, _, err := rotationOf(ctx, store)
	if err != nil {
		return err
	}
	switch {
	case finish && !r.running():
		return &refused{text: "no rotation of the authority is under way"}
	case finish:
		r.Without = true
		return m.updateAuthority(ctx, store, r.put)
	case r.running():
		return &refused{text: fmt.Sprintf("the authority is being rotated already, since %s (%s); erlmcp cluster status says who is waited for", r.Began.Format(time.RFC3339), r.Phase)}
	}
	now := m.o.Now()
	next, err := trust.NewAuthority(now)
	if err != nil {
		return err
	}
	// Its key must be on a disk before anybody relies on it.
	old := m.id.Authority()
	if err := m.trust(old, next); err != nil {
		return err
	}
	r = &rotation{Phase: phaseIntroduce, ID: next.ClusterID(), Cert: next.Cert.Raw, Old: old.ClusterID(), Began: now.UTC()}
	if err := m.updateAuthority(ctx, store, r.put); err != nil {
		return err
	}
	m.note(Event{Kind: "authority", Old: r.Old, New: r.ID, Reason: "a new one is introduced, by an operator"})
	return nil
}

// trust changes whom this member trusts, on disk first of all.
func (m *Member) trust(list ...*trust.Authority) error {
	was := m.id.Trusted()
	if err := m.id.Trust(list...); err != nil {
		return err
	}
	if err := m.id.Save(filepath.Join(m.dir, Folder)); err != nil {
		return errors.Join(err, m.id.Trust(was...))
	}
	return nil
}

// authorities keeps this member's files where the rotation is, until ctx ends.
func (m *Member) authorities(ctx context.Context) {
	said := ""
	for {
		if node, store, err := m.opened(); err == nil {
			err = m.follow(ctx, node, store)
			if err == nil && node.IsLeader() {
				err = m.advance(ctx, node, store)
			}
			if err != nil && ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				m.log.Warn("rotation of the cluster's authority: trying again", "error", err)
			}
		}
		select {
		case <-time.After(round):
		case <-ctx.Done():
			return
		}
	}
}

// follow does what the phase asks of this member.
func (m *Member) follow(ctx context.Context, node *replication.Node, store *engine.Store) error {
	m.rotating.Lock()
	defer m.rotating.Unlock()
	r, said, err := rotationOf(ctx, store)
	if err != nil || r == nil {
		return err
	}
	trusted := m.id.Trusted()
	at := slices.IndexFunc(trusted, func(a *trust.Authority) bool { return a.ClusterID() == r.ID })
	if r.Phase == phaseDone {
		if at < 0 || len(trusted) == 1 || m.id.Issuer().ClusterID() != r.ID {
			return nil
		}
		m.log.Info("the old authority of the cluster is trusted no more", "new", r.ID)
		return m.trust(trusted[at])
	}
	if said[saidKey(m.name)] == r.word() {
		return nil
	}
	if err := m.introduce(ctx, node, r, trusted, at); err != nil {
		return err
	}
	if r.Phase == phaseIssue {
		if err := m.switchTo(ctx, r); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return m.updateAuthority(ctx, store, func(tx *engine.Tx) error {
		return tx.Put(tableAuthority, []byte(saidKey(m.name)), []byte(r.word()))
	})
}

// introduce makes this member trust the new authority, and have its key if it votes.
func (m *Member) introduce(ctx context.Context, node *replication.Node, r *rotation, trusted []*trust.Authority, at int) error {
	next := new(trust.Authority)
	if at >= 0 {
		next = trusted[at]
	} else {
		cert, err := x509.ParseCertificate(r.Cert)
		if err != nil {
			return err
		}
		next.Cert = cert
	}
	if next.Key == nil && votes(node, m.name) {
		with, err := m.fetchAuthority(ctx, node, r.ID)
		if err != nil {
			return err
		}
		next = with
	}
	list := slices.DeleteFunc(trusted, func(a *trust.Authority) bool { return a.ClusterID() == r.ID })
	if at == 0 {
		return m.trust(append([]*trust.Authority{next}, list...)...)
	}
	return m.trust(append(list, next)...)
}

// switchTo gets this member a certificate of the new authority, which from now on issues here.
func (m *Member) switchTo(ctx context.Context, r *rotation) error {
	trusted := m.id.Trusted()
	at := slices.IndexFunc(trusted, func(a *trust.Authority) bool { return a.ClusterID() == r.ID })
	next := trusted[at] // introduce saw to it
	if at > 0 {
		if err := m.trust(append([]*trust.Authority{next}, slices.Delete(trusted, at, at+1)...)...); err != nil {
			return err
		}
	}
	if m.id.Issuer().ClusterID() == r.ID {
		return nil
	}
	if err := m.RenewCertificate(ctx); err != nil {
		return err
	}
	if is := m.id.Issuer().ClusterID(); is != r.ID {
		return fmt.Errorf("the certificate was issued by authority %s, whose turn is over", is) // the member that did has not followed yet
	}
	return nil
}

// advance moves the rotation on when all members have followed. Only the leader does.
func (m *Member) advance(ctx context.Context, node *replication.Node, store *engine.Store) error {
	r, said, err := rotationOf(ctx, store)
	if err != nil || !r.running() {
		return err
	}
	if len(m.waiting(node, r, said, r.Without)) > 0 {
		return nil
	}
	next := phaseIssue
	if r.Phase == phaseIssue {
		next = phaseDone
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	moved := *r
	moved.Phase = next
	err = m.updateAuthority(ctx, store, func(tx *engine.Tx) error {
		raw, err := tx.Get(tableAuthority, rotationRow)
		var now rotation
		if err == nil {
			err = json.Unmarshal(raw, &now)
		}
		if err != nil || now.ID != r.ID || now.Phase != r.Phase {
			return err // somebody else did
		}
		return moved.put(tx)
	})
	if err == nil && next == phaseDone {
		m.note(Event{Kind: "authority", Old: r.Old, New: r.ID, Reason: "every member has a certificate of the new one; the old one is dropped"})
	}
	return err
}

// waiting are the members that have not followed; reachable: of those that can be reached.
func (m *Member) waiting(node *replication.Node, r *rotation, said map[string]string, reachable bool) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range node.Status().Members {
		name := string(p.ID)
		if said[saidKey(name)] == r.word() || reachable && name != m.name && m.seen[name].err != nil {
			continue
		}
		names = append(names, name)
	}
	return names
}

func votes(node *replication.Node, name string) bool {
	for _, p := range node.Status().Members {
		if string(p.ID) == name {
			return p.Suffrage == raft.Voter
		}
	}
	return false
}

type authorityAsk struct {
	ID string `json:"id"`
}

type authorityAnswer struct {
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// onAuthority hands an authority's key to a voter.
func (m *Member) onAuthority(_ context.Context, from string, q authorityAsk) (a authorityAnswer, err error) {
	node, _, err := m.opened()
	if err != nil {
		return a, err
	}
	if !votes(node, from) {
		return a, &refused{text: from + " does not vote: only voters hold the authority's key"}
	}
	for _, have := range m.id.Trusted() {
		if have.ClusterID() == q.ID && have.Key != nil {
			a.Cert = have.Cert.Raw
			a.Key, err = have.KeyDER()
			return a, err
		}
	}
	return a, &refused{text: m.name + " does not hold the key of authority " + q.ID, retry: true}
}

// fetchAuthority asks the others for an authority with its key.
func (m *Member) fetchAuthority(ctx context.Context, node *replication.Node, id string) (*trust.Authority, error) {
	var failed []error
	for _, p := range node.Status().Members {
		if string(p.ID) == m.name {
			continue
		}
		var a authorityAnswer
		tctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := m.tell(tctx, string(p.Address), "/authority", authorityAsk{ID: id}, &a)
		cancel()
		if err == nil {
			var got *trust.Authority
			if got, err = trust.ParseAuthority(a.Cert, a.Key); err == nil && got.ClusterID() == id {
				return got, nil
			}
		}
		failed = append(failed, fmt.Errorf("%s: %w", p.ID, err))
	}
	return nil, fmt.Errorf("nobody hands over the key of the new authority %s: %w", id, errors.Join(failed...))
}

// RotateAuthority begins to replace the cluster's authority; finish: the rotation under way goes on without the members that
// cannot be reached. They have to be let in again (Accept).
func (m *Member) RotateAuthority(ctx context.Context, finish bool) error {
	kind := "authority"
	if finish {
		kind = "authority-finish"
	}
	return m.order(ctx, kind, "")
}
