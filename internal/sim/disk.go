package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	pageBytes   = 4096
	sectorBytes = 512
)

// The errors of simulated disks.
var (
	errDead = errors.New("sim: the process died meanwhile") // what was begun may have been done
	errGone = errors.New("sim: the process is dead")
	errIO   = errors.New("sim: input/output error")
)

// operation is what a disk is asked to do, for faults that concern only some of it.
type operation uint8

const (
	opRead operation = 1 << iota
	opWrite
	opSync
)

// disk is a file or block device of a machine: what is on stable media, what only the page cache has, and what is wrong
// with it. It outlives processes and power losses.
type disk struct {
	size int64

	mu      sync.Mutex
	random  *rand.Rand
	current map[int64]*[pageBytes]byte // by page number; missing pages are holes
	stable  map[int64]*[pageBytes]byte
	pending []pendingWrite // in current and not known to be stable, oldest first
	synced  uint64         // pending writes that were made stable, ever
	tag     uint64

	failing operation     // these fail
	failure error         // in this way
	slow    time.Duration // added to each operation
	stuck   chan struct{} // operations wait until it is closed; nil: none do
}

// pendingWrite is a write that a power loss may undo. A nil data is a hole of length bytes.
type pendingWrite struct {
	off    int64
	length int64
	data   []byte
}

func newDisk(size int64, random *rand.Rand) *disk {
	return &disk{size: size, random: random, current: map[int64]*[pageBytes]byte{}, stable: map[int64]*[pageBytes]byte{}}
}

// store puts a write, or a hole, into pages.
func store(pages map[int64]*[pageBytes]byte, w pendingWrite) {
	for done := int64(0); done < w.length; {
		number, within := (w.off+done)/pageBytes, (w.off+done)%pageBytes
		n := min(pageBytes-within, w.length-done)
		page := pages[number]
		switch {
		case w.data == nil && n == pageBytes:
			delete(pages, number)
			done += n
			continue
		case page == nil:
			page = &[pageBytes]byte{}
			pages[number] = page
		}
		if w.data == nil {
			clear(page[within : within+n])
		} else {
			copy(page[within:within+n], w.data[done:done+n])
		}
		done += n
	}
}

func load(pages map[int64]*[pageBytes]byte, p []byte, off int64) {
	for done := int64(0); done < int64(len(p)); {
		number, within := (off+done)/pageBytes, (off+done)%pageBytes
		n := min(pageBytes-within, int64(len(p))-done)
		if page := pages[number]; page != nil {
			copy(p[done:done+n], page[within:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
}

// write changes what is read from now on.
func (d *disk) write(w pendingWrite) {
	d.mu.Lock()
	defer d.mu.Unlock()
	store(d.current, w)
	d.pending = append(d.pending, w)
}

// read copies what was written last.
func (d *disk) read(p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	load(d.current, p, off)
}

// mark is how much has been written, ever: what a sync that begins now covers.
func (d *disk) mark() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.synced + uint64(len(d.pending))
}

// sync makes everything stable up to a mark.
func (d *disk) sync(mark uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.pending) > 0 && d.synced < mark {
		store(d.stable, d.pending[0])
		d.pending = d.pending[1:]
		d.synced++
	}
}

// drop is what a kernel does whose write-back fails: the pages count as clean, and no later sync covers them.
func (d *disk) drop(mark uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.pending) > 0 && d.synced < mark {
		d.pending = d.pending[1:]
		d.synced++
	}
}

// losePower forgets what was not stable, all or a part of it.
func (d *disk) losePower() (lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost = len(d.pending)
	d.random.Shuffle(len(d.pending), func(i, j int) { d.pending[i], d.pending[j] = d.pending[j], d.pending[i] })
	keep := d.random.Float64()
	for _, w := range d.pending {
		for at := int64(0); at < w.length; {
			n := min(sectorBytes-(w.off+at)%sectorBytes, w.length-at)
			if d.random.Float64() < keep {
				piece := pendingWrite{off: w.off + at, length: n}
				if w.data != nil {
					piece.data = w.data[at : at+n]
				}
				store(d.stable, piece)
			}
			at += n
		}
	}
	d.synced += uint64(len(d.pending))
	d.pending = nil
	d.current = map[int64]*[pageBytes]byte{}
	for number, page := range d.stable {
		kept := *page
		d.current[number] = &kept
	}
	return lost
}

// heal ends whatever is wrong with the disk.
func (d *disk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing, d.slow = 0, 0
	if d.stuck != nil {
		close(d.stuck)
		d.stuck = nil
	}
}

func (d *disk) setFailing(what operation, how error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing |= what
	d.failure = how
}

func (d *disk) setSlow(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = delay
}

func (d *disk) setStuck() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stuck == nil {
		d.stuck = make(chan struct{})
	}
}

// differs returns the first page in which two disks differ below size, as they are read now.
func (d *disk) differs(other *disk, size int64) (page int64, differ bool) {
	var a, b [pageBytes]byte
	for number := range size / pageBytes {
		if d.current[number] == nil && other.current[number] == nil {
			continue
		}
		d.read(a[:], number*pageBytes)
		other.read(b[:], number*pageBytes)
		if a != b {
			return number, true
		}
	}
	return 0, false
}

// openDisk is a disk as a process has it open: it satisfies replication.Disk and replication.MetadataFile. A process that
// was killed changes nothing any more.
type openDisk struct {
	*disk
	process *process
}

// enter waits as long as the operation takes.
func (d openDisk) enter(what operation) error {
	if d.process.dead() {
		return errGone
	}
	d.mu.Lock()
	delay := d.slow + time.Duration(d.random.IntN(200))*time.Microsecond
	stuck := d.stuck
	d.mu.Unlock()
	if what == opRead {
		delay /= 4
	}
	if !d.process.sleep(delay) {
		return errDead
	}
	if stuck != nil {
		select {
		case <-stuck:
		case <-d.process.killed:
			return errDead
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing&what != 0 {
		return d.failure
	}
	return nil
}

// settle says whether a process that was killed in the middle of an operation still did it.
func (d openDisk) settle(err error) (does bool) {
	if err == nil {
		return true
	}
	if !errors.Is(err, errDead) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.IntN(2) == 0
}

// ReadAt implements replication.Disk.
func (d openDisk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := d.enter(opRead); err != nil {
		return 0, err
	}
	d.read(p, off)
	return len(p), nil
}

// WriteAt implements replication.Disk.
func (d openDisk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	err := d.enter(opWrite)
	if d.settle(err) {
		d.write(pendingWrite{off: off, length: int64(len(p)), data: append([]byte(nil), p...)})
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteDurableAt implements replication.Disk.
func (d openDisk) WriteDurableAt(p []byte, off int64) (int, error) {
	n, err := d.WriteAt(p, off)
	if err != nil {
		return n, err
	}
	return n, d.Sync()
}

// Sync implements replication.Disk.
func (d openDisk) Sync() error {
	mark := d.mark()
	err := d.enter(opSync)
	switch {
	case err == nil:
		d.sync(mark)
	case !errors.Is(err, errDead) && !errors.Is(err, errGone):
		d.drop(mark)
	}
	return err
}

// Punch implements replication.Disk.
func (d openDisk) Punch(off, n int64) error {
	if err := d.check(off, n); err != nil {
		return err
	}
	err := d.enter(opWrite)
	if d.settle(err) {
		d.write(pendingWrite{off: off, length: n})
	}
	return err
}

// Zero implements replication.Disk.
func (d openDisk) Zero(off, n int64) error { return d.Punch(off, n) }

// Extents implements replication.Disk: data and holes by page.
func (d openDisk) Extents(off, n int64, emit func(n int64, hole bool) error) error {
	for done := int64(0); done < n; {
		d.mu.Lock()
		hole := d.current[(off+done)/pageBytes] == nil
		d.mu.Unlock()
		run := min(pageBytes-(off+done)%pageBytes, n-done)
		if err := emit(run, hole); err != nil {
			return err
		}
		done += run
	}
	return nil
}

// SizeBytes implements replication.Disk.
func (d openDisk) SizeBytes() int64 { return d.size }

// Size implements replication.MetadataFile.
func (d openDisk) Size() int64 { return d.size }

// Tag implements replication.Disk.
func (d openDisk) Tag() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tag, nil
}

// SetTag implements replication.Disk. The tag is stable when it returns.
func (d openDisk) SetTag(tag uint64) error {
	if err := d.enter(opWrite); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tag = tag
	return nil
}

// Close implements replication.Disk.
func (d openDisk) Close() error { return nil }

func (d openDisk) check(off, n int64) error {
	if off < 0 || n < 0 || off+n > d.size {
		return fmt.Errorf("sim: %d bytes at %d of a disk of %d", n, off, d.size)
	}
	return nil
}
