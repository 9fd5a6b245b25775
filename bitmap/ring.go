package bitmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const (
	kindTransaction = 1
	kindReset       = 2

	logStableOffset  = 40
	logCountsOffset  = 48
	logStartOffset   = 52
	logPadOffset     = 56
	logUpdatesOffset = 64
	logContextOffset = logUpdatesOffset + 8*updatesPerBlock

	// noExtent is what an empty slot of the table holds.
	noExtent = 0xffffffff
)

// slotUpdate says that a slot of the table now holds an extent.
type slotUpdate struct {
	slot   uint32
	extent uint32
}

// logBlock is a decoded block of the ring.
type logBlock struct {
	sequence uint64
	reset    bool
	stable   uint64
	updates  []slotUpdate
	start    uint32
	context  []uint32
}

// logWriter makes the blocks of the ring, one after the other. It does no I/O: the caller writes each block to
// its position, and says when what it wrote is durable.
type logWriter struct {
	g        *geometry
	table    []uint32 // as of sequence
	sequence uint64   // of the newest block made
	stable   uint64   // of the newest block known durable
}

func newLogWriter(g *geometry, newest uint64) *logWriter {
	w := &logWriter{g: g, table: make([]uint32, g.alExtents), sequence: newest, stable: newest}
	w.forget()
	return w
}

func (w *logWriter) forget() {
	for i := range w.table {
		w.table[i] = noExtent
	}
}

// transaction fills b with the next block, which makes at most updatesPerBlock updates.
//
//	 0      40       48      50      52       56   64                    576                 4096
//	┌──────┬────────┬───────┬───────┬────────┬────┬─────────────────────┬───────────────────┐
//	│ head │ stable │updates│context│ start  │ 0  │ 64 × {slot, extent} │ 880 × extent      │
//	└──────┴────────┴───────┴───────┴────────┴────┴─────────────────────┴───────────────────┘
func (w *logWriter) transaction(b []byte, updates []slotUpdate) (position uint32) {
	w.sequence++
	start, count := w.g.contextPart(w.sequence)
	le := binary.LittleEndian
	clear(b[:diskBlockBytes])
	le.PutUint64(b[logStableOffset:], w.stable)
	le.PutUint16(b[logCountsOffset:], uint16(len(updates)))
	le.PutUint16(b[logCountsOffset+2:], uint16(count))
	le.PutUint32(b[logStartOffset:], start)
	for i, u := range updates {
		w.table[u.slot] = u.extent
		le.PutUint32(b[logUpdatesOffset+8*i:], u.slot)
		le.PutUint32(b[logUpdatesOffset+8*i+4:], u.extent)
	}
	for i, extent := range w.table[start : start+count] {
		le.PutUint32(b[logContextOffset+4*i:], extent)
	}
	return w.finish(b, kindTransaction)
}

// reset fills b with a block that says that nothing is hot.
func (w *logWriter) reset(b []byte) (position uint32) {
	w.sequence++
	w.forget()
	clear(b[:diskBlockBytes])
	binary.LittleEndian.PutUint64(b[logStableOffset:], w.stable)
	return w.finish(b, kindReset)
}

func (w *logWriter) finish(b []byte, kind uint16) (position uint32) {
	position = w.g.position(w.sequence)
	seal(b, head{magic: magicLog, kind: kind, number: position, sequence: w.sequence}, w.g)
	return position
}

// synced is called when everything made so far is durable.
func (w *logWriter) synced() { w.stable = w.sequence }

// decodeLogBlock checks the block that was read from a position of the ring.
func decodeLogBlock(b []byte, position uint32, g *geometry) (logBlock, error) {
	h, err := unseal(b, magicLog, g)
	if err != nil {
		return logBlock{}, err
	}
	le := binary.LittleEndian
	l := logBlock{sequence: h.sequence, reset: h.kind == kindReset, stable: le.Uint64(b[logStableOffset:])}
	if h.number != position || g.position(h.sequence) != position {
		return logBlock{}, fmt.Errorf("%w: log block %d with sequence %d at position %d", errDamaged, h.number, h.sequence, position)
	}
	if h.sequence == 0 || l.stable >= h.sequence || h.sequence-l.stable > maxBatchBlocks {
		return logBlock{}, fmt.Errorf("%w: log block %d builds on %d", errDamaged, h.sequence, l.stable)
	}
	switch h.kind {
	case kindReset:
		if !allZero(b[logCountsOffset:diskBlockBytes]) {
			return logBlock{}, fmt.Errorf("%w: reset with content", errDamaged)
		}
		return l, nil
	case kindTransaction:
		return l, l.decodeBody(b, g)
	}
	return logBlock{}, fmt.Errorf("%w: kind of log block is %d", errDamaged, h.kind)
}

// decodeBody reads updates and context. Every number in them is checked against the geometry.
func (l *logBlock) decodeBody(b []byte, g *geometry) error {
	le := binary.LittleEndian
	updates, context := uint32(le.Uint16(b[logCountsOffset:])), uint32(le.Uint16(b[logCountsOffset+2:]))
	l.start = le.Uint32(b[logStartOffset:])
	start, count := g.contextPart(l.sequence)
	if updates > updatesPerBlock || l.start != start || context != count || le.Uint64(b[logPadOffset:]) != 0 {
		return fmt.Errorf("%w: %d updates, context of %d from %d, want %d from %d",
			errDamaged, updates, context, l.start, count, start)
	}
	l.updates, l.context = make([]slotUpdate, 0, updates), make([]uint32, 0, count)
	for i := range updates {
		u := slotUpdate{le.Uint32(b[logUpdatesOffset+8*i:]), le.Uint32(b[logUpdatesOffset+8*i+4:])}
		if u.slot >= g.alExtents || u.extent >= g.extents {
			return fmt.Errorf("%w: update of slot %d to extent %d", errDamaged, u.slot, u.extent)
		}
		l.updates = append(l.updates, u)
	}
	for i := range count {
		extent := le.Uint32(b[logContextOffset+4*i:])
		if extent != noExtent && extent >= g.extents {
			return fmt.Errorf("%w: context has extent %d", errDamaged, extent)
		}
		l.context = append(l.context, extent)
	}
	if !allZero(b[logUpdatesOffset+8*updates:logContextOffset]) || !allZero(b[logContextOffset+4*count:diskBlockBytes]) {
		return fmt.Errorf("%w: unused updates or context are not zero", errDamaged)
	}
	return nil
}

// ring collects the blocks of a log that was found on disk, and says what was hot. It is pure.
type ring struct {
	g       *geometry
	blocks  map[uint64]*logBlock // sound ones, by sequence
	unsound []uint32             // positions
	newest  uint64               // 0 if no block is sound
}

// replayed is what a ring says.
type replayed struct {
	hot     []uint32 // extents, ascending
	clean   bool     // the newest block is a reset, and no block was unsound
	damaged bool     // the hot set is not known: any extent may have been hot
}

func newRing(g *geometry) *ring { return &ring{g: g, blocks: map[uint64]*logBlock{}} }

// add takes the block that was read from a position. It returns an error only if the block is sound but not of this region.
func (r *ring) add(position uint32, b []byte) error {
	l, err := decodeLogBlock(b, position, r.g)
	switch {
	case foreign(err):
		return err
	case errors.Is(err, errBlank):
	case err != nil:
		r.addUnsound(position)
	default:
		r.blocks[l.sequence] = &l
		r.newest = max(r.newest, l.sequence)
	}
	return nil
}

func (r *ring) addUnsound(position uint32) { r.unsound = append(r.unsound, position) }

// replay rebuilds the hot set. The reasoning is in docs/ON_DISK_FORMAT.md under "Log".
func (r *ring) replay() replayed {
	last := r.blocks[r.newest]
	if last == nil || r.unsoundInFlight(last) > 1 {
		return replayed{damaged: true}
	}
	if last.reset {
		return replayed{clean: len(r.unsound) == 0}
	}
	from, ok := r.base(last.stable)
	if !ok {
		return replayed{damaged: true}
	}
	return replayed{hot: r.apply(from)}
}

// unsoundInFlight counts the unsound blocks where a crash can have interrupted a write.
func (r *ring) unsoundInFlight(last *logBlock) int {
	n := 0
	for _, position := range r.inFlightPositions(last) {
		if slices.Contains(r.unsound, position) {
			n++
		}
	}
	return n
}

// inFlightPositions are those where a crash can have interrupted a write: behind what the newest block says is durable, up to one
// batch behind itself. A reset is always durable before the next batch begins.
func (r *ring) inFlightPositions(last *logBlock) []uint32 {
	from := last.stable + 1
	if last.reset {
		from = last.sequence + 1
	}
	positions := make([]uint32, 0, 2*maxBatchBlocks)
	for sequence := from; sequence <= last.sequence+maxBatchBlocks; sequence++ {
		positions = append(positions, r.g.position(sequence))
	}
	return positions
}

// base returns the sequence from which on the table can be rebuilt as of the block with sequence stable. It is not ok if a block that
// must be durable is missing.
func (r *ring) base(stable uint64) (from uint64, ok bool) {
	for i := range uint64(r.g.contextParts) {
		if i >= stable || r.blocks[stable-i] == nil {
			return 0, false
		}
		if r.blocks[stable-i].reset {
			return stable - i, true
		}
	}
	return stable - uint64(r.g.contextParts) + 1, true
}

// apply plays the blocks from a sequence to the newest. A block that is missing behind the durable ones needs no care: the slots that it
// changed had extents whose bits are durable, and nobody was told of those that it put there.
func (r *ring) apply(from uint64) []uint32 {
	table := make([]uint32, r.g.alExtents)
	for i := range table {
		table[i] = noExtent
	}
	for sequence := from; sequence <= r.newest; sequence++ {
		if l := r.blocks[sequence]; l != nil {
			l.applyTo(table)
		}
	}
	slices.Sort(table)
	table = slices.Compact(table)
	if len(table) > 0 && table[len(table)-1] == noExtent {
		table = table[:len(table)-1]
	}
	return table
}

func (l *logBlock) applyTo(table []uint32) {
	for _, u := range l.updates {
		table[u.slot] = u.extent
	}
	copy(table[l.start:], l.context)
}
