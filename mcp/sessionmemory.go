package mcp

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Bounds of what is kept of streams that have ended, all sessions together.
const (
	memoryStreamBytes = 64 << 20
	memoryStreams     = 10000
)

// memorySessions is the sessionStore of a runtime without a store: sessions
// end with the process, and streams can be resumed as long as it runs.
type memorySessions struct {
	mu       sync.Mutex
	sessions map[string]*memorySession
	ended    []memoryEnd // ended streams, oldest first
	bytes    int         // of their events
}

type memorySession struct {
	rec     sessionRecord
	subs    map[string]bool
	streams map[string]*memoryStream
}

type memoryStream struct {
	rec    streamRecord
	events []storedEvent
}

type memoryEnd struct {
	session, name string
	bytes         int
	expiry        time.Time
}

func newMemorySessions() *memorySessions {
	return &memorySessions{sessions: make(map[string]*memorySession)}
}

func (m *memorySessions) create(_ context.Context, rec *sessionRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &memorySession{rec: *rec}
	s.rec.Seen = rec.Created
	m.sessions[rec.ID] = s
	return nil
}

// with runs fn on a session under the lock.
func (m *memorySessions) with(id string, fn func(s *memorySession)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id]
	if s == nil {
		return ErrNoSession
	}
	fn(s)
	return nil
}

func (m *memorySessions) load(_ context.Context, id string) (rec *sessionRecord, err error) {
	err = m.with(id, func(s *memorySession) {
		c := s.rec
		for uri := range s.subs {
			c.Subs = append(c.Subs, uri)
		}
		rec = &c
	})
	return rec, err
}

func (m *memorySessions) change(_ context.Context, id string, fn func(*sessionRecord)) error {
	return m.with(id, func(s *memorySession) { fn(&s.rec) })
}

func (m *memorySessions) touch(_ context.Context, id string, seen, _ time.Time) error {
	return m.with(id, func(s *memorySession) { s.rec.Seen = seen })
}

func (m *memorySessions) subscribe(_ context.Context, id, uri string) error {
	return m.with(id, func(s *memorySession) {
		if s.subs == nil {
			s.subs = make(map[string]bool)
		}
		s.subs[uri] = true
	})
}

func (m *memorySessions) unsubscribe(_ context.Context, id, uri string) error {
	return m.with(id, func(s *memorySession) { delete(s.subs, uri) })
}

func (m *memorySessions) claim(context.Context, string) error { return nil }
func (m *memorySessions) home(context.Context, string) error  { return nil }

func (m *memorySessions) remove(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, id)
	return nil
}

func (m *memorySessions) list(_ context.Context, after string, limit int) ([]*sessionRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*sessionRecord
	for id, s := range m.sessions {
		if id > after {
			c := s.rec
			list = append(list, &c)
		}
	}
	slices.SortFunc(list, func(a, b *sessionRecord) int { return cmp.Compare(a.ID, b.ID) })
	return list[:min(limit, len(list))], nil
}

func (m *memorySessions) commit(_ context.Context, session string, c streamChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[session]
	if s == nil {
		return ErrNoSession
	}
	st := s.streams[c.Record.Name]
	if st == nil {
		if s.streams == nil {
			s.streams = make(map[string]*memoryStream)
		}
		st = new(memoryStream)
		s.streams[c.Record.Name] = st
	}
	st.rec = c.Record
	st.rec.Calls = slices.Clone(c.Record.Calls)
	st.events = append(st.events, c.Add...)
	for _, pos := range c.Drop {
		st.events = slices.DeleteFunc(st.events, func(e storedEvent) bool { return e.Pos == pos })
	}
	if c.Record.Done {
		size := 0
		for _, e := range st.events {
			size += len(e.Data)
		}
		m.ended = append(m.ended, memoryEnd{session, c.Record.Name, size, c.Expiry})
		m.bytes += size
		m.shrink(func(memoryEnd) bool { return len(m.ended) > memoryStreams || m.bytes > memoryStreamBytes })
	}
	return nil
}

// shrink forgets ended streams, the oldest first, while they should go. m.mu is held.
func (m *memorySessions) shrink(should func(memoryEnd) bool) {
	for len(m.ended) > 0 && should(m.ended[0]) {
		end := m.ended[0]
		m.ended = m.ended[1:]
		m.bytes -= end.bytes
		if s := m.sessions[end.session]; s != nil {
			delete(s.streams, end.name)
		}
	}
}

// expire forgets the streams whose time is over.
func (m *memorySessions) expire(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shrink(func(e memoryEnd) bool { return !e.expiry.After(now) })
}

func (m *memorySessions) stream(_ context.Context, session, name string) (rec *streamRecord, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[session]; s != nil && s.streams[name] != nil {
		c := s.streams[name].rec
		return &c, nil
	}
	return nil, nil
}

func (m *memorySessions) streams(_ context.Context, session string) ([]*streamRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[session]
	if s == nil {
		return nil, nil
	}
	var list []*streamRecord
	for _, st := range s.streams {
		c := st.rec
		list = append(list, &c)
	}
	return list, nil
}

func (m *memorySessions) events(_ context.Context, session, name string, after int64, limit, maxBytes int) (list []storedEvent, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[session]
	if s == nil || s.streams[name] == nil {
		return nil, nil
	}
	size := 0
	for _, ev := range s.streams[name].events {
		if ev.Pos <= after {
			continue
		}
		if list = append(list, ev); len(list) == limit {
			break
		}
		if size += len(ev.Data); size >= maxBytes {
			break
		}
	}
	return list, nil
}
