package fuzz

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
)

// region is a run of bytes of a log file that serve one purpose. The layout is
// read here from the format description, not with the code under test.
type region struct {
	file   string
	class  string
	off, n int64
}

func (r region) end() int64 { return r.off + r.n }

// layout splits a log file into regions.
func layout(name string, b []byte) []region {
	if !strings.HasSuffix(name, ".seg") {
		if len(b) == 0 {
			return nil
		}
		return []region{{name, kindOf(name), 0, int64(len(b))}}
	}
	var out []region
	add := func(class string, from, to int64) {
		if from < to {
			out = append(out, region{name, class, from, to - from})
		}
	}
	if string(b[:8]) != "erlmcpWS" {
		add("unused segment", 0, int64(len(b)))
		return out
	}
	add("header", 0, 128)
	add("header padding", 128, 2048)
	add("header copy", 2048, 2176)
	add("header padding", 2176, 4096)
	block := int64(binary.LittleEndian.Uint32(b[12:]))
	at := int64(4096)
	for at+64 <= int64(len(b)) && string(b[at:at+4]) == "BATC" {
		body := int64(binary.LittleEndian.Uint32(b[at+16:]))
		next := at + 48 + body + 128
		if next > int64(len(b)) || string(b[next-128:next-124]) != "TRLR" {
			break
		}
		border := (next + block - 1) / block * block
		add("batch header", at, at+48)
		add("record header", at+48, min(at+72, next-128))
		add("payload", at+72, next-128)
		add("trailer", next-128, next)
		add("batch padding", next, border)
		at = border
	}
	if string(b[at:at+4]) == "ENDM" {
		add("end mark", at, at+64)
		at += 64
	}
	end := int64(len(b))
	if f := b[end-128:]; string(f[:8]) == "erlmcpWF" {
		body := int64(binary.LittleEndian.Uint64(f[56:]))
		add("free space", at, body)
		add("footer body", body, end-128)
		add("footer", end-128, end)
		return out
	}
	add("free space", at, end)
	return out
}

// kindOf names a file by what it is, without its number.
func kindOf(name string) string {
	base := path.Base(name)
	if ext := path.Ext(base); ext == ".sst" || ext == ".log" || ext == ".spare" {
		return ext[1:]
	}
	return strings.TrimRight(strings.TrimSuffix(base, path.Ext(base)), "-0123456789")
}

// lastOf returns the last region of a class in the newest used segment.
func lastOf(regions []region, class string) (region, bool) {
	for _, r := range slices.Backward(regions) {
		if r.class == class {
			return r, true
		}
	}
	return region{}, false
}

func (r region) String() string { return fmt.Sprintf("%s of %s [%d,+%d)", r.class, r.file, r.off, r.n) }
