package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const goodNode = `name: a
kind: data
cluster: c1
listen: :7600
advertise: 10.0.0.1:7600
`

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
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has more than one line", err)
	}
}

func TestParseNodeRefuses(t *testing.T) {
	const file = "/d/node.yaml"
	cases := []struct{ name, content, want string }{
		{"unknown key", goodNode + "nmae: x\n", `:6: unknown field "nmae"`},
		{"unknown key below", goodNode + "peers:\n- nam: b\n", `:7: unknown field "nam"`},
		{"key twice", goodNode + "name: b\n", `:6: mapping key "name"`},
		{"time without a unit", goodNode + "peer-timeout: 500\n", `:6: "500" is no time`},
		{"time with a wrong unit", goodNode + "peer-timeout: 5x\n", `"5x"`},
		{"time too long", goodNode + "peer-timeout: 2h\n", "peer-timeout: 2h0m0s is not between"},
		{"negative time", goodNode + "ping-interval: -1s\n", "ping-interval: -1s is not between"},
		{"ping above time-out", goodNode + "peer-timeout: 1s\nping-interval: 1s\n", "ping-interval: 1s is not below"},
		{"limit too long", goodNode + "handler-limits:\n  peer-lost: 2h\n", "handler-limits: peer-lost: 2h0m0s is not between"},
		{"limit that is none", goodNode + "handler-limits:\n  peer-lost: soon\n", `invalid duration "soon"`},
		{"fencing", goodNode + "fencing: perhaps\n", `fencing: "perhaps" is neither`},
		{"no boolean", goodNode + "insecure: maybe\n", `:6: "maybe" is neither true nor false`},
		{"no list", goodNode + "peers: b\n", ":6: "},
		{"tab", goodNode + "\tnbd: x\n", ":6: "},
		{"two documents", goodNode + "---\n" + goodNode, "more than one document"},
		{"empty", "", "name: the node has no name"},
		{"torn in a list", goodNode + "peers: [\n", "node.yaml:"},
		{"torn in a key", goodNode[:20], ":3: "},
		{"torn after the first lines", "name: a\nkind: data\n", "cluster: "},
		{"torn in an address", "name: a\nkind: data\ncluster: c1\nlisten: :76", "advertise: "},
		{"zeroes", "\x00\x00\x00\x00", ""},
		{"bad name", strings.Replace(goodNode, "a\n", "A b\n", 1), `name: node name "A b" is not valid`},
		{"bad kind", strings.Replace(goodNode, "data", "date", 1), `kind: "date" is neither`},
		{"no host", strings.Replace(goodNode, "10.0.0.1:7600", ":7600", 1), "advertise: "},
		{"any host", strings.Replace(goodNode, "10.0.0.1:7600", "0.0.0.0:7600", 1), "advertise: "},
		{"witness with nbd", strings.Replace(goodNode, "data", "witness", 1) + "nbd: 127.0.0.1:1\n", "nbd: a witness"},
		{"bad nbd", goodNode + "nbd: localhost\n", "nbd: "},
		{"insecure to the world", goodNode + "insecure: true\n", `listen: insecure is allowed on loopback addresses only, not on ":7600"`},
		{"peer itself", goodNode + "peers:\n- {name: a, address: h:1}\n", `peers: "a" is this node itself`},
		{"peer twice", goodNode + "peers:\n- {name: b, address: h:1}\n- {name: b, address: h:2}\n", `"b" is listed twice`},
		{"peer nowhere", goodNode + "peers:\n- {name: b}\n", `peers: address ""`},
		{"alias to itself", "name: &a [*a]\n", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n, err := ParseNode(file, []byte(c.content))
			wantError(t, err, nil, file, c.want)
			if n != nil {
				t.Error("a node came with the error")
			}
		})
	}
}

func fullNode() *Node {
	return &Node{
		Name: "node-1.x_y", Kind: KindData, Cluster: "4c7f", Listen: "127.0.0.1:7600", Advertise: "localhost:7600",
		NBD: "[::1]:10809", Insecure: true, Peers: []Peer{{"b", "127.0.0.1:7601"}, {"w", "127.0.0.1:7602"}},
		PeerTimeout: 1500 * time.Millisecond, Suspect: 300 * time.Millisecond, PingInterval: 50 * time.Millisecond, RaftHeartbeat: time.Second,
		RaftElection: 2 * time.Second, RaftLease: 500 * time.Millisecond,
		HandlerLimits: map[string]time.Duration{"after-promote": 5 * time.Minute}, Fencing: "try",
	}
}

func TestSaveAndLoadNode(t *testing.T) {
	d := Dir(t.TempDir())
	_, err := d.LoadNode()
	wantError(t, err, ErrNoNode, string(d), "duet init")
	want := fullNode()
	if err := d.SaveNode(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.LoadNode()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if info, err := os.Stat(d.NodeFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}

	// What people append, as the last line without a newline, counts.
	want.RaftLease = 0
	if err := d.SaveNode(want); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(d.NodeFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.NodeFile(), append(content, "\nraft-lease: 7ms"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := d.LoadNode(); err != nil || got.RaftLease != 7*time.Millisecond {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSaveNodeRefuses(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.SaveNode(fullNode()); err != nil {
		t.Fatal(err)
	}
	bad := fullNode()
	bad.Name = "no good"
	wantError(t, d.SaveNode(bad), nil, "no good")
	if got, err := d.LoadNode(); err != nil || got.Name != fullNode().Name {
		t.Errorf("what was there: %+v, %v", got, err)
	}
}

func TestLoadNodeBounds(t *testing.T) {
	d := Dir(t.TempDir())
	if err := os.WriteFile(d.NodeFile(), make([]byte, maxNodeFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := d.LoadNode()
	wantError(t, err, nil, d.NodeFile(), "65537 bytes")
	other := Dir(t.TempDir())
	if err := os.Mkdir(other.NodeFile(), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = other.LoadNode()
	wantError(t, err, nil, "not a regular file")
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		":1": false, "0.0.0.0:1": false, "10.0.0.1:1": false, "localhost.example.org:1": false, "127.0.0.1": false, "": false,
	} {
		if got := IsLoopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "0", "node-1.x_y", strings.Repeat("a", 63)} {
		if err := ValidateName("node", good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "A", "-a", ".", "..", "_a", "a/b", "a b", "a\n", "ä", "a\x00", strings.Repeat("a", 64)} {
		err := ValidateName("resource", bad)
		wantError(t, err, nil, "resource")
	}
}

func TestAddresses(t *testing.T) {
	cases := []struct {
		address      string
		listen, dial bool
	}{
		{"127.0.0.1:7600", true, true}, {"[::1]:7600", true, true}, {"[fe80::1%eth0]:7600", true, true}, {"Host-1.example.org:1", true, true},
		{":7600", true, false}, {"0.0.0.0:7600", true, false}, {"[::]:7600", true, false},
		{"", false, false}, {"host", false, false}, {"host:", false, false}, {"host:0", false, false}, {"host:65536", false, false},
		{"host:-1", false, false}, {"host:http", false, false}, {"::1:7600", false, false}, {"a b:1", false, false}, {"a\x10:1", false, false},
		{"-a:1", false, false}, {strings.Repeat("a", 254) + ":1", false, false}, {"http://host:1", false, false},
	}
	for _, c := range cases {
		if err := ValidateListen(c.address); (err == nil) != c.listen {
			t.Errorf("listen %q: %v", c.address, err)
		}
		if err := ValidateDial(c.address); (err == nil) != c.dial {
			t.Errorf("dial %q: %v", c.address, err)
		}
	}
}

func FuzzParseNode(f *testing.F) {
	f.Add([]byte(goodNode))
	f.Add([]byte(goodNode + "nbd: 127.0.0.1:1\npeers:\n- {name: b, address: h:1}\npeer-timeout: 5ms\n"))
	f.Add([]byte("name: &a [*a]\n"))
	directory := Dir(f.TempDir())
	f.Fuzz(func(t *testing.T, content []byte) {
		n, err := ParseNode("node.yaml", content)
		if (n == nil) == (err == nil) {
			t.Fatalf("%v and %v", n, err)
		}
		if err != nil {
			if text := err.Error(); !strings.HasPrefix(text, "node.yaml") || strings.Contains(text, "\n") {
				t.Errorf("error %q", text)
			}
			return
		}
		if err := directory.SaveNode(n); err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		again, err := directory.LoadNode()
		if err != nil || !reflect.DeepEqual(n, again) && len(n.Peers)+len(again.Peers) > 0 {
			t.Errorf("%+v became %+v, %v", n, again, err)
		}
	})
}

func TestWriteFileKeepsTheOldOnFailure(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "file")
	if err := WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(directory, "no", "file"), nil, 0o600); err == nil {
		t.Error("wrote into a directory that isn't there")
	}
	// A directory in the way of the rename is the one failure after the
	// content was written that a test can bring about.
	blocked := filepath.Join(directory, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(blocked, []byte("new"), 0o600); err == nil {
		t.Error("replaced a directory")
	}
	entries, err := os.ReadDir(directory)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if info, statErr := os.Stat(path); err != nil || statErr != nil || string(content) != "new" || info.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, %v, %v", content, info, err, statErr)
	}
}
