package replication

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errDetached ends the sessions of a replica whose disk is taken away or comes back: what this node said of it holds no
// more.
var errDetached = errors.New("the disk is detached or attached")

// formerDisk is a disk that is not used any more and not closed yet.
type formerDisk struct {
	openedReplica
	closed chan struct{}
}

// occupy reserves the disk for a detach or an attach, which take their steps one after the other.
func (r *Resource) occupy(ctx context.Context, what string, may func() error) error {
	var refusal error
	err := r.call(ctx, func() {
		if r.occupied != "" {
			refusal = fmt.Errorf("%w: the disk is %s already", ErrRefused, r.occupied)
			return
		}
		if refusal = may(); refusal == nil {
			r.occupied = what
		}
	})
	return errors.Join(err, refusal)
}

// release ends that.
func (r *Resource) release() {
	r.post(func() {
		r.occupied, r.leaving, r.holding = "", false, false
		for _, l := range r.links {
			select {
			case l.wake <- struct{}{}:
			default:
			}
		}
	})
}

// until waits until a condition of the control loop holds, or says that it never will.
func (r *Resource) until(ctx context.Context, cond func() (bool, error)) error {
	for {
		var done bool
		var refusal error
		if err := r.call(ctx, func() { done, refusal = cond() }); err != nil {
			return err
		}
		if refusal != nil || done {
			return refusal
		}
		if err := r.pause(ctx); err != nil {
			return err
		}
	}
}

// Detach takes the disk away in good order, so that it can be looked at or replaced. A Primary goes on through its peers
// once its removal from the in-sync set is committed. The last in-sync replica keeps its disk. Should an operation on the
// disk not return, Detach waits for it until ctx ends; the disk is closed when it does.
func (r *Resource) Detach(ctx context.Context) error {
	if err := r.occupy(ctx, "being detached", r.mayDetach); err != nil {
		return err
	}
	defer r.release()
	if err := r.leave(ctx); err != nil {
		return err
	}
	return r.closeFormer(ctx)
}

func (r *Resource) mayDetach() error {
	switch {
	case r.closing:
		return ErrClosed
	case r.local == nil:
		return fmt.Errorf("%w: no disk is attached on %s", ErrRefused, r.cfg.Node)
	case r.learned.soleCopy(r.cfg.Node):
		return r.lastCopy()
	case r.demoting != nil || r.roleMayChange():
		return errRoleChanges
	}
	return nil
}

// errRoleChanges refuses to touch the disk.
var errRoleChanges = fmt.Errorf("%w: a change of the role is under way", ErrRefused)

// roleMayChange reports whether this node may be Primary at any moment, by a promotion that is under way or was.
func (r *Resource) roleMayChange() bool {
	return r.promotions > 0 || r.unresolved >= r.learned.Generation
}

func (r *Resource) lastCopy() error {
	return fmt.Errorf("%w: %s has the last replica of %s that is in sync", ErrRefused, r.cfg.Node, r.name)
}

// leave ends the use of the disk.
func (r *Resource) leave(ctx context.Context) error {
	began := time.Now()
	return r.until(ctx, func() (bool, error) {
		switch {
		case r.volume.diskless():
			r.leaveDisk()
			return true, nil
		case r.learned.soleCopy(r.cfg.Node):
			return false, r.lastCopy()
		case r.serving:
			r.leaving = true // the gate closes; propose and adopt do the rest
			return false, nil
		case r.roleMayChange(): // since the detachment began
			return false, errRoleChanges
		}
		r.leaving, r.holding = false, true
		for _, l := range r.links {
			switch {
			case l.session == nil:
			case began.IsZero() || time.Since(began) > r.cfg.Timing.PeerTimeout:
				l.session.fail(errDetached)
			case !l.goodbye:
				l.goodbye = true
				l.session.sendFrame(Header{Type: FrameGoodbye}, []byte("the disk of "+r.cfg.Node+" is detached"))
			}
		}
		if r.unconnected() {
			r.leaveDisk()
			return true, nil
		}
		return false, nil
	})
}

// unconnected reports whether no session is left.
func (r *Resource) unconnected() bool {
	for _, l := range r.links {
		if l.session != nil {
			return false
		}
	}
	return true
}

// diskless reports whether nothing uses a local disk.
func (v *Volume) diskless() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.local == nil
}

// leaveDisk takes the disk from the volume. Ranges that are not stable become bits; requests that wait go on without it.
func (r *Resource) leaveDisk() {
	r.endPull(nil)
	if !r.detached {
		r.detached, r.failure = true, "detached by the operator"
		r.emit("disk", "", "Diskless", r.failure)
	}
	v := r.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	local := v.local
	if local == nil {
		return
	}
	v.local, v.localDead = nil, false
	others := r.learned.othersMask(r.cfg.Node)
	v.log.runs(func(off, n uint64) { local.store.Set(others, off, n) })
	v.log.retireThrough(^uint64(0)>>1, func(extent uint32) { local.store.Release(extent, extent) })
	for _, req := range v.halted {
		if req.held == local {
			req.releaseExtents()
		}
	}
}

// closeFormer closes the disk that nothing uses any more, and waits for that.
func (r *Resource) closeFormer(ctx context.Context) error {
	var former *formerDisk
	err := r.call(ctx, func() {
		if r.local != nil && r.volume.diskless() {
			r.parkDisk()
		}
		former = r.former
	})
	if err != nil || former == nil {
		return err
	}
	select {
	case <-former.closed:
		return nil
	case <-ctx.Done():
		what, age := former.local.watch.oldest()
		return fmt.Errorf("%w: %s on the disk has not returned for %v; it is closed when that has", ctx.Err(), what, age.Round(time.Millisecond))
	}
}

// parkDisk makes the attached disk the former one, and closes it on a goroutine that ends with it.
func (r *Resource) parkDisk() {
	f := &formerDisk{openedReplica{local: r.local, super: r.super, meta: r.meta}, make(chan struct{})}
	clean := r.local.watch.over() == nil && r.failure == "detached by the operator"
	r.former, r.local, r.super, r.meta = f, nil, nil, nil
	r.superKnown.Store(nil)
	r.recovered = 0
	go func() {
		err := r.closeDisk(&f.openedReplica, clean)
		<-f.local.watch.idle
		err = errors.Join(err, f.meta.Close(), f.local.disk.Close())
		close(f.closed)
		r.post(func() {
			r.former = nil
			if err != nil {
				r.log.Error("close the disk", "error", err)
			}
		})
	}()
}

// closeDisk ends the use of disk and metadata, but for their files. Clean is noted only if everything is durable.
func (r *Resource) closeDisk(o *openedReplica, clean bool) error {
	limit := time.AfterFunc(r.closeLimit(), func() { r.volume.giveUp(o.local, errors.New("it did not return while the disk was closed")) })
	defer limit.Stop()
	var syncErr error
	if clean {
		if syncErr = o.local.disk.Sync(); syncErr == nil {
			syncErr = r.countDetached(o)
		}
		clean = syncErr == nil
	}
	err := errors.Join(syncErr, o.local.store.Close(clean))
	r.volume.giveUp(o.local, ErrClosed) // with the requests that it still has
	return err
}

// AttachDisk takes a disk over while the resource runs: the one that it had, or another one. A Secondary ends its sessions for
// that moment. A Primary goes on through its peers until its disk is up to date. What was issued to the disk before has to
// have returned first.
func (r *Resource) AttachDisk(ctx context.Context, open func() (Disk, MetadataFile, error)) error {
	if err := r.occupy(ctx, "being attached", r.mayAttach); err != nil {
		return err
	}
	defer r.release()
	err := r.until(ctx, func() (bool, error) { return r.local == nil || r.volume.diskless(), nil }) // its removal may be under way
	if err == nil {
		err = r.closeFormer(ctx)
	}
	if err != nil {
		return err
	}
	var conf Configuration
	var serving bool
	if err := r.call(ctx, func() { conf, serving = r.learned, r.serving }); err != nil {
		return err
	}
	disk, meta, err := open()
	if err != nil {
		return err
	}
	// A Primary that is alone in the set has served nothing without its disk.
	o, err := r.openReplica(&conf, openedBy{disk, meta, serving && !conf.soleCopy(r.cfg.Node)})
	if err != nil {
		return errors.Join(err, meta.Close(), disk.Close())
	}
	installed := false
	err = r.until(ctx, func() (bool, error) {
		if r.serving != serving {
			return false, fmt.Errorf("%w: the role changed meanwhile; try again", ErrRefused)
		}
		if o.super.superblock().SizeBytes != r.volume.SizeBytes() {
			return false, fmt.Errorf("%w: the size changed meanwhile; try again", ErrRefused)
		}
		if !serving && !r.endSessions() {
			return false, nil
		}
		r.reinstall(o)
		installed = true
		return true, nil
	})
	if err != nil && !installed {
		return errors.Join(err, r.closeDisk(o, false), meta.Close(), disk.Close())
	}
	return err
}

func (r *Resource) mayAttach() error {
	switch {
	case r.closing:
		return ErrClosed
	case r.local != nil && !r.detached:
		return fmt.Errorf("%w: a disk is attached on %s already", ErrRefused, r.cfg.Node)
	case r.local != nil && r.serving && r.adopted.soleCopy(r.cfg.Node):
		return fmt.Errorf("%w: the failed disk of %s has the only replica in sync; give the role up and restart the node", ErrRefused, r.cfg.Node)
	}
	return nil
}

// errAttached ends a session in which nothing could be copied for want of a disk: the next one begins with it.
var errAttached = errors.New("the disk of the Primary is attached again")

// endSessions keeps new ones out, and reports whether none is left.
func (r *Resource) endSessions() bool {
	r.holding = true
	for _, l := range r.links {
		if l.session != nil {
			l.session.fail(errDetached)
		}
	}
	return r.unconnected()
}

// reinstall makes an opened replica this node's while the resource runs.
func (r *Resource) reinstall(o *openedReplica) {
	v := r.volume
	v.mu.Lock()
	v.log.retireThrough(^uint64(0)>>1, func(uint32) {}) // of a disk that is gone
	v.stale = r.serving && !r.adopted.inSync(r.cfg.Node)
	v.marked, v.spilled = false, 0
	v.mu.Unlock()
	r.install(o)
	r.emit("disk", "", r.diskState(), "attached")
	if r.adopted.Generation == 0 {
		return
	}
	if err := r.promise(&r.adopted); err != nil {
		r.diskFailed(r.local, err)
		return
	}
	for _, l := range r.links {
		if r.serving && l.session != nil && !l.begun {
			l.session.fail(errAttached)
		}
	}
}

// awaitFormer waits for a disk that is being closed, for a bounded time.
func (r *Resource) awaitFormer() error {
	if r.former == nil {
		return nil
	}
	select {
	case <-r.former.closed:
		return nil
	case <-time.After(r.closeLimit()):
		return errors.New("the former disk stays open until the process ends: what was asked of it has not returned")
	}
}
