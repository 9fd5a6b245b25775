package replication

import (
	"fmt"
	"time"

	"duet/bitmap"
)

// resyncOptions is what the operator of this node wants of the resyncs that it takes part in. They outlive sessions, not
// the process.
type resyncOptions struct {
	paused  bool
	maxRate uint64 // bytes per second, 0: none
	compare bool   // also a resync that by its nature sends what differs
}

// ResyncChange is a change of what the operator wants; nil leaves a thing as it is.
type ResyncChange struct {
	Paused        *bool
	MaxRate       *uint64 // bytes per second; 0 lifts the limit
	CompareAlways *bool
}

// ChangeResync changes it, and tells the peers.
func (r *Resource) ChangeResync(change ResyncChange) error {
	return r.call(r.ctx, func() {
		v := r.volume
		v.mu.Lock()
		options := &v.resyncs
		before := options.paused
		assign(&options.paused, change.Paused)
		assign(&options.maxRate, change.MaxRate)
		assign(&options.compare, change.CompareAlways)
		paused := options.paused
		v.mu.Unlock()
		for _, l := range r.links {
			if l.session != nil {
				l.session.tell()
				l.session.wakePace()
			}
		}
		if paused != before {
			r.emit("resync", "", pauseWord(paused), "by the operator of "+r.cfg.Node)
		}
	})
}

func assign[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func pauseWord(paused bool) string {
	if paused {
		return "paused"
	}
	return "resumed"
}

// controlMessage is the payload of ResyncControl.
type controlMessage struct {
	Paused bool `json:"paused,omitempty"`
	resyncOrder
}

// resyncOrder is how a source wants to be asked; zero: as the target likes.
type resyncOrder struct {
	Hold         bool   `json:"hold,omitempty"`          // not at all, at present
	Rate         uint64 `json:"rate,omitempty"`          // bytes per second
	WindowBytes  uint64 `json:"window-bytes,omitempty"`  // in flight
	RequestBytes uint64 `json:"request-bytes,omitempty"` // at once
}

func (m *controlMessage) validate() error {
	if m.RequestBytes > MaxResyncBytes || m.RequestBytes%bitmap.BlockBytes != 0 {
		return fmt.Errorf("%w: requests of %d bytes", errMessage, m.RequestBytes)
	}
	return nil
}

// tell sends the peer what has changed of this end's part of a resync.
func (s *session) tell() {
	v := s.volume
	v.mu.Lock()
	err := s.tellLocked()
	v.mu.Unlock()
	if err != nil {
		s.fail(err)
	}
	s.dataWriter.Flush()
}

func (s *session) tellLocked() error {
	st := &s.resync
	if st.role == resyncNone || st.role == resyncPull || !s.features.control || s.closed {
		return nil
	}
	m := controlMessage{Paused: s.volume.resyncs.paused}
	if st.role == resyncSource {
		m.resyncOrder = st.controller.order
		m.Rate = lowerLimit(m.Rate, s.volume.resyncs.maxRate)
	}
	if m == st.told {
		return nil
	}
	payload, err := encodeMessage(FrameResyncControl, &m)
	if err != nil {
		return err
	}
	st.told = m
	h := Header{Type: FrameResyncControl}
	h.setPayload(payload)
	s.dataWriter.append(&h, payload)
	return nil
}

// lowerLimit is the stricter of two limits, of which 0 is none.
func lowerLimit(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// controlled takes the peer's ResyncControl.
func (s *session) controlled(h *Header, payload []byte) error {
	var m controlMessage
	if err := decodeMessage(h.Type, payload, &m); err != nil {
		return err
	}
	v := s.volume
	v.mu.Lock()
	changed := s.resync.peerPaused != m.Paused
	s.resync.peerPaused, s.resync.order = m.Paused, m.resyncOrder
	v.mu.Unlock()
	s.wakePace()
	if changed {
		s.resource.post(func() { s.resource.emit("resync", s.peer, pauseWord(m.Paused), "by the operator of "+s.peer) })
	}
	return nil
}

// orderLocked is how the target asks: as the source and the operator want it.
func (s *session) orderLocked() resyncOrder {
	st, own := &s.resync, &s.volume.resyncs
	o := st.order
	o.Hold = o.Hold || own.paused || st.peerPaused
	o.Rate = lowerLimit(o.Rate, own.maxRate)
	o.WindowBytes = lowerLimit(o.WindowBytes, resyncWindowBytes)
	o.RequestBytes = lowerLimit(o.RequestBytes, MaxResyncBytes)
	if o.Rate > 0 {
		o.RequestBytes = min(o.RequestBytes, requestFor(o.Rate))
	}
	return o
}

// wakePace makes the pace loop look again.
func (s *session) wakePace() {
	select {
	case s.paceWake <- struct{}{}:
	default:
	}
}

// pace is the loop of what a resync does by the clock: at a target it owns the requests that have to wait for their
// time, at a source the controller. Changes of what is wanted wake it, else its timer; it ends with the session.
func (s *session) pace() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-s.paceWake:
		case <-timer.C:
		}
		timer.Stop()
		if wait := s.paceStep(); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// paceStep does what is due and returns when the next step is; 0: when it is woken.
func (s *session) paceStep() (wait time.Duration) {
	v := s.volume
	v.mu.Lock()
	active := s.resync.running && !s.closed && v.local != nil
	s.meterLocked(active && s.resync.role == resyncSource)
	var err error
	switch {
	case active && (s.resync.role == resyncTarget || s.resync.role == resyncPull):
		wait = s.pullLocked()
	case s.metered:
		wait = s.controlLocked()
		err = s.tellLocked()
	}
	v.mu.Unlock()
	s.dataWriter.Flush()
	if err != nil {
		s.fail(err)
	}
	return wait
}

// meterLocked has the application's writes timed while this end is the source of a resync.
func (s *session) meterLocked(want bool) {
	v := s.volume
	switch {
	case want && !s.metered:
		v.metering.Add(1)
		s.resync.counted = v.latency.snapshot()
	case !want && s.metered:
		v.metering.Add(-1)
	}
	s.metered = want
}

// controlLocked lets the controller take a step.
func (s *session) controlLocked() time.Duration {
	st, now := &s.resync, s.volume.latency.snapshot()
	in := controlInput{now: time.Now(), writes: now.since(&st.counted), done: st.done, left: st.total - min(st.done, st.total),
		drained: len(st.reading) == 0}
	st.counted = now
	return st.controller.step(in)
}
