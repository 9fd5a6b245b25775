package node

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/mux"
	"duet/internal/pki"
)

// running is one daemon in this process.
type running struct {
	t      *testing.T
	dir    config.Dir
	cancel context.CancelFunc
	done   chan error
	client *control.Client
}

// freeAddress is one of this machine where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	return l.Addr().String()
}

// describe makes the directory of a node that is no member yet. Sockets in it need a short path.
func describe(t *testing.T, name string, kind config.Kind) (config.Dir, *config.Node) {
	t.Helper()
	root, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	dir := config.Dir(filepath.Join(root, name))
	address := freeAddress(t)
	n := &config.Node{Name: name, Kind: kind, Listen: address, Advertise: address}
	if kind == config.KindData {
		n.NBD = freeAddress(t)
	}
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	return dir, n
}

// found makes the first node of a cluster and runs it.
func found(t *testing.T, name string) *running {
	t.Helper()
	return run(t, founder(t, name))
}

// founder makes the directory of the first node of a cluster.
func founder(t *testing.T, name string) config.Dir {
	t.Helper()
	dir, n := describe(t, name, config.KindData)
	n.Cluster = "0123456789abcdef"
	ca, err := pki.NewCA(n.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.IssueNode(csr, pki.NodeRequest{Name: name, Kind: pki.KindData, Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	identity := config.Identity{CA: ca.CertificatePEM(), Certificate: certificate, Key: key}
	if err := errors.Join(dir.SaveAuthority(ca), dir.SaveIdentity(identity), dir.SaveNode(n)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// join makes a further node by a token of a member and runs it.
func (r *running) join(name string, kind config.Kind) *running {
	t := r.t
	t.Helper()
	dir, n := describe(t, name, kind)
	text, err := r.client.Token(t.Context(), &control.TokenRequest{TTL: control.Duration(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.ParseToken(text.Token)
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := mux.NewJoinDialer(token, 0)
	if err != nil {
		t.Fatal(err)
	}
	client := control.NewClient(func(ctx context.Context) (net.Conn, error) {
		return dialer.Dial(ctx, token.Addresses[0], "", mux.ChannelJoin)
	})
	defer client.Close()
	reply, err := client.Join(t.Context(), &control.JoinRequest{Name: name, Kind: control.NodeKind(kind), Address: n.Advertise,
		NBDAddress: n.NBD, CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	n.Cluster = reply.ClusterID
	for _, peer := range reply.Peers {
		n.Peers = append(n.Peers, config.Peer{Name: peer.Name, Address: peer.Address})
	}
	identity := config.Identity{CA: reply.CA, Certificate: reply.Certificate, Key: key}
	if kind == config.KindData {
		ca, err := pki.ParseCA(reply.CA, reply.CAKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.SaveAuthority(ca); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(dir.SaveIdentity(identity), dir.SaveNode(n)); err != nil {
		t.Fatal(err)
	}
	return run(t, dir)
}

// run starts the daemon of a directory and waits until it takes its part. It ends with the test.
func run(t *testing.T, dir config.Dir) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, dir: dir, cancel: cancel, done: make(chan error, 1),
		client: control.NewLocalClient(string(dir), dir.ControlSocket())}
	ready := make(chan struct{})
	go func() { r.done <- Run(ctx, Options{Dir: dir, Ready: func() { close(ready) }}) }()
	select {
	case <-ready:
	case err := <-r.done:
		t.Fatalf("the node ended: %v", err)
	}
	t.Cleanup(r.stop)
	return r
}

// stop ends the daemon in good order; further calls do nothing.
func (r *running) stop() {
	if r.done == nil {
		return
	}
	r.cancel()
	if err := <-r.done; err != nil {
		r.t.Errorf("stop: %v", err)
	}
	r.client.Close()
	r.done = nil
}

func refused(t *testing.T, err error, code control.Code, says string) {
	t.Helper()
	var e *control.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, says) {
		t.Errorf("got %v, want %s with %q", err, code, says)
	}
}

func leftovers(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A resource is created on all nodes or on none, and its end leaves the data and nothing else.
func TestResourceEverywhereOrNowhere(t *testing.T) {
	a := found(t, "a")
	b := a.join("b", config.KindData)
	a.join("w", config.KindWitness)
	disks := t.TempDir()
	diskA, diskB := filepath.Join(disks, "a.img"), filepath.Join(disks, "b.img")
	request := &control.ResourceCreateRequest{Name: "r0", SizeBytes: 8 << 20,
		Replicas: []control.Replica{{Node: "a", Path: diskA}, {Node: "b", Path: diskB}}}

	with := func(node, path string) *control.ResourceCreateRequest {
		changed := *request
		changed.Replicas = []control.Replica{request.Replicas[0], {Node: node, Path: path}}
		return &changed
	}
	content := filepath.Join(disks, "content")
	if err := os.WriteFile(content, []byte(strings.Repeat("precious", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		request *control.ResourceCreateRequest
		code    control.Code
		says    string
	}{
		{with("b", content), control.CodeRefused, "holds data"},
		{with("b", "relative.img"), control.CodeUsage, "must begin with /"},
		{with("b", filepath.Join(disks, "no", "such", "directory")), control.CodeRefused, "can't be made"},
		{with("w", diskB), control.CodeRefused, "witness"},
		{with("x", diskB), control.CodeNotFound, "no node x"},
		{with("b", diskA), control.CodeRefused, "in use"}, // one machine here: a has it
	} {
		_, err := a.client.ResourceCreate(t.Context(), tt.request)
		refused(t, err, tt.code, tt.says)
		if left := append(leftovers(t, filepath.Join(disks, "*.img")), leftovers(t, filepath.Join(string(a.dir.Meta()), "*"))...); len(left) > 0 {
			t.Fatalf("after %v there is %v", err, left)
		}
	}

	created, err := b.client.ResourceCreate(t.Context(), request)
	if err != nil || created.Primary != "a" || len(created.InSync) != 2 {
		t.Fatalf("created %+v, %v", created, err)
	}
	_, err = a.client.ResourceCreate(t.Context(), request)
	refused(t, err, control.CodeRefused, "already")
	refused(t, a.client.ResourceDelete(t.Context(), "r0", &control.ResourceDeleteRequest{}), control.CodeRefused, "is Primary on a")
	if _, err := a.client.Secondary(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	if err := b.client.ResourceDelete(t.Context(), "r0", &control.ResourceDeleteRequest{}); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, filepath.Join(b.dir.Meta(), "*")); len(left) > 0 {
		t.Errorf("metadata is left: %v", left)
	}
	if left := leftovers(t, filepath.Join(disks, "*.img")); len(left) != 2 {
		t.Errorf("of the disks are left: %v", left)
	}
}

// A replica that was prepared for a resource that never came is undone, but never one whose resource was committed.
func TestPreparedReplicaExpires(t *testing.T) {
	a := found(t, "a")
	n := a.node(t)
	disk := filepath.Join(t.TempDir(), "disk")
	request := &control.PrepareReplicaRequest{Resource: "r0", ID: strings.Repeat("ab", 16), SizeBytes: 1 << 20, Path: disk}
	if _, err := n.PrepareReplica(t.Context(), "", request); err != nil {
		t.Fatal(err)
	}
	_, err := n.PrepareReplica(t.Context(), "", request)
	refused(t, err, control.CodeRefused, "being prepared")
	n.mu.Lock()
	p := n.prepared[request.ID]
	n.mu.Unlock()
	n.expire(p)
	if left := append(leftovers(t, disk), leftovers(t, filepath.Join(a.dir.Meta(), "*"))...); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	refused(t, n.DropReplica(t.Context(), "", &control.DropReplicaRequest{Resource: "r0", ID: request.ID}), control.CodeNotFound, "no replica")
}

// node is the daemon itself, once it serves: the tests of this package may look inside.
func (r *running) node(t *testing.T) *Node {
	t.Helper()
	r.stop()
	ctx, cancel := context.WithCancel(context.Background())
	lock, err := r.dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: r.dir, Ready: func() {}}
	ready := make(chan struct{})
	o.Ready = func() { close(ready) }
	n, err := open(o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.run(ctx, o) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("the node ended: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, lock.Close()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// A directory that was restored from a backup has forgotten promises and votes; its daemon must not go on.
func TestRestoredDirectoryIsRefused(t *testing.T) {
	a := found(t, "a")
	b := a.join("b", config.KindData)
	b.stop()
	old, err := os.ReadFile(b.dir.IncarnationFile())
	if err != nil {
		t.Fatal(err)
	}
	b = run(t, b.dir)
	b.stop()
	if err := os.WriteFile(b.dir.IncarnationFile(), old, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := Run(ctx, Options{Dir: b.dir}); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "register") {
		t.Errorf("ended with %v", err)
	}
}

// A daemon that is told to end while it still looks for its cluster ends in good order.
func TestStopWhileLookingForTheCluster(t *testing.T) {
	a := found(t, "a")
	b := a.join("b", config.KindData)
	a.stop()
	b.stop()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Options{Dir: b.dir}) }()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for answers := false; !answers; {
		select {
		case err := <-done:
			t.Fatalf("ended with %v", err)
		case <-ticker.C:
			_, err := b.client.Version(t.Context())
			answers = err == nil
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
}
