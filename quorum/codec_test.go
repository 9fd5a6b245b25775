package quorum

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with testdata/name, or writes it there with -update.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the encoding has changed; a change of format needs a new version\ngot  %q\nwant %q", name, got, want)
	}
	return want
}

func sampleState(t *testing.T) *State {
	return must(t, served(t), remove(2, "b"), RegisterNode{Node: "b", Incarnation: 2, RunID: "run", BootID: "boot-b-2", Address: "b:7600"},
		add(3, "b", 2, 3), promote(4, "c", 1))
}

func TestGoldenSnapshot(t *testing.T) {
	s := sampleState(t)
	data, err := encodeSnapshot(s, 42)
	if err != nil {
		t.Fatal(err)
	}
	back, index, err := decodeSnapshot(bytes.NewReader(golden(t, "snapshot.golden", data)))
	if err != nil || index != 42 || !reflect.DeepEqual(back, s) {
		t.Errorf("decoded to index %d, %v\n%+v", index, err, back)
	}
}

func TestGoldenCommands(t *testing.T) {
	for name, c := range map[string]Command{
		"command_create.golden":  create("a", "b"),
		"command_promote.golden": promote(7, "b", 3),
		"command_add.golden":     add(8, "b", 4, 6),
		"command_switch.golden":  Switch{Resource: "r", Generation: 8, Node: "a", Incarnation: 3, Target: "b", TargetInc: 4, Now: now, Reason: "test"},
		"command_force.golden":   Force{Resource: "r", Generation: 8, Node: "b", Incarnation: 3, Base: 5, Promised: 4, Now: now, Reason: "test"},
		"command_keep.golden":    ResolveSplit{Resource: "r", Generation: 9, Keep: "a", Undo: "/undo", Fence: true, Now: now, Reason: "test"},
	} {
		data, err := encodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeCommand(golden(t, name, data)); err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%s decoded to %+v, %v", name, back, err)
		}
	}
}

type failer interface{ Fatalf(string, ...any) }

func checkSnapshotRoundTrip(t failer, s *State, data []byte) {
	back, _, err := decodeSnapshot(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	again, err := encodeSnapshot(back, 7)
	if err != nil || !bytes.Equal(again, data) {
		t.Fatalf("a snapshot of the restored state differs (%v)", err)
	}
}

func TestDamagedSnapshots(t *testing.T) {
	good, err := encodeSnapshot(sampleState(t), 42)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(change func([]byte) []byte) []byte { return change(bytes.Clone(good)) }
	tests := map[string][]byte{
		"nothing":         nil,
		"half a header":   good[:10],
		"truncated":       good[:len(good)-1],
		"wrong magic":     damage(func(b []byte) []byte { b[0]++; return b }),
		"another version": damage(func(b []byte) []byte { b[8]++; return b }),
		"a flipped bit":   damage(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
		"a huge length":   damage(func(b []byte) []byte { binary.LittleEndian.PutUint64(b[16:], 1<<62); return b }),
		"not a state":     seal([]byte(`{"index":1,"state":null}`)),
		"an empty set": seal([]byte(`{"index":1,"state":{"cluster_id":"x","version":1,"nodes":{},"tokens":{},"resources":` +
			`{"r":{"name":"r","generation":1,"in_sync":[]}}}}`)),
		"an unknown field": seal([]byte(`{"index":1,"state":{"nodes":{},"tokens":{},"resources":{},"future":1}}`)),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := decodeSnapshot(bytes.NewReader(data)); !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// seal puts a valid header in front of a body.
func seal(body []byte) []byte {
	data := append([]byte(snapshotMagic), 1, 0, 0, 0)
	data = binary.LittleEndian.AppendUint32(data, crc32.Checksum(body, castagnoli()))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(body)))
	return append(data, body...)
}

func FuzzDecodeSnapshot(f *testing.F) {
	if data, err := os.ReadFile(filepath.Join("testdata", "snapshot.golden")); err == nil {
		f.Add(data[snapshotHeaderBytes:])
	}
	f.Add([]byte(`{"index":1,"state":{"nodes":{},"tokens":{},"resources":{"r":null}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		// Once as it is, once with a header that lets the body through.
		if _, _, err := decodeSnapshot(bytes.NewReader(body)); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("an error of another sort: %v", err)
		}
		s, _, err := decodeSnapshot(bytes.NewReader(seal(body)))
		if err != nil {
			return
		}
		if err := s.check(); err != nil {
			t.Errorf("adopted an illegal state: %v", err)
		}
	})
}

func FuzzDecodeCommand(f *testing.F) {
	for _, name := range []string{"create", "promote", "add", "force", "keep", "switch"} {
		if data, err := os.ReadFile(filepath.Join("testdata", "command_"+name+".golden")); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte(`{"v":1,"kind":"remove-node","body":{"generations":{"r":1}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCommand(data)
		if err != nil {
			return
		}
		// Whatever a peer proposes: apply has to stand it and leave a legal state.
		s, _ := apply(served(t), c)
		if err := s.check(); err != nil {
			t.Errorf("%s led to an illegal state: %v", data, err)
		}
	})
}
