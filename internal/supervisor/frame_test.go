package supervisor

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// framed is a frame as docs/SUPERVISOR.md describes it.
func framed(text string) []byte {
	n := len(text)
	return append([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, text...)
}

func TestReportOnTheWire(t *testing.T) {
	const text = `{"v":1,"kind":"exit","node":"n1","incarnation":7}`
	report := Report{Version: 1, Kind: KindExit, Node: "n1", Incarnation: 7}
	var wire bytes.Buffer
	if err := writeFrame(&wire, report, maxReportBytes); err != nil || !bytes.Equal(wire.Bytes(), framed(text)) {
		t.Errorf("%v, %q", err, wire.Bytes())
	}
	rest := bytes.NewReader(append(framed(`{"v":1,"kind":"exit","node":"n1","incarnation":7,"later":[1]}`), "rest"...))
	if got, err := readReport(rest); err != nil || got != report || rest.Len() != len("rest") {
		t.Errorf("%+v, %v, %d bytes left", got, err, rest.Len())
	}
}

func TestReportRefused(t *testing.T) {
	for name, wire := range map[string][]byte{
		"nothing in it":        framed(""),
		"too long":             {0, 5, 0, 0},
		"far too long":         {0xff, 0xff, 0xff, 0xff},
		"no JSON":              framed("xxxx"),
		"another version":      framed(`{"v":2,"kind":"exit","node":"n1","incarnation":7}`),
		"another kind":         framed(`{"v":1,"kind":"maybe","node":"n1","incarnation":7}`),
		"no kind":              framed(`{"v":1,"node":"n1","incarnation":7}`),
		"no incarnation":       framed(`{"v":1,"kind":"exit","node":"n1"}`),
		"negative incarnation": framed(`{"v":1,"kind":"exit","node":"n1","incarnation":-1}`),
		"no node":              framed(`{"v":1,"kind":"exit","incarnation":7}`),
		"no name of a node":    framed(`{"v":1,"kind":"exit","node":"../n1","incarnation":7}`),
	} {
		if _, err := readReport(bytes.NewReader(wire)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, wire := range map[string]string{"the end": "", "half a header": "\x05\x00", "half a frame": "\x05\x00\x00\x00{}"} {
		if _, err := readReport(strings.NewReader(wire)); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRequestRefused(t *testing.T) {
	peers := strings.Repeat(`{"name":"n2","address":"127.0.0.1:1"},`, maxPeers)
	for name, text := range map[string]string{
		"another version":     `{"v":2,"kind":"run","node":"n1","incarnation":7}`,
		"no incarnation":      `{"v":1,"kind":"run","node":"n1"}`,
		"too many peers":      `{"v":1,"kind":"peers","peers":[` + peers + `{"name":"n2","address":"127.0.0.1:1"}]}`,
		"a peer without name": `{"v":1,"kind":"peers","peers":[{"address":"127.0.0.1:1"}]}`,
		"a peer nowhere":      `{"v":1,"kind":"peers","peers":[{"name":"n2","address":"n2"}]}`,
	} {
		if _, err := readRequest(bytes.NewReader(framed(text))); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	most := `{"v":1,"kind":"peers","peers":[` + strings.TrimSuffix(peers, ",") + `]}`
	if q, err := readRequest(bytes.NewReader(framed(most))); err != nil || len(q.Peers) != maxPeers {
		t.Errorf("%v, %d peers", err, len(q.Peers))
	}
}

func TestFrameTooLarge(t *testing.T) {
	if err := writeFrame(io.Discard, strings.Repeat("x", maxReportBytes), maxReportBytes); !errors.Is(err, ErrFrame) {
		t.Errorf("%v", err)
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add(framed(`{"v":1,"kind":"exit","node":"n1","incarnation":7}`))
	f.Add(framed(`{"v":1,"kind":"watch","node":"n1","incarnation":0}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f, '{'})
	f.Fuzz(func(t *testing.T, wire []byte) {
		report, err := readReport(bytes.NewReader(wire))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, report, maxReportBytes); err != nil {
			t.Fatal(err)
		}
		if got, err := readReport(&again); err != nil || got != report {
			t.Errorf("%+v became %+v, %v", report, got, err)
		}
	})
}

func FuzzReadRequest(f *testing.F) {
	f.Add(framed(`{"v":1,"kind":"run","node":"n1","incarnation":7,"challenge":"x","peers":[{"name":"n2","address":"127.0.0.1:1"}]}`))
	f.Add(framed(`{"v":1,"kind":"orderly"}`))
	f.Fuzz(func(t *testing.T, wire []byte) {
		q, err := readRequest(bytes.NewReader(wire))
		if err == nil && (len(q.Peers) > maxPeers || q.Version != protocolVersion) {
			t.Errorf("%+v", q)
		}
	})
}
