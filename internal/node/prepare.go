package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"sort"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/device"
	"duet/quorum"
	"duet/replication"
)

// prepareLimit is how long a prepared replica waits for its resource to be committed. Whoever asked for it is long gone
// by then.
const prepareLimit = 2 * time.Minute

// prepared is a replica whose resource is not committed yet: its disk and metadata are held open.
type prepared struct {
	resource, id string
	disk         *device.Device
	meta         *device.Region
	created      bool   // the disk's file was made for it
	metadata     string // path of the metadata file; "" for internal metadata
	expiry       *time.Timer
}

// handOver gives the replica to its resource, which closes it from then on.
func (p *prepared) handOver(resource *replication.Resource) error {
	if err := resource.Attach(p.disk, p.meta); err != nil {
		return errors.Join(err, p.close())
	}
	return nil
}

func (p *prepared) close() error { return errors.Join(p.meta.Close(), p.disk.Close()) }

// undo leaves things as they were before.
func (p *prepared) undo() error {
	err := p.close()
	if p.metadata != "" {
		err = errors.Join(err, device.Remove(p.metadata))
	}
	if p.created {
		err = errors.Join(err, device.Remove(p.disk.Path()))
	}
	return err
}

// PrepareReplica implements control.Node.
func (n *Node) PrepareReplica(_ context.Context, _ string, r *control.PrepareReplicaRequest) (*control.PreparedReplica, error) {
	if err := n.mayHold(r); err != nil {
		return nil, err
	}
	p, err := n.makeReplica(r)
	if err != nil {
		return nil, err
	}
	p.expiry = time.AfterFunc(prepareLimit, func() { n.expire(p) })
	n.mu.Lock()
	n.prepared[r.ID] = p
	n.mu.Unlock()
	n.log.Info("replica prepared", "resource", r.Resource, "disk", r.Path, "created", p.created)
	return &control.PreparedReplica{Created: p.created, Path: r.Path, Metadata: metadataName(p)}, nil
}

func metadataName(p *prepared) string {
	if p.metadata == "" {
		return control.MetadataInternal
	}
	return p.metadata
}

// mayHold refuses what can be told without touching anything.
func (n *Node) mayHold(r *control.PrepareReplicaRequest) error {
	if n.config.Kind != config.KindData {
		return control.Errorf(control.CodeRefused, "%s is a witness: it holds no data", n.config.Name)
	}
	if !filepath.IsAbs(r.Path) || (r.Metadata != "" && r.Metadata != control.MetadataInternal && !filepath.IsAbs(r.Metadata)) {
		return control.Errorf(control.CodeUsage, "the paths of disk and metadata on %s must begin with /", n.config.Name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, again := n.prepared[r.ID]; again {
		return control.Errorf(control.CodeRefused, "a replica of %s is being prepared on %s already", r.Resource, n.config.Name)
	}
	if h := n.resources[r.Resource]; h != nil && h.newest(nil).ID.String() == r.ID {
		return control.Errorf(control.CodeRefused, "%s has not let go of its former replica of %s yet", n.config.Name, r.Resource).WithHint("try again")
	}
	return nil
}

// makeReplica opens or makes disk and metadata. What fails is undone.
func (n *Node) makeReplica(r *control.PrepareReplicaRequest) (_ *prepared, err error) {
	refuse := func(err error) error {
		return control.Errorf(control.CodeRefused, "the replica on %s can't be made: %v", n.config.Name, err)
	}
	if err := n.checkContent(r); err != nil {
		return nil, err
	}
	sizeBytes, metadataBytes := int64(r.SizeBytes), replication.MetadataBytes(r.SizeBytes, 0)
	p := &prepared{resource: r.Resource, id: r.ID}
	diskBytes := sizeBytes
	if r.Metadata == control.MetadataInternal {
		diskBytes += metadataBytes
	}
	if p.created, p.disk, err = device.Create(r.Path, diskBytes); err != nil {
		return nil, refuse(err)
	}
	if r.Metadata == control.MetadataInternal {
		p.meta, err = p.disk.Section(sizeBytes, metadataBytes)
	} else {
		p.meta, err = n.createMetadataFile(p, r, metadataBytes)
	}
	if err == nil {
		err = n.format(p, r)
	}
	if err == nil {
		return p, nil
	}
	if p.meta != nil {
		return nil, errors.Join(refuse(err), p.undo())
	}
	undo := p.disk.Close()
	if p.created {
		undo = errors.Join(undo, device.Remove(r.Path))
	}
	return nil, errors.Join(refuse(err), undo)
}

// checkContent refuses a disk that holds something, unless the operator said that it may be used as it is or wiped.
func (n *Node) checkContent(r *control.PrepareReplicaRequest) error {
	what, err := device.Probe(r.Path, metadataStarts(r.SizeBytes))
	if err != nil {
		return control.Errorf(control.CodeRefused, "the disk %s on %s can't be used: %v", r.Path, n.config.Name, err)
	}
	if what == "" || r.Force || (r.KeepContent && what != device.DuetMetadata) {
		return nil
	}
	return control.Errorf(control.CodeRefused, "the disk %s on %s holds %s", r.Path, n.config.Name, what).
		WithHint("choose another disk, or say --force if its content may be lost")
}

// metadataStarts says where a former replica's internal metadata may begin: right behind a device of the size asked for
// now, and behind the largest that fits on the disk with its metadata, which is how the files that duet makes are laid out.
func metadataStarts(sizeBytes uint64) device.Starts {
	const unitBytes = 4096
	return func(diskBytes int64) []int64 {
		tooLarge := sort.Search(int(diskBytes/unitBytes), func(units int) bool {
			deviceBytes := int64(units) * unitBytes
			return replication.MetadataBytes(uint64(deviceBytes), 0) > diskBytes-deviceBytes
		})
		starts := []int64{int64(tooLarge-1) * unitBytes}
		if sizeBytes <= math.MaxInt64 {
			starts = append(starts, int64(sizeBytes))
		}
		return starts
	}
}

func (n *Node) createMetadataFile(p *prepared, r *control.PrepareReplicaRequest, sizeBytes int64) (*device.Region, error) {
	path := r.Metadata
	if path == "" {
		path = filepath.Join(n.dir.Meta(), fmt.Sprintf("%s-%.8s.meta", r.Resource, r.ID))
	}
	meta, err := device.CreateRegionFile(path, sizeBytes)
	if errors.Is(err, fs.ErrExist) && r.Metadata == "" { // of a replica that was removed while this node was away
		if path, err = n.uniqueMetadata(r.Resource, r.ID); err == nil {
			meta, err = device.CreateRegionFile(path, sizeBytes)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("there is something at %s already, where the metadata should be", path)
	}
	if err == nil {
		p.metadata = path
	}
	return meta, err
}

// uniqueMetadata is the path of a metadata file that nothing has yet.
func (n *Node) uniqueMetadata(resource, id string) (string, error) {
	var unique [4]byte
	if _, err := rand.Read(unique[:]); err != nil {
		return "", err
	}
	return filepath.Join(n.dir.Meta(), fmt.Sprintf("%s-%.8s-%x.meta", resource, id, unique)), nil
}

func (n *Node) format(p *prepared, r *control.PrepareReplicaRequest) error {
	cfg := replication.FormatConfig{ClusterID: n.config.Cluster, Resource: r.Resource, Node: n.config.Name, Slot: r.Slot,
		SizeBytes: r.SizeBytes, JustCreated: p.created}
	if _, err := hex.Decode(cfg.ResourceID[:], []byte(r.ID)); err != nil {
		return err
	}
	return replication.Format(p.meta, cfg)
}

// DropReplica implements control.Node.
func (n *Node) DropReplica(_ context.Context, _ string, r *control.DropReplicaRequest) error {
	n.mu.Lock()
	p := n.prepared[r.ID]
	if p != nil && p.resource == r.Resource {
		delete(n.prepared, r.ID)
	}
	n.mu.Unlock()
	if p == nil {
		return control.Errorf(control.CodeNotFound, "no replica of %s is being prepared on %s", r.Resource, n.config.Name)
	}
	if p.resource != r.Resource {
		return control.Errorf(control.CodeRefused, "%s is a replica of %s, not of %s", r.ID, p.resource, r.Resource)
	}
	p.expiry.Stop()
	return p.undo()
}

// expire undoes a replica whose resource was never committed. What is committed after all was only not learned yet.
func (n *Node) expire(p *prepared) {
	ctx, cancel := context.WithTimeout(n.ctx, askLimit)
	defer cancel()
	result, err := n.quorum.Read(ctx, p.resource)
	if err != nil {
		n.log.Warn("a prepared replica waits for its resource", "resource", p.resource, "error", err)
		p.expiry.Reset(prepareLimit)
		return
	}
	if result.Resource != nil && result.Resource.ID.String() == p.id {
		if _, committed := result.Resource.Replica(n.config.Name); committed {
			return
		}
	}
	if err := n.DropReplica(ctx, "", &control.DropReplicaRequest{Resource: p.resource, ID: p.id}); err != nil {
		n.log.Error("undo a prepared replica", "resource", p.resource, "error", err)
	}
}

// closePrepared lets go of what is still prepared when the node stops. It stays as it is: the resource may be committed
// without this node knowing it yet.
func (n *Node) closePrepared() error {
	n.mu.Lock()
	left := n.prepared
	n.prepared = map[string]*prepared{}
	n.mu.Unlock()
	var err error
	for _, p := range left {
		p.expiry.Stop()
		n.log.Warn("a prepared replica is left behind", "resource", p.resource, "disk", p.disk.Path(), "metadata", metadataName(p))
		err = errors.Join(err, p.close())
	}
	return err
}

// forgetMetadata removes what a deleted resource left. The disk keeps its data.
func (n *Node) forgetMetadata(record *quorum.Resource) error {
	replica, ok := record.Replica(n.config.Name)
	if !ok {
		return nil
	}
	if replica.Metadata != control.MetadataInternal {
		return device.Remove(replica.Metadata)
	}
	disk, err := device.Open(replica.Path)
	if err != nil {
		return err
	}
	meta, err := openMetadata(disk, replica.Metadata, record.SizeBytes)
	if err == nil {
		err = replication.Wipe(meta)
	}
	return errors.Join(err, disk.Close())
}
