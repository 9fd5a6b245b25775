package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"duet/bitmap"
)

// memoryDisk is a Disk and a MetadataFile in memory.
type memoryDisk struct {
	mu      sync.Mutex
	p       []byte
	sparse  []bool // which blocks are holes; nil: the disk can't tell
	tag     uint64
	block   bool          // it can't grow
	holes   atomic.Bool   // blocks of zeroes are holes
	bytes   atomic.Uint64 // written
	punches atomic.Uint64
	fault   atomic.Pointer[func(operation string) error] // nil: none
}

// failing makes an operation fail: read, write or sync.
func (d *memoryDisk) failing(operation string, err error) {
	fault := func(what string) error {
		if what == operation {
			return err
		}
		return nil
	}
	d.fault.Store(&fault)
}

func (d *memoryDisk) check(operation string) error {
	if fault := d.fault.Load(); fault != nil {
		return (*fault)(operation)
	}
	return nil
}

func (d *memoryDisk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.check("read"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.p[off:]), nil
}

func (d *memoryDisk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.check("write"); err != nil {
		return 0, err
	}
	return d.put(p, off)
}

func (d *memoryDisk) put(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bytes.Add(uint64(len(p)))
	d.setHoles(off, int64(len(p)), false)
	return copy(d.p[off:], p), nil
}

// setHoles notes what the range is; a hole takes whole blocks.
func (d *memoryDisk) setHoles(off, n int64, hole bool) {
	for block := off / bitmap.BlockBytes; d.sparse != nil && block*bitmap.BlockBytes < off+n; block++ {
		d.sparse[block] = hole
	}
}

// stored is how many blocks are no holes.
func (d *memoryDisk) stored() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	count := 0
	for _, hole := range d.sparse {
		if !hole {
			count++
		}
	}
	return count
}

// becomeSparse makes holes of all blocks of zeroes, and lets the disk tell.
func (d *memoryDisk) becomeSparse() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sparse = make([]bool, len(d.p)/bitmap.BlockBytes)
	for i := range d.sparse {
		d.sparse[i] = allZero(d.p[i*bitmap.BlockBytes:][:bitmap.BlockBytes])
	}
}

func (d *memoryDisk) WriteDurableAt(p []byte, off int64) (int, error) { return d.WriteAt(p, off) }
func (d *memoryDisk) Sync() error                                     { return d.check("sync") }
func (d *memoryDisk) Zero(off, n int64) error                         { return d.Punch(off, n) }
func (d *memoryDisk) Size() int64                                     { return d.SizeBytes() }
func (d *memoryDisk) CanGrow() bool                                   { return !d.block }
func (d *memoryDisk) Tag() (uint64, error)                            { return d.tag, nil }
func (d *memoryDisk) SetTag(tag uint64) error                         { d.tag = tag; return nil }
func (d *memoryDisk) Close() error                                    { return nil }

func (d *memoryDisk) SizeBytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.p))
}

// Grow is what a file does.
func (d *memoryDisk) Grow(sizeBytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	more := make([]byte, max(0, sizeBytes-int64(len(d.p))))
	d.p = append(d.p, more...)
	for d.sparse != nil && len(d.sparse) < len(d.p)/bitmap.BlockBytes {
		d.sparse = append(d.sparse, true)
	}
	return nil
}

func (d *memoryDisk) Punch(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.p[off : off+n])
	d.punches.Add(1)
	d.setHoles(off, n, true)
	return nil
}

func (d *memoryDisk) Extents(off, n int64, emit func(n int64, hole bool) error) error {
	if d.sparse == nil && !d.holes.Load() {
		return emit(n, false)
	}
	for end := off + n; off < end; off += bitmap.BlockBytes {
		d.mu.Lock()
		hole := allZero(d.p[off : off+bitmap.BlockBytes])
		if d.sparse != nil {
			hole = d.sparse[off/bitmap.BlockBytes]
		}
		d.mu.Unlock()
		if err := emit(min(bitmap.BlockBytes, end-off), hole); err != nil {
			return err
		}
	}
	return nil
}

// recordArbiter is a committed record without a quorum: the same compare-and-set, in one process.
type recordArbiter struct {
	mu    sync.Mutex
	conf  Configuration
	learn func(Configuration)
	// before is called with each proposal, before it is decided; nil: nothing.
	before func(p Proposal)
	// refuse answers a proposal instead of the record; nil: nothing is refused.
	refuse func(p Proposal) error
	// silent is a quorum without a majority: nothing is committed any more.
	silent bool
}

func (a *recordArbiter) Propose(ctx context.Context, p Proposal) (Configuration, error) {
	a.mu.Lock()
	before := a.before
	a.mu.Unlock()
	if before != nil {
		before(p)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return Configuration{}, ctx.Err() // whoever asked is dead
	}
	if a.silent {
		return Configuration{}, errors.New("no majority")
	}
	if a.refuse != nil {
		if err := a.refuse(p); err != nil {
			return a.conf, err
		}
	}
	if p.Generation != a.conf.Generation {
		return a.conf, ErrStale
	}
	if last := len(a.conf.InSync) == 1; last && (p.Kind == ProposeRemove && a.conf.inSync(p.Target) || p.Kind == ProposeDetach) {
		return a.conf, ErrRejected
	}
	next := a.conf
	next.Generation++
	next.Replicas = append([]Replica(nil), a.conf.Replicas...)
	switch p.Kind {
	case ProposePromote:
		if !next.Clean {
			next.InSync = []string{p.Node}
		}
		next.Primary, next.PrimaryIncarnation, next.PrimarySince, next.Clean = p.Node, p.Incarnation, next.Generation, false
	case ProposeForce:
		for i := range next.Replicas {
			if r := &next.Replicas[i]; a.conf.inSync(r.Node) && r.Node != p.Node {
				r.Fork = Fork{At: next.Generation, Peer: p.Node, Base: p.Base}
			}
		}
		next.InSync, next.ForcedAt = []string{p.Node}, next.Generation
		next.replica(p.Node).AdmittedAt, next.replica(p.Node).LeftAt = next.Generation, 0
		next.Primary, next.PrimaryIncarnation, next.PrimarySince, next.Clean = p.Node, p.Incarnation, next.Generation, false
	case ProposeDemote:
		next.Primary, next.PrimaryIncarnation, next.Clean = "", 0, p.Clean
	case ProposeSwitch:
		next.Primary, next.PrimaryIncarnation, next.PrimarySince, next.Clean = p.Target, p.TargetIncarnation, next.Generation, false
	case ProposeRemove:
		if len(next.InSync) == 1 && next.inSync(p.Target) {
			return a.conf, fmt.Errorf("%w: %s has the last in-sync replica", ErrRejected, p.Target)
		}
		next.InSync = without(next.InSync, p.Target)
	case ProposeAdd:
		next.InSync = append(without(next.InSync, p.Target), p.Target)
		next.replica(p.Target).AdmittedAt, next.replica(p.Target).Promised = next.Generation, p.TargetPromised
	case ProposeDetach:
		next.InSync = without(next.InSync, p.Node)
	}
	for i := range next.Replicas {
		if a.conf.inSync(next.Replicas[i].Node) && !next.inSync(next.Replicas[i].Node) {
			next.Replicas[i].LeftAt = next.Generation
		}
	}
	a.conf = next
	a.learn(next)
	return next, nil
}

func without(set []string, node string) []string {
	var rest []string
	for _, member := range set {
		if member != node {
			rest = append(rest, member)
		}
	}
	return rest
}

// testNode is one replica of a testCluster; its disk and metadata outlive a crash.
type testNode struct {
	name        string
	incarnation uint64
	disk, meta  *memoryDisk
	resource    *Resource
	power       *poweredDisk // the disk as its process, or the last one, has it
}

// poweredDisk is the disk of one process: what that still does after its end comes to nothing.
type poweredDisk struct {
	*memoryDisk
	mu  sync.RWMutex
	out bool
}

func (d *poweredDisk) pull() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out = true
}

// alive does an operation of a process that has not ended.
func (d *poweredDisk) alive(operation func() error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.out {
		return ErrClosed
	}
	return operation()
}

// WriteAt implements Disk.
func (d *poweredDisk) WriteAt(p []byte, off int64) (n int, err error) {
	if err := d.check("write"); err != nil { // it may wait
		return 0, err
	}
	err = d.alive(func() error { n, err = d.put(p, off); return err })
	return n, err
}

// WriteDurableAt implements Disk.
func (d *poweredDisk) WriteDurableAt(p []byte, off int64) (int, error) { return d.WriteAt(p, off) }

// Punch implements Disk.
func (d *poweredDisk) Punch(off, n int64) error {
	return d.alive(func() error { return d.memoryDisk.Punch(off, n) })
}

// Zero implements Disk.
func (d *poweredDisk) Zero(off, n int64) error { return d.Punch(off, n) }

// testCluster runs replicas in one process over loopback sockets.
type testCluster struct {
	t          *testing.T
	arbiter    *recordArbiter
	mu         sync.Mutex
	nodes      map[string]*testNode
	emit       func(Event)             // nil: none
	tweak      func(*Resource)         // before a resource starts; nil: nothing
	wire       func(net.Conn) net.Conn // wraps the dialling end; nil: as it is
	wiring     wiring                  // between the nodes
	ackTimeout time.Duration
	// diskTimeout is Timing.DiskTimeout.
	diskTimeout time.Duration
	extents     int
	policy      OnIOError
	diskFailed  func(DiskFailure)
	revoke      func(reason string)
}

const testDeviceBytes = 32 << 20

func newTestCluster(t *testing.T, names ...string) *testCluster {
	return newTestClusterWithLog(t, 0, names...)
}

// newTestClusterWithLog makes the activity logs as small as wanted; 0 extents mean the default.
func newTestClusterWithLog(t *testing.T, extents int, names ...string) *testCluster {
	c := &testCluster{t: t, nodes: map[string]*testNode{}, extents: extents}
	if len(names) > 0 {
		c.form(names...)
	}
	return c
}

// form makes the replicas and starts them.
func (c *testCluster) form(names ...string) {
	t, extents := c.t, c.extents
	conf := Configuration{Resource: "r0", ResourceID: [16]byte{1}, SizeBytes: testDeviceBytes, Generation: 1, Clean: true, InSync: names,
		OnIOError: c.policy}
	for slot, name := range names {
		conf.Replicas = append(conf.Replicas, Replica{Node: name, Slot: slot, AdmittedAt: 1})
		n := &testNode{name: name, disk: &memoryDisk{p: make([]byte, testDeviceBytes)},
			meta: &memoryDisk{p: make([]byte, MetadataBytes(testDeviceBytes, extents))}}
		cfg := FormatConfig{ClusterID: "c", Resource: "r0", Node: name, ResourceID: conf.ResourceID, Slot: slot, SizeBytes: testDeviceBytes, ALExtents: extents}
		if err := Format(n.meta, cfg); err != nil {
			t.Fatal(err)
		}
		c.nodes[name] = n
	}
	c.arbiter = &recordArbiter{conf: conf, learn: c.learn}
	for _, name := range names {
		c.start(name)
	}
	t.Cleanup(func() {
		for _, name := range names {
			c.crash(name)
		}
	})
}

func (c *testCluster) learn(conf Configuration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.resource != nil {
			n.resource.Learn(conf)
		}
	}
}

func (c *testCluster) start(name string) {
	c.t.Helper()
	n := c.nodes[name]
	n.incarnation++
	cfg := Config{ClusterID: "c", Node: name, Incarnation: n.incarnation, Arbiter: c.arbiter, Dial: c.dialerOf(name), Emit: c.emit,
		Timing: Timing{PingInterval: 20 * time.Millisecond, RetryMin: 5 * time.Millisecond, ConnectGrace: 5 * time.Second,
			IdleBarrier: 50 * time.Millisecond, AckTimeout: c.ackTimeout, DiskTimeout: c.diskTimeout},
		DiskFailed: c.diskFailed, Revoke: c.revoke}
	c.arbiter.mu.Lock()
	conf := c.arbiter.conf
	c.arbiter.mu.Unlock()
	r, err := Open(cfg, conf)
	if err != nil {
		c.t.Fatal(err)
	}
	n.power = &poweredDisk{memoryDisk: n.disk}
	if err := r.Attach(n.power, n.meta); err != nil {
		c.t.Fatal(err)
	}
	if c.tweak != nil {
		c.tweak(r)
	}
	c.mu.Lock()
	n.resource = r
	c.mu.Unlock()
	r.Start()
}

// crash ends a node without a word: nothing is drained, flushed or marked clean.
func (c *testCluster) crash(name string) {
	c.mu.Lock()
	r := c.nodes[name].resource
	c.nodes[name].resource = nil
	c.mu.Unlock()
	if r == nil {
		return
	}
	c.nodes[name].power.pull()
	r.cancel()
	r.volume.end()         // who waits for the disk gets no answer any more
	c.wiring.cut(name, "") // a process that is gone holds no connection
	r.loops.Wait()
	if r.former != nil {
		<-r.former.closed
	}
	if r.local == nil {
		return
	}
	if err := r.local.store.Close(false); err != nil {
		c.t.Error(err)
	}
	r.local.watch.giveUp(ErrClosed)
	<-r.local.watch.idle // a process that dies takes its operations along
}

func (c *testCluster) dialer() func(ctx context.Context, node string) (net.Conn, error) {
	return c.dialerOf("")
}

// dialerOf is the dialer of a node.
func (c *testCluster) dialerOf(name string) func(ctx context.Context, node string) (net.Conn, error) {
	return func(ctx context.Context, node string) (net.Conn, error) {
		c.mu.Lock()
		r := c.nodes[node].resource
		c.mu.Unlock()
		if r == nil {
			return nil, fmt.Errorf("%s is down", node)
		}
		near, far := c.wiring.between(name, node)
		go func() {
			h, err := ReadHello(ctx, far)
			if err != nil {
				return
			}
			r.Accept(far, h)
		}()
		if c.wire != nil {
			return c.wire(near), nil
		}
		return near, nil
	}
}

// wait polls until cond holds.
func (c *testCluster) wait(what string, cond func() bool) {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			for name, n := range c.nodes {
				if n.resource != nil {
					c.t.Logf("%s: %+v", name, n.resource.Status())
				}
			}
			c.t.Fatalf("waited too long: %s", what)
		case <-tick.C:
		}
	}
}

func (c *testCluster) allInSync() bool {
	for _, n := range c.nodes {
		if n.resource == nil || n.resource.Status().DiskState != "UpToDate" {
			return false
		}
	}
	c.arbiter.mu.Lock()
	defer c.arbiter.mu.Unlock()
	return len(c.arbiter.conf.InSync) == len(c.nodes)
}

// waitCompletion turns a Completion into a channel.
type waitCompletion chan error

func (w waitCompletion) Complete(_ interface {
	Defer(f interface{ Flush() })
	More() bool
}, err error) {
	w <- err
}

func (c *testCluster) write(name string, off uint64, p []byte) {
	c.t.Helper()
	done := make(waitCompletion, 1)
	c.nodes[name].resource.Volume().Write(p, off, false, nil, done)
	select {
	case err := <-done:
		if err != nil {
			c.t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		c.t.Fatalf("write hangs: %+v", c.nodes[name].resource.Status())
	}
}

func (c *testCluster) flush(name string) {
	c.t.Helper()
	done := make(waitCompletion, 1)
	c.nodes[name].resource.Volume().Flush(nil, done)
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) promote(name string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.nodes[name].resource.Promote(ctx); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) equal() {
	c.t.Helper()
	var first *testNode
	for _, n := range c.nodes {
		if first == nil {
			first = n
		}
		if !bytes.Equal(first.disk.p, n.disk.p) {
			c.t.Fatalf("%s and %s differ in %s\n%s: %+v\n%s: %+v", first.name, n.name, differingBlocks(first.disk.p, n.disk.p),
				first.name, first.resource.Status(), n.name, n.resource.Status())
		}
	}
}

// differingBlocks lists them for a report.
func differingBlocks(a, b []byte) string {
	text := ""
	for off := 0; off < len(a); off += bitmap.BlockBytes {
		if !bytes.Equal(a[off:off+bitmap.BlockBytes], b[off:off+bitmap.BlockBytes]) {
			text += fmt.Sprintf(" %d", off/bitmap.BlockBytes)
		}
	}
	return "blocks" + text
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return p
}

func (c *testCluster) writeSome(name string, count int) {
	c.t.Helper()
	for range count {
		c.write(name, uint64(rand.IntN(testDeviceBytes/bitmap.BlockBytes-8))*bitmap.BlockBytes, randomBytes(3*bitmap.BlockBytes))
	}
}

func TestWritesReachEveryReplica(t *testing.T) {
	c := newTestCluster(t, "a", "b", "c")
	c.promote("a")
	c.writeSome("a", 50)
	c.flush("a")
	c.equal()
}

func TestSecondaryCrashesAndReturns(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	c.crash("b")
	c.writeSome("a", 20)
	c.start("b")
	c.wait("b in sync again", c.allInSync)
	c.writeSome("a", 20)
	c.equal()
}

func TestResyncEndsUnderConstantWrites(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	c.crash("b")
	c.writeSome("a", 20)
	c.start("b")
	c.wait("b in sync again", func() bool {
		c.writeSome("a", 5)
		return c.allInSync()
	})
	c.equal()
}

func TestPrimaryCrashesAndRollsBack(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	c.write("a", 4096, randomBytes(4096)) // makes the extent hot, as every write to it would
	c.crash("a")
	copy(c.nodes["a"].disk.p[8192:], randomBytes(4096)) // a write that reached only the local disk
	c.wait("b notices", func() bool { return c.nodes["b"].resource.Status().Peers[0].ConnectionState != "Connected" })
	c.promote("b")
	c.writeSome("b", 20)
	c.start("a")
	c.wait("a in sync again", c.allInSync)
	c.writeSome("b", 20)
	c.equal()
}

func TestOrderlyHandOverCopiesNothing(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.nodes["a"].resource.Demote(ctx); err != nil {
		t.Fatal(err)
	}
	c.promote("b")
	c.writeSome("b", 20)
	if !c.allInSync() {
		t.Fatal("the in-sync set was not kept")
	}
	c.equal()
}

// A peer that is added while writes go on stays: none of them comes to it before the generation that it is tagged with.
func TestAdditionUnderLoadNeedsOneAttempt(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	var refused atomic.Int64
	c.emit = func(e Event) {
		if strings.Contains(e.Reason, "sent a write of generation") {
			refused.Add(1)
		}
	}
	c.promote("a")
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range uint64(4) {
		writers.Go(func() {
			for p := randomBytes(4096); ; {
				select {
				case <-stop:
					return
				default:
				}
				if err := c.tryWrite("a", i*4096, p); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 40 {
		c.crash("b")
		c.start("b") // with the listener of events
		c.wait("b in sync again", c.allInSync)
	}
	close(stop)
	writers.Wait()
	c.writeSome("a", 1) // the record may still have b from before its crash: after a write, it is as b is
	c.wait("b in sync in the end", c.allInSync)
	c.equal()
	if n := refused.Load(); n > 0 {
		t.Errorf("%d writes came before their generation", n)
	}
}
