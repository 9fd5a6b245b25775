package node

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"duet/internal/control"
	"duet/internal/device"
	"duet/quorum"
	"duet/replication"
)

// Detach implements control.Node.
func (n *Node) Detach(ctx context.Context, resource string) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	if err := replica.Detach(ctx); err != nil {
		return diskError("detach the disk of "+resource, err)
	}
	return nil
}

// Attach implements control.Node: the disk that the record names is opened again, or another one takes its place.
func (n *Node) Attach(ctx context.Context, resource string, r *control.AttachRequest) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	record, err := n.newest(ctx, resource)
	if err != nil {
		return err
	}
	if r.Path != "" {
		return n.replaceDisk(ctx, &replacement{replica: replica, record: record, request: r})
	}
	mine, ok := record.Replica(n.config.Name)
	if !ok {
		return control.Errorf(control.CodeRefused, "%s has no replica of %s", n.config.Name, resource)
	}
	return n.attachAgain(ctx, replica, record, func() (replication.Disk, replication.MetadataFile, error) {
		disk, err := device.Open(mine.Path)
		if err != nil {
			return nil, nil, err
		}
		meta, err := openMetadata(disk, mine.Metadata, record.SizeBytes)
		if err != nil {
			return nil, nil, errors.Join(err, disk.Close())
		}
		return disk, meta, nil
	})
}

// attachAgain has a resource take over what open opens.
func (n *Node) attachAgain(ctx context.Context, replica *replication.Resource, record *quorum.Resource,
	open func() (replication.Disk, replication.MetadataFile, error)) error {
	replica.Learn(Configuration(record))
	if err := replica.AttachDisk(ctx, open); err != nil {
		return diskError("attach the disk of "+record.Name, err)
	}
	if h := n.held(record.Name); h != nil {
		h.mu.Lock()
		h.failure = ""
		h.mu.Unlock()
	}
	return nil
}

// replacement is another disk on its way into the record.
type replacement struct {
	replica *replication.Resource
	record  *quorum.Resource
	request *control.AttachRequest
	former  quorum.Replica
	ready   *prepared
}

// replaceDisk makes another disk this node's replica: prepare, commit, attach. What fails before the commit is undone; a crash
// before it leaves the record, and so the replica, as it was.
func (n *Node) replaceDisk(ctx context.Context, r *replacement) error {
	name := r.record.Name
	former, ok := r.record.Replica(n.config.Name)
	if !ok {
		return control.Errorf(control.CodeRefused, "%s has no replica of %s", n.config.Name, name)
	}
	r.former = former
	if r.record.IsInSync(n.config.Name) {
		return control.Errorf(control.CodeRefused, "the disk of %s is in sync, or nobody has noticed yet that it isn't", n.config.Name).
			WithHint("`duet detach %s` first; without a Primary, or as the last one in sync, it can't be replaced", name)
	}
	if state := r.replica.Status().DiskState; state != string(control.DiskDiskless) {
		if state != string(control.DiskFailed) {
			return control.Errorf(control.CodeRefused, "the disk of %s is in use (%s)", n.config.Name, state).WithHint("`duet detach %s` first", name)
		}
		if err := r.replica.Detach(ctx); err != nil { // closed, and its lock released: the new disk may be at the same place
			return diskError("close the failed disk of "+name, err)
		}
	}
	if err := n.prepareReplacement(r); err != nil {
		return err
	}
	if err := n.commitReplacement(ctx, r); err != nil {
		return err
	}
	handedOver := false
	err := n.attachAgain(ctx, r.replica, r.record, func() (replication.Disk, replication.MetadataFile, error) {
		handedOver = true
		return r.ready.disk, r.ready.meta, nil
	})
	if err != nil && !handedOver {
		err = errors.Join(err, r.ready.close())
	}
	if err == nil && r.former.Metadata != control.MetadataInternal && r.former.Metadata != r.ready.metadata &&
		filepath.Dir(r.former.Metadata) == n.dir.Meta() {
		err = device.Remove(r.former.Metadata)
	}
	return err
}

// prepareReplacement makes the new disk and its metadata, in a file of a name that nothing has yet.
func (n *Node) prepareReplacement(r *replacement) (err error) {
	where := r.request.Metadata
	if where == "" && r.former.Metadata == control.MetadataInternal {
		where = control.MetadataInternal
	}
	if where == "" {
		if where, err = n.uniqueMetadata(r.record.Name, r.record.ID.String()); err != nil {
			return err
		}
	}
	r.ready, err = n.makeReplica(&control.PrepareReplicaRequest{Resource: r.record.Name, ID: r.record.ID.String(), Slot: r.former.Slot,
		SizeBytes: r.record.SizeBytes, Path: r.request.Path, Metadata: where, Force: r.request.Force})
	return err
}

// commitReplacement makes the new disk the record's. With an unknown outcome the record is asked until it tells: as long as
// nobody knows, neither disk may be touched.
func (n *Node) commitReplacement(ctx context.Context, r *replacement) error {
	command := quorum.ReplaceDisk{Resource: r.record.Name, Generation: r.record.Generation, Node: n.config.Name, Incarnation: n.incarnation,
		Path: r.request.Path, Metadata: metadataName(r.ready), Now: time.Now().Unix()}
	result, err := n.quorum.Propose(ctx, command)
	for err != nil {
		if errors.Is(err, quorum.ErrRefused) || errors.Is(err, quorum.ErrNoLeader) || errors.Is(err, quorum.ErrStale) && !r.committed(result.Resource, &command) {
			return errors.Join(proposeError("replace the disk of "+r.record.Name, err), r.ready.undo())
		}
		if r.committed(result.Resource, &command) {
			break
		}
		if ctx.Err() != nil {
			return errors.Join(control.Errorf(control.CodeTimeout, "nobody knows yet whether %s is the disk of %s now: look at `duet resource show %s`, "+
				"then `duet attach %s`", command.Path, r.record.Name, r.record.Name, r.record.Name), r.ready.close())
		}
		result, err = n.quorum.Propose(ctx, command) // the generation makes a second one harmless
	}
	r.record = result.Resource
	n.log.Info("disk replaced", "resource", r.record.Name, "disk", command.Path, "former", r.former.Path)
	if h := n.held(r.record.Name); h != nil {
		h.newest(r.record)
	}
	return nil
}

// committed reports whether the record has the new disk.
func (r *replacement) committed(record *quorum.Resource, c *quorum.ReplaceDisk) bool {
	if record == nil {
		return false
	}
	mine, ok := record.Replica(c.Node)
	return ok && mine.Path == c.Path && mine.Metadata == c.Metadata
}

func diskError(what string, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return control.Errorf(control.CodeTimeout, "%s: %v", what, err)
	}
	return control.Errorf(control.CodeRefused, "%s: %v", what, err)
}
