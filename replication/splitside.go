package replication

import (
	"context"

	"duet/bitmap"
)

// SplitSide is what one replica knows of its part of a split.
type SplitSide struct {
	Node, Role, DiskState string
	Generation            uint64
	NotTarget             string // why nothing can be copied to it for now, if it is given up
	Peers                 []SplitView
}

// SplitView is what a replica's bitmap says of another one: the blocks that it has changed and the other may lack.
type SplitView struct {
	Node          string
	CompleteSince uint64 // generation; 0: the bitmap is not complete
	Blocks        uint64
	Ranges        []ByteRange // at most as many as were asked for, in order
	MoreRanges    bool
}

// Covered reports whether the bitmaps of both sides have every block in which they differ: that of the forked replica, complete
// since one generation, and that of its Peer, complete since another.
func (f Fork) Covered(forkedSince, peerSince uint64) bool {
	former, forced := forkedSince, peerSince
	if f.Forced {
		former, forced = forced, former
	}
	return f.Base != 0 && former != 0 && former <= f.Base && forced != 0 && forced <= f.At
}

// SplitSide tells what this node knows, with up to maxRanges ranges towards each peer.
func (r *Resource) SplitSide(ctx context.Context, maxRanges int) (SplitSide, error) {
	var side SplitSide
	err := r.call(ctx, func() {
		sb := r.superblock()
		side = SplitSide{Node: r.cfg.Node, Role: r.role(), DiskState: r.diskState(), Generation: r.learned.Generation, NotTarget: r.notTarget()}
		for _, replica := range r.learned.Replicas {
			l := r.links[replica.Node]
			if l == nil || r.local == nil {
				continue
			}
			view := SplitView{Node: l.node, Blocks: r.local.store.DirtyBlocks(l.slot)}
			if sb.Peers[l.slot].Name == l.node {
				view.CompleteSince = sb.Peers[l.slot].CompleteSince
			}
			view.Ranges, view.MoreRanges = dirtyRanges(r.local.store, l.slot, maxRanges)
			side.Peers = append(side.Peers, view)
		}
	})
	return side, err
}

// dirtyRanges lists the set bits of a slot.
func dirtyRanges(store dirtySource, slot, most int) (ranges []ByteRange, more bool) {
	for from := uint64(0); ; {
		start, count, ok := store.NextDirty(slot, from)
		if !ok {
			return ranges, false
		}
		at := ByteRange{Offset: start * bitmap.BlockBytes, Length: count * bitmap.BlockBytes}
		if last := len(ranges) - 1; last >= 0 && ranges[last].Offset+ranges[last].Length == at.Offset {
			ranges[last].Length += at.Length
		} else if len(ranges) >= most {
			return ranges, true
		} else {
			ranges = append(ranges, at)
		}
		from = start + count
	}
}
