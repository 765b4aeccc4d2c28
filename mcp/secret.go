package mcp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/erlmcp/erlmcp/engine"
)

const (
	tableSecrets   = "mcp_secrets"
	secretBytes    = 32
	keyStateSecret = "request-state" // of the key that request states are sealed with
)

// A secret is a key of this server, made when it is first needed and kept in
// the store: every node and every later run has the same. Without a store it
// lives as long as the runtime.
type secret struct {
	store Store
	name  string

	mu  sync.Mutex
	key []byte // nil until it was read or made
}

func (s *secret) get(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key != nil {
		return s.key, nil
	}
	fresh := make([]byte, secretBytes)
	_, _ = rand.Read(fresh) // never fails (crypto/rand)
	if s.store == nil {
		s.key = fresh
		return fresh, nil
	}
	var key []byte
	_, err := s.store.Update(ctx, func(tx *engine.Tx) error {
		var err error
		key, err = tx.Get(tableSecrets, []byte(s.name))
		if errors.Is(err, engine.ErrNotFound) {
			key = fresh
			return tx.Put(tableSecrets, []byte(s.name), fresh)
		}
		return err
	}, engine.WithLabel("mcp.secret"), engine.WithActor("mcp:runtime"))
	if err != nil {
		return nil, fmt.Errorf("mcp: secret %s: %w", s.name, err)
	}
	if len(key) != secretBytes {
		return nil, fmt.Errorf("mcp: secret %s in table %s has %d bytes, want %d", s.name, tableSecrets, len(key), secretBytes)
	}
	s.key = key
	return key, nil
}
