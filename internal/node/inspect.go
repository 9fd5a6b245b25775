package node

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"duet/bitmap"
	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/device"
	"duet/quorum"
	"duet/replication"
)

// MetadataInspection is what InspectMetadata found.
type MetadataInspection struct {
	replication.Inspection
	Node, Resource string
	Path           string // of the file or block device that holds the metadata
	OffsetBytes    int64  // where they begin in it
	// Remake are the commands, each with the node to run it on, that make this replica anew; empty if that is not needed.
	Remake []NodeCommand
}

// NodeCommand is a command line and where it belongs.
type NodeCommand struct{ Node, Line string }

// InspectMetadata looks at the metadata of this node's replica of a resource, and changes nothing. It keeps the daemon of the
// directory from starting meanwhile, and refuses if it runs: a block that is just being written would look damaged.
func InspectMetadata(dir config.Dir, resource string) (_ *MetadataInspection, err error) {
	cfg, err := dir.LoadNode()
	if err != nil {
		return nil, control.Errorf(control.CodeRefused, "%v", err)
	}
	if cfg.Kind == config.KindWitness {
		return nil, control.Errorf(control.CodeRefused, "%s is a witness: it holds no replicas", cfg.Name)
	}
	view, err := dir.View()
	switch {
	case errors.Is(err, config.ErrLocked):
		return nil, control.Errorf(control.CodeRefused, "the metadata of %s is locked, and changes: %v", resource, err).
			WithHint("`duet status %s` shows what the running daemon sees", resource)
	case errors.Is(err, fs.ErrNotExist):
		return nil, control.Errorf(control.CodeRefused, "the daemon of %s has never run: there are no replicas", cfg.Name)
	case err != nil:
		return nil, control.Errorf(control.CodeRefused, "%v", err)
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	i := &inspection{dir: dir, node: cfg}
	if err := i.find(resource); err != nil {
		return nil, err
	}
	return i.run()
}

// inspection is one run of InspectMetadata.
type inspection struct {
	dir     config.Dir
	node    *config.Node
	record  *quorum.Resource
	replica quorum.Replica
}

// find looks the resource up in the record as this node has it.
func (i *inspection) find(resource string) error {
	state, err := quorum.ReadOffline(i.dir.Raft())
	if err != nil {
		return control.Errorf(control.CodeRefused, "where the metadata of %s is can't be told: %v", resource, err)
	}
	i.record = state.Resources[resource]
	if i.record == nil {
		known := strings.Join(slices.Sorted(maps.Keys(state.Resources)), ", ")
		return control.Errorf(control.CodeNotFound, "%s knows of no resource %s; it knows of: %s", i.node.Name, resource, cmp.Or(known, "none"))
	}
	var ok bool
	if i.replica, ok = i.record.Replica(i.node.Name); !ok {
		return control.Errorf(control.CodeNotFound, "%s has no replica of %s", i.node.Name, resource)
	}
	return nil
}

func (i *inspection) run() (result *MetadataInspection, err error) {
	disk, diskErr := device.OpenReadOnly(i.replica.Path)
	if errors.Is(diskErr, device.ErrInUse) {
		return nil, control.Errorf(control.CodeRefused, "the metadata of %s is locked: %v", i.record.Name, diskErr)
	}
	if disk != nil {
		defer func() { err = errors.Join(err, disk.Close()) }()
	}
	result = &MetadataInspection{Node: i.node.Name, Resource: i.record.Name, Path: i.replica.Metadata}
	var meta bitmap.View
	if i.replica.Metadata == control.MetadataInternal {
		result.Path, result.OffsetBytes = i.replica.Path, int64(i.record.SizeBytes)
		meta, err = internalMetadata(disk, i.record.SizeBytes, diskErr)
	} else {
		var region *device.Region
		if region, err = device.OpenRegionFileReadOnly(i.replica.Metadata); err == nil {
			defer func() { err = errors.Join(err, region.Close()) }()
			meta = region
		}
	}
	if errors.Is(err, device.ErrInUse) {
		return nil, control.Errorf(control.CodeRefused, "the metadata of %s is locked: %v", i.record.Name, err)
	}
	if err != nil {
		meta = bytes.NewReader(nil) // nothing can be read of it
		result.Findings = append(result.Findings, unusable("metadata", err))
	}
	i.inspect(result, meta)
	onDisk := i.judgeDisk(disk, diskErr, result.Superblock)
	result.Findings = append(result.Findings, onDisk...)
	source := i.source()
	if result.Fatal() && (source != i.node.Name || !fatal(onDisk)) { // an unusable disk must not become what others are made equal to
		result.Remake = i.remake(source)
	}
	return result, nil
}

// inspect adds to what was found already.
func (i *inspection) inspect(result *MetadataInspection, meta bitmap.View) {
	before := result.Findings
	result.Inspection = *replication.Inspect(meta, &replication.Belonging{ClusterID: i.node.Cluster, Node: i.node.Name,
		ResourceID: i.record.ID, Slot: i.replica.Slot, SizeBytes: i.record.SizeBytes, Generation: i.record.Generation})
	result.Findings = append(before, result.Findings...)
}

// internalMetadata is the end of the disk.
func internalMetadata(disk *device.Device, sizeBytes uint64, diskErr error) (bitmap.View, error) {
	if diskErr != nil {
		return nil, diskErr
	}
	return disk.Section(int64(sizeBytes), replication.MetadataBytes(sizeBytes, 0))
}

func unusable(what string, err error) bitmap.Finding {
	return bitmap.Finding{Where: what, OffsetBytes: -1, Problem: err.Error(), Consequence: "the replica can't be attached", Fatal: true}
}

// judgeDisk says what of the disk does not fit the record or the metadata. sb may be nil.
func (i *inspection) judgeDisk(disk *device.Device, diskErr error, sb *replication.Superblock) []bitmap.Finding {
	if diskErr != nil {
		return []bitmap.Finding{unusable("disk", diskErr)}
	}
	var findings []bitmap.Finding
	if have := disk.SizeBytes(); uint64(have) < i.record.SizeBytes {
		findings = append(findings, unusable("disk", fmt.Errorf("disk %s has %d bytes, the resource needs %d", i.replica.Path, have, i.record.SizeBytes)))
	}
	tag, err := disk.Tag()
	if err != nil || sb == nil || replication.CountsFit(sb.AttachCount, tag) {
		return findings // a disk need not be able to keep a counter
	}
	return append(findings, bitmap.Finding{Where: "disk", OffsetBytes: -1,
		Problem:     fmt.Sprintf("disk %s has attach count %d, its metadata have %d: one of them was restored or copied", i.replica.Path, tag, sb.AttachCount),
		Consequence: "the disk counts as inconsistent and is resynced in full"})
}

func fatal(findings []bitmap.Finding) bool {
	return slices.ContainsFunc(findings, func(f bitmap.Finding) bool { return f.Fatal })
}

// source is a node that has all data, another one if there is one.
func (i *inspection) source() string {
	for _, name := range i.record.InSync {
		if name != i.node.Name {
			return name
		}
	}
	return i.node.Name
}

// remake lists what makes all replicas of the resource anew, with the data of the source. Deleting a resource leaves the data, and
// creating it on existing disks copies everything from the first one.
func (i *inspection) remake(source string) []NodeCommand {
	r := i.record
	create := fmt.Sprintf("duet resource create %s --size %s", r.Name, config.FormatSize(r.SizeBytes))
	for _, first := range []bool{true, false} {
		for _, replica := range r.Replicas {
			if first == (replica.Node == source) {
				create += fmt.Sprintf(" --on %s=%s", replica.Node, replica.Path)
			}
		}
	}
	if where := i.replica.Metadata; where == control.MetadataInternal || filepath.Dir(where) != i.dir.Meta() {
		create += " --metadata " + where
	}
	if r.Promotion == quorum.PromotionManual {
		create += " --promotion manual"
	}
	if r.AckDurable {
		create += " --ack durable"
	}
	if r.OnIOError != "" {
		create += " --on-io-error " + r.OnIOError
	}
	switch {
	case r.DiskTimeoutMS < 0:
		create += " --disk-timeout off"
	case r.DiskTimeoutMS > 0:
		create += fmt.Sprintf(" --disk-timeout %v", time.Duration(r.DiskTimeoutMS)*time.Millisecond)
	}
	commands := []NodeCommand{{i.node.Name, "duet run"}, {i.node.Name, "duet resource show " + r.Name}}
	if r.Primary != "" && r.Primary != i.node.Name { // one that was Primary here is none any more once the daemon runs again
		commands = append(commands, NodeCommand{r.Primary, "duet secondary " + r.Name})
	}
	return append(commands, NodeCommand{source, "duet resource delete " + r.Name}, NodeCommand{source, create + " --force"})
}
