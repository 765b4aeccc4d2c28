package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// ClusterRequest is an order to the member of a cluster: status, transfer, remove, promote, token, rotate, authority, authority-finish, repair.
type ClusterRequest struct {
	Op    string        `json:"op"`
	Name  string        `json:"name,omitempty"`
	Voter bool          `json:"voter,omitempty"`
	Uses  int           `json:"uses,omitempty"`
	TTL   time.Duration `json:"ttl,omitempty"`
}

// ClusterSource is a Source that may be the member of a cluster.
type ClusterSource interface {
	Cluster(ctx context.Context, r ClusterRequest) (any, error)
}

// clusterAnswer is the answer to POST /cluster.
type clusterAnswer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

func serveCluster(w http.ResponseWriter, r *http.Request, src ClusterSource) {
	var q ClusterRequest
	var a clusterAnswer
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&q)
	if err == nil {
		var result any
		if result, err = src.Cluster(r.Context(), q); err == nil {
			a.Result, err = json.Marshal(result)
		}
	}
	if err != nil {
		a.Error = err.Error()
	}
	WriteJSON(w, http.StatusOK, a)
}

// Cluster gives an order to the server. ErrNoServer when nobody listens.
func (c *Client) Cluster(ctx context.Context, r ClusterRequest, into any) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPost, "/cluster", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var a clusterAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(&a); err != nil {
		return fmt.Errorf("answer of the server of %s: %w", c.dir, err)
	}
	switch {
	case a.Error != "":
		return errors.New(a.Error)
	case into == nil:
		return nil
	}
	return json.Unmarshal(a.Result, into)
}
