package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"duet/bitmap"
)

// engagePeers gives each connected peer its part in the adopted configuration.
func (r *Resource) engagePeers() {
	for _, l := range r.links {
		s := l.session
		if s == nil || l.lost || l.engaged == r.adopted.Generation {
			continue
		}
		l.engaged = r.adopted.Generation
		if err := r.sendConfiguration(s); err != nil {
			s.fail(err)
			continue
		}
		if !l.begun {
			l.begun = true
			r.begin(l, s)
		}
	}
}

// announce makes engagePeers send the new configuration.
func (r *Resource) announce() {
	if r.serving {
		r.engagePeers()
	}
}

func (r *Resource) sendConfiguration(s *session) error {
	payload, err := configurationPayload(&r.adopted)
	if err != nil {
		return err
	}
	s.sendFrame(Header{Type: FrameConfiguration, Generation: r.adopted.Generation}, payload)
	return nil
}

func configurationPayload(conf *Configuration) ([]byte, error) {
	raw, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	return encodeMessage(FrameConfiguration, &configurationMessage{Configuration: raw})
}

// begin decides what a session that this Primary has just taken up is for.
func (r *Resource) begin(l *link, s *session) {
	facts := r.sourceFacts(l, s)
	decision := decideSource(facts)
	l.decided = &madeDecision{facts, decision}
	r.emit("connection", l.node, decision.action.String(), decision.reason)
	switch decision.action {
	case actionJoin:
		s.volume.mu.Lock()
		s.member, s.unconfirmed = true, true
		s.volume.addLegLocked(s)
		s.volume.wantLeasesLocked()
		s.sendAgainLocked(l)
		s.volume.mu.Unlock()
		s.dataWriter.Flush()
	case actionBitmap, actionFull:
		l.known = l.known || decision.action == actionFull
		if err := s.sourceStart(r.planResync(l, decision)); err != nil {
			s.fail(err)
		}
	case actionRefuse, actionNone, actionSplit:
		l.begun = false // another generation may have a part for it; a member that has none is waited for
		l.reason = decision.reason
	}
}

// sendAgainLocked sends what the peer's last session has not answered, if that was the only replica in sync. The peer applies
// nothing of the last session any more, and no two of these overlap.
func (s *session) sendAgainLocked(l *link) {
	if !l.resumes {
		return
	}
	l.resumes = false
	for _, req := range l.orphans {
		s.sendRequestLocked(req)
	}
	l.orphans = nil
	bar := s.volume.barrier
	if bar == nil {
		return
	}
	if _, waits := bar.waiting[l.former]; waits {
		delete(bar.waiting, l.former)
		bar.waiting[s] = struct{}{}
		bar.asked = append(slices.Clone(bar.asked), s)
		s.header = Header{Type: FrameBarrier, Generation: s.volume.generation, Epoch: bar.epoch}
		s.dataWriter.append(&s.header, nil)
	}
}

// sourceFacts gathers what the decision about a peer looks at. It shares nothing with the resource.
func (r *Resource) sourceFacts(l *link, s *session) sourceFacts {
	conf := r.adopted
	f := sourceFacts{configuration: &conf, peer: s.hello, slot: l.slot, selfInSync: conf.inSync(r.cfg.Node),
		local: r.superblock(), diskless: r.local == nil, known: l.known}
	if r.local != nil {
		f.dirty = r.local.store.DirtyBlocks(l.slot)
	}
	if sabotageTrustOldBitmap {
		f.dirty = ^uint64(0)
	}
	return f
}

// resyncBegan notes progress; the source has every bit from now on.
func (r *Resource) resyncBegan(s *session) {
	if l := r.links[s.peer]; l != nil && l.session == s {
		l.known = r.serving // a target learns nothing of what the source may have changed
		r.emit("resync", s.peer, "running", fmt.Sprintf("%d KiB out of sync", r.outOfSync(l.slot)/1024))
	}
}

// resyncScanned: everything that the target asked for is durable there. With no bit left it is added to the set.
func (r *Resource) resyncScanned(s *session) {
	l := r.links[s.peer]
	if l == nil || l.session != s || !r.serving || r.local == nil || r.adopted.inSync(s.peer) {
		return
	}
	if left := r.local.store.DirtyBlocks(l.slot); left > 0 && !sabotageAddEarly {
		s.fail(fmt.Errorf("%d blocks are left after the resync; it starts again", left))
		return
	}
	l.adding = true
	r.volume.mu.Lock()
	r.volume.adding |= bitmap.SlotBit(l.slot) // until the next generation: the admission may be committed without a word
	r.volume.mu.Unlock()
}

// propose makes the one proposal that is needed most. A lost member is removed before anything else, because writes
// wait for that.
func (r *Resource) propose() {
	if r.proposal || time.Now().Before(r.retryAt) {
		return
	}
	p := Proposal{Resource: r.adopted.Resource, Generation: r.adopted.Generation, Node: r.cfg.Node, Incarnation: r.cfg.Incarnation}
	for _, l := range r.links {
		if r.demoting != nil && r.successor == nil && l.equal {
			continue // nothing is written any more either, so it stays in the set; a new Primary would wait for it
		}
		if r.adopted.soleCopy(l.node) {
			if l.session != nil && r.adopted.restarted(l.node, l.session.hello.BootID) {
				// It can't leave the set, and nobody but it can go on: as Primary, with what it may have lost on record.
				p.Kind, p.Reason = ProposeDemote, fmt.Sprintf("%s has no data of its own, and the machine of %s, which has, restarted", r.cfg.Node, l.node)
				r.start(p)
				return
			}
			continue
		}
		member := r.adopted.inSync(l.node)
		missing := l.session == nil && (l.lost || time.Now().After(r.graceEnd) || time.Since(l.silentAt) < silenceFresh)
		unusable := l.session != nil && !l.begun && l.session.hello.unusable() // what it was before this session's resync
		restarted := l.session != nil && r.adopted.restarted(l.node, l.session.hello.BootID)
		if l.lost && l.session == nil || member && (missing || unusable || restarted) {
			p.Kind, p.Target, p.Reason = ProposeRemove, l.node, l.reason
			switch {
			case unusable:
				p.Reason = "its disk is " + l.session.hello.DiskState
			case restarted:
				p.Reason = "its machine restarted"
			}
			r.start(p)
			return
		}
	}
	if r.detached && r.adopted.inSync(r.cfg.Node) && len(r.adopted.InSync) > 1 {
		p.Kind, p.Reason = ProposeDetach, r.failure
		r.start(p)
		return
	}
	if r.selfAdding && !r.adopted.inSync(r.cfg.Node) {
		p.Kind, p.Target, p.TargetIncarnation, p.TargetPromised = ProposeAdd, r.cfg.Node, r.cfg.Incarnation, r.superblock().Promised
		r.start(p)
		return
	}
	if r.leaving && r.adopted.inSync(r.cfg.Node) && len(r.adopted.InSync) > 1 && r.quiet() {
		p.Kind, p.Reason = ProposeDetach, "detached by the operator"
		r.start(p)
		return
	}
	for _, l := range r.links {
		if l.adding && l.session != nil && !r.adopted.inSync(l.node) {
			p.Kind, p.Target, p.TargetIncarnation = ProposeAdd, l.node, l.session.hello.Incarnation
			p.TargetPromised = r.promisedBy(l.session)
			r.start(p)
			return
		}
	}
	if r.demoting != nil && !r.differing() && r.quiet() {
		if r.successor != nil {
			r.proposeSuccessor(p)
			return
		}
		// What the only disk holds of the time before it failed may be nowhere but in memory.
		p.Kind, p.Clean, p.Hold = ProposeDemote, !r.detached || !r.adopted.inSync(r.cfg.Node), r.demotionHolds
		r.start(p)
	}
}

// promisedBy is the generation that a peer is known to have promised durably.
func (r *Resource) promisedBy(s *session) uint64 {
	r.volume.mu.Lock()
	defer r.volume.mu.Unlock()
	return s.promised
}

// start makes p beside the control loop. Whatever comes back, reconcile decides anew.
func (r *Resource) start(p Proposal) {
	r.proposal = true
	r.loops.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Timing.RetryMax+r.cfg.Timing.PeerTimeout)
		defer cancel()
		conf, err := r.cfg.Arbiter.Propose(ctx, p)
		r.post(func() { r.proposed(p, conf, err) })
	})
}

func (r *Resource) proposed(p Proposal, conf Configuration, err error) {
	r.proposal = false
	if conf.Generation > r.learned.Generation && conf.holds(r.cfg.Node) == nil {
		r.learned = conf
	}
	if p.Kind == ProposeSwitch {
		r.switchProposed(p, conf.Generation, err)
	}
	if err == nil {
		r.emit("generation", p.Target, string(p.Kind), p.Reason)
		return
	}
	r.log.Warn("proposal", "kind", p.Kind, "target", p.Target, "generation", p.Generation, "error", err)
	r.retryAt = time.Now().Add(r.cfg.Timing.RetryMin)
	if errors.Is(err, ErrRejected) && p.Kind == ProposeAdd && p.Target == r.cfg.Node {
		r.selfAdding = false
		r.endPull(nil)
		r.settleStuck()
		return
	}
	if errors.Is(err, ErrRejected) && p.Kind == ProposeAdd {
		if l := r.links[p.Target]; l != nil && l.session != nil {
			l.session.fail(err)
		}
	}
}

// wantedGate derives the gate from the state, with the reason for people. What the operator has suspended waits even where it
// would fail: that is found out when it goes on.
func (r *Resource) wantedGate() (gate, string) {
	want, why := r.gateOfState()
	if r.suspension == nil || want == gateRefused {
		return want, why
	}
	if why == "" {
		why = "suspended by the operator"
	}
	return gateSuspended, why
}

// gateOfState is the gate that nobody but the state of the replicas asks for.
func (r *Resource) gateOfState() (gate, string) {
	if !r.serving {
		return gateRefused, ""
	}
	if r.demoting != nil || r.closing {
		return gateSuspended, "the node gives the Primary role up"
	}
	if r.superseded() {
		return gateSuspended, "another node is Primary"
	}
	if r.leaving && r.adopted.inSync(r.cfg.Node) {
		return gateSuspended, "the disk is being detached"
	}
	if r.detached && r.selfAdding {
		return gateSuspended, "waiting for the quorum to say whether the failed disk was taken into the in-sync set"
	}
	member := r.adopted.inSync(r.cfg.Node)
	if r.detached && member {
		if len(r.adopted.InSync) > 1 {
			return gateSuspended, "waiting for the quorum to commit that the local disk failed"
		}
		return gateFailing, "the disk failed and no other replica is in sync: " + r.failure
	}
	for _, l := range r.links {
		switch {
		case l.lost:
			return gateSuspended, "waiting for the quorum to commit the removal of " + l.node
		case r.adopted.inSync(l.node) && (l.session == nil || !l.begun):
			return gateSuspended, "waiting for " + l.node + ", which is in sync, to connect"
		case r.adopted.inSync(l.node) && r.unconfirmed(l.session):
			return gateSuspended, "waiting for " + l.node + ", which is in sync, to take the new generation up"
		}
	}
	if node := r.unlinked(); node != "" {
		return gateSuspended, "waiting for the end of the former replica of " + node
	}
	return gateOpen, ""
}

// setGate moves the gate; what waited goes on when it opens.
func (r *Resource) setGate() {
	want, why := r.wantedGate()
	r.reason = why
	v := r.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gate == want || v.gate == gateFenced && want == gateRefused && v.inOpen+v.inClosing > 0 {
		return
	}
	r.log.Info("requests", "from", v.gate.String(), "state", want.String(), "reason", why)
	v.moveGateLocked(want)
	if want != gateSuspended {
		v.resumeLocked()
	}
}

// resumeLocked lets everything that was parked take its next step under the present gate.
func (v *Volume) resumeLocked() {
	parked, halted := v.parked, v.halted
	v.parked, v.halted = nil, nil
	v.answerReadsLocked()
	for _, req := range halted {
		if req.phase != phaseLocal {
			req.phase = phaseStart
		}
		v.pool.submit(req)
	}
	for _, req := range parked {
		v.resumeOnWorker(req, phaseSubmit)
	}
}

// fence ends this node's authority: clients are cut first, then nothing in flight is answered any more.
func (r *Resource) fence(reason string) {
	r.volume.turnAway()
	r.cfg.Revoke(reason)
	r.serving = false
	r.cfg.Role.Changed(RoleChange{Ordered: r.demoting != nil, Generation: r.learned.Generation, Reason: reason})
	r.emit("role", "", "Secondary", "fenced: "+reason)
	v := r.volume
	v.mu.Lock()
	v.gate = gateFenced
	flushes := v.flushes
	if v.barrier != nil {
		flushes = append(flushes, v.barrier.flushes...)
	}
	for _, s := range v.legs {
		s.lease = heldLease{}
	}
	v.legs, v.barrier, v.wanted, v.flushes = nil, nil, false, nil
	v.hasLegs.Store(false)
	v.resumeLocked()
	v.mu.Unlock()
	for _, req := range flushes {
		req.err = ErrFenced
		v.complete(req, nil)
	}
	for _, l := range r.links {
		l.releaseOrphans(ErrFenced)
		l.lost, l.resumes, l.adding, l.differs = false, false, false, time.Time{}
	}
	r.selfAdding, r.leaving = false, false
	r.endPull(nil)
	r.successionEnds()
}

// releaseRemoved counts down the legs of peers whose removal is committed.
func (r *Resource) releaseRemoved() {
	for _, l := range r.links {
		if !r.adopted.inSync(l.node) {
			l.differs = time.Time{}
		}
		if l.lost && l.session == nil && !r.adopted.inSync(l.node) {
			l.lost = false
			l.releaseOrphans(nil)
		}
		if l.adding && r.adopted.inSync(l.node) {
			l.adding = false
			r.emit("replication", l.node, "Established", ResyncFinished)
			if l.session != nil {
				r.volume.mu.Lock()
				l.session.member = true
				l.session.resync.role, l.session.resync.running = resyncNone, false
				r.volume.mu.Unlock()
			}
		}
	}
}

// Promote makes this node Primary. Only an in-sync replica may be; the commit fences whoever was Primary before. It makes
// it Primary once: a role that was granted and given up or taken again is not asked for again, and a demotion that is
// asked for meanwhile ends the attempt.
func (r *Resource) Promote(ctx context.Context) error {
	return r.promoteBy(ctx, func() (Proposal, bool, error) { return r.promotion("asked for on " + r.cfg.Node) })
}

// PromoteBecause is Promote without an operator, whose hold it respects, for a reason that history keeps.
func (r *Resource) PromoteBecause(ctx context.Context, why string) error {
	return r.promoteBy(ctx, func() (p Proposal, serving bool, err error) {
		p, serving, err = r.promotion(why)
		p.Auto = true
		return p, serving, err
	})
}

// promoteBy makes this node Primary by what propose returns, which runs on the control loop.
func (r *Resource) promoteBy(ctx context.Context, propose func() (p Proposal, serving bool, err error)) error {
	var demotions uint64
	if err := r.call(ctx, func() { demotions = r.demotions; r.promotions++ }); err != nil {
		return err
	}
	defer r.post(r.promotionEnds)
	asked := false     // BeforePromote has agreed
	var granted uint64 // the generation that made this node Primary
	for {
		var p Proposal
		var refusal error
		var wait time.Duration
		done := false
		err := r.call(ctx, func() {
			switch {
			case granted > 0:
				done = r.serving || r.learned.Generation > granted && !r.mine(&r.learned)
			case r.demotions != demotions && !r.mine(&r.learned):
				refusal = fmt.Errorf("%w: %s was to become Secondary meanwhile", ErrRefused, r.cfg.Node)
			default:
				if p, done, refusal = propose(); p.Kind != "" && asked { // a candidate grants no leases, so it is none before
					wait = r.candidacy(p, r.learned.Clean || r.ended(&r.learned))
				}
			}
		})
		if err != nil {
			return err
		}
		if refusal != nil || done {
			return refusal
		}
		if p.Kind != "" && !asked {
			if err := r.cfg.Role.BeforePromote(ctx); err != nil {
				return fmt.Errorf("%w: %w", ErrRefused, err)
			}
			asked = true
			continue
		}
		if p.Kind != "" && wait <= 0 {
			r.log.Info("promotion is proposed", "resource", p.Resource, "generation", p.Generation)
			if granted, err = r.askFor(ctx, p); err != nil {
				return err
			}
			if granted > 0 {
				r.log.Info("promotion is committed", "resource", p.Resource, "generation", granted)
			}
		}
		if err := r.pauseFor(ctx, max(wait, r.cfg.Timing.RetryMin)); err != nil {
			return err
		}
	}
}

// promotionEnds: with the last attempt the candidacy ends, unless a proposal was, or may still be, committed.
func (r *Resource) promotionEnds() {
	if r.promotions--; r.promotions == 0 {
		r.volume.mu.Lock()
		r.volume.given.candidate = r.unresolved
		r.volume.mu.Unlock()
	}
}

// mine reports whether conf has this incarnation as Primary.
func (r *Resource) mine(conf *Configuration) bool {
	return conf.Primary == r.cfg.Node && conf.PrimaryIncarnation == r.cfg.Incarnation
}

// askFor proposes a promotion. It returns the generation in which it was granted; 0 if it was not, or nobody knows, and
// may be tried again.
func (r *Resource) askFor(ctx context.Context, p Proposal) (granted uint64, err error) {
	conf, err := r.cfg.Arbiter.Propose(ctx, p)
	if conf.Generation > 0 {
		r.Learn(conf)
	}
	switch {
	case errors.Is(err, ErrRejected):
		return 0, err
	case !errors.Is(err, ErrStale): // committed, or perhaps: for this generation no lease is granted again, however the attempt ends
		r.post(func() { r.unresolved = max(r.unresolved, p.Generation) })
	}
	if err == nil {
		return conf.Generation, nil
	}
	if ctx.Err() != nil {
		return 0, errors.Join(ctx.Err(), err)
	}
	return 0, nil
}

// promotion is the proposal that makes this node Primary, or the reason why there is none.
func (r *Resource) promotion(why string) (p Proposal, serving bool, err error) {
	conf := &r.learned
	switch {
	case r.serving:
		return p, true, nil
	case r.mine(conf):
		return p, false, nil // not adopted yet
	case r.detached:
		return p, false, fmt.Errorf("%w: %s has no usable disk here (%s)", ErrRefused, conf.Resource, r.failure)
	case r.diskState() == "Inconsistent":
		return p, false, fmt.Errorf("%w: the replica on %s can't be trusted: %s", ErrRefused, r.cfg.Node, inconsistentReason)
	case !conf.inSync(r.cfg.Node) && !sabotagePromoteOutsider:
		return p, false, fmt.Errorf("%w: the replica on %s is not in sync; %v have every acknowledged write", ErrRefused, r.cfg.Node, conf.InSync)
	}
	if l := r.links[conf.Primary]; l != nil && l.session != nil && l.session.hello.Role == "Primary" {
		if r.ended(conf) {
			l.session.fail(fmt.Errorf("the process of %s that was Primary has ended", l.node))
			return p, false, nil // and again when the session has ended
		}
		if silence := l.session.silence(); silence > r.cfg.Timing.Suspect {
			l.session.fail(fmt.Errorf("nothing heard of %s for %v, and %s is to be Primary", l.node, silence.Round(time.Millisecond), r.cfg.Node))
			return p, false, nil // and again when it has ended
		}
		return p, false, fmt.Errorf("%w: %s is Primary and alive; give its role up there first: duet secondary %s", ErrRefused, conf.Primary, conf.Resource)
	}
	return Proposal{Kind: ProposePromote, Resource: conf.Resource, Generation: conf.Generation, Node: r.cfg.Node,
		Incarnation: r.cfg.Incarnation, Reason: why}, false, nil
}
