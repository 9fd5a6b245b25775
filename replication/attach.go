package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"duet/bitmap"
)

// MetadataBytes is the size of the metadata of a device; alExtents 0 means the default.
func MetadataBytes(sizeBytes uint64, alExtents int) int64 {
	return NewMetadataLayout(sizeBytes, defaultExtents(alExtents)).TotalBytes
}

func defaultExtents(alExtents int) int {
	if alExtents == 0 {
		return bitmap.DefaultALExtents
	}
	return alExtents
}

// FormatConfig says whose metadata Format makes.
type FormatConfig struct {
	ClusterID, Resource, Node string
	ResourceID                [16]byte
	Slot                      int
	SizeBytes                 uint64
	ALExtents                 int
	JustCreated               bool // the disk is all holes
}

// Format makes the metadata of a new replica. It is there whole, or not at all.
func Format(meta MetadataFile, cfg FormatConfig) error {
	sb := Superblock{ClusterID: cfg.ClusterID, ResourceID: cfg.ResourceID, ResourceName: cfg.Resource, NodeName: cfg.Node,
		Slot: cfg.Slot, SizeBytes: cfg.SizeBytes, ALExtents: defaultExtents(cfg.ALExtents), JustCreated: cfg.JustCreated}
	if err := wipeSuperblock(meta); err != nil {
		return err
	}
	region := newBitmapRegion(meta, sb.Layout())
	if err := bitmap.Format(region, bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents}); err != nil {
		return err
	}
	return formatSuperblock(meta, sb)
}

// Attach takes a disk and its metadata over: checks that they belong here and together, replays the activity log into
// the bitmaps, and makes the replica usable. Call it before Start.
func (r *Resource) Attach(disk Disk, meta MetadataFile) error {
	opened, err := r.openReplica(&r.learned, openedBy{disk: disk, meta: meta})
	if err != nil {
		return err
	}
	r.install(opened)
	return nil
}

// openedReplica is a disk with its metadata, recovered and ready to be used.
type openedReplica struct {
	local     *localDisk
	super     *superblockStore
	meta      MetadataFile
	recovered bitmap.SlotMask // towards these slots there are bits of an activity log that a crash left
	failed    string          // why it failed before, "" if it didn't
}

// openedBy is what an attach is given.
type openedBy struct {
	disk Disk
	meta MetadataFile
	// stale: writes of this Primary go to the disk before it has caught up with what it missed.
	stale bool
}

// openReplica does the part of an attach that waits for the disk. It touches nothing of the control loop's.
func (r *Resource) openReplica(conf *Configuration, by openedBy) (*openedReplica, error) {
	watch := newDiskWatch()
	disk, meta := newWatchedDisk(by.disk, watch), &watchedMetadata{by.meta, watch}
	super, _, err := openSuperblock(meta)
	if err != nil {
		return nil, err
	}
	sb := super.superblock()
	if err := r.checkSuperblock(conf, &sb, disk); err != nil {
		return nil, err
	}
	o := &openedReplica{super: super, meta: meta}
	suspect := r.tagDiffers(&sb, disk) || r.older(conf, &sb) || r.anew(conf, &sb)
	cfg := bitmap.Config{DeviceBytes: sb.SizeBytes, ALExtents: sb.ALExtents,
		OnFull: func() { r.volume.activityLogFull() }}
	if sb.Failed {
		o.failed = sb.FailReason
		if conf.soleCopy(r.cfg.Node) {
			if err := rewriteHot(disk, newBitmapRegion(meta, sb.Layout()), cfg); err != nil {
				return nil, fmt.Errorf("the disk of %s failed before (%s), and does again: %w", sb.ResourceName, sb.FailReason, err)
			}
		} else {
			suspect = true
		}
		sb.Failed = false
		sb.setFailReason("")
	}
	peers := conf.othersMask(r.cfg.Node)
	store, recovery, err := bitmap.Open(newBitmapRegion(meta, sb.Layout()), cfg, peers)
	if err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", sb.ResourceName, err)
	}
	if sb.SizeBytes < conf.SizeBytes {
		if err := r.growAtAttach(conf, super, store, meta); err != nil {
			return nil, errors.Join(fmt.Errorf("metadata of %s: %w", sb.ResourceName, err), store.Close(false))
		}
		grown := super.superblock()
		sb.SizeBytes, sb.BitmapOffset = grown.SizeBytes, grown.BitmapOffset
	}
	if suspect {
		if err := distrust(store, peers); err != nil {
			return nil, errors.Join(err, store.Close(false))
		}
	}
	beginCount(&sb)
	sb.Incarnation, sb.BootID = r.cfg.Incarnation, r.cfg.BootID
	if suspect {
		sb.LastInSync = 0
	}
	if suspect || by.stale {
		sb.Inconsistent, sb.InconsistentSince = true, conf.Generation
		sb.JustCreated = sb.JustCreated && !by.stale
	}
	err = super.write(sb)
	if err == nil {
		err = r.finishCount(sb, disk, super.write)
	}
	if err != nil {
		return nil, errors.Join(err, store.Close(false))
	}
	r.log.Info("disk attached", "clean", recovery.Clean, "hot-extents", recovery.HotExtents, "damaged-pages", recovery.DamagedPages)
	if recovery.HotExtents > 0 || recovery.LogDamaged {
		o.recovered = peers
	}
	o.local = &localDisk{disk: disk, store: store, watch: watch}
	return o, nil
}

// install makes an opened replica this node's.
func (r *Resource) install(o *openedReplica) {
	if o.failed != "" {
		r.emit("disk", "", "Attaching", "it failed before: "+o.failed)
	}
	sb := o.super.superblock()
	r.superKnown.Store(&sb)
	r.recovered |= o.recovered
	r.super, r.meta, r.detached, r.failure, r.doubtful = o.super, o.meta, false, "", sb.Inconsistent
	r.local = o.local
	r.volume.mu.Lock()
	r.volume.local = o.local
	r.volume.mu.Unlock()
}

// distrust notes, before the count that gives the disk away is made to fit, that any block may differ from the others': a
// Primary that was copying to this replica must not go on as if it still had what it got.
func distrust(store *bitmap.Store, others bitmap.SlotMask) error {
	for slot := range bitmap.Slots {
		if others&bitmap.SlotBit(slot) != 0 {
			store.SetAll(slot)
		}
	}
	return store.Persist(others)
}

// anew reports whether a member's disk was made anew since: it has never promised anything, but a Primary before the present one may
// have had writes acknowledged by it. The first Primary serves only once every member has promised its generation. The only member is
// believed all the same: nobody has more.
func (r *Resource) anew(conf *Configuration, sb *Superblock) bool {
	first := conf.Generation <= 1 || conf.Primary != "" && conf.PrimarySince <= firstPromotion
	if !sb.JustCreated || sb.Promised != 0 || !conf.inSync(r.cfg.Node) || conf.soleCopy(r.cfg.Node) || first {
		return false
	}
	r.log.Warn("the disk has been made anew since it was in sync", "generation", conf.Generation)
	return true
}

// firstPromotion is the generation in which a resource that was just created gets its first Primary.
const firstPromotion = 2

// older reports whether disk and metadata are of before this replica was last admitted: both were restored, from a backup
// or a snapshot. What changed in between is not in them, and the bitmaps of others may not have it any more.
func (r *Resource) older(conf *Configuration, sb *Superblock) bool {
	mine := conf.replica(r.cfg.Node)
	if sb.Promised >= mine.Promised {
		return false
	}
	r.log.Error("disk and metadata are older than what was in sync; the replica needs a full resync",
		"promised", sb.Promised, "admitted-with", mine.Promised, "admitted-in", mine.AdmittedAt)
	return true
}

// soleCopy reports whether nobody but node is in sync: then even a disk that has failed before is the best that there is.
func (c *Configuration) soleCopy(node string) bool { return len(c.InSync) == 1 && c.inSync(node) }

// checkSuperblock refuses metadata of something else.
func (r *Resource) checkSuperblock(conf *Configuration, sb *Superblock, disk Disk) error {
	mine := conf.replica(r.cfg.Node)
	switch {
	case sb.ClusterID != r.cfg.ClusterID:
		return fmt.Errorf("%w: the metadata belongs to cluster %s, this is %s", ErrRefused, sb.ClusterID, r.cfg.ClusterID)
	case sb.ResourceID != conf.ResourceID:
		return fmt.Errorf("%w: the metadata belongs to another resource, %s", ErrRefused, sb.ResourceName)
	case sb.NodeName != r.cfg.Node || sb.Slot != mine.Slot:
		return fmt.Errorf("%w: the metadata belongs to the replica of %s", ErrRefused, sb.NodeName)
	case sb.sizeRefusal(conf.SizeBytes, conf.Generation) != nil:
		return sb.sizeRefusal(conf.SizeBytes, conf.Generation)
	case uint64(disk.SizeBytes()) < conf.SizeBytes:
		return fmt.Errorf("%w: the disk has %d bytes, the resource needs %d: the disk is smaller than it was", ErrRefused, disk.SizeBytes(), conf.SizeBytes)
	case sb.Promised > conf.Generation && conf.Generation > 0:
		return fmt.Errorf("%w: the replica has promised generation %d, the record is at %d", ErrRefused, sb.Promised, conf.Generation)
	}
	return nil
}

// diskFailed gives the local disk up, durably; the configuration decides how the volume goes on. Nothing is answered as
// if the disk were well from the moment that this is known: the gate comes first.
func (r *Resource) diskFailed(local *localDisk, cause error) {
	if r.detached || local != r.local {
		r.settleStuck()
		return
	}
	r.detached, r.failure = true, cause.Error()
	r.endPull(nil)
	r.emit("disk", "", "Failed", r.failure)
	r.setGate()
	r.tellDiskFailure(cause)
	err := r.beside(func() error {
		return r.updateSuperblock(func(sb *Superblock) { sb.Failed = true; sb.setFailReason(cause.Error()) })
	})
	if err != nil {
		r.log.Error("the failure of the disk could not be noted in its metadata", "error", err)
	}
	if !r.serving {
		for _, l := range r.links {
			if l.session != nil {
				l.session.fail(fmt.Errorf("the local disk failed: %w", cause))
			}
		}
	}
	r.settleStuck()
}

// settleStuck lets the requests whose local leg failed go on once it is known how.
func (r *Resource) settleStuck() {
	if r.detached && r.serving && r.selfAdding {
		return // the outcome of its admission comes first
	}
	v := r.volume
	sole := r.detached && r.serving && r.adopted.soleCopy(r.cfg.Node)
	if r.detached && r.serving && !sole && r.adopted.inSync(r.cfg.Node) {
		return // the commit of the detachment comes first
	}
	v.mu.Lock()
	stuck := v.stuckLocal
	v.stuckLocal = nil
	v.localDead = false
	if r.detached && !sole {
		v.local = nil
	}
	var flushes []*request
	var send []*frameWriter
	if r.detached { // else what is stuck is left over from a disk that another has taken the place of
		flushes, send = v.settleBarrierLocked(sole)
	}
	for _, req := range append(flushes, stuck...) {
		if sole || req.origin != nil {
			req.err = ErrDiskFailed
		}
	}
	v.mu.Unlock()
	flushWriters(send)
	for _, req := range flushes {
		v.complete(req, nil)
	}
	for _, req := range stuck {
		v.settle(req, sole)
	}
}

// settleBarrierLocked lets the barrier in progress go on without this disk. It returns the flushes that fail: all of
// them when there is no other disk. A Secondary drops the barrier without an answer, since its session ends.
func (v *Volume) settleBarrierLocked(sole bool) (failed []*request, send []*frameWriter) {
	if sole {
		failed, v.flushes, v.wanted = v.flushes, nil, false
	}
	if v.barrier == nil {
		return failed, nil
	}
	if v.barrier.origin != nil {
		v.barrier = nil
		return failed, nil
	}
	if sole {
		failed = append(failed, v.barrier.flushes...)
		v.barrier.flushes = nil
	}
	v.barrier.local = localDurable
	return failed, v.advanceBarrierLocked()
}

// settle finishes or resumes one request whose local leg failed.
func (v *Volume) settle(req *request, failing bool) {
	switch {
	case req.op == opResyncRead:
		req.origin.dropResync(req, ErrDiskFailed)
	case req.op == opRead && failing:
		v.finishRead(req, nil)
	case req.op == opRead, req.phase == phaseStart && !failing:
		v.resumeOnWorker(req, req.phase)
	case req.phase == phaseStart: // it never got its extents
		v.mu.Lock()
		v.unlockRangeLocked(req)
		v.mu.Unlock()
		v.complete(req, nil)
	case req.phase == phaseApply:
		v.dropApply(req)
	default:
		v.legDone(req, nil)
	}
}

// activityLogFull makes room: a Primary by a barrier, a Secondary by turning its log into durable bits.
func (r *Resource) activityLogFull() {
	v := r.volume
	v.mu.Lock()
	if r.serving {
		send := v.wantBarrierLocked()
		v.mu.Unlock()
		flushWriters(send)
		return
	}
	if v.local == nil {
		v.mu.Unlock()
		return
	}
	store, mask := v.local.store, r.learned.othersMask(r.cfg.Node)
	v.spilled = v.epoch
	v.log.runs(func(off, n uint64) { store.Set(mask, off, n) })
	spilled := v.log.take() // and no write that comes before its bits are durable: that has none
	v.mu.Unlock()
	if err := r.beside(func() error { return store.Persist(mask) }); err != nil {
		r.diskFailed(r.local, err)
		return
	}
	v.mu.Lock()
	v.log.forget(spilled, func(extent uint32) { store.Release(extent, extent) })
	v.mu.Unlock()
}

// waitStable waits until no barrier is in progress, at most for limit.
func (v *Volume) waitStable(ctx context.Context, limit time.Duration) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		v.mu.Lock()
		idle := v.barrier == nil
		v.mu.Unlock()
		if idle {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Close leaves in good order: a Primary demotes, a Secondary says goodbye; then the disk is detached. ctx bounds it.
func (r *Resource) Close(ctx context.Context) error {
	err := r.demote(ctx, false)
	if errors.Is(err, ErrClosed) {
		return nil
	}
	found := make(chan []*session, 1) // the loop may come to it only when ctx has ended
	callErr := r.call(ctx, func() { found <- r.beginClosing() })
	var sessions []*session
	if callErr == nil {
		sessions = <-found
	}
	for _, s := range sessions {
		s.sendFrame(Header{Type: FrameGoodbye}, []byte(r.cfg.Node+" stops"))
	}
	for _, s := range sessions {
		select {
		case <-s.ended:
		case <-time.After(r.cfg.Timing.PeerTimeout):
			s.fail(errGoodbye)
			<-s.ended
		}
	}
	clean := err == nil && callErr == nil
	if callErr == nil {
		if err := r.call(ctx, func() {}); err != nil { // the sessions' ends are processed
			clean = false
		}
	}
	r.cancel()
	r.loops.Wait()
	for _, late := range r.events.take() {
		late() // the loop has ended: what connected meanwhile is turned away
	}
	if r.serving { // the demotion was not committed in time: no request in flight may be answered, nor kept
		r.fence("the resource is closed")
	}
	return errors.Join(err, callErr, r.detach(clean))
}

// beginClosing turns away who connects from now on, and returns the sessions that there are.
func (r *Resource) beginClosing() []*session {
	r.closing = true
	var sessions []*session
	for _, l := range r.links {
		if l.session != nil {
			sessions = append(sessions, l.session)
		}
	}
	return sessions
}

// detach ends the volume and closes disk and metadata. What waits for the activity log is given up when that closes,
// what waits for a worker is done before the disk closes.
func (r *Resource) detach(clean bool) error {
	if r.local == nil {
		r.volume.end()
		r.volume.close()
		return errors.Join(r.volume.closeUndo(), r.awaitFormer())
	}
	local := r.local
	err := r.closeDisk(&openedReplica{local: local, super: r.super, meta: r.meta}, clean && !r.detached)
	r.volume.end()
	r.volume.close()
	err = errors.Join(err, r.volume.closeUndo())
	select {
	case <-local.watch.idle:
		return errors.Join(err, r.meta.Close(), local.disk.Close())
	case <-time.After(r.closeLimit()):
		what, age := local.watch.oldest()
		return errors.Join(err, fmt.Errorf("%s has not returned for %v, so the disk stays open until the process ends", what, age))
	}
}
