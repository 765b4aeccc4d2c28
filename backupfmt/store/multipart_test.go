package store_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/test/s3server"
)

// watched counts requests by what they are, and may change or refuse them.
type watched struct {
	mu   sync.Mutex
	seen map[string]int
	do   func(what string, n int, r *http.Request) (*http.Response, error) // nil, nil: let it pass
}

func kindOf(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "begin"
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return "part"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "complete"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "abort"
	}
	return r.Method
}

func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	what := kindOf(r)
	w.mu.Lock()
	if w.seen == nil {
		w.seen = map[string]int{}
	}
	w.seen[what]++
	n := w.seen[what]
	w.mu.Unlock()
	if w.do != nil {
		if res, err := w.do(what, n, r); res != nil || err != nil {
			return res, err
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (w *watched) count(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[what]
}

// large is an object of three parts.
func large(seed uint64) []byte {
	b := make([]byte, 2*store.MinPartSize+1000)
	var s [32]byte
	s[0] = byte(seed)
	_, _ = rand.NewChaCha8(s).Read(b)
	return b
}

func inParts(t *testing.T, w *watched) (store.S3Options, *store.S3) {
	t.Helper()
	o := bucket(t, s3server.Start(t), "repo")
	o.Prefix, o.PartSize, o.Transport, o.Retries = "site/a", store.MinPartSize, w, 6
	s, err := store.OpenS3(t.Context(), o)
	require.NoError(t, err)
	return o, s
}

func listing(t *testing.T, s store.Store) (names []string) {
	t.Helper()
	require.NoError(t, s.List(t.Context(), "", func(i store.Info) error { names = append(names, i.Name); return nil }))
	return names
}

func TestALargeObjectGoesUpInPartsUnderTheSamePromises(t *testing.T) {
	w := &watched{}
	_, s := inParts(t, w)
	body := large(1)
	require.NoError(t, s.Create(t.Context(), "packs/a", body))
	require.Equal(t, 4, w.count("part"), "three, and one of the question whether conditions hold")
	got, v, err := s.Get(t.Context(), "packs/a")
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, got))
	part, err := s.GetRange(t.Context(), "packs/a", store.MinPartSize-10, 20)
	require.NoError(t, err)
	require.Equal(t, body[store.MinPartSize-10:store.MinPartSize+10], part)
	require.NoError(t, s.Create(t.Context(), "packs/a", body), "the same again is success")
	require.ErrorIs(t, s.Create(t.Context(), "packs/a", large(2)), store.ErrExists)
	got, _, err = s.Get(t.Context(), "packs/a")
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, got))
	require.Equal(t, []string{"packs/a"}, listing(t, s))
	_, err = s.Replace(t.Context(), "packs/a", large(3), v)
	require.NoError(t, err)
	_, err = s.Replace(t.Context(), "packs/a", large(4), v)
	require.ErrorIs(t, err, store.ErrChanged)

	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = s.Create(t.Context(), "packs/raced", large(uint64(10+i))) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		require.ErrorIs(t, err, store.ErrExists)
	}
	require.Equal(t, 1, won)
	n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Zero(t, n, "whoever loses takes the upload back")
}

func TestAnUploadThatEndsInTheMiddleShowsNothingAndIsSwept(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{}
	o, s := inParts(t, w)
	require.NoError(t, s.Create(t.Context(), "packs/a", large(1)))
	w.do = func(what string, _ int, _ *http.Request) (*http.Response, error) {
		if what == "part" {
			cancel()
		}
		return nil, nil
	}
	require.Error(t, s.Create(ctx, "packs/b", large(2)))
	require.Equal(t, []string{"packs/a"}, listing(t, s))
	w.do = nil
	n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Zero(t, n, "a process that can takes its upload back")

	// One that is killed cannot; and others keep theirs.
	c, err := minio.New(o.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Region: s3server.Region})
	require.NoError(t, err)
	core := minio.Core{Client: c}
	for _, key := range []string{"site/a/packs/c", "site/a/packs/d", "elsewhere/x"} {
		id, err := core.NewMultipartUpload(t.Context(), o.Bucket, key, minio.PutObjectOptions{})
		require.NoError(t, err)
		_, err = core.PutObjectPart(t.Context(), o.Bucket, key, id, 1, strings.NewReader("half"), 4, minio.PutObjectPartOptions{})
		require.NoError(t, err)
	}
	require.Equal(t, []string{"packs/a"}, listing(t, s))
	n, err = s.Sweep(t.Context(), time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.Zero(t, n, "it may be at work")
	n, err = s.Sweep(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	left, err := core.ListMultipartUploads(t.Context(), o.Bucket, "", "", "", "", 10)
	require.NoError(t, err)
	require.Len(t, left.Uploads, 1)
	require.Equal(t, "elsewhere/x", left.Uploads[0].Key)
}

func TestPartsAreRepeatedAndAWholeObjectComesOutWhateverTheLineDoes(t *testing.T) {
	refused := func(r *http.Request) *http.Response {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Status: "503 Slow Down", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: r}
	}
	for name, mode := range map[string]func(what string, n int, r *http.Request) (*http.Response, error){
		"throttled": func(_ string, n int, r *http.Request) (*http.Response, error) {
			if n%2 == 1 {
				return refused(r), nil
			}
			return nil, nil
		},
		"parts cut": func(what string, n int, r *http.Request) (*http.Response, error) {
			if what == "part" && n%3 == 0 {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				_ = r.Body.Close()
				return nil, io.ErrUnexpectedEOF
			}
			return nil, nil
		},
		"answers lost": func(what string, n int, r *http.Request) (*http.Response, error) {
			if (what == "part" || what == "complete") && n%2 == 1 {
				res, err := http.DefaultTransport.RoundTrip(r)
				if err == nil {
					_ = res.Body.Close()
				}
				return nil, fmt.Errorf("connection reset by peer")
			}
			return nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watched{}
			_, s := inParts(t, w)
			w.do = mode
			body := large(7)
			var err error
			for range 3 { // an operation that fails may be repeated
				if err = s.Create(t.Context(), "packs/a", body); err == nil {
					break
				}
			}
			require.NoError(t, err)
			w.do = nil
			got, _, err := s.Get(t.Context(), "packs/a")
			require.NoError(t, err)
			require.True(t, bytes.Equal(body, got))
			_, err = s.Sweep(t.Context(), time.Now().Add(time.Hour))
			require.NoError(t, err)
			require.Equal(t, []string{"packs/a"}, listing(t, s))
		})
	}
}

func TestAServiceThatIgnoresTheConditionOfAnUploadInPartsGetsOneRequest(t *testing.T) {
	w := &watched{do: func(what string, _ int, r *http.Request) (*http.Response, error) {
		if what != "complete" { // the answer of a service that puts the parts together whatever is there
			return nil, nil
		}
		const done = `<CompleteMultipartUploadResult><Bucket>repo</Bucket><Key>x</Key><ETag>"0-1"</ETag></CompleteMultipartUploadResult>`
		return &http.Response{
			StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
			Body: io.NopCloser(strings.NewReader(done)), Request: r,
		}, nil
	}}
	_, s := inParts(t, w)
	require.NoError(t, s.Create(t.Context(), "packs/a", large(1)))
	require.Equal(t, 1, w.count("part"), "the question only")
	require.ErrorIs(t, s.Create(t.Context(), "packs/a", large(2)), store.ErrExists)
	require.Equal(t, 1, w.count("part"))
	require.Equal(t, []string{"packs/a"}, listing(t, s))
}

func TestAPartThatChangesOnItsWayIsRefused(t *testing.T) {
	w := &watched{}
	_, s := inParts(t, w)
	require.NoError(t, s.Create(t.Context(), "packs/a", large(1)))
	w.do = func(what string, _ int, r *http.Request) (*http.Response, error) {
		if what == "part" {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			b[len(b)/2] ^= 1
			r.Body = io.NopCloser(bytes.NewReader(b))
		}
		return nil, nil
	}
	require.Error(t, s.Create(t.Context(), "packs/b", large(2)))
	require.Equal(t, []string{"packs/a"}, listing(t, s))
}
