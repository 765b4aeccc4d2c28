package clusters

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// etcdConns is how many connections the client of a node has: one alone would
// be its bottleneck.
const etcdConns = 8

// etcdNode is a whole etcd server in this process, with a client of its own.
type etcdNode struct {
	e       *embed.Etcd
	clients []*clientv3.Client
	next    atomic.Uint64
}

func openEtcd(o Options) (Node, error) {
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel, c.LogOutputs = o.name(), o.Dir, "error", []string{"/dev/null"}
	var all []string
	for i, m := range o.Members {
		all = append(all, fmt.Sprintf("%s=http://%s", Options{ID: i}.name(), m[0]))
	}
	c.InitialCluster = strings.Join(all, ",")
	peer, err := url.Parse("http://" + o.Members[o.ID][0])
	if err != nil {
		return nil, err
	}
	client, err := url.Parse("http://" + o.Members[o.ID][1])
	if err != nil {
		return nil, err
	}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return nil, err
	case <-time.After(time.Minute):
		e.Close()
		return nil, errors.New("etcd is not ready after a minute")
	}
	n := &etcdNode{e: e}
	for range etcdConns {
		cl, err := clientv3.New(clientv3.Config{Endpoints: []string{client.Host}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			return nil, errors.Join(err, n.Close())
		}
		n.clients = append(n.clients, cl)
	}
	return n, nil
}

func (n *etcdNode) Put(ctx context.Context, key, value []byte) error {
	c := n.clients[n.next.Add(1)%uint64(len(n.clients))]
	_, err := c.Put(ctx, string(key), string(value))
	return err
}

func (n *etcdNode) State() State {
	s := n.e.Server
	return State{Leader: s.Leader() == s.MemberID(), Known: s.Leader() != 0, Term: s.Term(), Applied: s.AppliedIndex()}
}

func (n *etcdNode) Close() error {
	var errs []error
	for _, c := range n.clients {
		errs = append(errs, c.Close())
	}
	n.e.Close()
	return errors.Join(errs...)
}
