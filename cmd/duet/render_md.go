package main

import (
	"fmt"
	"strconv"
	"strings"

	"duet/bitmap"
	"duet/internal/config"
	"duet/internal/node"
	"duet/replication"
)

// renderMetadata shows all that the metadata say.
func renderMetadata(m *node.MetadataInspection) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s: %s\n\n", m.Resource, m.Node, metadataPlace(m))
	rows := []string{"SUPERBLOCK\tSEQUENCE\tSTATE"}
	for i := range m.Copies {
		rows = append(rows, fmt.Sprintf("copy %d\t%s\t%s", i, orDash(number(m.Copies[i].Sequence)), copyState(m, i)))
	}
	b.WriteString(table("", rows))
	if m.Superblock != nil {
		b.WriteString("\n" + table("", superblockRows(m.Superblock)))
	}
	if m.Bitmap != nil {
		b.WriteString("\n" + table("", logRows(m.Bitmap)) + "\n" + table("", slotRows(m)))
	}
	b.WriteString("\n" + findingsLine(m) + "\n")
	return b.String()
}

func metadataPlace(m *node.MetadataInspection) string {
	if m.OffsetBytes > 0 {
		return fmt.Sprintf("%s of metadata on %s, from byte %d", sizeText(m.SizeBytes), m.Path, m.OffsetBytes)
	}
	return fmt.Sprintf("%s of metadata in %s", sizeText(m.SizeBytes), m.Path)
}

func sizeText(bytes int64) string { return kib(uint64(bytes) >> 10) }

// number leaves out what is not there.
func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func copyState(m *node.MetadataInspection, i int) string {
	c := &m.Copies[i]
	switch {
	case c.Problem != "":
		return c.State + ": " + oneLine(c.Problem)
	case m.Chosen == i:
		return c.State + ", counts"
	}
	return c.State
}

func superblockRows(sb *replication.Superblock) []string {
	return []string{
		"resource\t" + oneLine(sb.ResourceName) + fmt.Sprintf(" (%x)", sb.ResourceID),
		"cluster\t" + oneLine(sb.ClusterID),
		fmt.Sprintf("node\t%s, slot %d of the others' bitmaps", oneLine(sb.NodeName), sb.Slot),
		"size\t" + config.FormatSize(sb.SizeBytes),
		fmt.Sprintf("generation\tdata of %d, promised %d, last known in sync in %d", sb.DataGeneration, sb.Promised, sb.LastInSync),
		"flags\t" + orDash(strings.Join(superblockFlags(sb), ", ")),
		fmt.Sprintf("attached\tcount %d, last by process %d of boot %s", sb.AttachCount, sb.Incarnation, orDash(oneLine(sb.BootID))),
	}
}

func superblockFlags(sb *replication.Superblock) []string {
	var flags []string
	if sb.Inconsistent {
		flags = append(flags, fmt.Sprintf("inconsistent since generation %d", sb.InconsistentSince))
	}
	if sb.Failed {
		flags = append(flags, "failed: "+oneLine(sb.FailReason))
	}
	if sb.JustCreated {
		flags = append(flags, "just created")
	}
	return flags
}

func logRows(b *bitmap.Inspection) []string {
	l := &b.Log
	state := "left open: the daemon was killed, or the machine went down"
	switch {
	case l.Damaged:
		state = "damaged: every block counts as out of sync"
	case l.Clean:
		state = "closed in good order"
	case l.Reset:
		state = "closed in good order, with unsound blocks"
	}
	kind := "transaction"
	if l.Reset {
		kind = "reset"
	}
	newest := "-"
	if l.Sequence > 0 {
		newest = fmt.Sprintf("%s %d in block %d of %d, %d was durable before it", kind, l.Sequence, l.Sequence%uint64(l.Blocks), l.Blocks, l.Stable)
	}
	return []string{
		"activity log\t" + state,
		"newest\t" + newest,
		"unsound blocks\t" + orDash(ranges(l.Unsound)),
		"hot extents\t" + hotText(l.Hot),
		fmt.Sprintf("directory\t%s, %d with one unsound copy, %d with two", counted(b.Directory.Blocks, "block"), b.Directory.UnsoundCopies, b.Directory.UnsoundBlocks),
	}
}

func hotText(hot []uint32) string {
	if len(hot) == 0 {
		return "-"
	}
	const extentKiB = bitmap.ExtentBytes >> 10
	return fmt.Sprintf("%d (%s, out of sync for every peer): %s", len(hot), kib(uint64(len(hot))*extentKiB), ranges(hot))
}

// ranges writes ascending numbers as 1, 4-6.
func ranges(numbers []uint32) string {
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		part := strconv.FormatUint(uint64(numbers[i]), 10)
		if last > i {
			part += "-" + strconv.FormatUint(uint64(numbers[last]), 10)
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ", ")
}

// slotRows leaves out the slots that nobody has and in which nothing is set.
func slotRows(m *node.MetadataInspection) []string {
	rows := []string{"SLOT\tPEER\tOUT OF SYNC\tCOMPLETE\tPAGES ON DISK\tALL DIRTY\tDAMAGED"}
	for slot := range m.Bitmap.Slots {
		s, peer := &m.Bitmap.Slots[slot], slotPeer(m, slot)
		if peer.Name == "" && s.DirtyBlocks == 0 && s.WrittenPages == 0 {
			continue
		}
		complete := "-"
		if peer.CompleteSince > 0 {
			complete = fmt.Sprintf("since generation %d", peer.CompleteSince)
		}
		rows = append(rows, fmt.Sprintf("%d\t%s\t%s\t%s\t%d\t%d\t%d", slot, orDash(oneLine(peer.Name)), kib(outOfSyncKiB(s)), complete,
			s.WrittenPages, s.AllDirtyPages, s.DamagedPages))
	}
	return rows
}

func slotPeer(m *node.MetadataInspection, slot int) replication.SuperblockPeer {
	if m.Superblock == nil {
		return replication.SuperblockPeer{}
	}
	return m.Superblock.Peers[slot]
}

func outOfSyncKiB(s *bitmap.SlotInspection) uint64 { return s.DirtyBlocks * (bitmap.BlockBytes >> 10) }

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func findingsLine(m *node.MetadataInspection) string {
	if len(m.Findings) == 0 {
		return "all checksums and rules are right"
	}
	return fmt.Sprintf("%s: see `duet md check %s`", counted(len(m.Findings), "finding"), m.Resource)
}

// renderFindings says what is wrong, what follows from it, and what to do where the replica is lost.
func renderFindings(m *node.MetadataInspection) string {
	if len(m.Findings) == 0 {
		return fmt.Sprintf("%s on %s: all checksums and rules are right\n", m.Resource, m.Node)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s: %s\n", m.Resource, m.Node, metadataPlace(m))
	for i := range m.Findings {
		f := &m.Findings[i]
		where := f.Where
		if f.OffsetBytes >= 0 {
			where += fmt.Sprintf(", byte %d", f.OffsetBytes)
		}
		fmt.Fprintf(&b, "  %s: %s\n      %s\n", where, oneLine(f.Problem), oneLine(f.Consequence))
	}
	if len(m.Remake) == 0 {
		return b.String()
	}
	b.WriteString("\nIf the right disk, its metadata, or the duet that wrote them can be put back, do that. Else the resource has to be made anew, and\n" +
		"is out of service for that moment. The data stay on the disks, and all are made equal to that of the first --on: it has to be a\n" +
		"node that `duet resource show` lists as in sync, and this node may not have known the newest.\n\n")
	for _, command := range m.Remake {
		fmt.Fprintf(&b, "   %s# %s\n", command.Node, command.Line)
	}
	return b.String()
}
