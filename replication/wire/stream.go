package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
)

// stream is one end of a connection. Reading and writing belong to one goroutine each.
type stream struct {
	net.Conn
	r   *bufio.Reader
	out []byte // scratch of write
}

const (
	readBuffer = 64 << 10
	keepBuffer = 1 << 20 // a larger scratch is given back
	firstRead  = 1 << 20 // a length is believed up to here before its bytes have arrived
)

func newStream(c net.Conn) *stream { return &stream{Conn: c, r: bufio.NewReaderSize(c, readBuffer)} }

// write sends one message.
func (s *stream) write(m any) error {
	b, err := encode(s.out[:0], m)
	if err != nil {
		return err
	}
	if cap(b) <= keepBuffer {
		s.out = b
	}
	_, err = s.Write(b)
	return err
}

// read returns kind and body of the next message in memory of its own.
func (s *stream) read() ([]byte, error) {
	var head [lengthBytes]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return nil, err
	}
	n := int(be.Uint32(head[:]))
	if n < 1 || n > maxLength {
		return nil, fmt.Errorf("%w: length %d", ErrFormat, n)
	}
	b := make([]byte, min(n, firstRead))
	if err := s.fill(b); err != nil || len(b) == n {
		return b, err
	}
	for at := len(b); at < n; at = len(b) {
		grown := make([]byte, min(n, 4*at))
		copy(grown, b)
		b = grown
		if err := s.fill(b[at:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// fill reads what has been announced: the end of the stream comes too early.
func (s *stream) fill(b []byte) error {
	_, err := io.ReadFull(s.r, b)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ask sends a request and waits for the answer.
func (s *stream) ask(request, answer any) error {
	if err := s.write(request); err != nil {
		return err
	}
	return s.answer(answer)
}

// answer reads one.
func (s *stream) answer(m any) error {
	b, err := s.read()
	if err != nil {
		return err
	}
	return decodeAnswer(b, m)
}
