package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"duet/bitmap"
)

// Belonging says whose metadata is expected.
type Belonging struct {
	ClusterID, Node string
	ResourceID      [16]byte
	Slot            int
	SizeBytes       uint64 // of the device
	Generation      uint64 // of the record that says all this
}

// refusal says why sb is not the metadata that belong there; nil if they are.
func (b *Belonging) refusal(sb *Superblock) error {
	switch {
	case sb.ClusterID != b.ClusterID:
		return fmt.Errorf("%w: the metadata belongs to cluster %s, this is %s", ErrRefused, sb.ClusterID, b.ClusterID)
	case sb.ResourceID != b.ResourceID:
		return fmt.Errorf("%w: the metadata belongs to another resource, %s", ErrRefused, sb.ResourceName)
	case sb.NodeName != b.Node || sb.Slot != b.Slot:
		return fmt.Errorf("%w: the metadata belongs to the replica of %s", ErrRefused, sb.NodeName)
	}
	return sb.sizeRefusal(b.SizeBytes, b.Generation)
}

// Inspection is what a replica's metadata holds, found without changing anything.
type Inspection struct {
	SizeBytes int64 // of the metadata as found
	Copies    [superblockCopies]SuperblockCopy
	// Superblock is the one that counts; nil: none does, and the replica can't be attached.
	Superblock *Superblock
	Chosen     int // the copy that counts; -1: none
	// Bitmap is the rest; nil if it can't be told where it is, or not all of it is there.
	Bitmap   *bitmap.Inspection
	Findings []bitmap.Finding // offsets are from the beginning of the metadata
}

// Fatal reports whether one of the findings keeps the replica from being attached.
func (i *Inspection) Fatal() bool {
	for n := range i.Findings {
		if i.Findings[n].Fatal {
			return true
		}
	}
	return false
}

// SuperblockCopy is what is where a copy of the superblock belongs.
type SuperblockCopy struct {
	State    string // good, empty, damaged, foreign, another version
	Problem  string // "" if it is good
	Sequence uint64 // if it is good
}

// Inspect reads a replica's metadata, checks all of it, and changes nothing. It is for metadata that nobody is writing.
// want may be nil; then nothing is said about where the metadata belongs.
func Inspect(meta bitmap.View, want *Belonging) *Inspection {
	i := &Inspection{SizeBytes: meta.Size(), Chosen: -1}
	i.inspectSuperblock(meta)
	sizeBytes, alExtents, offset := uint64(0), 0, int64(0)
	switch {
	case i.Superblock != nil:
		sizeBytes, alExtents, offset = i.Superblock.SizeBytes, i.Superblock.ALExtents, i.Superblock.BitmapOffset
		i.judgeFields()
		if want != nil {
			i.judgeBelonging(want)
		}
	case want != nil:
		sizeBytes = want.SizeBytes // what duet formats; good enough to look at what is left
	default:
		return i
	}
	i.inspectBitmap(meta, offset, bitmap.Config{DeviceBytes: sizeBytes, ALExtents: alExtents})
	return i
}

func (i *Inspection) find(where string, offset int64, problem, consequence string) {
	i.Findings = append(i.Findings, bitmap.Finding{Where: where, OffsetBytes: offset, Problem: problem, Consequence: consequence})
}

func (i *Inspection) findFatal(where string, problem error) {
	i.Findings = append(i.Findings, bitmap.Finding{Where: where, Problem: problem.Error(), Fatal: true,
		Consequence: "the replica can't be attached; nothing is changed, and the disk itself is not touched"})
}

// inspectSuperblock does what attaching does, and looks closer at the copies.
func (i *Inspection) inspectSuperblock(meta bitmap.View) {
	sb, report, err := readSuperblock(meta)
	for index := range i.Copies {
		i.Copies[index] = inspectCopy(meta, index, report.Copies[index])
	}
	i.judgeCopies(err == nil, report.Chosen)
	if err != nil {
		i.findFatal("superblock", err)
		return
	}
	i.Superblock, i.Chosen = &sb, report.Chosen
}

// inspectCopy says why a copy is not good.
func inspectCopy(meta bitmap.View, index int, state copyState) SuperblockCopy {
	c := SuperblockCopy{State: state.String()}
	block, err := readSuperblockCopy(meta, index)
	le := binary.LittleEndian
	switch {
	case err != nil:
		c.Problem = err.Error()
	case state == copyGood:
		c.Sequence = le.Uint64(block[sbSequence:])
	case state == copyEmpty && block == nil:
		c.Problem = "the metadata ends before it"
	case state == copyEmpty:
		c.Problem = "it is all zeroes"
	case state == copyForeign:
		c.Problem = fmt.Sprintf("it begins with %q, not with %q", block[:len(superblockMagic)], superblockMagic)
	case state == copyDamaged:
		c.Problem = fmt.Sprintf("its checksum is %#x, and should be %#x", le.Uint32(block[sbCRC:]), superblockChecksum(block))
	case le.Uint32(block[sbVersion:]) != superblockVersion:
		c.Problem = fmt.Sprintf("its version is %d, this program knows %d", le.Uint32(block[sbVersion:]), superblockVersion)
	default:
		c.Problem = "this version would have written it otherwise: there are fields that it does not know"
	}
	return c
}

// judgeCopies reports copies that are not good, or older than the chosen one if the superblock is usable.
func (i *Inspection) judgeCopies(usable bool, chosen int) {
	for index := range i.Copies {
		c := &i.Copies[index]
		where, offset := fmt.Sprintf("superblock copy %d", index), int64(index)*superblockBytes
		other := "nothing is lost: the other copy is used, and this one is written anew"
		switch {
		case c.Problem != "" && usable:
			i.find(where, offset, c.State+": "+c.Problem, other)
		case c.Problem != "":
			i.find(where, offset, c.State+": "+c.Problem, "it does not count")
		case usable && c.Sequence != i.Copies[chosen].Sequence:
			i.find(where, offset, fmt.Sprintf("sequence %d is older than that of the other copy, %d", c.Sequence, i.Copies[chosen].Sequence),
				"nothing is lost: a crash leaves that; the other copy is used, and this one is written anew")
		}
	}
}

// judgeFields looks for what duet never writes.
func (i *Inspection) judgeFields() {
	for _, problem := range i.Superblock.contradictions() {
		i.find(fmt.Sprintf("superblock copy %d", i.Chosen), int64(i.Chosen)*superblockBytes, problem,
			"it is taken as it is; neither a crash nor decay explains it: resync this replica in full")
	}
}

// contradictions are fields that don't go together.
func (sb *Superblock) contradictions() []string {
	var all []string
	say := func(when bool, format string, args ...any) {
		if when {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	say(sb.LastInSync > sb.Promised, "it was in sync in generation %d, and has promised only %d", sb.LastInSync, sb.Promised)
	say(sb.DataGeneration > sb.Promised, "it has data of generation %d, and has promised only %d", sb.DataGeneration, sb.Promised)
	say(sb.InconsistentSince != 0 && !sb.Inconsistent, "it is inconsistent since generation %d, and not flagged inconsistent", sb.InconsistentSince)
	say(sb.FailReason != "" && !sb.Failed, "it has a reason of failure, and is not flagged failed")
	for slot, peer := range sb.Peers {
		say(peer.Name == "" && peer.CompleteSince != 0, "slot %d is complete since generation %d, and belongs to nobody", slot, peer.CompleteSince)
		say(peer.Name != "" && slot == sb.Slot, "slot %d is its own, and belongs to %s", slot, peer.Name)
	}
	return all
}

func (i *Inspection) judgeBelonging(want *Belonging) {
	if err := want.refusal(i.Superblock); err != nil {
		i.findFatal("superblock", err)
	}
}

// inspectBitmap looks at the bitmap region at an offset, 0 for where it is in new metadata.
func (i *Inspection) inspectBitmap(meta bitmap.View, offset int64, cfg bitmap.Config) {
	if cfg.Validate() != nil {
		return
	}
	layout := NewMetadataLayout(cfg.DeviceBytes, cfg.ALExtents).movedTo(offset)
	region := io.NewSectionReader(meta, layout.BitmapOffset, min(layout.BitmapBytes, max(0, meta.Size()-layout.BitmapOffset)))
	found, err := bitmap.Inspect(region, cfg)
	if err != nil {
		if !errors.Is(err, bitmap.ErrRegionTooSmall) || i.Superblock != nil {
			i.findFatal("bitmap region", err)
		}
		return
	}
	i.Bitmap = found
	for n := range found.Findings {
		f := found.Findings[n]
		f.OffsetBytes += layout.BitmapOffset
		i.Findings = append(i.Findings, f)
	}
}
