package bitmap

import (
	"fmt"
	"math/bits"
)

const (
	// BlockBytes is the part of the device that one bit speaks of.
	BlockBytes = 4096
	// ExtentBytes is the part of the device that one slot of the activity log makes hot.
	ExtentBytes = 4 << 20
	// Slots is the number of peers whose bitmaps a region holds.
	Slots = 8
	// DefaultALExtents makes 4 GiB hot, which a 1 GbE link copies in under a minute after a crash.
	DefaultALExtents = 1024
	// MinALExtents is what the format needs to make sense; a request of 64 MiB alone takes 17.
	MinALExtents = 8
	// MaxALExtents bounds the memory that a block read from disk can ask for.
	MaxALExtents = 65534
	// MaxDeviceBytes bounds the directory, which is held in memory, to 17 MiB.
	MaxDeviceBytes = 1 << 50
	// MaxAcquireExtents is the most extents that one Acquire may ask for: what fits into one batch of transactions.
	MaxAcquireExtents = maxBatchBlocks * updatesPerBlock
)

const (
	blocksPerExtent = ExtentBytes / BlockBytes
	// extentsPerPage is the most whole extents whose bits fit into a 4 KiB block beside its head, so that no extent
	// needs two pages.
	extentsPerPage = 31
	blocksPerPage  = extentsPerPage * blocksPerExtent

	// diskBlockBytes is the unit of all writes to the region.
	diskBlockBytes = 4096

	// updatesPerBlock is how many slots of the log one transaction changes.
	updatesPerBlock = 64
	// contextPerBlock is how many slots of the log one transaction repeats.
	contextPerBlock = 880
	// maxBatchBlocks is how many transactions may be written before one sync. Each more is one more block that a crash
	// can tear, and 256 extents are more than any burst of requests asks for.
	maxBatchBlocks = 4

	entriesPerDirectoryBlock = 16128
	directoryCopies          = 2
)

// SlotMask is a set of slots, one bit each.
type SlotMask uint8

// AllSlots holds every slot.
const AllSlots SlotMask = 1<<Slots - 1

// SlotBit returns the set that holds just the given slot.
func SlotBit(slot int) SlotMask { return 1 << slot }

// Has reports whether slot is in the set.
func (m SlotMask) Has(slot int) bool { return m&SlotBit(slot) != 0 }

// each calls f for every slot in the set, in order.
func (m SlotMask) each(f func(slot int)) {
	for ; m != 0; m &= m - 1 {
		f(bits.TrailingZeros8(uint8(m)))
	}
}

// ExtentsOf returns the first and last extent that a range of the device touches. n must not be 0.
func ExtentsOf(offBytes, n uint64) (first, last uint32) {
	return uint32(offBytes / ExtentBytes), uint32((offBytes + n - 1) / ExtentBytes)
}

// geometry says how big everything is and where in the region it starts. It is a pure function of the device's size and
// the number of extents in the log.
type geometry struct {
	deviceBytes uint64
	alExtents   uint32

	blocks       uint64 // blocks of the device, the last one may be partial
	extents      uint32
	pages        uint32 // per slot
	contextParts uint32 // transactions that hold the whole table once
	logBlocks    uint32
	dirBlocks    uint32 // per copy
}

// newGeometry accepts what Config.Validate accepts.
func newGeometry(deviceBytes uint64, alExtents int) geometry {
	g := geometry{deviceBytes: deviceBytes, alExtents: uint32(alExtents)}
	g.blocks = ceilDiv(deviceBytes, BlockBytes)
	g.extents = uint32(ceilDiv(deviceBytes, ExtentBytes))
	g.pages = uint32(ceilDiv(uint64(g.extents), extentsPerPage))
	g.contextParts = uint32(ceilDiv(uint64(alExtents), contextPerBlock))
	// The transactions of two batches must leave alone those that hold the table before them.
	g.logBlocks = uint32(ceilDiv(uint64(g.contextParts+2*maxBatchBlocks), 8) * 8)
	g.dirBlocks = uint32(ceilDiv(uint64(g.pages)*Slots, entriesPerDirectoryBlock))
	return g
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// RegionBytes returns how long a region must be for a device of the given size and a log of the given number of
// extents (0 for the default). Most of it is never written unless blocks of the device become dirty.
func RegionBytes(deviceBytes uint64, alExtents int) int64 {
	if alExtents == 0 {
		alExtents = DefaultALExtents
	}
	g := newGeometry(deviceBytes, alExtents)
	return g.regionBytes()
}

func (g *geometry) regionBytes() int64 { return g.pageOffset(Slots, 0) }

func (g *geometry) logOffset(position uint32) int64 { return int64(position) * diskBlockBytes }

func (g *geometry) directoryOffset(dirCopy int, block uint32) int64 {
	return (int64(g.logBlocks) + int64(dirCopy)*int64(g.dirBlocks) + int64(block)) * diskBlockBytes
}

func (g *geometry) pageOffset(slot int, page uint32) int64 {
	return g.directoryOffset(directoryCopies, 0) + (int64(slot)*int64(g.pages)+int64(page))*diskBlockBytes
}

// position returns where in the ring the transaction with this sequence is.
func (g *geometry) position(sequence uint64) uint32 { return uint32(sequence % uint64(g.logBlocks)) }

// contextPart returns the slots [start, start+count) that the transaction with this sequence repeats.
func (g *geometry) contextPart(sequence uint64) (start, count uint32) {
	start = uint32(sequence%uint64(g.contextParts)) * contextPerBlock
	return start, min(contextPerBlock, g.alExtents-start)
}

// pageBlocks returns how many blocks of the device page speaks of; only the last page has fewer than the others.
func (g *geometry) pageBlocks(page uint32) uint32 {
	return uint32(min(blocksPerPage, g.blocks-uint64(page)*blocksPerPage))
}

// outward returns the blocks [start, end) that a range of the device touches at least in part. What lies beyond the
// device's end is left off.
func (g *geometry) outward(offBytes, n uint64) (start, end uint64) {
	if n == 0 || offBytes >= g.deviceBytes {
		return 0, 0
	}
	n = min(n, g.deviceBytes-offBytes)
	return offBytes / BlockBytes, ceilDiv(offBytes+n, BlockBytes)
}

// inward returns the blocks [start, end) that a range of the device covers entirely. A range that reaches the end of the device
// covers a partial last block.
func (g *geometry) inward(offBytes, n uint64) (start, end uint64) {
	if n == 0 || offBytes >= g.deviceBytes {
		return 0, 0
	}
	start, end = ceilDiv(offBytes, BlockBytes), g.blocks
	if n < g.deviceBytes-offBytes {
		end = (offBytes + n) / BlockBytes
	}
	return start, max(start, end)
}

// extentBlocks returns the blocks [start, end) of an extent.
func (g *geometry) extentBlocks(extent uint32) (start, end uint64) {
	start = uint64(extent) * blocksPerExtent
	return start, min(start+blocksPerExtent, g.blocks)
}

// Config says what a Store works on.
type Config struct {
	// DeviceBytes is the size of the device. It need not be a multiple of anything.
	DeviceBytes uint64
	// ALExtents is the number of extents that can be hot at a time; 0 means DefaultALExtents. The same number must be given
	// to Format and to every Open.
	ALExtents int
	// OnFull is called, from the commit loop and without a lock, when an Acquire starts to wait because too many extents
	// are held; once per such wait, see also Store.Stalled. It should cause a barrier, so that they are released, and must
	// not block. It may be nil.
	OnFull func()
}

// Validate says what is wrong with the configuration, if anything.
func (c Config) Validate() error {
	if c.DeviceBytes == 0 || c.DeviceBytes > MaxDeviceBytes {
		return fmt.Errorf("device size is %d bytes, want 1 to %d", c.DeviceBytes, uint64(MaxDeviceBytes))
	}
	if c.ALExtents != 0 && (c.ALExtents < MinALExtents || c.ALExtents > MaxALExtents) {
		return fmt.Errorf("activity log has %d extents, want %d to %d", c.ALExtents, MinALExtents, MaxALExtents)
	}
	return nil
}

// withDefaults returns the configuration with every zero value filled in.
func (c Config) withDefaults() Config {
	if c.ALExtents == 0 {
		c.ALExtents = DefaultALExtents
	}
	if c.OnFull == nil {
		c.OnFull = func() {}
	}
	return c
}
