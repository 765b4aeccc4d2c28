package store

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Location says where a repository is, as people write it:
//
//	/var/backups/erlmcp, file:///var/backups/erlmcp            a local directory
//	s3://BUCKET[/PREFIX][?endpoint=URL&region=REGION&part_size=24MiB]   a bucket
//
// The endpoint of a bucket is the parameter, else AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL, else Amazon's of the region. It begins with
// https:// (or nothing) or http://. Keys come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or from the
// file named by AWS_SHARED_CREDENTIALS_FILE, never from the URL.
type Location struct {
	Dir string     // local directory, absolute; "" for a bucket
	S3  *S3Options // bucket; nil for a directory
}

// ParseLocation reads a location; env looks up environment variables: ErrInvalid. Nothing is opened.
func ParseLocation(text string, env func(string) string) (Location, error) {
	bad := func(format string, args ...any) (Location, error) {
		return Location{}, fmt.Errorf("%w: repository %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	scheme, _, isURL := strings.Cut(text, "://")
	switch {
	case text == "":
		return bad("is not named: write a directory or s3://BUCKET/PREFIX")
	case !isURL:
		dir, err := filepath.Abs(text)
		return Location{Dir: dir}, err
	case scheme != "s3" && scheme != "file":
		return bad("%q: the scheme %q is not known, write a directory or s3://BUCKET/PREFIX", withoutUser(text), scheme)
	}
	u, err := url.Parse(text)
	if err != nil {
		return bad("%q is not a URL", withoutUser(text))
	}
	if u.User != nil {
		return bad("%q: keys belong into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), not into the URL", withoutUser(text))
	}
	if scheme == "file" {
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return bad("%q: write file:///absolute/path", text)
		}
		return Location{Dir: filepath.Clean(u.Path)}, nil
	}
	if u.Host == "" {
		return bad("%q names no bucket: write s3://BUCKET/PREFIX", text)
	}
	o := S3Options{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: firstOf(env("AWS_REGION"), env("AWS_DEFAULT_REGION"), "us-east-1")}
	endpoint := firstOf(env("AWS_ENDPOINT_URL_S3"), env("AWS_ENDPOINT_URL"))
	for name, values := range u.Query() {
		switch name {
		case "endpoint":
			endpoint = values[0]
		case "region":
			o.Region = values[0]
		case "part_size":
			if o.PartSize, err = parsePartSize(values[0]); err != nil {
				return bad("%q: %v", text, err)
			}
		default:
			return bad("%q: parameter %q is not known, there are endpoint, region and part_size", text, name)
		}
	}
	if endpoint == "" {
		endpoint = "https://s3." + o.Region + ".amazonaws.com"
	}
	rest, plain := strings.CutPrefix(endpoint, "http://")
	o.Insecure = plain
	o.Endpoint = strings.TrimSuffix(strings.TrimPrefix(rest, "https://"), "/")
	if o.Endpoint == "" || strings.ContainsAny(o.Endpoint, "/?#@ ") {
		return bad("%q: the endpoint %q is not http[s]://host[:port]", text, endpoint)
	}
	return Location{S3: &o}, keysFrom(env, &o)
}

// parsePartSize reads a number of bytes, or of MiB.
func parsePartSize(v string) (int64, error) {
	number, mib := strings.CutSuffix(v, "MiB")
	n, err := strconv.ParseInt(number, 10, 64)
	if err == nil && mib && n <= MaxPartSize>>20 {
		n <<= 20
	}
	if err != nil || n < MinPartSize || n > MaxPartSize {
		return 0, fmt.Errorf("the part size %q is not between %dMiB and %dMiB, or not written like 16MiB", v, MinPartSize>>20, MaxPartSize>>20)
	}
	return n, nil
}

// withoutUser hides what stands before an @, which may be a key.
func withoutUser(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return "...@" + text[i+1:]
	}
	return text
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// keysFrom finds the access keys of a bucket. Without any the requests are anonymous, which the service will refuse or not.
func keysFrom(env func(string) string, o *S3Options) error {
	o.AccessKey, o.SecretKey, o.Token = env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"), env("AWS_SESSION_TOKEN")
	if (o.AccessKey == "") != (o.SecretKey == "") {
		return fmt.Errorf("%w: of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set", ErrInvalid)
	}
	file := env("AWS_SHARED_CREDENTIALS_FILE")
	if o.AccessKey != "" || file == "" {
		return nil
	}
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("%w: the file of AWS_SHARED_CREDENTIALS_FILE cannot be read: %w", ErrInvalid, err)
	}
	v, err := credentials.NewFileAWSCredentials(file, firstOf(env("AWS_PROFILE"), "default")).GetWithContext(nil)
	if err != nil || v.AccessKeyID == "" {
		return fmt.Errorf("%w: %s holds no keys of profile %q", ErrInvalid, file, firstOf(env("AWS_PROFILE"), "default"))
	}
	o.AccessKey, o.SecretKey, o.Token = v.AccessKeyID, v.SecretAccessKey, v.SessionToken
	return nil
}

// String is the location without secrets; ParseLocation understands it.
func (l Location) String() string {
	if l.S3 == nil {
		return l.Dir
	}
	return l.S3.location()
}

// location is the URL of a bucket as ParseLocation reads it.
func (o *S3Options) location() string {
	scheme := "https://"
	if o.Insecure {
		scheme = "http://"
	}
	path, parts := "/"+o.Prefix, ""
	if o.PartSize != 0 && o.PartSize != DefaultPartSize {
		parts = fmt.Sprintf("&part_size=%d", o.PartSize)
	}
	return "s3://" + o.Bucket + strings.TrimSuffix(path, "/") + "?endpoint=" + scheme + o.Endpoint + "&region=" + o.Region + parts
}

// Open opens what is there: ErrNoStore, ErrDenied. With create a missing directory is made; a bucket never is.
func (l Location) Open(ctx context.Context, create bool) (Store, error) {
	switch {
	case l.S3 != nil:
		s, err := OpenS3(ctx, *l.S3)
		if err != nil {
			return nil, err
		}
		return s, nil
	case create:
		d, err := CreateDir(nil, l.Dir)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	d, err := OpenDir(nil, l.Dir)
	if err != nil {
		return nil, err
	}
	return d, nil
}
