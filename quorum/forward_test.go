package quorum

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

func sampleRequest(t *testing.T) request {
	t.Helper()
	data, err := encodeCommand(promote(7, "b", 3))
	if err != nil {
		t.Fatal(err)
	}
	return request{Version: 1, Op: opPropose, TimeoutMillis: 500, Hops: 1, Visited: []string{"a"}, Command: data}
}

func TestGoldenFrames(t *testing.T) {
	q := sampleRequest(t)
	a := reply{Version: 1, Code: codeStale, Reason: "why", Result: Result{Index: 9, Version: 4, Resource: served(t).Resources["r"].brief()}}
	var frames [2]bytes.Buffer
	if err := errors.Join(writeFrame(&frames[0], q, maxRequestBytes), writeFrame(&frames[1], a, maxReplyBytes)); err != nil {
		t.Fatal(err)
	}
	gotQ, err := readRequest(bytes.NewReader(golden(t, "forward_request.golden", frames[0].Bytes())))
	if err != nil || !reflect.DeepEqual(gotQ, q) {
		t.Errorf("request decoded to %+v, %v", gotQ, err)
	}
	gotA, err := readReply(bytes.NewReader(golden(t, "forward_reply.golden", frames[1].Bytes())))
	if err != nil || !reflect.DeepEqual(gotA, a) {
		t.Errorf("reply decoded to %+v, %v", gotA, err)
	}
}

func frame(length uint32, body string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, length), body...)
}

func TestBadFrames(t *testing.T) {
	good := func(body string) []byte { return frame(uint32(len(body)), body) }
	tests := []struct {
		name string
		data []byte
		why  string
	}{
		{"nothing", nil, "EOF"},
		{"half a length", []byte{1, 0}, "EOF"},
		{"length zero", frame(0, ""), "0 bytes"},
		{"a huge length", frame(1<<31, "x"), "2147483648 bytes"},
		{"truncated", frame(10, "{}"), "EOF"},
		{"not JSON", good("hello"), "invalid"},
		{"another version", good(`{"v":2,"timeout_ms":1}`), "version 2"},
		{"too many hops", good(`{"v":1,"timeout_ms":1,"hops":3}`), "3 hops"},
		{"negative hops", good(`{"v":1,"timeout_ms":1,"hops":-1}`), "-1 hops"},
		{"too many visited", good(`{"v":1,"timeout_ms":1,"visited":["a","b","c","d"]}`), "4 nodes"},
		{"no time", good(`{"v":1}`), "0 ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := readRequest(bytes.NewReader(tt.data)); err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %v, want %q", err, tt.why)
			}
		})
	}
	for name, data := range map[string][]byte{
		"unknown code":      good(`{"v":1,"code":"perhaps","result":{}}`),
		"another version":   good(`{"v":2,"code":"ok","result":{}}`),
		"an illegal record": good(`{"v":1,"code":"ok","result":{"resource":{"name":"r"}}}`),
	} {
		if _, err := readReply(bytes.NewReader(data)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := writeFrame(io.Discard, strings.Repeat("x", 100), 50); !errors.Is(err, ErrFrame) {
		t.Errorf("a frame above its limit was written: %v", err)
	}
}

func FuzzReadFrames(f *testing.F) {
	f.Add([]byte(`{"v":1,"op":"propose","timeout_ms":500,"hops":1,"visited":["a"],"command":{"v":1,"kind":"mark","body":{}}}`))
	f.Add([]byte(`{"v":1,"code":"ok","result":{"index":1,"version":2,"resource":{"name":"r","generation":1,"in_sync":["a"]}}}`))
	f.Add([]byte(`{"v":1,"node":"a","incarnation":4,"run_id":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, data := range [][]byte{body, frame(uint32(len(body)), string(body))} {
			if q, err := readRequest(bytes.NewReader(data)); err == nil {
				if _, err := json.Marshal(q); err != nil {
					t.Errorf("a request that can't be handed on: %v", err)
				}
			}
			if a, err := readReply(bytes.NewReader(data)); err == nil && a.Result.Resource != nil && len(a.Result.Resource.InSync) == 0 {
				t.Error("took a record with an empty set")
			}
			var h hello
			if err := readFrame(bytes.NewReader(data), &h, maxHelloBytes); err == nil {
				if err := served(t).vet(h); err == nil && h.Node == "a" && h.Incarnation < 1 {
					t.Errorf("let %+v in", h)
				}
			}
		}
	})
}

func TestVet(t *testing.T) {
	s := must(t, cluster(t), register("b", 4, 1))
	tests := []struct {
		name string
		h    hello
		in   bool
	}{
		{"the registered process", hello{Version: 1, Node: "b", Incarnation: 4, RunID: "run"}, true},
		{"its successor", hello{Version: 1, Node: "b", Incarnation: 5, RunID: "next"}, true},
		{"a restored directory", hello{Version: 1, Node: "b", Incarnation: 3, RunID: "old"}, false},
		{"a restored directory that has caught up", hello{Version: 1, Node: "b", Incarnation: 4, RunID: "old"}, false},
		{"a node that has just joined", hello{Version: 1, Node: "new", Incarnation: 1}, true},
		{"another version", hello{Version: 2, Node: "b", Incarnation: 4, RunID: "run"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.vet(tt.h); (err == nil) != tt.in {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A restored directory is refused by whoever it calls, too: it would ask for votes.
func TestAcceptedStreamIsVetted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, false)
		defer b.stopAll()
		b.form()
		for name, tt := range map[string]struct {
			incarnation uint64
			refused     bool
		}{"restored": {0, true}, "restarted": {2, false}} {
			conn, err := b.net.dial(t.Context(), "x", "a", ChannelRaft)
			if err != nil {
				t.Fatal(err)
			}
			var answer hello
			h := hello{Version: helloVersion, Node: "b", Incarnation: tt.incarnation, RunID: "x"}
			if err := errors.Join(writeFrame(conn, h, maxHelloBytes), readFrame(conn, &answer, maxHelloBytes)); err != nil {
				t.Fatal(err)
			}
			if answer.Node != "a" || (answer.Refused != "") != tt.refused {
				t.Errorf("%s: answered %+v", name, answer)
			}
			if tt.refused {
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("%s: the stream goes on after the refusal: %v", name, err)
				}
			}
			closeConn(conn)
		}
	})
}

// What a node hands on has fewer hops left and names everyone who had it; what has none left stays.
func TestHopsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		defer b.stopAll()
		l := b.net.listen("a", ChannelForward)
		n := b.start("b") // it knows nobody but the seed, and has no leader
		handedOn := make(chan request, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			q, err := readRequest(conn)
			if err != nil {
				t.Error(err)
			}
			handedOn <- q
			if err := writeFrame(conn, reply{Version: 1, Code: codeNoLeader}, maxReplyBytes); err != nil {
				t.Error(err)
			}
			closeConn(conn)
		}()
		q := request{Version: 1, Op: opRead, Hops: 1, Visited: []string{"w"}}
		if a := n.route(t.Context(), q); a.Code != codeNoLeader {
			t.Errorf("got %+v", a)
		}
		if got := <-handedOn; got.Hops != 0 || !reflect.DeepEqual(got.Visited, []string{"w", "b"}) {
			t.Errorf("handed on %+v", got)
		}
		q.Hops = 0
		if a := n.route(t.Context(), q); a.Code != codeNoLeader {
			t.Errorf("got %+v", a)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// namedConn is a connection whose other end has proven a name.
type namedConn struct {
	net.Conn
	name string
}

func TestStrangersCannotPropose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		defer b.stopAll()
		b.tune = func(c *Config) {
			c.PeerName = func(conn net.Conn) string {
				if named, ok := conn.(namedConn); ok {
					return named.name
				}
				return "nobody"
			}
		}
		n := b.start("a")
		b.do("bootstrap", func(ctx context.Context) error { return n.Bootstrap(ctx, "test") })
		for name, want := range map[string]code{"a": codeOK, "stranger": codeRefused, "": codeRefused} {
			q := request{Version: 1, Op: opRead, Resource: "r", TimeoutMillis: 1000}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if got := n.serveRequest(ctx, namedConn{name: name}, q); got.Code != want {
				t.Errorf("%q got %+v, want %s", name, got, want)
			}
			cancel()
		}
	})
}

func TestUnknownRequestsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		defer b.stopAll()
		n := b.start("a")
		b.do("bootstrap", func(ctx context.Context) error { return n.Bootstrap(ctx, "test") })
		before := n.Status().LastIndex
		for _, q := range []request{
			{Op: "explode"},
			{Op: opPropose, Command: json.RawMessage(`{"v":1,"kind":"explode","body":{}}`)},
			{Op: opPropose},
		} {
			if got := n.route(t.Context(), q); got.Code != codeRefused {
				t.Errorf("%+v got %+v", q, got)
			}
		}
		if after := n.Status().LastIndex; after != before {
			t.Errorf("nonsense got into the log: index %d -> %d", before, after)
		}
	})
}

func TestTooManyRequestsAreTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		defer b.stopAll()
		n := b.start("a")
		var open []net.Conn
		for range maxHandlers {
			conn, err := b.net.dial(t.Context(), "x", "a", ChannelForward)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, conn)
		}
		synctest.Wait()
		extra, err := b.net.dial(t.Context(), "x", "a", ChannelForward)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := extra.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one too many: %v", err)
		}
		// Those that never say what they want are dropped, and there is room again.
		for _, conn := range open {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("a silent connection ended with %v", err)
			}
		}
		b.do("bootstrap", func(ctx context.Context) error { return n.Bootstrap(ctx, "test") })
	})
}

func TestCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, true)
		defer b.stopAll()
		b.form()
		b.makeLeader("w")
		n := b.nodes["b"]
		check := func(what string, visited []string, want ...string) {
			t.Helper()
			var got []string
			for _, p := range n.candidates(visited) {
				got = append(got, p.address)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		check("the leader is first, the node itself missing", nil, "w", "a")
		check("who had it is left out", []string{"w"}, "a")
		n.dials.note("w", false)
		check("who could not be reached is last", nil, "a", "w")
		time.Sleep(dialMemory) // virtual
		check("after a while it is first again", nil, "w", "a")
		n.dials.note("w", false)
		n.dials.note("w", true)
		check("and when it was reached", nil, "w", "a")
	})
}

func TestRaftLogsOneLevelLower(t *testing.T) {
	var out bytes.Buffer
	log := raftLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	log.Error("bad", "peer", "b")
	log.Warn("odd", "address", hclog.Fmt("%s:%d", "a", 1))
	log.Info("chatter")
	log.Named("net").With("x", 1).Debug("noise")
	text := out.String()
	for _, want := range []string{`level=WARN msg="raft: bad" peer=b`, `level=INFO msg="raft: odd" address=a:1`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, "chatter") || strings.Contains(text, "noise") {
		t.Errorf("too much:\n%s", text)
	}
}
