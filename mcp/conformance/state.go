package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// states seals what a tool wants to find again in the client's next call.
type states struct{ key [32]byte }

func newStates() *states {
	s := new(states)
	_, _ = rand.Read(s.key[:]) // never fails (crypto/rand)
	return s
}

func (s *states) seal(state string) string {
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(state)) + "." + enc.EncodeToString(s.mac(state))
}

func (s *states) open(sealed string) (string, error) {
	body, sum, ok := strings.Cut(sealed, ".")
	state, err := base64.RawURLEncoding.Strict().DecodeString(body)
	mac, err2 := base64.RawURLEncoding.Strict().DecodeString(sum)
	if !ok || err != nil || err2 != nil || !hmac.Equal(mac, s.mac(string(state))) {
		return "", errState
	}
	return string(state), nil
}

func (s *states) mac(state string) []byte {
	m := hmac.New(sha256.New, s.key[:])
	m.Write([]byte(state))
	return m.Sum(nil)
}
