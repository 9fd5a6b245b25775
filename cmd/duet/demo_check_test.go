package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"duet/nbd"
	"duet/nbd/nbdclient"
	"duet/nbd/nbdtest"
)

func TestReadBlock(t *testing.T) {
	whole := func(block, version uint64) []byte {
		p := make([]byte, demoBlockBytes)
		fillBlock(p, block, version)
		return p
	}
	torn := func(at int) []byte { return append(whole(3, 8)[:at:at], whole(3, 7)[at:]...) }
	flipped := whole(3, 7)
	flipped[demoBlockBytes-1] ^= 1
	tests := []struct {
		name    string
		content []byte
		version uint64
		words   string // of the error; empty for none
	}{
		{"never written", make([]byte, demoBlockBytes), 0, ""},
		{"version 7", whole(3, 7), 7, ""},
		{"of another block", whole(4, 7), 0, "block 4"},
		{"torn in the middle", torn(2048), 0, "not that of any write"},
		{"torn behind the header", torn(blockHeaderBytes), 0, "not that of any write"},
		{"one bit flipped", flipped, 0, "not that of any write"},
		{"half zero", append(whole(3, 7)[:2048:2048], make([]byte, 2048)...), 0, "not that of any write"},
		{"version 0 that was written", whole(3, 0), 0, "not that of any write"},
		{"too short", whole(3, 7)[:100], 0, "100 bytes"},
	}
	for _, tt := range tests {
		version, err := readBlock(tt.content, 3)
		if version != tt.version || (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: %d, %v", tt.name, version, err)
		}
	}
}

// Whatever a disk holds, reading a block of it ends with a version that makes the very same content, or an error.
func FuzzReadBlock(f *testing.F) {
	p := make([]byte, demoBlockBytes)
	f.Add(p, uint64(0))
	fillBlock(p, 5, 9)
	f.Add(p, uint64(5))
	f.Fuzz(func(t *testing.T, content []byte, block uint64) {
		version, err := readBlock(content, block)
		if err != nil {
			return
		}
		again := make([]byte, demoBlockBytes)
		if version != 0 {
			fillBlock(again, block, version)
		}
		if !bytes.Equal(content, again) {
			t.Errorf("version %d of block %d is not that content", version, block)
		}
	})
}

func TestLedger(t *testing.T) {
	l := newBlockLedger(4)
	first, ok := l.issue(1, 2)
	if !ok || first != 1 {
		t.Fatalf("version %d, %v", first, ok)
	}
	if _, ok := l.issue(2, 1); ok {
		t.Error("a block is written twice at once")
	}
	l.answer(1, 2, true)
	second, ok := l.issue(1, 1)
	if !ok {
		t.Fatal("an answered block can't be written")
	}
	l.answer(1, 1, false)
	if _, ok := l.issue(1, 1); ok {
		t.Error("a block is written whose content is unknown")
	}
	if l.count() != 1 || l.unanswered() != 1 {
		t.Errorf("%d acknowledged, %d unanswered", l.count(), l.unanswered())
	}
	for _, tt := range []struct {
		block, found uint64
		words        string
	}{
		{0, 1, "never written"},
		{1, 0, "version 1 was acknowledged"},
		{1, 9, "never written"},
		{2, 0, "version 1 was acknowledged"},
		{1, second, ""},
		{1, first, "version 2 was acknowledged"}, // once seen, it stays
		{2, first, ""},
		{3, 0, ""},
	} {
		err := l.settle(tt.block, tt.found)
		if (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
			t.Errorf("block %d, version %d: %v, want %q", tt.block, tt.found, err, tt.words)
		}
	}
	if l.expected(1) != second || l.unanswered() != 0 {
		t.Errorf("block 1 is expected to hold %d", l.expected(1))
	}
	if _, ok := l.issue(1, 1); !ok {
		t.Error("a settled block can't be written")
	}
}

// oneExport serves one device under the name of the demonstration's resource.
type oneExport struct{ device nbd.Device }

func (o oneExport) Names() []string { return []string{demoResource} }

func (o oneExport) Open(string) (*nbd.Export, error) {
	return &nbd.Export{Name: demoResource, Device: o.device}, nil
}

// serveDevice serves a device over NBD and returns the address, and a function that ends the server at once.
func serveDevice(t *testing.T, device nbd.Device) (address string, crash func()) {
	t.Helper()
	server, err := nbd.Start(oneExport{device}, nbd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	crash = func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := server.Close(ended); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		crash()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String(), crash
}

// makeDisk makes an empty disk of the demonstration's size.
func makeDisk(t *testing.T) (path string, device *nbdtest.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(demoSizeBytes), f.Close()); err != nil {
		t.Fatal(err)
	}
	device, err = nbdtest.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := device.Close(); err != nil {
			t.Error(err)
		}
	})
	return path, device
}

// loaded returns a demonstration whose load has made some writes on a device.
func loaded(t *testing.T, address string) *demo {
	t.Helper()
	d := &demo{demoConfig: demoConfig{out: io.Discard}, ledger: newBlockLedger(demoBlocks)}
	if err := d.beginLoad(t.Context(), &demoNode{nbd: address}); err != nil {
		t.Fatal(err)
	}
	if err := d.waitWrites(t.Context(), 2*loadFlushEvery); err != nil {
		t.Fatal(err)
	}
	if err := d.endLoad(); err != nil {
		t.Fatal(err)
	}
	return d
}

// copyDisk copies a disk, less the holes.
func copyDisk(t *testing.T, from string) (path string) {
	t.Helper()
	path, _ = makeDisk(t)
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(content); at += checkBytes {
		piece := content[at : at+checkBytes]
		if bytes.Count(piece, []byte{0}) == checkBytes {
			continue
		}
		if _, err := f.WriteAt(piece, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// overwrite puts a content where a block is.
func overwrite(t *testing.T, disk string, block uint64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(content, int64(block*demoBlockBytes))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A load on a device that keeps its word is found whole, by reading it and on the disk.
func TestCheckOfAnHonestDevice(t *testing.T) {
	disk, device := makeDisk(t)
	address, _ := serveDevice(t, device)
	d := loaded(t, address)
	findings, err := d.readBack(t.Context(), address)
	if err != nil || len(findings) > 0 {
		t.Fatalf("%v, %v", findings, err)
	}
	two := copyDisk(t, disk)
	report, err := compareDisks(d.ledger, disk, two)
	if err != nil || report.failure() != nil || report.written == 0 {
		t.Fatalf("%+v, %v, %v", report, report.failure(), err)
	}

	var written uint64
	for d.ledger.expected(written) == 0 {
		written++
	}
	overwrite(t, two, written, make([]byte, demoBlockBytes))
	report, err = compareDisks(d.ledger, disk, two)
	if err != nil || report.different != 1 || report.first != written || report.failure() == nil {
		t.Errorf("a lost write on one disk: %+v, %v", report, err)
	}
	if err := os.Truncate(two, demoSizeBytes/2); err != nil {
		t.Fatal(err)
	}
	if _, err := compareDisks(d.ledger, disk, two); err == nil {
		t.Error("a disk of half the size passes")
	}
}

// A block is wrong if the disks differ, or if both hold something else than they must.
func TestCompareBlock(t *testing.T) {
	ledger := newBlockLedger(2)
	version, ok := ledger.issue(0, 1)
	if !ok {
		t.Fatal("no version")
	}
	ledger.answer(0, 1, true)
	right, newer, misplaced := make([]byte, demoBlockBytes), make([]byte, demoBlockBytes), make([]byte, demoBlockBytes)
	fillBlock(right, 0, version)
	fillBlock(newer, 0, version+1)
	fillBlock(misplaced, 1, version)
	lost, foreign := make([]byte, demoBlockBytes), bytes.Repeat([]byte{1}, demoBlockBytes)
	for _, tt := range []struct {
		name     string
		one, two []byte
		words    string // of the failure; empty for none
	}{
		{"as it must be", right, right, ""},
		{"lost on one", right, lost, "differ"},
		{"newer on one", newer, right, "differ"},
		{"lost on both", lost, lost, "holds version 0"},
		{"newer on both", newer, newer, "holds version 2"},
		{"misplaced on both", misplaced, misplaced, "what was written to block 1"},
		{"something else on both", foreign, foreign, "not that of any write"},
	} {
		report := new(diskReport)
		report.addBlock(ledger, 0, tt.one, tt.two)
		err := report.failure()
		if report.written != 1 || (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: %+v, %v", tt.name, report, err)
		}
	}
}

// forgetful acknowledges all writes and forgets every hundredth.
type forgetful struct {
	*nbdtest.File
	writes atomic.Int64
}

func (f *forgetful) Write(p []byte, offset uint64, fua bool, b nbd.Batch, c nbd.Completion) {
	if f.writes.Add(1)%100 == 0 {
		c.Complete(b, nil)
		return
	}
	f.File.Write(p, offset, fua, b, c)
}

// Acknowledged writes that are not there are found.
func TestCheckOfAForgetfulDevice(t *testing.T) {
	_, device := makeDisk(t)
	address, _ := serveDevice(t, &forgetful{File: device})
	d := loaded(t, address)
	findings, err := d.readBack(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if len(findings) == 0 || !strings.Contains(findings[0].Error(), "was acknowledged") {
		t.Errorf("findings: %v", findings)
	}
}

// unanswering carries out writes and never answers them.
type unanswering struct{ *nbdtest.File }

func (u unanswering) Write(p []byte, offset uint64, fua bool, b nbd.Batch, _ nbd.Completion) {
	u.File.Write(p, offset, fua, b, ignore{})
}

type ignore struct{}

func (ignore) Complete(nbd.Batch, error) {}

// The burst gets all of its writes onto the disk of a Primary that can't acknowledge any, and counts them there; after
// the end of the Primary their blocks may be old or new.
func TestBurst(t *testing.T) {
	disk, device := makeDisk(t)
	other, _ := makeDisk(t)
	address, crash := serveDevice(t, unanswering{device})
	d := &demo{demoConfig: demoConfig{out: io.Discard}, ledger: newBlockLedger(demoBlocks),
		n1: &demoNode{disk: disk}, n2: &demoNode{disk: other}}
	b, err := beginBurst(t.Context(), d.ledger, address)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.waitBurst(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	crash()
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	if b.acknowledged.Load() != 0 || d.ledger.unanswered() < burstAhead*burstWriteBlocks {
		t.Errorf("%d acknowledged, %d blocks unanswered", b.acknowledged.Load(), d.ledger.unanswered())
	}
	again, _ := serveDevice(t, device)
	if findings, err := d.readBack(t.Context(), again); err != nil || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
}

// The writes of the burst lie behind those of the load, and no two share a block.
func TestBurstBlocks(t *testing.T) {
	next := uint64(demoLoadBlocks)
	for write := range burstWrites {
		first := burstBlock(write)
		if first < next || first+burstWriteBlocks > demoBlocks {
			t.Fatalf("write %d begins with block %d, the one before ends at %d", write, first, next)
		}
		next = first + burstWriteBlocks
	}
}

// A load whose server goes away says so rather than wait.
func TestLoadLosesItsServer(t *testing.T) {
	_, device := makeDisk(t)
	address, crash := serveDevice(t, device)
	d := &demo{demoConfig: demoConfig{out: io.Discard}, ledger: newBlockLedger(demoBlocks)}
	if err := d.beginLoad(t.Context(), &demoNode{nbd: address}); err != nil {
		t.Fatal(err)
	}
	crash()
	if err := d.waitWrites(t.Context(), 1<<40); !errors.Is(err, nbdclient.ErrLost) {
		t.Errorf("waiting for writes: %v", err)
	}
	if err := d.endLoad(); !errors.Is(err, nbdclient.ErrLost) {
		t.Errorf("the load: %v", err)
	}
}
