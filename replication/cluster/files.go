package cluster

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/port"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/erlmcp/erlmcp/wal"
)

// Folder is the name of the cluster's folder in a data directory.
const Folder = "cluster"

// leftPrefix begins the name of what remains of member.json in the folder of a directory that has left its cluster.
const leftPrefix = "left-"

// member is member.json.
type member struct {
	Name      string   `json:"name"`
	Advertise string   `json:"advertise"` // host:port of this member's port, as the others call it
	Voter     bool     `json:"voter"`     // it is to vote
	First     bool     `json:"first,omitempty"`
	Founders  []peer   `json:"founders,omitempty"` // first members of a cluster that begins with several
	Peers     []string `json:"peers,omitempty"`    // addresses of others
	Rebuild   string   `json:"rebuild,omitempty"`  // why the store has to be fetched
	Begins    bool     `json:"begins,omitempty"`   // the first leader has to begin a new history
}

type peer struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// ErrMember: the directory is not, or already, a member of a cluster. The message says what to do.
var ErrMember = errors.New("cluster")

// IsMember reports whether the data directory belongs to a member of a cluster.
func IsMember(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, Folder, "member.json"))
	return err == nil
}

// CheckAlone refuses to serve the directory of a member without being that member, which its folder says: who it is was deleted, and a
// store that goes on alone would take changes that its cluster never hears of. Leave is the way to be alone. dir is no member
// (IsMember); log is of the store in it, nil before that is opened.
func CheckAlone(dir string, log *wal.Log) error {
	left, err := filepath.Glob(filepath.Join(dir, Folder, leftPrefix+"*.json"))
	if err != nil || len(left) > 0 {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, Folder, "node.crt"))
	if err != nil && (log == nil || !replication.WasMember(log)) {
		return nil
	}
	return fmt.Errorf("%w: %s belongs to a member of a cluster, but %s is missing: it must not go on alone. Put that file back, or, if the others "+
		"are well, `erlmcp cluster remove` this member on one of them, move FORMAT, wal, store and cluster out of %s, and join it anew. "+
		"Only if there is no cluster any more: create an empty file %s, and it is a single node's", ErrMember, dir, filepath.Join(Folder, "member.json"), dir,
		filepath.Join(dir, Folder, leftPrefix+"by-hand.json"))
}

func loadMember(dir string) (m member, err error) {
	path := filepath.Join(dir, Folder, "member.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return m, fmt.Errorf("%w: %s is not a member of a cluster: `erlmcp cluster init` makes a cluster of it, `erlmcp cluster join` a member of one", ErrMember, dir)
	}
	if err != nil {
		return m, err
	}
	if err = json.Unmarshal(raw, &m); err == nil {
		err = errors.Join(trust.CheckName(m.Name), checkAddress(m.Advertise))
	}
	if err != nil {
		return m, fmt.Errorf("%w: %s is damaged (%w). %s", ErrMember, path, err, anew)
	}
	return m, nil
}

// anew is what to do when the folder cannot be read.
const anew = "It holds who this member is. Put a copy of it back, or join anew: `erlmcp cluster remove NAME` and `erlmcp cluster token` on another member, " +
	"then `erlmcp cluster join` with an empty directory here"

// loadIdentity reads the certificates of the member in dir.
func loadIdentity(dir string) (*trust.Identity, error) {
	id, err := trust.Load(filepath.Join(dir, Folder))
	if err != nil {
		return nil, fmt.Errorf("%w: the certificates in %s cannot be used: %w. `erlmcp cluster token` on another member and `erlmcp cluster ca accept` "+
			"here fetch new ones; the store stays", ErrMember, filepath.Join(dir, Folder), err)
	}
	return id, nil
}

func (m member) save(dir string) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, Folder, "member.json")
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Join(dir, Folder))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkAddress wants something that other machines can dial.
func checkAddress(a string) error {
	host, p, err := net.SplitHostPort(a)
	if err != nil || host == "" || p == "" || p == "0" {
		return fmt.Errorf("%w: %q is no address that other members could call: write host:port, for example 10.0.0.1:7400", ErrMember, a)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("%w: %q means every address of this machine: name the one that other members call", ErrMember, a)
	}
	return nil
}

// InitOptions describe the first member.
type InitOptions struct {
	Name, Advertise string
	Secret          []byte // the authority follows from it; empty: a new one
	Now             time.Time
}

// Init makes a data directory the first member of a new cluster: the directory may be empty or hold a store, which then
// is what the cluster begins with.
func Init(dir string, o InitOptions) (*trust.Identity, error) {
	if IsMember(dir) {
		return nil, fmt.Errorf("%w: %s is a member of a cluster already", ErrMember, dir)
	}
	if err := errors.Join(trust.CheckName(o.Name), checkAddress(o.Advertise)); err != nil {
		return nil, err
	}
	a, err := authority(o.Secret, o.Now)
	if err != nil {
		return nil, err
	}
	return create(dir, a, member{Name: o.Name, Advertise: o.Advertise, Voter: true, First: true, Begins: true}, o.Now)
}

func authority(secret []byte, now time.Time) (*trust.Authority, error) {
	if len(secret) > 0 {
		return trust.FromSecret(secret)
	}
	return trust.NewAuthority(now)
}

// identityOf issues a certificate to the member.
func identityOf(a *trust.Authority, name string, now time.Time) (*trust.Identity, error) {
	key, csr, err := trust.Request(name)
	if err != nil {
		return nil, err
	}
	der, err := a.Issue(csr, name, now)
	if err != nil {
		return nil, err
	}
	return trust.NewIdentity(a, der, key)
}

// create issues the member's own certificate and writes the folder; member.json last.
func create(dir string, a *trust.Authority, m member, now time.Time) (*trust.Identity, error) {
	id, err := identityOf(a, m.Name, now)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := id.Save(filepath.Join(dir, Folder)); err != nil {
		return nil, err
	}
	return id, m.save(dir)
}

// FoundOptions describe one of several members that begin a cluster together: all know the same secret and the same list.
type FoundOptions struct {
	Name, Advertise string
	Secret          []byte
	Peers           []string // addresses of all, this one may be among them
	Now             time.Time
}

// Found writes the folder of such a member; who the others are it learns from them when it starts (Options.Expect).
func Found(dir string, o FoundOptions) error {
	if err := errors.Join(trust.CheckName(o.Name), checkAddress(o.Advertise)); err != nil {
		return err
	}
	a, err := trust.FromSecret(o.Secret)
	if err != nil {
		return err
	}
	peers := slices.DeleteFunc(slices.Clone(o.Peers), func(p string) bool { return p == o.Advertise })
	_, err = create(dir, a, member{Name: o.Name, Advertise: o.Advertise, Voter: true, Peers: peers}, o.Now)
	return err
}

// JoinOptions describe a machine that is to become a member.
type JoinOptions struct {
	Name, Advertise string
	Token           string
	Addresses       []string // of members, instead of those in the token
	Now             time.Time
}

type joinAsk struct {
	Name      string `json:"name"`
	Advertise string `json:"advertise"`
	Token     string `json:"token"`
	CSR       []byte `json:"csr"`
	Again     bool   `json:"again,omitempty"` // it is a member that the others do not know by its certificate any more
}

type joinAnswer struct {
	Cert      []byte   `json:"cert"`
	Authority []byte   `json:"authority"`
	Key       []byte   `json:"key,omitempty"` // the authority's, for voters
	Voter     bool     `json:"voter"`
	Peers     []string `json:"peers"`
}

// Join asks the cluster of the token for a certificate and writes the folder. The directory must not hold a store.
func Join(ctx context.Context, dir string, o JoinOptions) error {
	if IsMember(dir) {
		return fmt.Errorf("%w: %s is a member of a cluster already", ErrMember, dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "FORMAT")); err == nil {
		return fmt.Errorf("%w: %s holds a store of its own, which would be lost: two histories cannot be merged; join with an empty directory", ErrMember, dir)
	}
	if err := errors.Join(trust.CheckName(o.Name), checkAddress(o.Advertise)); err != nil {
		return err
	}
	key, got, peers, err := askToJoin(ctx, o, false)
	if err != nil {
		return err
	}
	return accept(dir, o, key, got, peers)
}

// Accept gives a stopped member the certificates that the cluster uses now: for one that was away while the authority was
// rotated, or until its certificate expired. Its store stays. The token is of a running member.
func Accept(ctx context.Context, dir string, o JoinOptions) error {
	me, err := loadMember(dir)
	if err != nil {
		return err
	}
	o.Name, o.Advertise = me.Name, me.Advertise
	key, got, peers, err := askToJoin(ctx, o, true)
	if err != nil {
		return err
	}
	me.Peers = slices.DeleteFunc(peers, func(p string) bool { return p == me.Advertise })
	id, err := got.identity(key)
	if err != nil {
		return err
	}
	return errors.Join(id.Save(filepath.Join(dir, Folder)), me.save(dir))
}

// askToJoin sends a token to one member after the other.
func askToJoin(ctx context.Context, o JoinOptions, again bool) (key ed25519.PrivateKey, got joinAnswer, peers []string, err error) {
	t, err := trust.ReadToken(o.Token)
	if err != nil {
		return nil, got, nil, err
	}
	if len(o.Addresses) == 0 {
		o.Addresses = t.Addresses
	}
	key, csr, err := trust.Request(o.Name)
	if err != nil {
		return nil, got, nil, err
	}
	ask := joinAsk{Name: o.Name, Advertise: o.Advertise, Token: o.Token, CSR: csr, Again: again}
	var failed []error
	for _, a := range o.Addresses {
		err := call(ctx, func(ctx context.Context) (net.Conn, error) { return port.DialJoin(ctx, t, a) }, "/join", ask, &got)
		if err == nil {
			return key, got, append(got.Peers, a), nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", a, err))
		var no *refused
		if errors.As(err, &no) && !no.retry {
			break // the next one would say the same
		}
	}
	return nil, got, nil, fmt.Errorf("%w: no member let this machine in: %w", ErrMember, errors.Join(failed...))
}

// identity is what a member got.
func (got joinAnswer) identity(key ed25519.PrivateKey) (*trust.Identity, error) {
	a, err := trust.ParseAuthority(got.Authority, got.Key)
	if err != nil {
		return nil, err
	}
	return trust.NewIdentity(a, got.Cert, key)
}

func accept(dir string, o JoinOptions, key ed25519.PrivateKey, got joinAnswer, peers []string) error {
	id, err := got.identity(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := id.Save(filepath.Join(dir, Folder)); err != nil {
		return err
	}
	slices.Sort(peers)
	peers = slices.DeleteFunc(slices.Compact(peers), func(p string) bool { return p == o.Advertise })
	return member{Name: o.Name, Advertise: o.Advertise, Voter: got.Voter, Peers: peers}.save(dir)
}

// Leave takes the cluster's folder away: the directory is a single node's again. The folder is kept under another name.
func Leave(dir string, now time.Time) (string, error) {
	if !IsMember(dir) {
		return "", fmt.Errorf("%w: %s is not a member of a cluster", ErrMember, dir)
	}
	to := filepath.Join(dir, Folder, leftPrefix+now.UTC().Format("20060102T150405Z")+".json")
	return to, os.Rename(filepath.Join(dir, Folder, "member.json"), to)
}

// refused is an answer that says no.
type refused struct {
	text  string
	retry bool // somebody else, or later, may say yes
}

func (r *refused) Error() string { return r.text }

const maxBody = 1 << 20

// call sends one question over one connection.
func call(ctx context.Context, dial func(context.Context) (net.Conn, error), path string, ask, answer any) error {
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	t := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}
	return exchange(ctx, &http.Client{Transport: t}, "http://member"+path, body, answer)
}

func exchange(ctx context.Context, c *http.Client, url string, body []byte, answer any) error {
	return exchangeUpTo(ctx, c, url, body, answer, maxBody)
}

func exchangeUpTo(ctx context.Context, c *http.Client, url string, body []byte, answer any, limit int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw := http.MaxBytesReader(nil, resp.Body, limit)
	if resp.StatusCode != http.StatusOK {
		var no struct{ Error string }
		if err := json.NewDecoder(raw).Decode(&no); err != nil {
			no.Error = resp.Status
		}
		return &refused{text: no.Error, retry: resp.StatusCode == http.StatusServiceUnavailable}
	}
	return json.NewDecoder(raw).Decode(answer)
}
