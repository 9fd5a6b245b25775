package mux

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"duet/internal/pki"
)

func wantError(t *testing.T, err, is error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %q is not %q", err, is)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func TestPreface(t *testing.T) {
	for line, want := range map[string]preface{
		"DUET/1 raft":                            {channel: ChannelRaft},
		"DUET/1 peer node-1.x_y":                 {channel: ChannelPeer, node: "node-1.x_y"},
		"DUET/1 later":                           {channel: "later"},
		"DUET/1 raft recovery=12":                {channel: ChannelRaft, recovery: 12},
		"DUET/1 peer a recovery=1":               {channel: ChannelPeer, node: "a", recovery: 1},
		"DUET/1 join " + strings.Repeat("a", 63): {channel: ChannelJoin, node: strings.Repeat("a", 63)},
	} {
		if got, err := parsePreface(line); err != nil || got != want || got.line() != line+"\n" {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	for line, want := range map[string]error{
		"DUET/2 raft": ErrVersion, "DUET/9 peer b": ErrVersion, "DUET/10 raft": ErrVersion, "DUET/2": ErrVersion, "DUET/0 raft": ErrVersion,
		"DUET/01 raft": ErrVersion, "DUET/2 what ever comes then": ErrVersion,
		"": ErrNotDuet, "DUET/": ErrNotDuet, "DUET/ raft": ErrNotDuet, "DUET/1": ErrNotDuet, "DUET/1 ": ErrNotDuet, "DUET/1  raft": ErrNotDuet,
		"DUET/1 raft ": ErrNotDuet, "DUET/1 raft a b": ErrNotDuet, "DUET/1 raft\r": ErrNotDuet, "DUET/1 RAFT": ErrNotDuet, "DUET/1a raft": ErrNotDuet,
		"DUET/1 raft A": ErrNotDuet, "DUET/1 raft " + strings.Repeat("a", 64): ErrNotDuet, "DUET/1234567 raft": ErrNotDuet, "duet/1 raft": ErrNotDuet,
		"GET / HTTP/1.1\r": ErrNotDuet, "DUET/1\x00raft": ErrNotDuet, "DUET/-1 raft": ErrNotDuet,
		"DUET/1 raft recovery=0": ErrNotDuet, "DUET/1 raft recovery=": ErrNotDuet, "DUET/1 raft recovery=01": ErrNotDuet, "DUET/1 recovery=1": ErrNotDuet,
		"DUET/1 raft recovery=1 a": ErrNotDuet, "DUET/1 raft recovery=18446744073709551616": ErrNotDuet,
	} {
		_, err := parsePreface(line)
		wantError(t, err, want)
	}
	_, err := parsePreface("DUET/2 raft")
	wantError(t, err, ErrVersion, "peer speaks DUET/2, this node DUET/1")
}

func TestAnswer(t *testing.T) {
	if node, err := parseAnswer(strings.TrimSuffix(acceptance("b"), "\n")); err != nil || node != "b" {
		t.Errorf("%q, %v", node, err)
	}
	_, err := parseAnswer(strings.TrimSuffix(refusal("no \"way\"\nat all\x1b[1m"+strings.Repeat("x", 1000)), "\n"))
	wantError(t, err, ErrRefused, `refused: no "way"?at all?[1mx`)
	if line := refusal(strings.Repeat("x", 1000)); len(line) > maxLineBytes {
		t.Errorf("a refusal has %d bytes", len(line))
	}
	for line, want := range map[string]error{
		"DUET/2 OK b": ErrVersion, "DUET/1": ErrNotDuet, "DUET/1 OK": ErrNotDuet, "DUET/1 OK b c": ErrNotDuet, "DUET/1 OK B": ErrNotDuet,
		"DUET/1 YES b": ErrNotDuet, "": ErrNotDuet, "DUET/1 REFUSED": ErrRefused, "DUET/1 refused x": ErrNotDuet,
		"DUET/1 RECOVERED": ErrNotDuet, "DUET/1 RECOVERED x": ErrNotDuet, "DUET/1 RECOVERED 1 2": ErrNotDuet,
	} {
		_, err := parseAnswer(line)
		wantError(t, err, want)
	}
}

func TestReadLine(t *testing.T) {
	rest := strings.NewReader("DUET/1 raft\nrest")
	if line, err := readLine(rest); err != nil || line != "DUET/1 raft" || rest.Len() != len("rest") {
		t.Errorf("%q, %v, %d bytes left", line, err, rest.Len())
	}
	for input, want := range map[string]struct {
		is   error
		left int
	}{
		"":                      {io.EOF, 0},
		"DUET/1 ra":             {io.ErrUnexpectedEOF, 0},
		"DUST/1 raft\n":         {ErrNotDuet, len("T/1 raft\n")},
		"\x16\x03\x01\x02\x00":  {ErrNotDuet, 4},
		"DUET/1 " + noise(1000): {ErrNotDuet, 1007 - maxLineBytes},
	} {
		rest := strings.NewReader(input)
		_, err := readLine(rest)
		wantError(t, err, want.is)
		if rest.Len() != want.left {
			t.Errorf("%.20q: %d bytes left, want %d", input, rest.Len(), want.left)
		}
	}
	_, err := readLine(strings.NewReader("\x16"))
	wantError(t, err, ErrNotDuet, "speaks TLS")
}

func noise(n int) string { return strings.Repeat("x", n) }

// TestPermit is the table of who may use what.
func TestPermit(t *testing.T) {
	kinds := []pki.Kind{pki.KindData, pki.KindWitness, pki.KindJoin, pki.KindClient}
	for channel, want := range map[Channel]string{
		ChannelRaft: "yynn", ChannelForward: "yynn", ChannelBeat: "yynn", ChannelControl: "yynn", ChannelPeer: "ynnn", ChannelExit: "ynnn", ChannelJoin: "nnyn", "": "nnnn", "other": "nnnn",
	} {
		for i, kind := range kinds {
			err := permit(channel, pki.Identity{Name: "a", Kind: kind})
			if (err == nil) != (want[i] == 'y') {
				t.Errorf("%q for %s: %v", channel, kind, err)
			}
		}
	}
}

func TestIdentify(t *testing.T) {
	proven := &pki.Identity{Name: "a", Kind: pki.KindWitness}
	if got, err := identify(preface{channel: ChannelRaft, node: ""}, proven); err != nil || got != *proven {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := identify(preface{channel: ChannelRaft, node: "b"}, nil); err != nil || got != (pki.Identity{Name: "b", Kind: pki.KindData}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := identify(preface{channel: ChannelJoin, node: "b"}, nil); err != nil || got != (pki.Identity{Name: "b", Kind: pki.KindJoin}) {
		t.Errorf("%v, %v", got, err)
	}
	_, err := identify(preface{channel: ChannelRaft, node: "b"}, proven)
	wantError(t, err, nil, "goes by certificates")
	_, err = identify(preface{channel: ChannelRaft, node: ""}, nil)
	wantError(t, err, nil, "must name the node")
}

func FuzzPreface(f *testing.F) {
	for _, seed := range []string{"DUET/1 raft\n", "DUET/1 peer a\n", "DUET/2 x\n", "DUET/1 OK a\n", "DUET/1 REFUSED x y\n", "DUET/1 raft a recovery=3\n", "DUET/1 RECOVERED 3\n", "\x16\x03", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		reader := bytes.NewReader(input)
		line, err := readLine(reader)
		if read := len(input) - reader.Len(); read > maxLineBytes {
			t.Fatalf("read %d bytes", read)
		}
		if err != nil {
			return
		}
		if p, err := parsePreface(line); err == nil && p.line() != line+"\n" {
			t.Errorf("%q became %+v", line, p)
		} else if err != nil && len(refusal(err.Error())) > maxLineBytes {
			t.Errorf("%q: the refusal is too long", line)
		}
		if node, err := parseAnswer(line); err == nil && acceptance(node) != line+"\n" {
			t.Errorf("%q became %q", line, node)
		}
	})
}
