package replication

import (
	"context"
	"errors"
	"fmt"

	"duet/bitmap"
)

// growable is a Disk or MetadataFile that can become longer: a file, and what is new reads as zeroes. What can't be told or changed is
// false, and fails.
type growable interface {
	CanGrow() bool
	// Grow is durable on return, and changes nothing if there is as much already.
	Grow(sizeBytes int64) error
}

// CanGrow implements growable.
func (d *watchedDisk) CanGrow() bool { return canGrow(d.disk) }

// Grow implements growable.
func (d *watchedDisk) Grow(sizeBytes int64) error {
	return d.watch.bounded("making the disk longer", func() error { return grow(d.disk, sizeBytes) })
}

// CanGrow implements growable.
func (m *watchedMetadata) CanGrow() bool { return canGrow(m.file) }

// Grow implements growable.
func (m *watchedMetadata) Grow(sizeBytes int64) error {
	return m.watch.bounded("making the metadata longer", func() error { return grow(m.file, sizeBytes) })
}

func canGrow(file any) bool {
	g, ok := file.(growable)
	return ok && g.CanGrow()
}

func grow(file any, sizeBytes int64) error {
	if g, ok := file.(growable); ok {
		return g.Grow(sizeBytes)
	}
	return fmt.Errorf("%w: it is no file that could be made longer", ErrRefused)
}

// Room is what a replica says of a larger size.
type Room struct {
	Incarnation uint64 // of the process that has made it
	Zeroes      bool   // the new part of the disk holds nothing, and so reads as zeroes
}

// MakeRoom sees to it that the disk of this replica and its metadata are large enough for sizeBytes, durably, where from is the size
// as whoever asks knows it. Nothing that counts is changed: a disk may always be longer than its device. With look it only says
// whether that is possible.
func (r *Resource) MakeRoom(ctx context.Context, from, sizeBytes uint64, look bool) (Room, error) {
	var local *localDisk
	var meta MetadataFile
	var sb Superblock
	var refusal error
	if err := r.call(ctx, func() {
		if refusal = r.mayGrow(from, sizeBytes); refusal == nil {
			local, meta, sb = r.local, r.meta, r.superblock()
		}
	}); err != nil || refusal != nil {
		return Room{}, errors.Join(err, refusal)
	}
	layout := sb.grownTo(sizeBytes)
	for _, part := range []struct {
		what       string
		file       any
		have, need int64
	}{{"disk", local.disk, local.disk.SizeBytes(), int64(sizeBytes)}, {"metadata", meta, meta.Size(), layout.TotalBytes}} {
		if part.have >= part.need {
			continue
		}
		if !canGrow(part.file) {
			return Room{}, fmt.Errorf("%w: the %s of %s has %d bytes, %d are needed, and is no file that could be made longer", ErrRefused,
				part.what, r.cfg.Node, part.have, part.need)
		}
		if look {
			continue
		}
		if err := grow(part.file, part.need); err != nil {
			return Room{}, fmt.Errorf("make the %s of %s longer: %w", part.what, r.cfg.Node, err)
		}
	}
	room := Room{Incarnation: r.cfg.Incarnation}
	if !look {
		room.Zeroes = isHole(local.disk, sb.SizeBytes, sizeBytes-sb.SizeBytes)
	}
	return room, nil
}

// mayGrow says why this replica can't be made larger now.
func (r *Resource) mayGrow(from, sizeBytes uint64) error {
	sb := r.superblock()
	switch {
	case r.local == nil || r.detached:
		return fmt.Errorf("%w: %s has no usable disk (%s)", ErrRefused, r.cfg.Node, r.failure)
	case sb.Inconsistent || !r.adopted.inSync(r.cfg.Node):
		return fmt.Errorf("%w: the replica of %s is not in sync", ErrRefused, r.cfg.Node)
	case sb.SizeBytes != from || r.volume.SizeBytes() != from:
		return fmt.Errorf("%w: the replica of %s has %d bytes, not %d: another change of the size is under way", ErrRefused, r.cfg.Node, sb.SizeBytes, from)
	case sizeBytes <= from:
		return fmt.Errorf("%w: %s can only grow: it has %d bytes", ErrRefused, r.name, from)
	}
	return nil
}

// sizeRefusal says why metadata of this size don't fit a record of another one. Smaller ones that have not promised the record's
// generation are those of a replica that was away when it grew.
func (sb *Superblock) sizeRefusal(sizeBytes, generation uint64) error {
	switch {
	case sb.SizeBytes == sizeBytes, sb.SizeBytes < sizeBytes && sb.Promised < generation, sb.SizeBytes > sizeBytes && sb.Promised > generation:
		return nil // in the last case it is the record that is old
	}
	return fmt.Errorf("%w: the metadata is of a device of %d bytes, the resource has %d", ErrRefused, sb.SizeBytes, sizeBytes)
}

// growTo makes the replica as large as conf says, before conf is promised; the volume follows in actIn: no frame of that generation is
// looked at, and no client is told of the new size, before it is done. A disk that fails at it is given up; the volume goes on through
// the others.
func (r *Resource) growTo(conf *Configuration) error {
	if conf.SizeBytes <= r.volume.SizeBytes() {
		return nil
	}
	r.emit("size", "", fmt.Sprint(conf.SizeBytes), fmt.Sprintf("grows from %d bytes", r.volume.SizeBytes()))
	if r.local == nil || r.detached {
		return nil
	}
	local, meta := r.local, r.meta
	g := growth{sb: r.superblock(), conf: conf, node: r.cfg.Node, write: func(layout MetadataLayout) error {
		return r.updateSuperblock(func(sb *Superblock) {
			sb.SizeBytes, sb.BitmapOffset = conf.SizeBytes, layout.BitmapOffset
			sb.Promised = max(sb.Promised, conf.Generation) // all bits are durable with it
		})
	}}
	return r.beside(func() error {
		if have := local.disk.SizeBytes(); uint64(have) < conf.SizeBytes {
			return fmt.Errorf("the disk has %d bytes, and should have %d", have, conf.SizeBytes)
		}
		return growStore(local.store, meta, g)
	})
}

// growAtAttach does the same for a replica that was away when the resource grew.
func (r *Resource) growAtAttach(conf *Configuration, super *superblockStore, store *bitmap.Store, meta MetadataFile) error {
	return growStore(store, meta, growth{sb: super.superblock(), conf: conf, node: r.cfg.Node, write: func(layout MetadataLayout) error {
		sb := super.superblock()
		sb.SizeBytes, sb.BitmapOffset = conf.SizeBytes, layout.BitmapOffset
		return super.write(sb)
	}})
}

// growth is what growStore needs to know.
type growth struct {
	sb    Superblock // as it is before
	conf  *Configuration
	node  string
	write func(MetadataLayout) error // changes the superblock, durably
}

// growStore moves the bitmap region behind the one that counts, in the layout of the larger device; the superblock says which of
// the two counts, before and after.
func growStore(store *bitmap.Store, meta MetadataFile, g growth) error {
	layout := g.sb.grownTo(g.conf.SizeBytes)
	if meta.Size() < layout.TotalBytes && canGrow(meta) {
		if err := grow(meta, layout.TotalBytes); err != nil {
			return err
		}
	}
	if have := meta.Size(); have < layout.TotalBytes {
		return fmt.Errorf("the metadata have room for %d bytes, %d are needed", have, layout.TotalBytes)
	}
	var dirty bitmap.SlotMask
	if g.conf.GrownApart {
		dirty = g.conf.othersMask(g.node)
	}
	return store.Grow(bitmap.Growth{Region: newBitmapRegion(meta, layout), DeviceBytes: g.conf.SizeBytes, Dirty: dirty,
		Switch: func() error { return g.write(layout) }})
}
