package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// serve starts a server on a unix socket whose connections have the given origin, and returns a client of it.
func serve(t *testing.T, node Node, origin Origin) (*Client, *Server) {
	t.Helper()
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	server, err := NewServer(ServerConfig{Node: node, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := ListenLocal(socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener, func(net.Conn) Origin { return origin }) }()
	client := NewLocalClient("/some/dir", socket)
	t.Cleanup(func() {
		client.Close()
		if err := server.Close(t.Context()); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return client, server
}

var (
	testCreate  = ResourceCreateRequest{Name: "r0", SizeBytes: 1 << 20, Replicas: []Replica{{"a", "/d"}}, Ack: AckDurable}
	testID      = strings.Repeat("0a", 16)
	testPrepare = PrepareReplicaRequest{Resource: "r0", ID: testID, Slot: 1, SizeBytes: 4096, Path: "/d"}
	testResync  = ResyncRequest{Paused: new(true), MaxRate: new(uint64(8192)), Compare: new(CompareAlways)}
	testResize  = ResizeRequest{SizeBytes: 8192, AssumeClean: true}
	testRoom    = MakeRoomRequest{Resource: "r0", FromBytes: 4096, SizeBytes: 8192, Look: true}
	testSuspend = SuspendRequest{Flush: true, For: Duration(time.Minute), Timeout: Duration(time.Second)}
	testEdit    = ResourceEditRequest{Promotion: new(PromotionManual), Preferred: new("b"), OnIOError: new(OnIOErrorPassOn), DiskTimeout: new(Duration(time.Minute))}
	testJoin    = JoinRequest{Name: "b", Kind: KindData, Address: "h:1", CSR: []byte("csr")}
)

// only discards the answer of a call that a test makes for its failure or its effect.
func only[T any](_ T, err error) error { return err }

// calls are all methods of the client: what makes the server ask which thing of the node, who may, and the answer.
var calls = []struct {
	name  string
	from  OriginKind
	call  func(context.Context, *Client) (any, error)
	asked []any
	want  any
}{
	{"status", fromMembers, func(ctx context.Context, c *Client) (any, error) { return c.Status(ctx) },
		[]any{"Status"}, completed(fakeStatus())},
	{"version", fromMembers, func(ctx context.Context, c *Client) (any, error) { return c.Version(ctx) },
		[]any{"Version"}, fakeVersion()},
	{"node list", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.NodeList(ctx) },
		[]any{"NodeList"}, []NodeInfo{{Name: "a", Kind: KindData, Self: true}}},
	{"token", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.Token(ctx, &TokenRequest{TTL: Duration(90 * time.Minute)})
	}, []any{"Token", TokenRequest{TTL: Duration(90 * time.Minute)}}, &Token{Token: "duet1-x"}},
	{"join", OriginJoin, func(ctx context.Context, c *Client) (any, error) { return c.Join(ctx, &testJoin) },
		[]any{"Join", "who", testJoin}, &JoinReply{ClusterID: "c1", CA: []byte("pem")}},
	{"resource create", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.ResourceCreate(ctx, &testCreate) },
		[]any{"ResourceCreate", testCreate}, fakeRecord()},
	{"resource delete", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return nil, c.ResourceDelete(ctx, "r0", &ResourceDeleteRequest{Force: true})
	}, []any{"ResourceDelete", "r0", ResourceDeleteRequest{Force: true}}, nil},
	{"resource list", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.ResourceList(ctx) },
		[]any{"ResourceList"}, []ResourceRecord{*fakeRecord()}},
	{"resource show", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.ResourceShow(ctx, "a/b c") },
		[]any{"ResourceShow", "a/b c"}, fakeRecord()},
	{"primary", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.Primary(ctx, "r0", &PrimaryRequest{Force: true, Generation: 6})
	}, []any{"Primary", "r0", PrimaryRequest{Force: true, Generation: 6}}, &RoleChange{Role: RolePrimary, Generation: 7}},
	{"force report", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.ForceReport(ctx, "r0") },
		[]any{"ForceReport", "r0"}, &ForceReport{Resource: "r0", Generation: 7}},
	{"split show", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.SplitShow(ctx, "r0", 9) },
		[]any{"SplitShow", "r0", 9}, &SplitReport{Resource: "r0", Generation: 7}},
	{"split side", fromMembers, func(ctx context.Context, c *Client) (any, error) {
		return c.SplitSide(ctx, "r0", &SplitSideRequest{CheckUndo: true, Decision: 8})
	}, []any{"SplitSide", "r0", SplitSideRequest{CheckUndo: true, Decision: 8}}, &SplitSide{Node: "b"}},
	{"split resolve", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.SplitResolve(ctx, "r0", &SplitResolveRequest{Keep: "a", Undo: "/u", DryRun: true})
	}, []any{"SplitResolve", "r0", SplitResolveRequest{Keep: "a", Undo: "/u", DryRun: true}}, &SplitResolution{Resource: "r0", Keep: "a"}},
	{"secondary", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.Secondary(ctx, "r0") },
		[]any{"Secondary", "r0"}, &RoleChange{Role: RoleSecondary, Generation: 8}},
	{"quorum", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.QuorumReport(ctx) },
		[]any{"QuorumReport"}, &QuorumReport{Leader: "a", Majority: 2}},
	{"voter", fromMembers, func(ctx context.Context, c *Client) (any, error) { return c.VoterSelf(ctx) },
		[]any{"VoterSelf"}, &VoterSelf{State: "follower", LastIndex: 9}},
	{"transfer", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.Transfer(ctx, &TransferRequest{To: "b"})
	}, []any{"Transfer", TransferRequest{To: "b"}}, &Transfer{From: "a", To: "b"}},
	{"switch", fromMembers, func(ctx context.Context, c *Client) (any, error) {
		return c.Switch(ctx, "r0", &SwitchRequest{To: "b", Relayed: true})
	}, []any{"Switch", "r0", SwitchRequest{To: "b", Relayed: true}}, &SwitchResult{Resource: "r0", To: "b", Generation: 8, TotalMS: 1.5}},
	{"take over", OriginNode, func(ctx context.Context, c *Client) (any, error) {
		return c.TakeOver(ctx, &TakeOverRequest{Resource: "r0", Generation: 8})
	}, []any{"TakeOver", TakeOverRequest{Resource: "r0", Generation: 8}}, &TakeOver{Incarnation: 7}},
	{"connect", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return nil, c.Connect(ctx, "r0", &PeerRequest{Peer: "b"})
	}, []any{"Connect", "r0", PeerRequest{Peer: "b"}}, nil},
	{"disconnect", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return nil, c.Disconnect(ctx, "r0", &PeerRequest{})
	}, []any{"Disconnect", "r0", PeerRequest{}}, nil},
	{"detach", fromLocal, func(ctx context.Context, c *Client) (any, error) { return nil, c.Detach(ctx, "r0") },
		[]any{"Detach", "r0"}, nil},
	{"attach", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return nil, c.Attach(ctx, "r0", &AttachRequest{Path: "/dev/sdc", Metadata: "internal", Force: true})
	}, []any{"Attach", "r0", AttachRequest{Path: "/dev/sdc", Metadata: "internal", Force: true}}, nil},
	{"resync status", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.ResyncStatus(ctx, "r0") },
		[]any{"ResyncStatus", "r0"}, fakeResync()},
	{"explain", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.Explain(ctx, "r0") },
		[]any{"Explain", "r0"}, fakeExplanation()},
	{"resize", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.Resize(ctx, "r0", &testResize) },
		[]any{"Resize", "r0", testResize}, fakeRecord()},
	{"node remove", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.NodeRemove(ctx, &NodeRemoveRequest{Node: "b", WithReplicas: true, Force: true})
	}, []any{"NodeRemove", NodeRemoveRequest{Node: "b", WithReplicas: true, Force: true}}, &NodeRemoval{Node: "b", Voters: []string{"a"}}},
	{"add replica", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.ReplicaAdd(ctx, "r0", &ReplicaAddRequest{Replica: Replica{"c", "/d"}, Metadata: "internal", Force: true})
	}, []any{"ReplicaAdd", "r0", ReplicaAddRequest{Replica: Replica{"c", "/d"}, Metadata: "internal", Force: true}}, fakeRecord()},
	{"remove replica", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.ReplicaRemove(ctx, "r0", &ReplicaRemoveRequest{Node: "c", Force: true})
	}, []any{"ReplicaRemove", "r0", ReplicaRemoveRequest{Node: "c", Force: true}}, fakeRecord()},
	{"edit", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.ResourceEdit(ctx, "r0", &testEdit) },
		[]any{"ResourceEdit", "r0", testEdit}, fakeRecord()},
	{"make room", OriginNode, func(ctx context.Context, c *Client) (any, error) { return c.MakeRoom(ctx, &testRoom) },
		[]any{"MakeRoom", "who", testRoom}, &Room{Incarnation: 7, Zeroes: true}},
	{"suspend-io", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.SuspendIO(ctx, "r0", &testSuspend)
	}, []any{"SuspendIO", "r0", testSuspend}, fakeSuspension()},
	{"resume-io", fromLocal, func(ctx context.Context, c *Client) (any, error) { return nil, c.ResumeIO(ctx, "r0") },
		[]any{"ResumeIO", "r0"}, nil},
	{"change resync", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return nil, c.ChangeResync(ctx, "r0", &testResync)
	}, []any{"ChangeResync", "r0", testResync}, nil},
	{"verify", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return c.Verify(ctx, "r0", &VerifyRequest{Repair: true, BytesPerSecond: MinVerifyRate})
	}, []any{"Verify", "r0", VerifyRequest{Repair: true, BytesPerSecond: MinVerifyRate}}, fakeVerify()},
	{"verify status", fromLocal, func(ctx context.Context, c *Client) (any, error) { return c.VerifyStatus(ctx, "r0") },
		[]any{"VerifyStatus", "r0"}, fakeVerify()},
	{"verify cancel", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		return nil, c.VerifyCancel(ctx, "r0", &VerifyCancelRequest{Run: 3})
	}, []any{"VerifyCancel", "r0", VerifyCancelRequest{Run: 3}}, nil},
	{"events", fromLocal, func(ctx context.Context, c *Client) (any, error) {
		var got []Event
		err := c.Events(ctx, EventsRequest{Resource: "r0"}, func(e Event) error { got = append(got, e); return nil })
		return got, err
	}, []any{"Events", EventsRequest{Resource: "r0"}}, []Event{fakeEvent(1)}},
	{"prepare replica", OriginNode, func(ctx context.Context, c *Client) (any, error) { return c.PrepareReplica(ctx, &testPrepare) },
		[]any{"PrepareReplica", "who", testPrepare}, &PreparedReplica{Created: true, Path: "/d"}},
	{"drop replica", OriginNode, func(ctx context.Context, c *Client) (any, error) {
		return nil, c.DropReplica(ctx, &DropReplicaRequest{Resource: "r0", ID: testID})
	}, []any{"DropReplica", "who", DropReplicaRequest{Resource: "r0", ID: testID}}, nil},
	{"ready", fromAll, func(ctx context.Context, c *Client) (any, error) { return nil, c.Ready(ctx) }, nil, nil},
}

func completed(s *Status) *Status {
	s.complete()
	return s
}

// Every route carries its request and its answer unchanged, and is open to exactly the origins it is for.
func TestRoundTrip(t *testing.T) {
	for _, origin := range []OriginKind{0, OriginLocal, OriginNode, OriginJoin, OriginObserver} {
		node := &fakeNode{ready: Health{Ready: true}}
		client, _ := serve(t, node, Origin{Kind: origin, Name: "who"})
		for _, tt := range calls {
			node.asked = nil
			got, err := tt.call(t.Context(), client)
			if origin&tt.from == 0 {
				if err == nil || AsError(err).Code != CodeForbidden || node.lastAsked() != nil {
					t.Errorf("%s from origin %d: %v, asked %v, want it forbidden", tt.name, origin, err, node.lastAsked())
				}
				continue
			}
			if err != nil {
				t.Errorf("%s from origin %d: %v", tt.name, origin, err)
				continue
			}
			if asked := node.lastAsked(); !reflect.DeepEqual(asked, tt.asked) {
				t.Errorf("%s asked %v, want %v", tt.name, asked, tt.asked)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%s = %+v, want %+v", tt.name, got, tt.want)
			}
		}
	}
}

// Every failure of the node arrives as it was given.
func TestFailuresArrive(t *testing.T) {
	want := &Error{Code: CodeRefused, Message: "not now", Hint: "wait"}
	node := &fakeNode{failure: want}
	for _, origin := range []OriginKind{OriginLocal, OriginNode, OriginJoin} {
		client, _ := serve(t, node, Origin{Kind: origin, Name: "who"})
		for _, tt := range calls {
			if origin&tt.from == 0 || tt.asked == nil {
				continue
			}
			if _, err := tt.call(t.Context(), client); err == nil || *AsError(err) != *want {
				t.Errorf("%s: %v, want %v", tt.name, err, want)
			}
		}
	}
}

// Every code keeps its meaning on the way through HTTP, and so does its exit code.
func TestCodesArrive(t *testing.T) {
	node := &fakeNode{}
	client, _ := serve(t, node, Origin{Kind: OriginLocal})
	for code, outcome := range outcomes {
		node.failure = Errorf(code, "why")
		_, err := client.Version(t.Context())
		if err == nil || AsError(err).Code != code {
			t.Errorf("code %s arrives as %v", code, err)
		}
		if exit := ExitCode(err); exit != outcome.exit {
			t.Errorf("code %s: exit code %d, want %d", code, exit, outcome.exit)
		}
	}
}

// A follower gets events as they happen, and closing the server ends its stream.
func TestEventsFollow(t *testing.T) {
	node := &fakeNode{follow: make(chan Event)}
	client, server := serve(t, node, Origin{Kind: OriginLocal})
	got := make(chan uint64)
	ended := make(chan error, 1)
	go func() {
		ended <- client.Events(t.Context(), EventsRequest{Follow: true}, func(e Event) error { got <- e.Sequence; return nil })
	}()
	if sequence := <-got; sequence != 1 {
		t.Errorf("first event %d, want 1", sequence)
	}
	node.follow <- fakeEvent(2)
	if sequence := <-got; sequence != 2 {
		t.Errorf("second event %d, want 2", sequence)
	}
	if err := server.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}

// A client that stops reading events gets its own reason back.
func TestEventsAbandoned(t *testing.T) {
	client, _ := serve(t, &fakeNode{}, Origin{Kind: OriginLocal})
	want := errors.New("enough")
	if err := client.Events(t.Context(), EventsRequest{Follow: true}, func(Event) error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// pipeListener hands out the ends of pipes.
type pipeListener struct {
	ends   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ends:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// The time limits of receiving a request and of sending an event are those of these alone: a call may take longer than
// its body may, and the connection serves further requests much later.
func TestTimeLimitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := NewServer(ServerConfig{Node: &fakeNode{slow: 2 * bodyTimeout}})
		if err != nil {
			t.Fatal(err)
		}
		listener := &pipeListener{ends: make(chan net.Conn), closed: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener, LocalOrigin) }()
		dials := 0
		client := NewClient(func(context.Context) (net.Conn, error) {
			dials++
			here, there := net.Pipe()
			listener.ends <- there
			return here, nil
		})
		for range 3 {
			if err := client.Events(t.Context(), EventsRequest{}, func(Event) error { return nil }); err != nil {
				t.Error(err)
			}
			time.Sleep(eventWriteTimeout + time.Second) // of the bubble's clock
			if err := only(client.Token(t.Context(), &TokenRequest{TTL: Duration(time.Hour)})); err != nil {
				t.Error(err)
			}
		}
		if dials != 1 {
			t.Errorf("%d connections were needed", dials)
		}
		client.Close()
		if err := errors.Join(server.Close(t.Context()), <-served); err != nil {
			t.Error(err)
		}
	})
}

// A request that takes too long is cancelled on both sides and reported as such.
func TestDeadline(t *testing.T) {
	node := &fakeNode{entered: make(chan struct{})}
	client, _ := serve(t, node, Origin{Kind: OriginLocal})
	ctx, cancel := context.WithCancelCause(t.Context())
	ctx, stop := context.WithDeadline(ctx, time.Now().Add(time.Hour))
	defer stop()
	go func() { <-node.entered; cancel(nil) }()
	if err := only(client.Status(ctx)); ExitCode(err) != ExitFailed || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("a cancelled call: %v", err)
	}
	expired, stop := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer stop()
	if err := only(client.Version(expired)); ExitCode(err) != ExitTimeout {
		t.Errorf("an expired call: %v, exit code %d", err, ExitCode(err))
	}
}

// Close cuts off what doesn't end by itself once its own time is over.
func TestCloseIsBounded(t *testing.T) {
	node := &fakeNode{entered: make(chan struct{})}
	client, server := serve(t, node, Origin{Kind: OriginLocal})
	answered := make(chan error, 1)
	go func() { answered <- only(client.Status(context.WithoutCancel(t.Context()))) }()
	<-node.entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-answered; ExitCode(err) != ExitUnreachable {
		t.Errorf("the request that was cut off: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for name, socket := range map[string]string{"no socket": filepath.Join(dir, "none"), "nobody listens": dead} {
		err := AsError(only(NewLocalClient("/n1", socket).Status(t.Context())))
		want := Error{CodeUnreachable, "the daemon is not running in /n1", "start it with `duet --dir /n1 run`"}
		if *err != want {
			t.Errorf("%s: %+v, want %+v", name, *err, want)
		}
	}
	if err := only(NewClient(func(context.Context) (net.Conn, error) {
		return nil, Errorf(CodeRefused, "the token has expired")
	}).Status(t.Context())); ExitCode(err) != ExitFailed || err.Error() != "the token has expired" {
		t.Errorf("the dialer's own Error became %v", err)
	}
}

// A socket that a killed daemon left behind is replaced, and only its owner may open the new one.
func TestListenLocalReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		l, err := ListenLocal(path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReady(t *testing.T) {
	client, _ := serve(t, &fakeNode{ready: Health{Reason: "no leader"}}, Origin{Kind: OriginObserver})
	if err := client.Ready(t.Context()); ExitCode(err) != ExitUnreachable || err.Error() != "not ready: no leader" {
		t.Errorf("got %v", err)
	}
}
