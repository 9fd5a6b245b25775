package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"duet/nbd/internal/wire"
)

// errMalformed says that an option's data does not have the form that the specification gives it.
var errMalformed = errors.New("malformed option")

// optionData is the unread rest of an option's data. Every length in it is checked against what is left before it is
// used, and nothing is allocated for it but strings of that checked length.
type optionData []byte

func (d *optionData) uint16() (uint16, error) {
	if len(*d) < 2 {
		return 0, fmt.Errorf("%w: truncated number", errMalformed)
	}
	v := binary.BigEndian.Uint16(*d)
	*d = (*d)[2:]
	return v, nil
}

func (d *optionData) uint32() (uint32, error) {
	if len(*d) < 4 {
		return 0, fmt.Errorf("%w: truncated number", errMalformed)
	}
	v := binary.BigEndian.Uint32(*d)
	*d = (*d)[4:]
	return v, nil
}

// text reads a string that is preceded by its length.
func (d *optionData) text() (string, error) {
	n, err := d.uint32()
	if err != nil {
		return "", err
	}
	if uint64(n) > uint64(len(*d)) {
		return "", fmt.Errorf("%w: string of %d bytes, %d left", errMalformed, n, len(*d))
	}
	s, err := checkedText((*d)[:n])
	*d = (*d)[n:]
	return s, err
}

func (d optionData) end() error {
	if len(d) != 0 {
		return fmt.Errorf("%w: %d bytes too many", errMalformed, len(d))
	}
	return nil
}

// checkedText applies the specification's rules for strings.
func checkedText(p []byte) (string, error) {
	switch {
	case len(p) > wire.MaxNameBytes:
		return "", fmt.Errorf("%w: string of %d bytes, at most %d are legal", errMalformed, len(p), wire.MaxNameBytes)
	case !utf8.Valid(p):
		return "", fmt.Errorf("%w: string is not UTF-8", errMalformed)
	case strings.IndexByte(string(p), 0) >= 0:
		return "", fmt.Errorf("%w: string has a NUL", errMalformed)
	}
	return string(p), nil
}

// infoRequest is the data of OPT_INFO and OPT_GO.
//
//	| name length (4) | name | count (2) | count times: info (2) |
type infoRequest struct {
	name  string
	wants []wire.Info
}

func parseInfoRequest(data optionData) (infoRequest, error) {
	name, err := data.text()
	if err != nil {
		return infoRequest{}, err
	}
	count, err := data.uint16()
	if err != nil {
		return infoRequest{}, err
	}
	if len(data) != 2*int(count) {
		return infoRequest{}, fmt.Errorf("%w: %d requests in %d bytes", errMalformed, count, len(data))
	}
	r := infoRequest{name: name}
	for range count {
		info, err := data.uint16()
		if err != nil {
			return infoRequest{}, err
		}
		r.wants = append(r.wants, wire.Info(info))
	}
	return r, nil
}

func (r infoRequest) wantsInfo(info wire.Info) bool {
	for _, w := range r.wants {
		if w == info {
			return true
		}
	}
	return false
}

// metaRequest is the data of OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT.
//
//	| name length (4) | name | count (4) | count times: query length (4), query |
type metaRequest struct {
	name    string
	queries []string
}

func parseMetaRequest(data optionData) (metaRequest, error) {
	name, err := data.text()
	if err != nil {
		return metaRequest{}, err
	}
	count, err := data.uint32()
	if err != nil {
		return metaRequest{}, err
	}
	r := metaRequest{name: name}
	for range count { // ends with the data: each query takes four bytes at least
		query, err := data.text()
		if err != nil {
			return metaRequest{}, err
		}
		if !strings.Contains(query, ":") {
			return metaRequest{}, fmt.Errorf("%w: query %q names no namespace", errMalformed, query)
		}
		r.queries = append(r.queries, query)
	}
	return r, data.end()
}

// lists reports whether base:allocation belongs into the answer to LIST_META_CONTEXT. A bare namespace lists all of it.
func (r metaRequest) lists() bool {
	if len(r.queries) == 0 {
		return true
	}
	for _, query := range r.queries {
		if query == wire.BaseAllocation || query == "base:" {
			return true
		}
	}
	return false
}

// selects reports whether SET_META_CONTEXT selects base:allocation, for which it must be named in full.
func (r metaRequest) selects() bool {
	for _, query := range r.queries {
		if query == wire.BaseAllocation {
			return true
		}
	}
	return false
}
