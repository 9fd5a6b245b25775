package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// handshakeLimit bounds the exchange of Hello frames on one connection.
const handshakeLimit = 5 * time.Second

// link is what the control loop knows about one peer, across sessions.
type link struct {
	resource *Resource
	node     string
	slot     int
	added    uint64        // the generation in which the replica came into the record
	gone     bool          // the record has it no more
	ended    chan struct{} // closed when the link is given up

	standAlone bool
	session    *session
	begun      bool          // the session has its part
	decided    *madeDecision // what the session began with; nil: nothing was decided yet
	engaged    uint64        // the generation that the session was told
	silentAt   time.Time     // when it was said last that nothing is heard of the node
	known      bool          // this Primary knows every block that the peer may have changed
	split      bool          // the peer is on the other side of a split
	lost       bool          // a member whose session ended: its removal has to be committed
	adding     bool          // its admission may be in flight
	equal      bool          // it left in good order, with everything there is on stable media, and nothing was started since
	goodbye    bool          // it was told that this node leaves
	parting    bool          // the session ends as soon as the peer was told who is Primary now
	// resumes: it was lost, and can't be removed, since it alone is in sync: this Primary has no disk, and waits for it.
	// Then what it has not answered is sent again: it has everything, or nobody has.
	resumes bool
	differs time.Time // since when a verify knows that it differs: it leaves the set whatever else happens; zero: not known to
	reason  string
	orphans []*request // legs that wait for the commit
	former  *session

	half    *pendingAccept // a data connection that waits for its ack connection
	waiting *pendingAccept // a data connection that waits for the older session to end
	wake    chan struct{}  // for the dial loop
}

// pendingAccept is an accepted data connection.
type pendingAccept struct {
	conn   net.Conn
	hello  hello
	answer hello // what this node said of itself
}

func newLink(r *Resource, replica Replica) *link {
	return &link{resource: r, node: replica.Node, slot: replica.Slot, added: replica.AddedAt, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// dials reports whether this node opens the connections; of two nodes the one with the smaller name does.
func (l *link) dials() bool { return l.resource.cfg.Node < l.node }

func (l *link) refresh(conf *Configuration) {
	if replica := conf.replica(l.node); replica != nil && replica.AddedAt == l.added {
		l.slot = replica.Slot
	}
}

// greet sends a Hello and reads the reply.
func greet(conn net.Conn, mine *hello) (hello, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeLimit)); err != nil {
		return hello{}, err
	}
	if err := writeMessage(conn, FrameHello, mine); err != nil {
		return hello{}, err
	}
	var reply helloReply
	if err := readMessage(conn, FrameHelloReply, &reply); err != nil {
		return hello{}, err
	}
	if reply.Refused != "" {
		return hello{}, fmt.Errorf("%w by the peer: %s", ErrRefused, reply.Refused)
	}
	return reply.hello, conn.SetDeadline(time.Time{})
}

// writeMessage writes one frame straight to the connection.
func writeMessage(conn net.Conn, t FrameType, m message) error {
	payload, err := encodeMessage(t, m)
	if err != nil {
		return err
	}
	h := Header{Type: t}
	h.setPayload(payload)
	frame := make([]byte, HeaderBytes, HeaderBytes+len(payload))
	h.Encode(frame)
	_, err = conn.Write(append(frame, payload...))
	return err
}

// readMessage reads one frame of the type and nothing behind it.
func readMessage(conn net.Conn, t FrameType, m message) error {
	var h Header
	if err := newFrameReader(conn, HeaderBytes).header(&h); err != nil { // a buffer of one header reads no further
		return err
	}
	if h.Type != t {
		return fmt.Errorf("%s instead of %s", h.Type, t)
	}
	payload := make([]byte, h.PayloadLength)
	if _, err := io.ReadFull(conn, payload); err != nil {
		return err
	}
	if err := verifyPayload(&h, payload); err != nil {
		return err
	}
	return decodeMessage(t, payload, m)
}

// Hello introduces a peer; the node that accepts a connection finds the resource by it.
type Hello struct{ hello }

// ResourceName is the resource that the peer wants.
func (h Hello) ResourceName() string { return h.Resource }

// FromNode is the peer.
func (h Hello) FromNode() string { return h.From }

// ReadHello reads the first frame of an accepted connection.
func ReadHello(ctx context.Context, conn net.Conn) (Hello, error) {
	deadline := time.Now().Add(handshakeLimit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return Hello{}, err
	}
	var h Hello
	err := readMessage(conn, FrameHello, &h.hello)
	return h, err
}

// Refuse answers a Hello with the reason and closes the connection.
func Refuse(conn net.Conn, reason string) {
	err := writeMessage(conn, FrameHelloReply, &helloReply{Refused: reasonText(reason)})
	if closeErr := conn.Close(); err != nil || closeErr != nil {
		return // the peer finds out by the closed connection
	}
}

// Accept takes over a connection whose Hello names this resource.
func (r *Resource) Accept(conn net.Conn, h Hello) {
	if r.ctx.Err() != nil {
		Refuse(conn, ErrClosed.Error())
		return
	}
	r.post(func() {
		if err := r.accept(conn, h.hello); err != nil {
			r.loops.Go(func() { Refuse(conn, err.Error()) })
		}
	})
}

func (r *Resource) accept(conn net.Conn, theirs hello) error {
	l := r.links[theirs.From]
	switch {
	case l == nil || l.gone:
		return fmt.Errorf("%s holds no replica of %s", theirs.From, r.name)
	case r.closing:
		return fmt.Errorf("%s is shutting down", r.cfg.Node)
	case l.standAlone:
		return fmt.Errorf("%s is StandAlone towards %s: duet connect %s", r.cfg.Node, l.node, r.name)
	}
	if err := r.checkHello(&theirs); err != nil {
		return err
	}
	pending := &pendingAccept{conn: conn, hello: theirs}
	if theirs.Kind == dataConnection {
		if l.session != nil {
			l.session.fail(errSessionReplaced)
		}
		l.replaceWaiting(pending)
		return nil
	}
	if l.half == nil || l.half.hello.SessionID != theirs.SessionID {
		return errors.New("no data connection of this session is waiting")
	}
	half := l.half
	l.half = nil
	return l.reply(pending, func() { l.install(&half.answer, half.hello, half.conn, conn) })
}

func (l *link) replaceWaiting(pending *pendingAccept) {
	for _, old := range []*pendingAccept{l.waiting, l.half} {
		if old != nil {
			l.resource.loops.Go(func() { Refuse(old.conn, errSessionReplaced.Error()) })
		}
	}
	l.waiting, l.half = pending, nil
}

// admitWaiting answers a data connection once the earlier session has ended and its removal is committed.
func (l *link) admitWaiting() {
	if l.waiting == nil || l.session != nil || l.lost || l.resource.holding || l.resource.changing() {
		return
	}
	pending := l.waiting
	l.waiting = nil
	if err := l.reply(pending, func() { l.half = pending }); err != nil {
		l.reason = err.Error()
	}
}

// reply accepts a connection; then runs once the answer is written, on the control loop.
func (l *link) reply(pending *pendingAccept, then func()) error {
	r := l.resource
	answer := &helloReply{hello: r.helloTo(l)}
	answer.SessionID, answer.Kind = pending.hello.SessionID, pending.hello.Kind
	pending.answer = answer.hello
	if pending.hello.Kind == dataConnection {
		then() // before the answer, so that the ack connection finds it
		then = func() {}
	}
	r.loops.Go(func() {
		err := writeMessage(pending.conn, FrameHelloReply, answer)
		if err == nil {
			err = pending.conn.SetDeadline(time.Time{})
		}
		if err != nil {
			r.log.Debug("handshake", "peer", l.node, "error", errors.Join(err, pending.conn.Close()))
			return
		}
		r.post(then)
	})
	return nil
}

// stillTrue reports whether what this node said of itself during the handshake holds. One change does no harm: that the
// peer became Primary after a time without one, and this node stayed in sync.
func (r *Resource) stillTrue(mine, theirs *hello) bool {
	if mine.NotTarget != reasonText(r.notTarget()) {
		return false
	}
	if mine.Role == r.role() && mine.Promised == r.superblock().Promised {
		return true
	}
	return !r.serving && theirs.PrimarySince == mine.Promised+1 && r.adopted.PrimarySince == theirs.PrimarySince &&
		r.adopted.Primary == theirs.From && r.adopted.inSync(r.cfg.Node)
}

// poke has the dial loop look again.
func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// install begins a session.
func (l *link) install(mine *hello, theirs hello, data, ack net.Conn) {
	r := l.resource
	if l.session != nil || l.gone || l.standAlone || l.lost || r.closing || r.holding || !r.stillTrue(mine, &theirs) {
		l.poke() // the next attempt says what is so now
		if err := errors.Join(data.Close(), ack.Close()); err != nil {
			r.log.Debug("close connection", "peer", l.node, "error", err)
		}
		return
	}
	s := newSession(r, theirs, data, ack)
	s.slot = l.slot
	l.session, l.begun, l.engaged, l.equal, l.reason, l.decided = s, false, 0, false, "", nil
	r.emit("connection", l.node, "Connected", "")
	r.loops.Go(s.run)
}

// sessionEnded takes back what the session held.
func (r *Resource) sessionEnded(s *session) {
	l := r.links[s.peer]
	if l == nil || l.session != s {
		return
	}
	v := r.volume
	v.mu.Lock()
	wasLeg := r.serving && (r.adopted.inSync(l.node) || l.adding)
	unused := s.unconfirmed && time.Now().Before(r.graceEnd) && (v.barrier == nil || !slices.Contains(v.barrier.asked, s))
	v.removeLegLocked(s)
	if wasLeg && v.gate == gateOpen {
		v.gate = gateSuspended // in the same step: nothing may start, and be acknowledged, without it
	}
	l.orphans = append(l.orphans, s.pending.takeAll()...)
	reads := s.reads.takeAll()
	l.equal = errors.Is(s.cause, errGoodbye) && l.differs.IsZero() && len(l.orphans) == 0 && v.inOpen+v.inClosing == 0 && v.flushedLocked()
	if !r.serving && s.generation > 0 {
		conf := r.adopted
		r.turnLogIntoBitsLocked(&conf, false)
	}
	v.mu.Unlock()
	for _, read := range reads {
		v.readAgain(read)
	}
	r.endPull(s)
	l.goodbye, l.parting = false, false
	l.session, l.former, l.begun, l.adding = nil, s, false, false
	l.reason = s.cause.Error()
	r.tell(Event{Kind: "connection", Peer: l.node, To: "Connecting", Reason: l.reason, Orderly: errors.Is(s.cause, errGoodbye)})
	// A member that has not taken this Primary's configuration up ends the session, to begin anew in the new generation: through an
	// unconfirmed session it got nothing, so it lacks nothing.
	l.resumes = wasLeg && r.adopted.soleCopy(l.node)
	switch l.lost = wasLeg && !l.resumes && !unused; {
	case !r.serving:
		l.releaseOrphans(ErrFenced) // of the time when this node was Primary
	case l.resumes:
	case !l.lost || sabotageAckBeforeCommit:
		l.releaseOrphans(nil)
	default:
		l.known = true // every write the peer ever got from this Primary is stable or a bit
	}
	l.poke()
}

// releaseOrphans counts down the legs of a peer that is no longer waited for.
func (l *link) releaseOrphans(err error) {
	v := l.resource.volume
	orphans := l.orphans
	l.orphans = nil
	v.mu.Lock()
	for _, req := range orphans {
		if err != nil {
			req.err = err
		}
	}
	var send []*frameWriter
	if v.barrier != nil && l.former != nil {
		delete(v.barrier.waiting, l.former)
		send = v.advanceBarrierLocked()
	}
	v.mu.Unlock()
	flushWriters(send)
	if !sabotageAckEarly {
		for _, req := range orphans {
			v.legDone(req, nil)
		}
	}
}

// adoptFrom takes a configuration from the Primary's session.
func (r *Resource) adoptFrom(s *session, conf Configuration) error {
	switch {
	case r.namesSuccessor(s, &conf):
		return r.successorNamed(s, &conf)
	case conf.ResourceID != r.id || conf.Primary != s.peer || conf.PrimaryIncarnation != s.hello.Incarnation:
		return fmt.Errorf("%s sent a configuration that is not its own", s.peer)
	case conf.holds(r.cfg.Node) != nil:
		return conf.holds(r.cfg.Node)
	case r.serving || conf.Generation < r.adopted.Generation:
		return fmt.Errorf("%s acts in generation %d, this node in %d", s.peer, conf.Generation, r.adopted.Generation)
	}
	if conf.Generation > r.learned.Generation {
		r.learned = conf
	}
	if !conf.samePrimary(&r.adopted) && (!r.begunBy(s, &conf) || !r.mayAdopt()) {
		return fmt.Errorf("generation %d has another Primary; the session begins anew", conf.Generation)
	}
	if conf.Generation > r.adopted.Generation {
		r.adopt(conf)
	}
	r.volume.mu.Lock()
	s.generation = conf.Generation
	arrived := conf.inSync(r.cfg.Node) && s.resync.role == resyncTarget
	early := s.grantEarlyLocked()
	if conf.inSync(r.cfg.Node) {
		s.resync.role, s.resync.running = resyncNone, false
	}
	r.volume.mu.Unlock()
	if early {
		s.ackWriter.Flush()
	}
	if arrived {
		r.emit("replication", s.peer, "Established", ResyncFinished)
	}
	return nil
}

// peerLeaves is a goodbye: everything is made stable first, so that nothing has to be copied when the peer returns.
func (r *Resource) peerLeaves(s *session, reason string) {
	if !r.serving {
		s.fail(fmt.Errorf("%w: %s", errGoodbye, reason))
		return
	}
	v := r.volume
	v.mu.Lock()
	send := v.wantBarrierLocked()
	v.mu.Unlock()
	flushWriters(send)
	r.loops.Go(func() {
		v.waitStable(r.ctx, r.cfg.Timing.PeerTimeout)
		s.fail(fmt.Errorf("%w: %s", errGoodbye, reason))
	})
}
