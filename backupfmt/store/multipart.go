package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

// A large object is uploaded in parts: what a broken line or a busy server costs is one part and not the whole, and parts travel beside each
// other. Nothing is visible before the last request, which carries the condition of a Create. A process that dies before leaves
// an unfinished upload, which Sweep removes. Replacements go in one request whatever their size: they are rare.
const (
	// DefaultPartSize lets packs of the usual size go in one request, which is cheaper than four.
	DefaultPartSize = 24 << 20
	// MinPartSize is the least that S3 accepts, but for the last part.
	MinPartSize = 5 << 20
	// MaxPartSize bounds what a broken request can cost.
	MaxPartSize = MaxObject

	partsAtOnce = 3
	probeName   = ".probe-" // no name of an object begins like that
)

// inParts uploads an object that must not exist: ErrChanged if it does.
func (s *S3) inParts(ctx context.Context, name string, body []byte) error {
	core := minio.Core{Client: s.c}
	key := s.prefix + name
	id, err := core.NewMultipartUpload(ctx, s.o.Bucket, key, minio.PutObjectOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return s.err("begin", name, err)
	}
	if err = s.completed(ctx, key, id, body); err == nil {
		return nil
	}
	// The upload is taken back also when ctx has ended: it takes room that nobody sees.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = core.AbortMultipartUpload(clean, s.o.Bucket, key, id) // else Sweep does
	return s.err("write", name, err)
}

// completed uploads the parts and puts them together.
func (s *S3) completed(ctx context.Context, key, id string, body []byte) error {
	core := minio.Core{Client: s.c}
	size := int(s.o.PartSize)
	parts := make([]minio.CompletePart, (len(body)+size-1)/size)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for n := range parts {
		part := body[n*size : min((n+1)*size, len(body))]
		g.Go(func() error {
			sum := sha256.Sum256(part) // the server compares it with what arrived
			up, err := core.PutObjectPart(gctx, s.o.Bucket, key, id, n+1, bytes.NewReader(part), int64(len(part)), minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum[:])})
			parts[n] = minio.CompletePart{PartNumber: n + 1, ETag: up.ETag}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	_, err := core.CompleteMultipartUpload(ctx, s.o.Bucket, key, id, parts, o)
	return err
}

// conditionalParts finds out, once, whether the service honours the condition of an upload in parts. One that does not would let the second of two
// writers overwrite the first; there, everything goes in one request.
func (s *S3) conditionalParts(ctx context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts != 0 {
		return s.parts > 0, nil
	}
	var token [8]byte
	_, _ = rand.Read(token[:])
	name := probeName + hex.EncodeToString(token[:])
	if _, err := s.put(ctx, name, []byte{1}, func(o *minio.PutObjectOptions) { o.SetMatchETagExcept("*") }); err != nil {
		return false, err
	}
	err := s.inParts(ctx, name, []byte{2})
	if err == nil || errors.Is(err, ErrChanged) {
		s.parts = 1
		if err == nil {
			s.parts = -1
		}
		err = nil
	}
	gone := s.c.RemoveObject(ctx, s.o.Bucket, s.prefix+name, minio.RemoveObjectOptions{})
	return s.parts > 0, errors.Join(err, s.err("delete", name, gone))
}

// Sweep implements Sweeper: uploads in parts that were begun before t, and not finished by then, are given up. Names of other prefixes of the bucket
// are left alone.
func (s *S3) Sweep(ctx context.Context, before time.Time) (n int, err error) {
	core := minio.Core{Client: s.c}
	key, upload := "", ""
	for {
		page, err := core.ListMultipartUploads(ctx, s.o.Bucket, s.prefix, key, upload, "", 1000)
		if err != nil {
			return n, s.err("list uploads", "", err)
		}
		for _, u := range page.Uploads {
			if !u.Initiated.Before(before) {
				continue
			}
			err := s.err("give up upload", "", core.AbortMultipartUpload(ctx, s.o.Bucket, u.Key, u.UploadID))
			if err != nil && !errors.Is(err, ErrNotFound) {
				return n, err
			}
			n++
		}
		if !page.IsTruncated || page.NextKeyMarker == key && page.NextUploadIDMarker == upload {
			return n, s.sweepProbes(ctx, before)
		}
		key, upload = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// sweepProbes removes what a process left that was killed in conditionalParts.
func (s *S3) sweepProbes(ctx context.Context, before time.Time) error {
	for i := range s.c.ListObjects(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: s.prefix + probeName}) {
		if i.Err != nil {
			return s.err("list", "", i.Err)
		}
		if !i.LastModified.Before(before) {
			continue
		}
		if err := s.c.RemoveObject(ctx, s.o.Bucket, i.Key, minio.RemoveObjectOptions{}); err != nil {
			return s.err("delete", i.Key, err)
		}
	}
	return nil
}

// checkPartSize applies the default and the bounds.
func (o *S3Options) checkPartSize() error {
	if o.PartSize == 0 {
		o.PartSize = DefaultPartSize
	}
	if o.PartSize < MinPartSize || o.PartSize > MaxPartSize {
		return fmt.Errorf("%w: part size of %d bytes, there are %d to %d", ErrInvalid, o.PartSize, MinPartSize, MaxPartSize)
	}
	return nil
}
