package replication

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"duet/bitmap"
)

// memoryUndo is an undo file that outlives its process. Writes fail beyond limit, which nobody has been told of before.
type memoryUndo struct {
	mu    sync.Mutex
	p     []byte
	limit int
	free  uint64
}

var errNoSpace = errors.New("no space left")

func (m *memoryUndo) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.NewReader(m.p).ReadAt(p, off)
}

func (m *memoryUndo) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if int(off)+len(p) > m.limit {
		return 0, errNoSpace
	}
	if grown := int(off) + len(p) - len(m.p); grown > 0 {
		m.p = append(m.p, make([]byte, grown)...)
	}
	return copy(m.p[off:], p), nil
}

func (m *memoryUndo) Truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p = m.p[:min(int(size), len(m.p))]
	return nil
}

func (m *memoryUndo) Size() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.p)), nil
}

func (m *memoryUndo) FreeBytes() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.free, nil
}

func (m *memoryUndo) bound(limit int, free uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit, m.free = limit, free
}

func (m *memoryUndo) Sync() error  { return nil }
func (m *memoryUndo) Close() error { return nil }

// former is what the undo file and the disk say that the disk was.
func (m *memoryUndo) former(t *testing.T, disk *memoryDisk) []byte {
	t.Helper()
	disk.mu.Lock()
	image := bytes.Clone(disk.p)
	disk.mu.Unlock()
	if size, err := m.Size(); err == nil && size == 0 {
		return image // it was not begun, so nothing was overwritten
	}
	if _, err := ReadUndo(m, func(offset uint64, content []byte) error { copy(image[offset:], content); return nil }); err != nil {
		t.Fatal(err)
	}
	return image
}

// divided is a cluster in which b was forced while a, which had more, was away, and a has returned. It returns the undo file
// that a would use, and what its disk holds.
func divided(t *testing.T, prepare func(c *testCluster)) (c *testCluster, undo *memoryUndo, former []byte) {
	undo = &memoryUndo{limit: 1 << 30, free: 1 << 30}
	c = newTestCluster(t)
	c.tweak = func(r *Resource) {
		r.cfg.OpenUndo = func(string, *UndoIdentity, bool) (UndoFile, bool, error) { return undo, false, nil }
	}
	c.form("a", "b")
	c.promote("a")
	c.writeSome("a", 20)
	c.wait("both in sync", c.allInSync)
	c.crash("b")
	c.wait("b leaves", func() bool { return c.inSync() == "[a]" })
	c.writeSome("a", 20)
	c.crash("a")
	prepare(c)
	c.start("b")
	if err := c.nodes["b"].resource.ForcePromote(t.Context(), ForceOptions{Generation: c.arbiter.record().Generation}); err != nil {
		t.Fatal(err)
	}
	c.writeSome("b", 20)
	former = bytes.Clone(c.nodes["a"].disk.p)
	c.start("a")
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
		c.wait(pair[0]+" sees the split", func() bool { return c.nodes[pair[0]].resource.Status().Peers[0].ConnectionState == splitBrain })
	}
	c.writeSome("b", 5)
	if !bytes.Equal(former, c.nodes["a"].disk.p) {
		t.Fatal("the disk of a was touched before anybody decided")
	}
	return c, undo, former
}

// giveUp commits the decision that a becomes a copy of b.
func (c *testCluster) giveUp() {
	c.arbiter.mu.Lock()
	defer c.arbiter.mu.Unlock()
	next := c.arbiter.conf
	next.Generation++
	next.Replicas = append([]Replica(nil), next.Replicas...)
	next.replica("a").Discard = Discard{At: next.Generation}
	c.arbiter.conf = next
	c.learn(next)
}

// resolved waits until a is a copy of b, and checks that what it was can be had back.
func (c *testCluster) resolved(undo *memoryUndo, former []byte) {
	c.t.Helper()
	c.wait("a is a copy of b", c.allInSync)
	c.flush("b")
	c.equal()
	if !bytes.Equal(undo.former(c.t, c.nodes["a"].disk), former) {
		c.t.Fatal("what a held is lost")
	}
}

// A resolution copies what differs and saves it, also what the application overwrites in between.
func TestResolution(t *testing.T) {
	c, undo, former := divided(t, func(*testCluster) {})
	c.giveUp()
	c.writeSome("b", 30)
	c.resolved(undo, former)
	if saved := (len(undo.p) - undoHeaderBytes) / undoRecordBytes; saved == 0 || saved > 400 {
		t.Errorf("%d blocks are saved", saved)
	}
}

// When nothing tells what both sides have in common, all blocks are compared, and the same is true.
func TestResolutionInFull(t *testing.T) {
	c, undo, former := divided(t, func(c *testCluster) {
		c.arbiter.mu.Lock()
		defer c.arbiter.mu.Unlock()
		c.arbiter.conf.replica("b").LeftAt = 0 // the record doesn't know when b left
	})
	c.giveUp()
	c.resolved(undo, former)
	if saved := (len(undo.p) - undoHeaderBytes) / undoRecordBytes; saved == 0 || saved > 400 {
		t.Errorf("%d blocks are saved, and not just what differs", saved)
	}
}

// Whoever is killed, how often: the resolution goes on, and no block is overwritten that is not saved.
func TestResolutionSurvivesCrashes(t *testing.T) {
	c, undo, former := divided(t, func(*testCluster) {})
	c.giveUp()
	for range 12 {
		victim := []string{"a", "b"}[rand.IntN(2)]
		c.writeSome("b", 1+rand.IntN(5))
		c.crash(victim)
		if !bytes.Equal(undo.former(t, c.nodes["a"].disk), former) {
			t.Fatalf("what a held is lost when %s is killed", victim)
		}
		c.start(victim)
		if victim == "b" {
			c.promote("b")
		}
		if len(c.arbiter.record().InSync) == 2 {
			break
		}
	}
	c.wait("a is a copy of b", c.allInSync)
	c.flush("b")
	c.equal()
}

// Without room nothing is overwritten: when there is too little from the first, and when it runs out on the way. With room
// again the resolution goes on by itself.
func TestResolutionWithoutRoom(t *testing.T) {
	for name, bound := range map[string]func(undo *memoryUndo){
		"from the first": func(undo *memoryUndo) { undo.bound(1<<30, 8*undoRecordBytes) },
		"on the way":     func(undo *memoryUndo) { undo.bound(undoHeaderBytes+8*undoRecordBytes, 1<<30) },
	} {
		t.Run(name, func(t *testing.T) {
			c, undo, former := divided(t, func(*testCluster) {})
			bound(undo)
			c.giveUp()
			c.wait("both say why nothing is copied", func() bool {
				reason := c.nodes["b"].resource.Status().Peers[0].Reason
				return strings.Contains(reason, "undo file needs") || strings.Contains(reason, errNoSpace.Error())
			})
			c.writeSome("b", 5)
			if !bytes.Equal(undo.former(t, c.nodes["a"].disk), former) {
				t.Fatal("what a held is lost")
			}
			if saved := (len(undo.p) - undoHeaderBytes) / undoRecordBytes; saved > 8 {
				t.Errorf("%d blocks are saved", saved)
			}
			undo.bound(1<<30, 1<<30)
			c.resolved(undo, former)
		})
	}
}

// When an undo file can't be written any more, the operator decides once more and names another one. What was saved last is put
// back first.
func TestResolutionDecidedTwice(t *testing.T) {
	c, first, former := divided(t, func(*testCluster) {})
	second := &memoryUndo{limit: 1 << 30, free: 1 << 30}
	decided := c.arbiter.record().Generation + 1
	open := func(_ string, identity *UndoIdentity, _ bool) (UndoFile, bool, error) {
		if identity.DiscardAt == decided {
			return first, false, nil
		}
		return second, false, nil
	}
	if err := c.nodes["a"].resource.call(t.Context(), func() { c.nodes["a"].resource.cfg.OpenUndo = open }); err != nil {
		t.Fatal(err)
	}
	first.bound(undoHeaderBytes+8*undoRecordBytes, 1<<30)
	c.giveUp()
	c.wait("both say why nothing is copied", func() bool {
		return strings.Contains(c.nodes["a"].resource.Status().Reason, errNoSpace.Error()) &&
			strings.Contains(c.nodes["b"].resource.Status().Peers[0].Reason, errNoSpace.Error())
	})
	c.giveUp()
	c.wait("a is a copy of b", c.allInSync)
	c.flush("b")
	c.equal()
	image := &memoryDisk{p: second.former(t, c.nodes["a"].disk)}
	if !bytes.Equal(first.former(t, image), former) {
		t.Error("what a held is lost")
	}
}

// A forced promotion is refused where it makes no sense, and where the operator has looked at something else.
func TestForcedPromotionIsRefused(t *testing.T) {
	c := newTestCluster(t, "a", "b")
	c.promote("a")
	c.writeSome("a", 3)
	c.wait("both in sync", c.allInSync)
	force := func(options ForceOptions) error { return c.nodes["b"].resource.ForcePromote(t.Context(), options) }
	if err := force(ForceOptions{Generation: c.arbiter.record().Generation}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "alive") {
		t.Errorf("beside a live Primary: %v", err)
	}
	c.crash("b")
	c.wait("b leaves", func() bool { return c.inSync() == "[a]" })
	c.writeSome("a", 3)
	c.crash("a")
	c.start("b")
	if err := force(ForceOptions{Generation: 1}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "moved on") {
		t.Errorf("with an old generation: %v", err)
	}
	if err := c.nodes["b"].resource.becomeInconsistent(c.arbiter.record().Generation); err != nil {
		t.Fatal(err)
	}
	c.wait("b is a mixture", func() bool { return c.diskState("b") == "Inconsistent" })
	options := ForceOptions{Generation: c.arbiter.record().Generation}
	if err := force(options); !errors.Is(err, ErrMixture) {
		t.Errorf("with a mixture: %v", err)
	}
	options.AcceptInconsistent = true
	if err := force(options); err != nil {
		t.Fatal(err)
	}
	record := c.arbiter.record()
	if fork := record.replica("a").Fork; fork.At == 0 || fork.Base != 0 {
		t.Errorf("a is forked as %+v: a mixture has nothing in common that a bitmap could tell", fork)
	}
	if got := c.diskState("b"); got != "UpToDate" {
		t.Errorf("b is %s", got)
	}
	c.write("b", 0, randomBytes(bitmap.BlockBytes))
}
