package config

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// ClusterSecretEnv holds the secret that members of a cluster share who begin it together.
const ClusterSecretEnv = envPrefix + "CLUSTER_SECRET"

// Cluster holds the settings of a member of a cluster. They mean nothing on a single node, except that a secret makes it a
// founder.
type Cluster struct {
	Listen       string        // address of the port between members; empty: the advertised one
	Profile      string        // "fast" or "compat"
	TransferRate int64         // bytes per second to a member that fetches the state; 0: no limit
	DeadAfter    time.Duration // a voter that is silent for so long is removed; 0: never
	URL          string        // where clients find this member; empty: the main listener
	Expect       int64         // voters that there must have been before writes are taken; 0: none
	Name         string        // of a founder; empty: the host name
	Advertise    string        // address of a founder's port, as the others call it
	Peers        []string      // of a founder: the ports of all
	SecretFile   string        // file with the founders' secret
	Required     bool          // serve only as a member
}

var clusterSettings = []setting{
	textSetting("cluster.listen", "", func(c *Config) *string { return &c.Cluster.Listen },
		"Address that the port between members listens on. Empty: the one given to `erlmcp cluster init` or `join`.",
		"Whether a server is a member at all is decided by these commands, or by cluster.secret_file, not here."),
	choiceSetting("cluster.profile", "fast", []string{"fast", "compat"}, func(c *Config) *string { return &c.Cluster.Profile },
		"How fast a lost leader is replaced. fast: within about a second; for members with less than 50 ms between them.",
		"compat: within about 15 seconds. All members should have the same."),
	sizeSetting("cluster.transfer_rate", "64MiB", 0, tib, func(c *Config) *int64 { return &c.Cluster.TransferRate },
		"Bytes per second that a member sends to one that fetches the whole state. 0: no limit."),
	durationSetting("cluster.dead_after", "72h", 0, 365*24*time.Hour, func(c *Config) *time.Duration { return &c.Cluster.DeadAfter },
		"A voter that has been silent for this long is removed, if at least three voters stay. 0: never."),
	textSetting("cluster.url", "", func(c *Config) *string { return &c.Cluster.URL },
		"Where clients find this member, as `erlmcp cluster status` shows it. Empty: the main listener."),
	countSetting("cluster.expect", "0", 0, 9, func(c *Config) *int64 { return &c.Cluster.Expect },
		"Voters that the cluster must have had before writes are taken; with cluster.secret_file also the number of founders."),
	textSetting("cluster.secret_file", "", func(c *Config) *string { return &c.Cluster.SecretFile },
		"For automation instead of `erlmcp cluster init` and `join`: servers that are started with the same secret (32 bytes or",
		"more), cluster.expect and cluster.peers begin a cluster together. Empty: the variable ERLMCP_CLUSTER_SECRET.",
		"Whoever knows the secret can be a member."),
	textSetting("cluster.name", "", func(c *Config) *string { return &c.Cluster.Name },
		"Name of such a server in the cluster. Empty: the host name."),
	textSetting("cluster.advertise", "", func(c *Config) *string { return &c.Cluster.Advertise },
		"host:port of such a server's port between members, as the others call it."),
	boolSetting("cluster.required", "off", func(c *Config) *bool { return &c.Cluster.Required },
		"on: serve only a directory that belongs to a member. Without it a server that finds its directory empty, because it was",
		"deleted or its disk is not mounted, begins as a new single node and takes writes that the cluster never hears of."),
	listSetting("cluster.peers", func(c *Config) *[]string { return &c.Cluster.Peers },
		"host:port of all such servers. Example: [n1:7400, n2:7400, n3:7400]"),
}

// ClusterSecret returns the founders' secret, nil if there is none.
func (c *Config) ClusterSecret(environ []string) ([]byte, error) {
	text, inEnv := environment(environ)[ClusterSecretEnv]
	file := c.Cluster.SecretFile
	switch {
	case inEnv && file != "":
		return nil, &Error{
			Where: c.Origin("cluster.secret_file").String(), Key: "cluster.secret_file",
			Problem: "the secret is also in the environment variable " + ClusterSecretEnv + ": give it in one place",
		}
	case inEnv:
		return []byte(strings.TrimSpace(text)), nil
	case file != "":
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, &Error{
				Where: c.Origin("cluster.secret_file").String(), Key: "cluster.secret_file",
				Problem: fmt.Sprintf("the secret cannot be read: %s", err),
			}
		}
		return []byte(strings.TrimSpace(string(raw))), nil
	}
	return nil, nil
}
