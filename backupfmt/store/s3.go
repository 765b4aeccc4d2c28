package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Options say where a bucket is and who asks. Keys come from the environment or a file, never from a command line.
type S3Options struct {
	Endpoint  string // host or host:port, without scheme
	Insecure  bool   // plain HTTP; for tests and private networks only
	Region    string // default us-east-1
	Bucket    string // must exist
	Prefix    string // objects live below PREFIX/; "" is the root of the bucket
	AccessKey string
	SecretKey string
	Token     string // session token, usually empty

	Transport http.RoundTripper `json:"-"` // default: the client library's
	Retries   int               // tries per request on 5xx, timeouts and throttling; default 10
	PartSize  int64             // bytes; larger new objects are uploaded in parts of it; default DefaultPartSize, MinPartSize..MaxPartSize
}

// S3 is a store in a bucket of an S3-compatible service that supports conditional writes (If-None-Match and
// If-Match on PutObject): AWS, MinIO, Ceph, versitygw.
type S3 struct {
	c      *minio.Client
	o      S3Options
	prefix string

	mu    sync.Mutex
	parts int // 1: uploads in parts honour conditions, -1: they do not, 0: nobody asked yet
}

// OpenS3 checks that the bucket is there: ErrNoStore, ErrDenied.
func OpenS3(ctx context.Context, o S3Options) (*S3, error) {
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if strings.Contains(o.Endpoint, "/") {
		return nil, fmt.Errorf("%w: S3 endpoint %q is not host or host:port", ErrInvalid, o.Endpoint)
	}
	if err := o.checkPartSize(); err != nil {
		return nil, err
	}
	o.Prefix = strings.Trim(o.Prefix, "/")
	if o.Prefix != "" {
		if err := CheckName(o.Prefix); err != nil {
			return nil, err
		}
	}
	c, err := minio.New(o.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.Token), Secure: !o.Insecure, Region: o.Region,
		Transport: o.Transport, MaxRetries: o.Retries,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: S3 endpoint %q: %w", ErrInvalid, o.Endpoint, err)
	}
	s := &S3{c: c, o: o}
	if o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	there, err := c.BucketExists(ctx, o.Bucket)
	if err != nil {
		return nil, s.err("open", "", err)
	}
	if !there {
		// The answer to a HEAD has no text, and some services say 404 to a stranger: a listing tells which it is.
		_, err := minio.Core{Client: c}.ListObjectsV2(o.Bucket, s.prefix, "", "", "", 1)
		if err = s.err("open", "", err); errors.Is(err, ErrDenied) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: bucket %s at %s", ErrNoStore, o.Bucket, o.Endpoint)
	}
	return s, nil
}

// String is the URL of the bucket without credentials.
func (s *S3) String() string { return s.o.location() }

// at names an object for messages.
func (s *S3) at(name string) string {
	if name == "" {
		return s.String()
	}
	return name + " of " + s.String()
}

// err translates the answer of the service.
func (s *S3) err(doing, name string, err error) error {
	if err == nil {
		return nil
	}
	r := minio.ToErrorResponse(err)
	kind := error(nil)
	switch r.Code {
	case minio.NoSuchKey:
		kind = ErrNotFound
	case minio.NoSuchBucket:
		kind = ErrNoStore
	case minio.PreconditionFailed, "ConditionalRequestConflict":
		kind = ErrChanged
	case minio.AccessDenied, "InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound":
		kind = ErrDenied
	case "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge":
		kind = ErrNoSpace
	default:
		switch r.StatusCode {
		case http.StatusNotFound:
			kind = ErrNotFound
		case http.StatusForbidden, http.StatusUnauthorized:
			kind = ErrDenied
		case http.StatusPreconditionFailed, http.StatusConflict:
			kind = ErrChanged
		case http.StatusInsufficientStorage:
			kind = ErrNoSpace
		}
	}
	if kind == nil {
		return fmt.Errorf("store: %s %s: %w", doing, s.at(name), err)
	}
	return fmt.Errorf("%w: %s %s: %w", kind, doing, s.at(name), err)
}

// put uploads in one request.
func (s *S3) put(ctx context.Context, name string, body []byte, condition func(*minio.PutObjectOptions)) (Version, error) {
	o := minio.PutObjectOptions{ContentType: "application/octet-stream", DisableMultipart: true}
	condition(&o)
	up, err := s.c.PutObject(ctx, s.o.Bucket, s.prefix+name, bytes.NewReader(body), int64(len(body)), o)
	if err != nil {
		return "", s.err("write", name, err)
	}
	return Version(up.ETag), nil
}

// Create implements Store.
func (s *S3) Create(ctx context.Context, name string, body []byte) error {
	if err := checkBody(name, body); err != nil {
		return err
	}
	inParts := int64(len(body)) > s.o.PartSize
	if inParts {
		var err error
		if inParts, err = s.conditionalParts(ctx); err != nil {
			return err
		}
	}
	var err error
	for try := range createTries {
		if try > 0 {
			if err := sleep(ctx, time.Duration(50<<try)*time.Millisecond); err != nil {
				return err
			}
		}
		if inParts {
			err = s.inParts(ctx, name, body)
		} else {
			_, err = s.put(ctx, name, body, func(o *minio.PutObjectOptions) { o.SetMatchETagExcept("*") })
		}
		if !errors.Is(err, ErrChanged) && (!inParts || !errors.Is(err, ErrNotFound)) { // an upload is not found when it was finished before
			return err
		}
		// Somebody else's object, or our own from a request whose answer was lost and that was sent again.
		have, _, gerr := s.Get(ctx, name)
		switch {
		case gerr == nil && bytes.Equal(have, body):
			return nil
		case gerr == nil:
			return fmt.Errorf("%w: %s", ErrExists, name)
		case !errors.Is(gerr, ErrNotFound):
			return gerr
		case inParts:
			return fmt.Errorf("store: write %s: its upload was given up by somebody else; try again", s.at(name))
		}
		// Somebody else is about to write it, and may fail: 409, conflicting conditional operation in progress.
	}
	return fmt.Errorf("store: write %s: others began to write it %d times, but it is not there; try again: %w", s.at(name), createTries, err)
}

// createTries is how often an object is created that was refused because of others who then did not create it.
const createTries = 5

// Replace implements Store.
func (s *S3) Replace(ctx context.Context, name string, body []byte, old Version) (Version, error) {
	if err := checkBody(name, body); err != nil {
		return "", err
	}
	v, err := s.put(ctx, name, body, func(o *minio.PutObjectOptions) {
		if old == "" {
			o.SetMatchETagExcept("*")
		} else {
			o.SetMatchETag(string(old))
		}
	})
	if !errors.Is(err, ErrChanged) && !errors.Is(err, ErrNotFound) {
		return v, err
	}
	have, now, gerr := s.Get(ctx, name)
	switch {
	case gerr == nil && bytes.Equal(have, body):
		return now, nil
	case gerr != nil && !errors.Is(gerr, ErrNotFound):
		return "", gerr
	}
	return "", fmt.Errorf("%w: %s", ErrChanged, name)
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, name string) ([]byte, Version, error) {
	if err := CheckName(name); err != nil {
		return nil, "", err
	}
	return s.read(ctx, name, minio.GetObjectOptions{}, -1)
}

// bodyTries is how often a read is repeated whose answer began and broke off; the client library repeats only what never began.
const bodyTries = 6

// read reads an answer to its end; want is the number of bytes that must come, -1: what Content-Length says.
func (s *S3) read(ctx context.Context, name string, o minio.GetObjectOptions, want int64) (b []byte, v Version, err error) {
	for try := range bodyTries {
		if try > 0 {
			if err := sleep(ctx, time.Duration(50<<try)*time.Millisecond); err != nil {
				return nil, "", err
			}
		}
		var broken bool
		if b, v, broken, err = s.readOnce(ctx, name, o, want); !broken || ctx.Err() != nil {
			return b, v, err
		}
	}
	return b, v, err
}

// brokeOff reports that an answer ended early.
func brokeOff(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) }

// readOnce is one try; broken: the answer ended early.
func (s *S3) readOnce(ctx context.Context, name string, o minio.GetObjectOptions, want int64) (b []byte, v Version, broken bool, err error) {
	core := minio.Core{Client: s.c}
	body, info, _, err := core.GetObject(ctx, s.o.Bucket, s.prefix+name, o)
	if err != nil { // of a refusal, too, half may come: what it says is not known
		return nil, "", brokeOff(err), s.err("read", name, err)
	}
	defer body.Close()
	if want < 0 {
		want = info.Size
	}
	if want > MaxObject {
		return nil, "", false, fmt.Errorf("%w: object %s of %d bytes, limit %d", ErrInvalid, name, want, MaxObject)
	}
	if info.Size < want {
		return nil, "", false, fmt.Errorf("%w: %s has %d bytes, wanted %d", ErrShort, name, info.Size, want)
	}
	b = make([]byte, want)
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, "", true, s.err("read", name, err)
	}
	return b, Version(info.ETag), false, nil
}

// GetRange implements Store.
func (s *S3) GetRange(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := errors.Join(CheckName(name), checkRange(off, n)); err != nil {
		return nil, err
	}
	if n == 0 { // HTTP has no empty range
		i, err := s.Stat(ctx, name)
		if err == nil && off > i.Size {
			err = fmt.Errorf("%w: %s has %d bytes, wanted offset %d", ErrShort, name, i.Size, off)
		}
		return []byte{}, err
	}
	var o minio.GetObjectOptions
	if err := o.SetRange(off, off+n-1); err != nil {
		return nil, fmt.Errorf("%w: range: %w", ErrInvalid, err)
	}
	b, _, err := s.read(ctx, name, o, n)
	if r := minio.ToErrorResponse(errors.Unwrap(err)); r.StatusCode == http.StatusRequestedRangeNotSatisfiable || r.Code == "InvalidRange" {
		return nil, fmt.Errorf("%w: %s, wanted %d bytes at %d", ErrShort, name, n, off)
	}
	return b, err
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, name string) (Info, error) {
	if err := CheckName(name); err != nil {
		return Info{}, err
	}
	i, err := s.c.StatObject(ctx, s.o.Bucket, s.prefix+name, minio.StatObjectOptions{})
	if err != nil {
		return Info{}, s.err("stat", name, err)
	}
	return Info{Name: name, Size: i.Size}, nil
}

// List implements Store.
func (s *S3) List(ctx context.Context, prefix string, fn func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	last := ""
	for try := 0; ; try++ {
		if try > 0 {
			if err := sleep(ctx, time.Duration(50<<try)*time.Millisecond); err != nil {
				return err
			}
		}
		before := last
		broken, err := s.listFrom(ctx, prefix, &last, fn)
		if !broken || ctx.Err() != nil || try >= bodyTries {
			return err
		}
		if last != before {
			try = 0 // it moves
		}
	}
}

// listFrom lists what comes after last, which it moves on. broken: the answer of the service ended early, not fn.
func (s *S3) listFrom(ctx context.Context, prefix string, last *string, fn func(Info) error) (broken bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the lister when fn gives up
	for i := range s.c.ListObjects(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, StartAfter: *last}) {
		if i.Err != nil {
			return brokeOff(i.Err), s.err("list", prefix, i.Err)
		}
		*last = i.Key
		name := strings.TrimPrefix(i.Key, s.prefix)
		if CheckName(name) != nil {
			continue // not ours
		}
		if err := fn(Info{Name: name, Size: i.Size}); err != nil {
			return false, err
		}
	}
	return false, ctx.Err()
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := s.err("delete", name, s.c.RemoveObject(ctx, s.o.Bucket, s.prefix+name, minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
