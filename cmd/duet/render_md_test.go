package main

import (
	"encoding/json"
	"strings"
	"testing"

	"duet/bitmap"
	"duet/internal/control"
	"duet/internal/node"
	"duet/replication"
)

// soundMetadata are those of a replica that was left in good order.
func soundMetadata() *node.MetadataInspection {
	sb := &replication.Superblock{
		Sequence: 12, ClusterID: "0123456789abcdef", ResourceID: [16]byte{0xd0, 15: 0xdf}, ResourceName: "r0", NodeName: "n2", Slot: 1,
		SizeBytes: 10 << 30, ALExtents: 1024, Promised: 5, DataGeneration: 5, LastInSync: 5, AttachCount: 3, Incarnation: 4, BootID: "6c0ffee0",
	}
	sb.Peers[0] = replication.SuperblockPeer{Name: "n1"}
	return &node.MetadataInspection{
		Node: "n2", Resource: "r0", Path: "/var/lib/duet/meta/r0-d0000000.meta",
		Inspection: replication.Inspection{
			SizeBytes: 2973696, Superblock: sb, Chosen: 0,
			Copies: [2]replication.SuperblockCopy{{State: "good", Sequence: 12}, {State: "good", Sequence: 12}},
			Bitmap: &bitmap.Inspection{
				Log:       bitmap.LogInspection{Blocks: 16, Sequence: 41, Stable: 40, Reset: true, Clean: true},
				Directory: bitmap.DirectoryInspection{Blocks: 1},
			},
		},
	}
}

// crashedMetadata are internal ones of a replica that crashed in the middle of much, and have decayed here and there.
func crashedMetadata() *node.MetadataInspection {
	m := soundMetadata()
	m.Path, m.OffsetBytes = "/dev/sdb", 10<<30
	m.Superblock.Inconsistent, m.Superblock.InconsistentSince = true, 4
	m.Superblock.Failed, m.Superblock.FailReason = true, "write:\ninput/output error"
	m.Superblock.JustCreated = true
	m.Superblock.Peers[0].CompleteSince = 4
	m.Superblock.Peers[2] = replication.SuperblockPeer{Name: "n3"}
	m.Copies[1] = replication.SuperblockCopy{State: "damaged", Problem: "its checksum is 0x1, and should be 0x2"}
	m.Bitmap.Log = bitmap.LogInspection{Blocks: 16, Unsound: []uint32{10}, Sequence: 41, Stable: 40, Hot: []uint32{3, 7, 8, 9, 2000}}
	m.Bitmap.Directory.UnsoundCopies = 1
	m.Bitmap.Slots[0] = bitmap.SlotInspection{DirtyBlocks: 31744 + 12, WrittenPages: 2, DamagedPages: 1}
	m.Bitmap.Slots[5] = bitmap.SlotInspection{DirtyBlocks: 31744, AllDirtyPages: 1}
	m.Findings = []bitmap.Finding{
		{Where: "superblock copy 1", OffsetBytes: 4096, Problem: "damaged: its checksum is 0x1, and should be 0x2",
			Consequence: "nothing is lost: the other copy is used, and this one is written anew"},
		{Where: "bitmap page 3 of slot 0", OffsetBytes: 151552, Problem: "block is damaged: checksum is 0x3, want 0x4",
			Consequence: "it counts as all dirty: bytes 390070272 to 520093695 of the device are resynced"},
	}
	return m
}

// lostMetadata have no superblock any more.
func lostMetadata() *node.MetadataInspection {
	m := soundMetadata()
	m.Superblock, m.Chosen = nil, -1
	m.Copies = [2]replication.SuperblockCopy{{State: "foreign", Problem: `it begins with "XFSB"`}, {State: "empty", Problem: "it is all zeroes"}}
	m.Bitmap = nil
	m.Findings = []bitmap.Finding{
		{Where: "superblock", Problem: "not metadata of this version of duet: the region holds something else", Fatal: true,
			Consequence: "the replica can't be attached; nothing is changed, and the disk itself is not touched"},
		{Where: "disk", OffsetBytes: -1, Problem: "disk /srv/r0.img: no such file or directory", Consequence: "the replica can't be attached", Fatal: true},
	}
	m.Remake = []node.NodeCommand{{Node: "n2", Line: "duet run"}, {Node: "n2", Line: "duet resource show r0"},
		{Node: "n1", Line: "duet resource delete r0"},
		{Node: "n1", Line: "duet resource create r0 --size 10GiB --on n1=/srv/r0.img --on n2=/srv/r0.img --force"}}
	return m
}

func TestRenderMetadata(t *testing.T) {
	for name, m := range map[string]*node.MetadataInspection{"sound": soundMetadata(), "crashed": crashedMetadata(), "lost": lostMetadata()} {
		golden(t, "md_dump_"+name, renderMetadata(m))
		golden(t, "md_check_"+name, renderFindings(m))
		for what, view := range map[string]any{"dump": mdView(m), "check": mdCheckView(m)} {
			text, err := json.MarshalIndent(view, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "md_"+what+"_"+name+"_json", string(text)+"\n")
		}
	}
}

func TestMetadataOfNoNode(t *testing.T) {
	for _, command := range []string{"dump", "check"} {
		got := duet(t.Context(), "/nonexistent", "md", command, "r0")
		if got.code != control.ExitFailed || got.stdout != "" || !strings.Contains(got.stderr, "no node here") {
			t.Errorf("md %s: exit code %d, %q, %q", command, got.code, got.stdout, got.stderr)
		}
	}
}

func TestMetadataVerdict(t *testing.T) {
	irreplaceable := lostMetadata()
	irreplaceable.Remake = nil
	for words, m := range map[string]*node.MetadataInspection{"when the daemon starts": crashedMetadata(), "commands above": lostMetadata(),
		"no other replica": irreplaceable} {
		if err := control.AsError(mdVerdict(m)); control.ExitCode(err) != control.ExitFailed || !strings.Contains(err.Hint, words) {
			t.Errorf("%v, hint %q, want %q", err, err.Hint, words)
		}
	}
	if err := mdVerdict(soundMetadata()); err != nil {
		t.Error(err)
	}
}
