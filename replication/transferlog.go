package replication

import (
	"math/bits"
	"slices"

	"duet/bitmap"
)

const (
	blocksPerExtent = bitmap.ExtentBytes / bitmap.BlockBytes
	// spareEpochs is how many emptied epochs are kept for reuse: the open one and the one in a barrier are replaced
	// at every flush.
	spareEpochs = 2
)

// transferLog remembers the blocks of writes that are not known to be stable on every replica, by epoch. The zero
// value is ready to use. It has no mutex of its own.
//
// Its memory is bounded by the activity log: it holds one bit per block of the extents that each outstanding epoch
// touched, and whoever records makes sure with newExtent that those extents stay hot.
type transferLog struct {
	epochs []*epochLog // ascending, only those with blocks
	spare  []*epochLog
}

// epochLog is the blocks of one epoch. Extents are kept in the order in which they were first touched, so that
// everything that is derived from the log is the same in every run.
type epochLog struct {
	epoch   uint64
	last    int // index into extents of the one recorded last
	extents []extentBlocks
	index   map[uint32]int // extent number to index into extents
}

// extentBlocks is one bit for each block of an extent.
type extentBlocks struct {
	extent uint32
	blocks [blocksPerExtent / 64]uint64
}

// record adds the blocks that the range touches to epoch. It calls newExtent for each extent that this epoch had no
// block of; retireThrough calls release once for each such call.
func (l *transferLog) record(epoch, off, n uint64, newExtent func(extent uint32)) {
	if n == 0 {
		return
	}
	log := l.at(epoch)
	first, last := off/bitmap.BlockBytes, (off+n-1)/bitmap.BlockBytes
	for first <= last {
		extent := uint32(first / blocksPerExtent)
		end := min(last, uint64(extent)*blocksPerExtent+blocksPerExtent-1)
		log.extentFor(extent, newExtent).set(uint(first%blocksPerExtent), uint(end%blocksPerExtent))
		first = end + 1
	}
}

// at returns the log of epoch, which is nearly always the newest.
func (l *transferLog) at(epoch uint64) *epochLog {
	at := len(l.epochs)
	for at > 0 && l.epochs[at-1].epoch > epoch {
		at--
	}
	if at > 0 && l.epochs[at-1].epoch == epoch {
		return l.epochs[at-1]
	}
	var log *epochLog
	if n := len(l.spare); n > 0 {
		log, l.spare = l.spare[n-1], l.spare[:n-1]
	} else {
		log = &epochLog{index: make(map[uint32]int)}
	}
	log.epoch = epoch
	l.epochs = slices.Insert(l.epochs, at, log)
	return log
}

// extentFor returns the blocks of extent.
func (log *epochLog) extentFor(extent uint32, newExtent func(extent uint32)) *extentBlocks {
	if log.last < len(log.extents) && log.extents[log.last].extent == extent {
		return &log.extents[log.last]
	}
	at, known := log.index[extent]
	if !known {
		at = len(log.extents)
		log.index[extent] = at
		log.extents = append(log.extents, extentBlocks{extent: extent})
		newExtent(extent)
	}
	log.last = at
	return &log.extents[at]
}

// set adds the blocks first to last of the extent.
func (e *extentBlocks) set(first, last uint) {
	low, high := first/64, last/64
	lowMask, highMask := ^uint64(0)<<(first%64), ^uint64(0)>>(63-last%64)
	if low == high {
		e.blocks[low] |= lowMask & highMask
		return
	}
	e.blocks[low] |= lowMask
	for word := low + 1; word < high; word++ {
		e.blocks[word] = ^uint64(0)
	}
	e.blocks[high] |= highMask
}

// retireThrough forgets all epochs up to and including epoch and calls release once for each newExtent of them.
func (l *transferLog) retireThrough(epoch uint64, release func(extent uint32)) {
	retired := 0
	for retired < len(l.epochs) && l.epochs[retired].epoch <= epoch {
		retired++
	}
	l.forget(l.epochs[:retired], release)
	l.epochs = slices.Delete(l.epochs, 0, retired)
}

// take empties the log and returns what it held, for forget.
func (l *transferLog) take() []*epochLog {
	taken := l.epochs
	l.epochs = nil
	return taken
}

// forget ends what take returned: it calls release once for each newExtent of it.
func (l *transferLog) forget(taken []*epochLog, release func(extent uint32)) {
	for _, log := range taken {
		for i := range log.extents {
			release(log.extents[i].extent)
		}
		l.recycle(log)
	}
}

// recycle empties log and keeps it for reuse. Keys are deleted one by one because clear takes time for all the room
// that a map ever had.
func (l *transferLog) recycle(log *epochLog) {
	if len(l.spare) == spareEpochs {
		return
	}
	for i := range log.extents {
		delete(log.index, log.extents[i].extent)
	}
	log.extents, log.last = log.extents[:0], 0
	l.spare = append(l.spare, log)
}

// runs calls emit for the blocks of all epochs, as maximal disjoint runs of whole blocks in ascending order. The last
// one may reach beyond the end of a device that is no multiple of the block size.
func (l *transferLog) runs(emit func(off, n uint64)) { l.runsThrough(^uint64(0), emit) }

// runsThrough is runs for the epochs up to and including epoch.
func (l *transferLog) runsThrough(epoch uint64, emit func(off, n uint64)) {
	var start, end uint64 // the run in progress, in blocks
	for _, e := range l.union(epoch) {
		base := uint64(e.extent) * blocksPerExtent
		for from := uint(0); from < blocksPerExtent; {
			first, last, ok := e.nextRun(from)
			if !ok {
				break
			}
			if end != base+uint64(first) {
				emitBlocks(start, end, emit)
				start = base + uint64(first)
			}
			end = base + uint64(last) + 1
			from = last + 1
		}
	}
	emitBlocks(start, end, emit)
}

func emitBlocks(start, end uint64, emit func(off, n uint64)) {
	if end > start {
		emit(start*bitmap.BlockBytes, (end-start)*bitmap.BlockBytes)
	}
}

// union returns the blocks of all epochs up to epoch, one entry per extent, ascending.
func (l *transferLog) union(epoch uint64) []extentBlocks {
	var all []extentBlocks
	for _, log := range l.epochs {
		if log.epoch <= epoch {
			all = append(all, log.extents...)
		}
	}
	slices.SortFunc(all, func(a, b extentBlocks) int { return int(a.extent) - int(b.extent) })
	merged := all[:0]
	for _, e := range all {
		if n := len(merged); n > 0 && merged[n-1].extent == e.extent {
			for word, blocks := range e.blocks {
				merged[n-1].blocks[word] |= blocks
			}
			continue
		}
		merged = append(merged, e)
	}
	return merged
}

// nextRun returns the first run of blocks that begins at or after from.
func (e *extentBlocks) nextRun(from uint) (first, last uint, ok bool) {
	first, ok = e.nextBit(from, 0)
	if !ok {
		return 0, 0, false
	}
	end, ok := e.nextBit(first, ^uint64(0))
	if !ok {
		end = blocksPerExtent
	}
	return first, end - 1, true
}

// nextBit returns the first bit at or after from that is set, or clear when flip is all ones.
func (e *extentBlocks) nextBit(from uint, flip uint64) (uint, bool) {
	mask := ^uint64(0) << (from % 64)
	for word := from / 64; word < uint(len(e.blocks)); word++ {
		if found := (e.blocks[word] ^ flip) & mask; found != 0 {
			return word*64 + uint(bits.TrailingZeros64(found)), true
		}
		mask = ^uint64(0)
	}
	return 0, false
}

// extentCount is the number of references that newExtent took and release has not given back. It is what the log
// costs, in memory and in hot extents.
func (l *transferLog) extentCount() int {
	count := 0
	for _, log := range l.epochs {
		count += len(log.extents)
	}
	return count
}

// empty reports whether no block is logged.
func (l *transferLog) empty() bool { return len(l.epochs) == 0 }
