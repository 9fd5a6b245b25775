package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"duet/internal/crash"
)

// crashDisk is a Disk on a recorded medium. Its tag is durable when SetTag returns, as that of a file is.
type crashDisk struct{ *crash.Region }

func (d crashDisk) WriteDurableAt(p []byte, off int64) (int, error) {
	n, err := d.WriteAt(p, off)
	return n, errors.Join(err, d.Sync())
}

func (d crashDisk) Punch(off, n int64) error {
	_, err := d.WriteAt(make([]byte, n), off)
	return err
}

func (d crashDisk) Zero(off, n int64) error { return d.Punch(off, n) }

func (d crashDisk) Extents(_, n int64, emit func(n int64, hole bool) error) error {
	return emit(n, false)
}

func (d crashDisk) SizeBytes() int64 { return d.Size() }

func (d crashDisk) Tag() (uint64, error) {
	if d.Attribute() == "" {
		return 0, nil
	}
	return strconv.ParseUint(d.Attribute(), 10, 64)
}

func (d crashDisk) SetTag(tag uint64) error {
	d.SetAttribute(strconv.FormatUint(tag, 10))
	return d.Sync()
}

// attachRun attaches a replica, writes to its disk and detaches it, again and again.
type attachRun struct {
	*crash.Recorder
	disk, meta int
	starts     []int // the operations behind which each attachment began
}

const crashDeviceBytes = 4 << 20

func newAttachRun(t *testing.T) *attachRun {
	t.Helper()
	image := crash.NewImage()
	run := &attachRun{disk: image.AddFile(crashDeviceBytes), meta: image.AddFile(MetadataBytes(crashDeviceBytes, 16))}
	before := crash.NewRecorder(image)
	cfg := FormatConfig{ClusterID: "c", Resource: "r0", Node: "a", ResourceID: [16]byte{1}, SizeBytes: crashDeviceBytes, ALExtents: 16}
	if err := Format(before.Region(run.meta), cfg); err != nil {
		t.Fatal(err)
	}
	run.Recorder = crash.NewRecorder(before.Image())
	return run
}

// attached is the replica of node a with disk and metadata attached.
func attached(disk, meta *crash.Region) (*Resource, error) {
	conf := Configuration{Resource: "r0", ResourceID: [16]byte{1}, SizeBytes: crashDeviceBytes, Generation: 3, InSync: []string{"a", "b"},
		Replicas: []Replica{{Node: "a", AdmittedAt: 1}, {Node: "b", Slot: 1, AdmittedAt: 1}}}
	r, err := Open(Config{ClusterID: "c", Node: "a", Incarnation: 1, Workers: 1, Arbiter: &recordArbiter{conf: conf},
		Dial: func(context.Context, string) (net.Conn, error) { return nil, io.EOF }}, conf)
	if err != nil {
		return nil, err
	}
	if err := r.Attach(crashDisk{disk}, meta); err != nil {
		r.volume.close()
		return nil, err
	}
	return r, nil
}

// period is one attachment: the disk's first bytes become its number.
func (run *attachRun) period(t *testing.T, number uint64, clean bool) {
	t.Helper()
	run.starts = append(run.starts, len(run.Ops()))
	disk := run.Region(run.disk)
	r, err := attached(disk, run.Region(run.meta))
	if err != nil {
		t.Fatal(err)
	}
	run.Mark("attached %d", number)
	if r.superblock().Inconsistent {
		t.Fatalf("period %d is inconsistent", number)
	}
	if _, err := disk.WriteAt(binary.LittleEndian.AppendUint64(nil, number), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.detach(clean); err != nil {
		t.Fatal(err)
	}
	if clean {
		run.Mark("detached %d", number)
	}
}

// moment is what was known of a medium.
type moment struct {
	image              *crash.Image
	began              uint64 // the newest period that an attachment began
	attached, detached uint64 // the newest that was attached, and that was detached in good order
	written            uint64 // on the disk
	text               string
}

func (run *attachRun) momentOf(s *crash.State) moment {
	m := moment{image: s.Image, text: fmt.Sprintf("%d operations, %d parts lost, %s", s.After, s.Lost, strings.Join(s.Marks, ", "))}
	for _, start := range run.starts {
		if start < s.After {
			m.began++
		}
	}
	for _, mark := range s.Marks {
		var number uint64
		if n, err := fmt.Sscanf(mark, "attached %d", &number); n == 1 && err == nil {
			m.attached = number
		}
		if n, err := fmt.Sscanf(mark, "detached %d", &number); n == 1 && err == nil {
			m.detached = number
		}
	}
	var first [8]byte
	if _, err := s.Image.Content(run.disk).ReadAt(first[:], 0); err == nil {
		m.written = binary.LittleEndian.Uint64(first[:])
	}
	return m
}

// inconsistent attaches a disk and metadata, and tells what that made of the replica.
func (run *attachRun) inconsistent(disk, meta *crash.Image) (bool, error) {
	r, err := attached(on(disk, run.disk), on(meta, run.meta))
	if err != nil {
		return false, err
	}
	result := r.superblock().Inconsistent
	return result, r.detach(false)
}

// TestCrashWhileAttaching loses power anywhere in attachments and detachments, also after a kill anywhere and another
// attachment: the replica is never inconsistent, since nothing but a restore can tear disk and metadata apart.
func TestCrashWhileAttaching(t *testing.T) {
	run := newAttachRun(t)
	for number, clean := range []bool{true, false, true, false, false, true} {
		run.period(t, uint64(number)+1, clean)
	}
	check := func(s *crash.State) error {
		inconsistent, err := run.inconsistent(s.Image, s.Image)
		if inconsistent {
			err = errors.New("a crash alone made the replica inconsistent")
		}
		return err
	}
	budget := crash.Budget{Exhaustive: 6, Random: 10, Seed: 3}
	report, err := run.Explore(budget, check)
	if err != nil {
		t.Fatal(err)
	}
	for n := range run.Ops() {
		again := &attachRun{Recorder: run.Resume(n), disk: run.disk, meta: run.meta}
		again.period(t, 9, true)
		budget.From = n + 1
		more, err := again.Explore(budget, check)
		if err != nil {
			t.Fatalf("killed after %d operations, then: %v", n, err)
		}
		report.Add(more)
	}
	t.Logf("explored %s", report)
	budget.From = 0
	ops := crash.Forget(run.Ops(), func(op crash.Op) bool { return op.Kind == crash.Sync && op.Object == run.disk })
	if report, err := crash.Explore(run.Initial(), ops, budget, check); err == nil {
		t.Errorf("the syncs of the disk forgotten, and nothing noticed in %s", report)
	}
}

// TestDiskOrMetadataRestoredAlone puts every disk that a run left, also by a crash, together with the metadata of every
// other moment. What is taken for consistent lacks no write of a period that was over, and has none of a later one. Within
// one period, that is to say a copy of a disk in use put back without a detachment in between, nothing can tell; nor of
// metadata that were copied before they were attached for the first time.
func TestDiskOrMetadataRestoredAlone(t *testing.T) {
	run := newAttachRun(t)
	for number, clean := range []bool{true, true, false, true} {
		run.period(t, uint64(number)+1, clean)
	}
	disks, metas := map[string]moment{}, map[string]moment{}
	_, err := run.Explore(crash.Budget{Exhaustive: 6, Random: 4, Seed: 4}, func(s *crash.State) error {
		m := run.momentOf(s)
		sb, _, err := readSuperblock(on(s.Image, run.meta))
		disks[fmt.Sprint(s.Image.Attribute(run.disk), m.written)] = m
		metas[fmt.Sprint(sb.Sequence, m.attached, m.detached)] = m
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pairs, found := 0, 0
	for _, disk := range disks {
		for _, meta := range metas {
			inconsistent, err := run.inconsistent(disk.image, meta.image)
			if err != nil {
				t.Fatal(err)
			}
			pairs++
			samePeriod := meta.detached < meta.began && (disk.began == meta.began || disk.began == meta.began+1 && disk.detached < meta.began)
			wrong := disk.written < meta.known() || disk.written > meta.attached
			if inconsistent {
				found++
			} else if meta.attached > 0 && !samePeriod && wrong {
				t.Errorf("taken for consistent: a disk with write %d (%s) and metadata of: %s", disk.written, disk.text, meta.text)
			}
		}
	}
	if pairs < 100 || found < pairs/2 {
		t.Errorf("%d of %d pairs are inconsistent", found, pairs)
	}
	t.Logf("explored %d pairs, %d of them inconsistent", pairs, found)
}

// known is the newest write that metadata can tell the absence of.
func (m *moment) known() uint64 {
	if m.attached == 0 {
		return 0
	}
	return max(m.attached-1, m.detached)
}
