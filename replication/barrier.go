package replication

import (
	"time"

	"duet/bitmap"
)

// barrier makes an epoch durable: on every peer that gets writes, and on the local disk once the epoch's requests have
// finished. On a Secondary it is the local half of the Primary's, answered through origin. One is in progress at a time;
// flushes that arrive meanwhile share the next one.
type barrier struct {
	volume  *Volume
	epoch   uint64
	flushes []*request
	asked   []*session            // the peers that it was sent to: what is stable is theirs to retire, not a later leg's
	waiting map[*session]struct{} // those that have not answered
	local   localBarrier
	origin  *session        // on a Secondary: who asked
	told    bitmap.SlotMask // for who is brought up to date: towards whom the bits of what it got have to be durable as well
}

// resyncBarrier bounds how much of a resync is done again when it is interrupted.
const resyncBarrier = 5 * time.Second

// localBarrier is how far the local disk is.
type localBarrier uint8

const (
	localDraining localBarrier = iota // requests of the epoch are unfinished
	localSyncing
	localDurable
)

// wantBarrierLocked starts a barrier, or notes that one has to follow. The writers it returns have frames to send.
func (v *Volume) wantBarrierLocked() []*frameWriter {
	if v.barrier != nil {
		v.wanted = true
		return nil
	}
	bar := &barrier{volume: v, epoch: v.epoch, flushes: v.flushes, asked: v.legs, waiting: map[*session]struct{}{}}
	v.flushes, v.wanted = nil, false
	v.stats.barriers.Add(1)
	v.sealEpochLocked(bar)
	var send []*frameWriter
	for _, s := range v.legs {
		bar.waiting[s] = struct{}{}
		s.sealWrittenLocked()
		if s.resync.role == resyncPull && len(s.resync.sealed) > 0 {
			bar.told |= v.others &^ bitmap.SlotBit(s.slot)
		}
		h := Header{Type: FrameBarrier, Generation: v.generation, Epoch: bar.epoch}
		s.dataWriter.append(&h, nil)
		send = append(send, s.dataWriter)
	}
	return append(send, v.advanceBarrierLocked()...)
}

// sealEpochLocked closes the open epoch for bar and opens the next.
func (v *Volume) sealEpochLocked(bar *barrier) {
	v.barrier = bar
	v.epoch = bar.epoch + 1
	v.inClosing += v.inOpen
	v.inOpen = 0
	v.sealedAt, v.touched, v.unsealed = time.Now(), false, false
}

// advanceBarrierLocked takes the next step that the barrier in progress is ready for.
func (v *Volume) advanceBarrierLocked() []*frameWriter {
	bar := v.barrier
	if bar == nil {
		return nil
	}
	if bar.local == localDraining && v.inClosing == 0 {
		if v.local == nil {
			bar.local = localDurable
		} else {
			bar.local = localSyncing
			v.pool.submit(bar)
		}
	}
	if bar.local != localDurable || len(bar.waiting) > 0 {
		return nil
	}
	return v.endBarrierLocked(bar)
}

// run makes the local disk durable; it is the barrier's job on a worker.
func (bar *barrier) run() {
	v := bar.volume
	v.mu.Lock()
	local := v.local
	v.mu.Unlock()
	var err error
	skip := sabotageSkipPeerFlush && bar.origin != nil || sabotageSkipLocalFlush && bar.origin == nil
	if local != nil && !skip {
		err = local.disk.Sync()
	}
	if err == nil && local != nil && bar.told != 0 {
		err = local.store.Persist(bar.told)
	}
	if err != nil && !sabotageBelieveSecondFlush {
		v.mu.Lock()
		v.localDead = v.localDead || v.local == local
		v.mu.Unlock()
		v.failed(local, err) // a failed flush is final: the disk is not asked again
		return
	}
	v.mu.Lock()
	bar.local = localDurable
	send := v.advanceBarrierLocked()
	v.mu.Unlock()
	flushWriters(send)
}

// endBarrierLocked: everything up to the epoch is durable wherever it was sent. Its ranges leave the transfer log.
func (v *Volume) endBarrierLocked(bar *barrier) []*frameWriter {
	v.barrier = nil
	v.tellSettledLocked()
	if bar.origin != nil {
		return bar.origin.ackBarrierLocked(bar.epoch)
	}
	var send []*frameWriter
	v.retireLocked(bar.epoch)
	for _, s := range bar.asked {
		if s.closed {
			continue
		}
		h := Header{Type: FrameStable, Generation: v.generation, Epoch: bar.epoch}
		s.dataWriter.append(&h, nil)
		s.clearSealedLocked()
		send = append(send, s.dataWriter)
	}
	for _, r := range bar.flushes {
		v.completeLater(r)
	}
	if v.wanted || len(v.flushes) > 0 {
		send = append(send, v.wantBarrierLocked()...)
	}
	return send
}

// completeLater answers r without holding the mutex.
func (v *Volume) completeLater(r *request) { v.pool.submit(&lateReply{v, r}) }

// lateReply answers a request on a worker.
type lateReply struct {
	v *Volume
	r *request
}

func (l *lateReply) run() { l.v.complete(l.r, nil) }

// retireLocked drops the ranges up to the epoch from the transfer log; their extents may be evicted now.
func (v *Volume) retireLocked(epoch uint64) {
	v.stable = max(v.stable, epoch)
	local := v.local
	v.log.retireThrough(epoch, func(extent uint32) {
		if local != nil {
			local.store.Release(extent, extent)
		}
	})
}

// clearSpilledLocked takes back the bits towards in-sync replicas that were set to make room in the activity log. What
// they stand for is durable on all of them now that the epoch is stable; what came later is in the transfer log.
func (v *Volume) clearSpilledLocked(stable uint64) {
	if v.local == nil || v.spilled == 0 || stable < v.spilled {
		return
	}
	v.spilled = 0
	if v.marked {
		return
	}
	store, inside := v.local.store, v.others&^v.outside
	for slot := range bitmap.Slots {
		if inside&bitmap.SlotBit(slot) != 0 {
			store.ClearAll(slot)
		}
	}
}

// barrierAnsweredLocked notes that s has made the epoch durable.
func (v *Volume) barrierAnsweredLocked(s *session, epoch uint64) []*frameWriter {
	bar := v.barrier
	if bar == nil || bar.epoch != epoch {
		return nil
	}
	delete(bar.waiting, s)
	return v.advanceBarrierLocked()
}

// dueBarrier starts a barrier when the log has been quiet, or busy, for long enough.
func (v *Volume) dueBarrier(idle, busy time.Duration) {
	v.mu.Lock()
	var send []*frameWriter
	quiet := !v.touched
	v.touched = false
	age := time.Since(v.sealedAt)
	resyncing := v.writtenUnsealedLocked()
	due := quiet && age >= idle || age >= busy || resyncing && age >= resyncBarrier
	if v.gate == gateOpen && v.barrier == nil && (resyncing || v.unsealed || !v.log.empty()) && due {
		send = v.wantBarrierLocked()
	}
	v.mu.Unlock()
	flushWriters(send)
}

// writtenUnsealedLocked reports whether a resync target has written what no barrier covers yet.
func (v *Volume) writtenUnsealedLocked() bool {
	for _, s := range v.legs {
		if len(s.resync.written) > 0 {
			return true
		}
	}
	return false
}

// flushWriters sends what was queued, outside every lock.
func flushWriters(writers []*frameWriter) {
	for _, w := range writers {
		w.Flush()
	}
}
