package bitmap

import (
	"errors"
	"math"
	"testing"
)

// A sequence that no writer can have reached is damage. Counting on from the largest would never end.
func TestImpossibleSequence(t *testing.T) {
	g := newGeometry(small.DeviceBytes, small.ALExtents)
	b := make([]byte, diskBlockBytes)
	for _, newest := range []uint64{math.MaxUint64 - 1, math.MaxUint64 - maxBatchBlocks - 1, maxSequence} {
		w := newLogWriter(&g, newest)
		position := w.transaction(b, []slotUpdate{{slot: 0, extent: 1}})
		if _, err := decodeLogBlock(b, position, &g); !errors.Is(err, errDamaged) {
			t.Errorf("log block with sequence %d: %v", w.sequence, err)
		}
	}
	w := newLogWriter(&g, maxSequence-1)
	position := w.transaction(b, []slotUpdate{{slot: 0, extent: 1}})
	if _, err := decodeLogBlock(b, position, &g); err != nil {
		t.Error(err)
	}
}
