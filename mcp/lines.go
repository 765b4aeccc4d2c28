package mcp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// lineBuffer is how much is read from the carrier at once, and the largest
// line buffer that is kept between two messages.
const lineBuffer = 64 << 10

// byteOrderMark may open a stream that a Windows shell pipes in.
var byteOrderMark = []byte{0xEF, 0xBB, 0xBF}

// A lineReader cuts a byte stream into messages, one per line. Lines end in LF
// or CRLF; empty lines are skipped; the last line needs no end.
type lineReader struct {
	src   *bufio.Reader
	limit int64 // bytes of the longest line that is returned, without its end
	begun bool
}

func newLineReader(r io.Reader, limit int64) *lineReader {
	return &lineReader{src: bufio.NewReaderSize(r, lineBuffer), limit: limit}
}

// next returns the next line in memory of its own. A line over the limit is
// read to its end, in constant memory, and reported as a *wireError that
// carries the id of the message if it has one; the stream goes on behind it.
// At the end of the stream the error is io.EOF.
func (l *lineReader) next() ([]byte, error) {
	for {
		line, err := l.line()
		var tooLong *wireError
		if errors.As(err, &tooLong) {
			return nil, err
		}
		if line = bytes.Trim(line, " \t\r\n"); len(line) > 0 {
			return line, nil // an error behind a last line comes back next time
		}
		if err != nil {
			return nil, err
		}
	}
}

func (l *lineReader) line() ([]byte, error) {
	if !l.begun {
		l.begun = true
		if head, _ := l.src.Peek(len(byteOrderMark)); bytes.Equal(head, byteOrderMark) {
			_, _ = l.src.Discard(len(byteOrderMark))
		}
	}
	var line []byte
	for {
		part, err := l.src.ReadSlice('\n')
		line = append(line, part...)
		if int64(len(bytes.TrimRight(line, "\r\n"))) > l.limit {
			return nil, l.skip(line, err)
		}
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// skip reads to the end of a line that is too long; err is what the read of
// its beginning ended with.
func (l *lineReader) skip(line []byte, err error) error {
	var ids idScan
	ids.write(line)
	size := int64(len(line))
	for errors.Is(err, bufio.ErrBufferFull) {
		var part []byte
		part, err = l.src.ReadSlice('\n')
		ids.write(part)
		size += int64(len(part))
	}
	return tooLarge(size, l.limit).withID(ids.found())
}

// tooLarge refuses a message of size bytes (0: unknown).
func tooLarge(size, limit int64) *wireError {
	bad := refuse(http.StatusRequestEntityTooLarge, CodeMessageTooLarge,
		"message too large: the limit is %d bytes", limit)
	data := map[string]int64{"limit": limit}
	if size > 0 {
		bad.Message = fmt.Sprintf("message too large: %d bytes, the limit is %d", size, limit)
		data["size"] = size
	}
	bad.Data = data
	return bad
}

// lineSink delivers each event as one line.
type lineSink struct {
	mu  sync.Mutex
	out io.Writer
	buf []byte
}

// Deliver implements [Sink]. A line is written in one piece, so that readers
// of a pipe never see half a message between two writes of ours.
func (s *lineSink) Deliver(_ context.Context, e Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(append(s.buf[:0], e.Data...), '\n')
	_, err := s.out.Write(s.buf)
	if cap(s.buf) > lineBuffer {
		s.buf = nil
	}
	return err
}

// Close implements [Sink]. Standard output belongs to the caller and stays open.
func (s *lineSink) Close() error { return nil }
