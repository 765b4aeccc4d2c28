package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/backupfmt/store/storetest"
	"github.com/erlmcp/erlmcp/test/s3server"
)

func bucket(t *testing.T, addr, name string) store.S3Options {
	t.Helper()
	c, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(s3server.AccessKey, s3server.SecretKey, ""), Region: s3server.Region})
	require.NoError(t, err)
	require.NoError(t, c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{}))
	return store.S3Options{Endpoint: addr, Insecure: true, Bucket: name, AccessKey: s3server.AccessKey, SecretKey: s3server.SecretKey, Retries: 3}
}

func TestS3Conforms(t *testing.T) {
	addr := s3server.Start(t)
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		n++
		o := bucket(t, addr, fmt.Sprintf("bucket-%d", n))
		if n%2 == 0 {
			o.Prefix = "some/prefix"
		}
		s, err := store.OpenS3(t.Context(), o)
		require.NoError(t, err)
		return s
	})
}

func TestS3SaysWhatIsWrongWithTheTarget(t *testing.T) {
	addr := s3server.Start(t)
	good := bucket(t, addr, "repo")
	o := good
	o.Bucket = "missing"
	_, err := store.OpenS3(t.Context(), o)
	require.ErrorIs(t, err, store.ErrNoStore)
	o = good
	o.SecretKey = "wrong"
	_, err = store.OpenS3(t.Context(), o)
	require.ErrorIs(t, err, store.ErrDenied)
	require.NotContains(t, err.Error(), "wrong-secret")
	o = good
	o.Endpoint = "127.0.0.1:1"
	o.Retries = 1
	_, err = store.OpenS3(t.Context(), o)
	require.Error(t, err)
	o.Endpoint = "http://with-scheme"
	_, err = store.OpenS3(t.Context(), o)
	require.ErrorIs(t, err, store.ErrInvalid)
}

// flaky lets every second request fail: before it is sent, or after the server has done it.
type flaky struct {
	n    atomic.Int64
	mode func(n int64, r *http.Request) string
}

func (f *flaky) RoundTrip(r *http.Request) (*http.Response, error) {
	mode := f.mode(f.n.Add(1), r)
	switch mode {
	case "refuse":
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return &http.Response{
			StatusCode: http.StatusServiceUnavailable, Status: "503 Slow Down", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: http.NoBody, Request: r,
		}, nil
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch mode {
	case "lose":
		_ = res.Body.Close()
		return nil, errors.New("connection reset by peer")
	case "cut":
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, 100), res.Body}
	}
	return res, nil
}

func TestS3RepeatsWhatTheServerOrTheNetworkDropped(t *testing.T) {
	addr := s3server.Start(t)
	o := bucket(t, addr, "repo")
	f := &flaky{mode: func(n int64, _ *http.Request) string { return []string{"", "refuse", "", "lose"}[n%4] }}
	o.Transport = f
	o.Retries = 8
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	s, err := store.OpenS3(ctx, o)
	require.NoError(t, err)
	v := store.Version("")
	for i := range 4 {
		name := fmt.Sprintf("packs/%d", i)
		require.NoError(t, s.Create(ctx, name, []byte(name)))
		v, err = s.Replace(ctx, "head", []byte(name), v)
		require.NoError(t, err)
		b, _, err := s.Get(ctx, name)
		require.NoError(t, err)
		require.Equal(t, name, string(b))
	}
}

func TestS3NeverReturnsAPartOfAnObject(t *testing.T) {
	addr := s3server.Start(t)
	o := bucket(t, addr, "repo")
	s, err := store.OpenS3(t.Context(), o)
	require.NoError(t, err)
	require.NoError(t, s.Create(t.Context(), "a", make([]byte, 5000)))
	o.Transport = &flaky{mode: func(_ int64, r *http.Request) string {
		if r.Method == http.MethodGet && len(r.URL.Path) > len("/repo/") {
			return "cut"
		}
		return ""
	}}
	o.Retries = 1
	s, err = store.OpenS3(t.Context(), o)
	require.NoError(t, err)
	_, _, err = s.Get(t.Context(), "a")
	require.Error(t, err)
	_, err = s.GetRange(t.Context(), "a", 10, 4000)
	require.Error(t, err)
}

// half is a network on which only half of the first answers with an error arrives.
type half struct{ left int }

func (h *half) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && r.Method == http.MethodGet && res.StatusCode == http.StatusNotFound && h.left > 0 {
		h.left--
		all, err := io.ReadAll(res.Body)
		if err != nil {
			return nil, err
		}
		_ = res.Body.Close()
		res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(all[:len(all)/2]), iotest.ErrReader(io.ErrUnexpectedEOF)))
	}
	return res, err
}

func TestS3AsksAgainForARefusalOfWhichHalfArrived(t *testing.T) {
	o := bucket(t, s3server.Start(t), "repo")
	h := &half{left: 2}
	o.Transport = h
	s, err := store.OpenS3(t.Context(), o)
	require.NoError(t, err)
	_, _, err = s.Get(t.Context(), "absent")
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Zero(t, h.left, "it was asked for again")
}
