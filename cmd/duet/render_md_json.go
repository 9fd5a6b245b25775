package main

import (
	"encoding/hex"

	"duet/internal/node"
)

// mdJSON is `duet md dump --json`.
type mdJSON struct {
	Resource    string            `json:"resource"`
	Node        string            `json:"node"`
	Path        string            `json:"path"`
	OffsetBytes int64             `json:"offset-bytes"`
	SizeBytes   int64             `json:"size-bytes"`
	Copies      []mdCopyJSON      `json:"superblock-copies"`
	Superblock  *mdSuperblockJSON `json:"superblock"` // null: none counts
	Log         *mdLogJSON        `json:"activity-log"`
	Directory   *mdDirectoryJSON  `json:"directory"`
	Slots       []mdSlotJSON      `json:"slots"`
	Findings    []mdFindingJSON   `json:"findings"`
}

type mdCopyJSON struct {
	State    string `json:"state"`
	Counts   bool   `json:"counts"`
	Sequence uint64 `json:"sequence"`
	Problem  string `json:"problem,omitempty"`
}

type mdSuperblockJSON struct {
	Cluster           string `json:"cluster"`
	Resource          string `json:"resource"`
	ResourceID        string `json:"resource-id"`
	Node              string `json:"node"`
	Slot              int    `json:"slot"`
	SizeBytes         uint64 `json:"size-bytes"`
	ALExtents         int    `json:"al-extents"`
	Promised          uint64 `json:"promised"`
	DataGeneration    uint64 `json:"data-generation"`
	LastInSync        uint64 `json:"last-in-sync"`
	Inconsistent      bool   `json:"inconsistent"`
	InconsistentSince uint64 `json:"inconsistent-since"`
	Failed            bool   `json:"failed"`
	FailReason        string `json:"fail-reason"`
	JustCreated       bool   `json:"just-created"`
	AttachCount       uint64 `json:"attach-count"`
	Incarnation       uint64 `json:"incarnation"`
	BootID            string `json:"boot-id"`
}

type mdLogJSON struct {
	Blocks     int      `json:"blocks"`
	Sequence   uint64   `json:"sequence"`
	Stable     uint64   `json:"stable"`
	Reset      bool     `json:"reset"`
	Clean      bool     `json:"clean"`
	Damaged    bool     `json:"damaged"`
	Unsound    []uint32 `json:"unsound-blocks"`
	HotExtents []uint32 `json:"hot-extents"`
}

type mdDirectoryJSON struct {
	Blocks        int `json:"blocks"`
	UnsoundCopies int `json:"unsound-copies"`
	UnsoundBlocks int `json:"unsound-blocks"`
}

type mdSlotJSON struct {
	Slot          int    `json:"slot"`
	Peer          string `json:"peer"`
	CompleteSince uint64 `json:"complete-since"`
	OutOfSyncKiB  uint64 `json:"out-of-sync-kib"`
	WrittenPages  int    `json:"pages-on-disk"`
	AllDirtyPages int    `json:"pages-all-dirty"`
	DamagedPages  int    `json:"pages-damaged"`
}

type mdFindingJSON struct {
	Where       string `json:"where"`
	OffsetBytes int64  `json:"offset-bytes"`
	Problem     string `json:"problem"`
	Consequence string `json:"consequence"`
	Fatal       bool   `json:"fatal"`
}

// mdCheckJSON is `duet md check --json`.
type mdCheckJSON struct {
	Resource string          `json:"resource"`
	Node     string          `json:"node"`
	Path     string          `json:"path"`
	Usable   bool            `json:"usable"`
	Findings []mdFindingJSON `json:"findings"`
	Remake   []mdCommandJSON `json:"remake"`
}

type mdCommandJSON struct {
	Node    string `json:"node"`
	Command string `json:"command"`
}

func mdView(m *node.MetadataInspection) *mdJSON {
	view := &mdJSON{Resource: m.Resource, Node: m.Node, Path: m.Path, OffsetBytes: m.OffsetBytes, SizeBytes: m.SizeBytes,
		Slots: []mdSlotJSON{}, Findings: mdFindings(m)}
	for i, c := range m.Copies {
		view.Copies = append(view.Copies, mdCopyJSON{State: c.State, Counts: i == m.Chosen, Sequence: c.Sequence, Problem: c.Problem})
	}
	if sb := m.Superblock; sb != nil {
		view.Superblock = &mdSuperblockJSON{Cluster: sb.ClusterID, Resource: sb.ResourceName, ResourceID: hex.EncodeToString(sb.ResourceID[:]),
			Node: sb.NodeName, Slot: sb.Slot, SizeBytes: sb.SizeBytes, ALExtents: sb.ALExtents, Promised: sb.Promised,
			DataGeneration: sb.DataGeneration, LastInSync: sb.LastInSync, Inconsistent: sb.Inconsistent,
			InconsistentSince: sb.InconsistentSince, Failed: sb.Failed, FailReason: sb.FailReason, JustCreated: sb.JustCreated,
			AttachCount: sb.AttachCount, Incarnation: sb.Incarnation, BootID: sb.BootID}
	}
	if m.Bitmap == nil {
		return view
	}
	l := &m.Bitmap.Log
	view.Log = &mdLogJSON{Blocks: l.Blocks, Sequence: l.Sequence, Stable: l.Stable, Reset: l.Reset, Clean: l.Clean, Damaged: l.Damaged,
		Unsound: append([]uint32{}, l.Unsound...), HotExtents: append([]uint32{}, l.Hot...)}
	view.Directory = &mdDirectoryJSON{Blocks: m.Bitmap.Directory.Blocks, UnsoundCopies: m.Bitmap.Directory.UnsoundCopies,
		UnsoundBlocks: m.Bitmap.Directory.UnsoundBlocks}
	for slot := range m.Bitmap.Slots {
		s, peer := &m.Bitmap.Slots[slot], slotPeer(m, slot)
		view.Slots = append(view.Slots, mdSlotJSON{Slot: slot, Peer: peer.Name, CompleteSince: peer.CompleteSince,
			OutOfSyncKiB: outOfSyncKiB(s), WrittenPages: s.WrittenPages, AllDirtyPages: s.AllDirtyPages, DamagedPages: s.DamagedPages})
	}
	return view
}

func mdCheckView(m *node.MetadataInspection) *mdCheckJSON {
	view := &mdCheckJSON{Resource: m.Resource, Node: m.Node, Path: m.Path, Usable: !m.Fatal(), Findings: mdFindings(m), Remake: []mdCommandJSON{}}
	for _, command := range m.Remake {
		view.Remake = append(view.Remake, mdCommandJSON{Node: command.Node, Command: command.Line})
	}
	return view
}

func mdFindings(m *node.MetadataInspection) []mdFindingJSON {
	findings := []mdFindingJSON{}
	for _, f := range m.Findings {
		findings = append(findings, mdFindingJSON{Where: f.Where, OffsetBytes: f.OffsetBytes, Problem: f.Problem, Consequence: f.Consequence, Fatal: f.Fatal})
	}
	return findings
}
