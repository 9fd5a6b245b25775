package node

import (
	"context"
	"errors"

	"duet/internal/control"
	"duet/internal/device"
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

// Attach implements control.Node: the disk that the record names is opened again.
func (n *Node) Attach(ctx context.Context, resource string) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	record, err := n.newest(ctx, resource)
	if err != nil {
		return err
	}
	mine, ok := record.Replica(n.config.Name)
	if !ok {
		return control.Errorf(control.CodeRefused, "%s has no replica of %s", n.config.Name, resource)
	}
	replica.Learn(Configuration(record))
	err = replica.AttachDisk(ctx, func() (replication.Disk, replication.MetadataFile, error) {
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
	if err != nil {
		return diskError("attach the disk of "+resource, err)
	}
	if h := n.held(resource); h != nil {
		h.mu.Lock()
		h.failure = ""
		h.mu.Unlock()
	}
	return nil
}

func diskError(what string, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return control.Errorf(control.CodeTimeout, "%s: %v", what, err)
	}
	return control.Errorf(control.CodeRefused, "%s: %v", what, err)
}
