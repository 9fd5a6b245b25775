package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"duet/bitmap"
)

// Resource is one replicated device on this node: its disk, its peers, and the part this node plays in the committed
// configuration.
//
// Its control loop owns every field below the line; other goroutines post functions to it. The loop is level
// triggered: after each event, reconcile looks at what is so and takes the next step towards what the configuration
// wants. Nothing in it waits for a peer or for the arbiter: proposals run beside it and post their result.
type Resource struct {
	cfg    Config
	name   string
	id     [16]byte
	log    *slog.Logger
	volume *Volume

	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup
	events mailbox
	// urgent is what the control loop does even while it waits for its disk: it must not wait, nor adopt anything.
	urgent mailbox

	super      *superblockStore
	superTurn  chan struct{}              // holds one while the superblock is written, by the loop or by a session
	superKnown atomic.Pointer[Superblock] // the newest that is durable; nil: no metadata is attached
	meta       MetadataFile
	local      *localDisk

	features features      // what this node can use
	opened   time.Duration // by the clock of leases: what an earlier run granted may be out until some time later
	doubtful bool          // the disk was Inconsistent when it was attached: what is read of it may not be on it

	// ---- the control loop's ----
	learned  Configuration // the newest known
	adopted  Configuration // the one acted in; its generation is promised
	serving  bool          // this incarnation is Primary in adopted
	demoting chan error    // not nil: a demotion is under way
	// demotionHolds: nobody is promoted after the demotion under way without being asked for.
	demotionHolds bool
	successor     *succession // not nil: the demotion under way is a switchover
	demotions     uint64      // asked for so far: a promotion that began before the newest is void
	promotions    int         // calls of Promote under way
	unresolved    uint64      // the newest generation of a promotion that was committed, or whose outcome is not known
	detached      bool        // the disk failed or was never attached
	failure       string      // why the disk is not used
	slow          string      // what of the disk has not returned for long, and is waited for
	occupied      string      // what an operator's command is doing with the disk; "": nothing
	leaving       bool        // the Primary's disk is to be detached in good order
	holding       bool        // no session may begin
	former        *formerDisk // not closed yet
	pull          *pull       // the Primary's own disk is brought up to date; nil: it need not be, or nobody is there
	pulls         uint64      // begun so far
	selfAdding    bool        // the admission of the Primary's own disk may be in flight
	links         map[string]*link
	exited        map[string]exit // the incarnation of a node that has certainly ended, as last heard
	proposal      bool            // one is under way
	retryAt       time.Time
	closing       bool
	reason        string // why requests wait
	graceEnd      time.Time
	verify        *verification // the newest; nil: none since the start
	suspension    *suspension   // the operator's; nil: none
	undo          undoState     // of this replica, when it is given up
	// recovered: towards these slots there are bits that stem from the activity log of a crash.
	recovered bitmap.SlotMask
}

// mailbox is an unbounded queue of work for the control loop; each post belongs to a bounded cause.
type mailbox struct {
	mu    sync.Mutex
	queue []func()
	wake  chan struct{}
}

// Open makes the resource as conf describes it, without a disk.
func Open(cfg Config, conf Configuration) (*Resource, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if conf.replica(cfg.Node) == nil {
		return nil, fmt.Errorf("resource %s has no replica on %s", conf.Resource, cfg.Node)
	}
	r := &Resource{cfg: cfg, name: conf.Resource, id: conf.ResourceID, log: cfg.Logger.With("resource", conf.Resource), learned: conf, detached: true,
		failure: "no disk is attached", links: map[string]*link{}, exited: map[string]exit{}, features: allFeatures, events: newMailbox(), urgent: newMailbox(), superTurn: make(chan struct{}, 1)}
	r.volume = newVolume(conf.SizeBytes, cfg.Workers, r.log)
	r.volume.failed = func(local *localDisk, err error) { r.post(func() { r.diskFailed(local, err) }) }
	r.volume.activityLogFull = func() { r.post(r.activityLogFull) }
	r.volume.settled = func() { r.post(func() {}) }
	r.volume.leases, r.opened = cfg.Leases, cfg.Leases.Clock()
	r.ctx, r.cancel = context.WithCancel(context.Background())
	for _, replica := range conf.Replicas {
		if replica.Node != cfg.Node {
			r.links[replica.Node] = newLink(r, replica)
		}
	}
	return r, nil
}

// Start begins to act: adopts what is known, dials peers.
func (r *Resource) Start() {
	for _, l := range r.links { // before the loop, which owns them from then on
		if l.dials() {
			r.loops.Go(l.dialLoop)
		}
	}
	r.loops.Go(r.loop)
	r.loops.Go(r.leaseLoop)
	r.post(func() {})
}

// loop owns the fields of the control loop; posts and a coarse timer wake it; Close ends it.
func (r *Resource) loop() {
	tick := time.NewTicker(r.cfg.Timing.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
			r.volume.dueBarrier(r.cfg.Timing.IdleBarrier, r.cfg.Timing.BusyBarrier)
			r.watchDisk()
		case <-r.events.wake:
		case <-r.urgent.wake:
		}
		events := r.events.take() // first, so that what was urgent before one of them comes before it
		r.serveUrgent()
		for _, event := range events {
			event()
		}
		r.reconcile()
	}
}

// post queues f for the control loop.
func (r *Resource) post(f func()) { r.events.put(f) }

func newMailbox() mailbox { return mailbox{wake: make(chan struct{}, 1)} }

func (m *mailbox) put(f func()) {
	m.mu.Lock()
	m.queue = append(m.queue, f)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	queue := m.queue
	m.queue = nil
	return queue
}

// call runs f on the control loop and waits for it.
func (r *Resource) call(ctx context.Context, f func()) error {
	return r.callBy(ctx, &r.events, f)
}

// callBy is call by way of one of the mailboxes.
func (r *Resource) callBy(ctx context.Context, way *mailbox, f func()) error {
	done := make(chan struct{})
	way.put(func() { f(); close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return ErrClosed
	}
}

// Learn tells the resource of a committed configuration that has a replica of this node.
func (r *Resource) Learn(conf Configuration) {
	r.urgent.put(func() {
		if conf.Generation > r.learned.Generation && conf.holds(r.cfg.Node) == nil {
			r.learned = conf
		}
	})
}

// Volume is the device.
func (r *Resource) Volume() *Volume { return r.volume }

// Serving reports whether requests of clients are taken.
func (r *Resource) Serving() bool {
	r.volume.mu.Lock()
	defer r.volume.mu.Unlock()
	return !r.volume.turnedAway && (r.volume.gate == gateOpen || r.volume.gate == gateSuspended || r.volume.gate == gateFailing)
}

func (r *Resource) emit(kind, peer, to, reason string) {
	r.tell(Event{Kind: kind, Peer: peer, To: to, Reason: reason})
}

// tell completes an event and hands it on.
func (r *Resource) tell(e Event) {
	e.Time, e.Resource, e.Generation = time.Now(), r.name, r.adopted.Generation
	r.log.Info(e.Kind, "peer", e.Peer, "state", e.To, "reason", e.Reason, "generation", e.Generation)
	r.cfg.Emit(e)
}

// reconcile takes every step that is possible now.
func (r *Resource) reconcile() {
	if r.closing && !r.serving {
		return
	}
	if r.learned.Generation > r.adopted.Generation && r.mayAdopt() {
		r.adopt(r.learned)
	}
	r.followReplicas()
	if r.serving {
		r.engagePeers()
		r.watchPull()
		r.propose()
	}
	r.watchVerify()
	r.watchSplits()
	r.watchSuspension()
	r.watchUndo()
	r.setGate()
	for _, l := range r.links {
		l.admitWaiting()
	}
}

// mayAdopt reports whether the learned configuration can be promised now. While the same Primary goes on, a Secondary
// that is connected waits for the Primary's own word, so that a frame under way is not refused; a change of the Primary is
// promised once every session has ended, so that nothing of the old one is applied afterwards. Without a session of that
// incarnation the record is all there will be: a Primary that died behind the commit of an admission can't tell the one it
// admitted.
func (r *Resource) mayAdopt() bool {
	if r.serving && r.learned.samePrimary(&r.adopted) {
		return true
	}
	if r.adopted.Generation > 0 && !r.serving && r.learned.samePrimary(&r.adopted) && r.learned.Primary != "" {
		return !r.hearsPrimary(&r.learned)
	}
	if r.serving {
		r.lastWord()
		r.fence(fmt.Sprintf("generation %d has Primary %q", r.learned.Generation, r.learned.Primary))
	}
	idle := true
	for _, l := range r.links {
		switch {
		case l.session == nil || r.begunBy(l.session, &r.learned):
		case l.parting:
			idle = false
		default:
			l.session.fail(fmt.Errorf("generation %d has another Primary", r.learned.Generation))
			idle = false
		}
	}
	return idle
}

// changing reports whether another Primary is known than the one that this node acts under. Until it has promised that, a session
// would only have to end again.
func (r *Resource) changing() bool {
	return r.adopted.Generation > 0 && r.learned.Generation > r.adopted.Generation && !r.learned.samePrimary(&r.adopted)
}

// hearsPrimary reports whether there is a session with the Primary that conf names, in that incarnation.
func (r *Resource) hearsPrimary(conf *Configuration) bool {
	l := r.links[conf.Primary]
	return l != nil && l.session != nil && l.session.hello.Incarnation == conf.PrimaryIncarnation
}

// begunBy reports whether a session is of the Primary that conf names, opened in that role, after a time without any
// Primary: then nothing of an earlier one can come through it, nor lie in the transfer log, and it stays.
func (r *Resource) begunBy(s *session, conf *Configuration) bool {
	return r.adopted.Primary == "" && s.peer == conf.Primary && s.hello.Incarnation == conf.PrimaryIncarnation &&
		s.hello.PrimarySince == conf.PrimarySince
}

// adopt promises conf durably and acts in it. Before the promise the ranges that are not stable become bits towards
// every replica that may lack them.
func (r *Resource) adopt(conf Configuration) {
	old := r.adopted
	mine := conf.Primary == r.cfg.Node && conf.PrimaryIncarnation == r.cfg.Incarnation
	v := r.volume
	keepLog := conf.samePrimary(&old) && conf.Primary != "" // the same Primary's writes go on
	v.mu.Lock()
	r.turnLogIntoBitsLocked(&conf, keepLog)
	v.leaveOutLocked(conf.outsideMask(r.cfg.Node)) // in the same step: what is applied while the promise is written must not fall between
	v.mu.Unlock()
	err := r.growTo(&conf)
	if err == nil {
		err = r.promise(&conf)
	}
	if err != nil {
		r.diskFailed(r.local, err)
	}
	r.adopted = conf
	r.followReplicas()
	for _, l := range r.links {
		l.refresh(&conf)
		if r.serving && l.session != nil && l.begun && old.inSync(l.node) && !conf.inSync(l.node) {
			l.session.fail(errRemoved) // it came while its removal was under way: it has to begin as what it is now
		}
	}
	r.actIn(&conf)
	if mine && !r.serving {
		r.serving = true
		v.mu.Lock()
		v.turnedAway = false
		v.unsealed = true // what it got as a Secondary may be in the page cache
		v.mu.Unlock()
		r.graceEnd = time.Now().Add(r.cfg.Timing.ConnectGrace)
		for _, l := range r.links {
			l.known = sabotageTrustOldBitmap // whoever was Primary before may have written what nobody else has
		}
		reason := "promoted in generation " + fmt.Sprint(conf.Generation)
		r.emit("role", "", "Primary", reason)
		r.cfg.Role.Changed(RoleChange{Primary: true, Generation: conf.Generation, Reason: reason})
	}
	if conf.Primary != old.Primary && !mine {
		r.emit("role", conf.Primary, "Primary", fmt.Sprintf("generation %d", conf.Generation))
	}
	for _, l := range r.links {
		if l.session == nil {
			l.poke() // there may be an attempt again
		}
	}
	r.announce() // before the barrier that waits for a removed peer ends: who hears Stable must know of the removal
	r.releaseRemoved()
	for _, l := range r.links {
		if l.resumes && !conf.soleCopy(l.node) { // now that another has everything, too, it can be removed
			l.resumes, l.lost = false, r.serving
		}
	}
	if conf.inSync(r.cfg.Node) {
		r.selfAdding = false
		if r.pull != nil {
			r.emit("replication", r.pull.session.peer, "Established", ResyncFinished)
		}
		r.endPull(nil)
	}
	if r.leaving && r.serving && !conf.inSync(r.cfg.Node) {
		r.leaveDisk()
	}
	if r.detached {
		r.settleStuck()
	}
}

// actIn makes the volume act in conf. Who gets writes is told in the same step: the next write is tagged with the new
// generation, and must find it known at the other end.
func (r *Resource) actIn(conf *Configuration) {
	v := r.volume
	payload, err := configurationPayload(conf)
	v.mu.Lock()
	v.stale = conf.Primary == r.cfg.Node && !conf.inSync(r.cfg.Node)
	v.generation, v.ackDurable, v.passOn = conf.Generation, conf.AckDurable, conf.OnIOError == OnIOErrorPassOn
	v.outside, v.others = conf.outsideMask(r.cfg.Node), conf.othersMask(r.cfg.Node)
	v.members, v.adding = v.others&^v.outside, r.addingMask(conf)
	v.sizeBytes.Store(max(v.sizeBytes.Load(), conf.SizeBytes)) // nobody sends what lies behind the former end before the peers are told
	var told []*frameWriter
	for _, s := range v.legs {
		v.outside &^= bitmap.SlotBit(s.slot)
		if l := r.links[s.peer]; l != nil && l.session == s && err == nil {
			s.header = Header{Type: FrameConfiguration, Generation: conf.Generation}
			s.header.setPayload(payload)
			s.dataWriter.append(&s.header, payload)
			l.engaged = conf.Generation
			told = append(told, s.dataWriter)
		}
	}
	v.answerReadsLocked()
	v.mu.Unlock()
	flushWriters(told)
}

// addingMask are the slots of replicas that are not in sync and are being admitted.
func (r *Resource) addingMask(conf *Configuration) (mask bitmap.SlotMask) {
	for _, l := range r.links {
		if l.adding && !conf.inSync(l.node) {
			mask |= bitmap.SlotBit(l.slot)
		}
	}
	return mask
}

// leaveOutLocked has writes set bits towards replicas that leave the in-sync set. Those that get the writes all the same
// need none.
func (v *Volume) leaveOutLocked(slots bitmap.SlotMask) {
	for _, s := range v.legs {
		slots &^= bitmap.SlotBit(s.slot)
	}
	v.outside |= slots
}

// turnLogIntoBitsLocked sets bits for what is not stable: towards every other replica when the Primary changes, else
// towards those that leave the in-sync set.
func (r *Resource) turnLogIntoBitsLocked(conf *Configuration, keepLog bool) {
	v := r.volume
	if v.local == nil {
		return
	}
	mask := conf.othersMask(r.cfg.Node)
	if keepLog {
		mask = conf.outsideMask(r.cfg.Node)
		for _, s := range v.legs {
			mask &^= bitmap.SlotBit(s.slot)
		}
	}
	store := v.local.store
	if mask != 0 && !sabotageForgetLog {
		v.log.runs(func(off, n uint64) { store.Set(mask, off, n) })
	}
	if !keepLog && v.inOpen+v.inClosing == 0 {
		v.retireLocked(^uint64(0) >> 1)
		v.stable, v.epoch = 0, 1
	}
}

// promise makes conf's generation, and the bits that belong to it, durable.
func (r *Resource) promise(conf *Configuration) error {
	if r.local == nil {
		return nil
	}
	member := conf.inSync(r.cfg.Node)
	if member && r.adopted.Generation > 0 {
		r.clearEqual(conf)
	}
	store := r.local.store
	return r.beside(func() error {
		if err := store.Persist(conf.othersMask(r.cfg.Node)); err != nil {
			return err
		}
		if sabotageForgetPromise {
			sb := r.superblock()
			r.describe(&sb, conf, member)
			r.superKnown.Store(&sb)
			return nil
		}
		return r.updateSuperblock(func(sb *Superblock) { r.describe(sb, conf, member) })
	})
}

// clearEqual clears the bits between this member and others that are known to be equal.
//
// An admission proves equality, but for what is in the transfer log. That helps only as long as the Primary that admitted is
// heard: when its session ended the log was made bits, which have to stay. And at a clean demotion all members are equal: those
// that came in before the Primary of conf are if it was promoted since, as any other promotion leaves it alone in the set.
func (r *Resource) clearEqual(conf *Configuration) {
	me := r.cfg.Node
	came := !r.adopted.inSync(me)
	heard := r.serving || r.hearsPrimary(conf)
	equal := func(node string) bool {
		return conf.Clean || conf.PrimarySince > r.adopted.PrimarySince && conf.replica(node).AdmittedAt < conf.PrimarySince
	}
	if came && (heard || equal(me)) {
		r.volume.unmark()
	}
	for _, replica := range conf.Replicas {
		if replica.Node == me || !conf.inSync(replica.Node) {
			continue
		}
		admitted := heard && (came || !r.adopted.inSync(replica.Node))
		if admitted || equal(me) && equal(replica.Node) {
			r.local.store.ClearAll(replica.Slot)
			r.recovered &^= bitmap.SlotBit(replica.Slot)
		}
	}
}

// describe notes conf in the superblock.
func (r *Resource) describe(sb *Superblock, conf *Configuration, member bool) {
	sb.Promised = max(sb.Promised, conf.Generation)
	if member {
		if mine := conf.replica(r.cfg.Node); sb.Inconsistent && mine.AdmittedAt > sb.InconsistentSince {
			sb.Inconsistent, sb.InconsistentSince = false, 0
		}
		if !sb.Inconsistent { // else the record does not know yet what became of this disk
			sb.LastInSync, sb.DataGeneration = conf.Generation, conf.Generation
		}
		sb.JustCreated = sb.JustCreated && conf.Generation <= 1
	}
	forked := conf.forked(r.cfg.Node) // then what this replica has and the set lacks has to be known on
	for _, replica := range conf.Replicas {
		if replica.Node == r.cfg.Node {
			continue
		}
		peer := &sb.Peers[replica.Slot]
		switch {
		case peer.Name != replica.Node, peer.CompleteSince != 0 && peer.CompleteSince < replica.AddedAt:
			*peer = SuperblockPeer{Name: replica.Node}
			fallthrough
		case peer.CompleteSince == 0 && !conf.inSync(replica.Node):
			peer.CompleteSince = replica.LeftAt
		case conf.inSync(replica.Node) && !forked:
			peer.CompleteSince = 0
		}
	}
}

// becomeInconsistent is durable before the first block of a resync is written.
func (r *Resource) becomeInconsistent(generation uint64) error {
	if sabotageStayConsistent {
		return nil
	}
	return r.updateSuperblock(func(sb *Superblock) {
		sb.Inconsistent, sb.InconsistentSince, sb.JustCreated = true, generation, false
	})
}

// updateSuperblock changes the superblock durably. A disk whose superblock can't be written is given up: what it says
// about itself would be wrong from here on.
func (r *Resource) updateSuperblock(change func(sb *Superblock)) error {
	r.superTurn <- struct{}{}
	defer func() { <-r.superTurn }()
	if r.super == nil {
		return errors.New("no metadata is attached")
	}
	sb := r.super.superblock()
	change(&sb)
	if err := r.super.write(sb); err != nil {
		local := r.local
		r.post(func() { r.diskFailed(local, err) })
		return err
	}
	r.superKnown.Store(&sb)
	return nil
}

// superblock is a copy of the newest. It never waits for the disk.
func (r *Resource) superblock() Superblock {
	if sb := r.superKnown.Load(); sb != nil {
		return *sb
	}
	return Superblock{}
}
