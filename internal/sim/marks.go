package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"duet/bitmap"
	"duet/quorum"
	"duet/replication"
)

// Where two replicas differ, a bit or a hot extent says so: on one that can be source, or on the other, whose bits it asks
// for. checkMarks looks at all disks at one moment and at the metadata as whoever came up now would recover them. A
// moment in the middle of everything is fine: an extent is hot before a write to it reaches any disk.

// meanLook is the mean time between two looks.
const meanLook = 600 * time.Millisecond

// snapshot is what the machines' disks held at one moment.
type snapshot struct {
	record   *quorum.Resource
	differ   map[[2]string][]int64 // pages, by pair of machines in the order of world.data
	replicas map[string]*recovered // of all machines, if any pages differ
}

// recovered is what the metadata of a machine say. Without metadata that make sense there is no superblock.
type recovered struct {
	meta   *memory
	tag    uint64
	super  *replication.Superblock
	bitmap *bitmap.Store
}

// memory is a copy of the metadata; it satisfies bitmap.Region from an offset on.
type memory struct {
	pages map[int64]*[pageBytes]byte
	base  int64
	size  int64
}

// ReadAt implements bitmap.Region.
func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	load(m.pages, p, m.base+off)
	return len(p), nil
}

// WriteAt implements bitmap.Region.
func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	store(m.pages, pendingWrite{off: m.base + off, length: int64(len(p)), data: p})
	return len(p), nil
}

// Sync implements bitmap.Region.
func (m *memory) Sync() error { return nil }

// Size implements bitmap.Region.
func (m *memory) Size() int64 { return m.size - m.base }

// checkMarks looks at all pairs of a member of the in-sync set and another replica.
func (w *world) checkMarks(when string) {
	resyncing := w.runningTargets()
	record := w.look()
	if record == nil || len(record.InSync) == 0 {
		return
	}
	taken := w.takeSnapshot()
	if now := w.look(); now.Generation != record.Generation || now.PrimaryIncarnation != record.PrimaryIncarnation {
		return // what the disks held does not belong to this record
	}
	taken.record = record
	w.count(func(n *Counts) { n.Looks++ })
	for pair, pages := range taken.differ {
		for i, source := range pair {
			if target := pair[1-i]; slices.Contains(record.InSync, source) {
				w.judgePair(taken, source, target, pages, when)
			}
		}
	}
	for _, target := range resyncing {
		if taken.replicas[target] == nil {
			break // nothing differs
		}
		// A newer generation than anybody alive knows of came from a Primary that is dead by now: it may have admitted it.
		of := taken.recover(target)
		if of.super != nil && !of.super.Inconsistent && of.super.Promised <= record.Generation && !slices.Contains(record.InSync, target) {
			w.problem("%s: %s is the target of a resync, and its metadata do not say that it is inconsistent", when, target)
		}
	}
	for name, replica := range taken.replicas {
		if replica.bitmap == nil {
			continue
		}
		if err := replica.bitmap.Close(false); err != nil {
			w.problem("close the bitmap of %s: %w", name, err)
		}
	}
}

// runningTargets are the live processes that a resync writes to.
func (w *world) runningTargets() (names []string) {
	for _, m := range w.data() {
		r := m.current().replica()
		if r == nil || m.current().dead() {
			continue
		}
		if st := r.Status(); st.Resync != nil && st.Resync.Target == m.name && st.Resync.DoneBytes > 0 {
			names = append(names, m.name)
		}
	}
	return names
}

// takeSnapshot stops all disks for a moment.
func (w *world) takeSnapshot() *snapshot {
	machines := w.data()
	for _, m := range machines {
		m.data.mu.Lock()
		defer m.data.mu.Unlock()
		m.meta.mu.Lock()
		defer m.meta.mu.Unlock()
	}
	taken := &snapshot{differ: map[[2]string][]int64{}, replicas: map[string]*recovered{}}
	for i, m := range machines {
		for _, other := range machines[i+1:] {
			if pages := m.data.differingLocked(other.data); len(pages) > 0 {
				taken.differ[[2]string{m.name, other.name}] = pages
			}
		}
	}
	if len(taken.differ) > 0 {
		for _, m := range machines {
			taken.replicas[m.name] = &recovered{meta: m.meta.copyLocked(), tag: m.data.tag}
		}
	}
	return taken
}

// differingLocked are the pages in which two disks differ now.
func (d *disk) differingLocked(other *disk) (pages []int64) {
	var zeroes [pageBytes]byte
	for number, page := range d.current {
		switch theirs := other.current[number]; {
		case theirs == nil && *page != zeroes, theirs != nil && *page != *theirs:
			pages = append(pages, number)
		}
	}
	for number, theirs := range other.current {
		if d.current[number] == nil && *theirs != zeroes {
			pages = append(pages, number)
		}
	}
	slices.Sort(pages)
	return pages
}

// copyLocked is the content as it is read now.
func (d *disk) copyLocked() *memory {
	m := &memory{pages: make(map[int64]*[pageBytes]byte, len(d.current)), size: d.size}
	for number, page := range d.current {
		copied := *page
		m.pages[number] = &copied
	}
	return m
}

// recover reads the metadata of a machine as its next process will.
func (t *snapshot) recover(name string) *recovered {
	of := t.replicas[name]
	if of.meta == nil || of.super != nil {
		return of
	}
	of.super = replication.Inspect(of.meta, nil).Superblock
	if of.super == nil {
		return of
	}
	of.meta.base = of.super.Layout().BitmapOffset
	opened, _, err := bitmap.Open(of.meta, bitmap.Config{DeviceBytes: of.super.SizeBytes, ALExtents: of.super.ALExtents}, bitmap.AllSlots)
	if err != nil {
		of.super = nil
		return of
	}
	of.bitmap = opened
	return of
}

// judgePair is called with pages in which a target differs from what can be its source.
func (w *world) judgePair(t *snapshot, source, target string, pages []int64, when string) {
	from, to := t.recover(source), t.recover(target)
	if from.super == nil || to.super == nil || !t.canBeSource(source) || t.copiesAll(source, target) {
		return
	}
	w.count(func(n *Counts) { n.Marked += len(pages) })
	clean := t.record.Primary == "" && t.record.Clean && slices.Contains(t.record.InSync, target)
	here, _ := t.record.Replica(source)
	there, _ := t.record.Replica(target)
	for _, page := range pages {
		off := uint64(page) * pageBytes
		if !clean && (from.bitmap.IsDirty(there.Slot, off, pageBytes) || to.bitmap.IsDirty(here.Slot, off, pageBytes)) {
			continue
		}
		w.problem("%s: %s and %s differ in block %d, and nothing says so (and in %d blocks in all): generation %d, Primary %q, clean %v, in sync %v, %s; %s %s; %s %s",
			when, source, target, page, len(pages), t.record.Generation, t.record.Primary, t.record.Clean, t.record.InSync,
			fmt.Sprintf("complete since %d, left at %d", completeSince(from.super, &there), there.LeftAt), source, describeSuper(from), target, describeSuper(to))
		return
	}
}

// completeSince is the generation since which a replica's bitmap has every block that another may lack; 0: never.
func completeSince(of *replication.Superblock, other *quorum.Replica) uint64 {
	if peer := of.Peers[other.Slot]; peer.Name == other.Node {
		return peer.CompleteSince
	}
	return 0
}

func describeSuper(r *recovered) string {
	sb := r.super
	return fmt.Sprintf("(promised %d, last in sync %d, inconsistent %v since %d, failed %v, count %d, tag %d)", sb.Promised, sb.LastInSync, sb.Inconsistent,
		sb.InconsistentSince, sb.Failed, sb.AttachCount, r.tag)
}

// canBeSource says whether a member of the in-sync set may be promoted, as far as its metadata are concerned.
func (t *snapshot) canBeSource(name string) bool {
	member, _ := t.record.Replica(name)
	of := t.replicas[name]
	return !of.super.Failed && (!of.super.Inconsistent || member.AdmittedAt > of.super.InconsistentSince) &&
		of.super.Promised >= member.Promised && replication.CountsFit(of.super.AttachCount, of.tag)
}

// copiesAll says whether the target would get everything, whatever the bits are.
func (t *snapshot) copiesAll(source, target string) bool {
	there, _ := t.record.Replica(target)
	from, to := t.replicas[source].super, t.replicas[target].super
	switch member := slices.Contains(t.record.InSync, target); {
	case to.Failed, to.JustCreated, to.Promised < there.Promised:
		return true // it comes back as one that nothing is known of
	case to.LastInSync == 0, !replication.CountsFit(to.AttachCount, t.replicas[target].tag):
		return true
	case member:
		return false
	default:
		since := completeSince(from, &there)
		return there.LeftAt == 0 || since == 0 || since > there.LeftAt
	}
}

// lookNowAndThen checks the marks at random moments until the faults end.
func (w *world) lookNowAndThen() {
	random := rand.New(rand.NewPCG(w.plan.Seed, 5))
	for !w.stopped.Load() {
		pause(nil, time.Duration(random.IntN(2*int(meanLook))))
		w.checkMarks("at some moment")
	}
}
