package node

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"duet/internal/control"
	"duet/internal/handlers"
	"duet/replication"
)

// Time bounds of what handlers are told.
const (
	// lostAfter is how long a peer is away before peer-lost is run: sessions also begin anew when the configuration changes.
	lostAfter = time.Second
	// quorumCheck is how often a Primary whose requests wait looks whether it is for want of a majority.
	quorumCheck = 250 * time.Millisecond
	// quorumLostAfter is how long they have to wait for it: an election takes less.
	quorumLostAfter = 2 * time.Second
)

// newHandlers makes the engine, with what is the same for all events of this node.
func (n *Node) newHandlers() (*handlers.Engine, error) {
	limits := map[handlers.Event]time.Duration{}
	for name, limit := range n.config.HandlerLimits {
		if !handlers.Known(name) {
			return nil, fmt.Errorf("%s: handler-limits: there is no event %q", n.dir.NodeFile(), name)
		}
		limits[handlers.Event(name)] = limit
	}
	program, err := os.Executable()
	if err != nil {
		program = "duet"
	}
	return handlers.New(handlers.Config{Dir: n.dir.Handlers(), Node: n.config.Name, Limits: limits, Logger: n.log, Ended: n.handlerEnded,
		NodeDir: string(n.dir), Program: program, NBD: n.config.NBD, NBDSocket: n.dir.NBDSocket()}), nil
}

// handlerEnded makes the end of a handler an event.
func (n *Node) handlerEnded(o handlers.Outcome) {
	e := control.Event{Time: time.Now(), Resource: o.Facts.Resource, Peer: o.Facts.Peer, Kind: "handler", New: "done", Generation: o.Facts.Generation,
		Message: fmt.Sprintf("handler %s is done after %v", o.Event, o.Took.Round(time.Millisecond))}
	if err := o.Failed(); err != nil {
		e.New, e.Message = "failed", err.Error()
	}
	n.journal.add(e)
}

// clearLeft ends what handlers have set up in an earlier run of the daemon that did not end it: another node may have it by now.
func (n *Node) clearLeft() {
	left, err := n.handlers.Left()
	if err != nil {
		n.log.Error("handlers", "error", err)
	}
	for _, resource := range left {
		n.handlers.RoleLost(handlers.Facts{Resource: resource, Role: string(control.RoleSecondary), Reason: "an earlier run of the daemon ended without it"})
	}
}

// stopHandlers lets what is queued run, for a while.
func (n *Node) stopHandlers() {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	n.handlers.Close(ctx)
}

// facts are what handlers of a resource are told whatever happened.
func (n *Node) facts(h *held, role control.Role) handlers.Facts {
	record := h.newest(n.quorum.State().Resources[h.name])
	mine, _ := record.Replica(n.config.Name)
	return handlers.Facts{Resource: h.name, Role: string(role), Generation: record.Generation, Device: mine.Path}
}

// roleHooks let handlers take part in changes of role, on whatever way they come.
func (n *Node) roleHooks(h *held) replication.RoleHooks {
	return replication.RoleHooks{
		BeforePromote: func(ctx context.Context) error { return n.beforePromote(ctx, h) },
		BeforeDemote:  func(ctx context.Context) error { return n.beforeDemote(ctx, h) },
		Changed:       func(c replication.RoleChange) { n.roleChanged(h, c) },
	}
}

// beforePromote asks the handlers. Who is Primary still is fenced last: nobody is shot for a promotion that is refused.
func (n *Node) beforePromote(ctx context.Context, h *held) error {
	if err := n.mayLead(ctx, h); err != nil {
		return err
	}
	return n.fencePeer(ctx, h)
}

// mayLead asks the handlers whether this node may become Primary.
func (n *Node) mayLead(ctx context.Context, h *held) error {
	n.mu.Lock()
	stopping := n.stopping
	n.mu.Unlock()
	if stopping {
		return fmt.Errorf("%s stops", n.config.Name)
	}
	facts := n.facts(h, control.RoleSecondary)
	if r := n.quorum.State().Resources[h.name]; r != nil && r.Primary != n.config.Name {
		facts.Peer = r.Primary
	}
	facts.Reason = n.config.Name + " is to become Primary"
	o := n.handlers.Run(ctx, handlers.BeforePromote, facts)
	return o.Failed()
}

// keepsRole runs after-promote again when a switchover has come to nothing after before-demote.
func (n *Node) keepsRole(h *held, cause error) {
	h.mu.Lock()
	h.vacated = false
	h.mu.Unlock()
	facts := n.facts(h, control.RolePrimary)
	facts.Reason = "the switchover failed: " + cause.Error()
	n.handlers.Notify(handlers.AfterPromote, facts)
}

// beforeDemote asks the handlers. If one refuses, those before it may have done their part already: after-promote sets it up
// again.
func (n *Node) beforeDemote(ctx context.Context, h *held) error {
	facts := n.facts(h, control.RolePrimary)
	facts.Reason = n.config.Name + " is to become Secondary"
	o := n.handlers.Run(ctx, handlers.BeforeDemote, facts)
	if err := o.Failed(); err != nil {
		facts.Reason = "the demotion was refused: " + err.Error()
		n.handlers.Notify(handlers.AfterPromote, facts)
		return err
	}
	h.mu.Lock()
	h.vacated = true
	h.mu.Unlock()
	return nil
}

// roleChanged queues the handlers of a role that has begun or ended.
func (n *Node) roleChanged(h *held, c replication.RoleChange) {
	role := control.RoleSecondary
	if c.Primary {
		role = control.RolePrimary
	}
	facts := n.facts(h, role)
	facts.Generation, facts.Reason = c.Generation, c.Reason
	h.mu.Lock()
	vacated := h.vacated && c.Ordered
	h.vacated = false
	h.mu.Unlock()
	switch {
	case c.Primary:
		n.handlers.Notify(handlers.AfterPromote, facts)
	case vacated:
		n.handlers.Notify(handlers.AfterDemote, facts)
	default:
		n.handlers.RoleLost(facts)
	}
}

// vacate runs before-demote for all resources whose Primary this node is, at once, while clients are still served. A daemon
// that was told to stop stops: what fails is an event.
func (n *Node) vacate() {
	n.mu.Lock()
	n.stopping = true
	n.mu.Unlock()
	var done sync.WaitGroup
	for _, h := range n.allHeld() {
		if h.resource == nil || !h.resource.Serving() {
			continue
		}
		done.Go(func() {
			facts := n.facts(h, control.RolePrimary)
			facts.Reason = n.config.Name + " stops"
			n.handlers.Run(context.Background(), handlers.BeforeDemote, facts) // it has a limit of its own
			h.mu.Lock()
			h.vacated = true
			h.mu.Unlock()
		})
	}
	done.Wait()
}

// allHeld lists what this node has of resources.
func (n *Node) allHeld() []*held {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*held, 0, len(n.resources))
	for _, h := range n.resources {
		all = append(all, h)
	}
	return all
}

// diskFailed runs the handler, if the resource wants it to be run. The disk is given up without waiting for it.
func (n *Node) diskFailed(path string, f replication.DiskFailure) {
	if f.Policy != replication.OnIOErrorHandler {
		return
	}
	if !n.handlers.Has(handlers.LocalIOError) {
		n.log.Error("handler", "event", handlers.LocalIOError, "resource", f.Resource, "error", "there is none")
		n.journal.add(control.Event{Time: time.Now(), Resource: f.Resource, Kind: "handler", New: "failed",
			Message: fmt.Sprintf("handler %s: there is none in %s", handlers.LocalIOError, n.dir.Handlers())})
		return
	}
	n.handlers.Notify(handlers.LocalIOError, handlers.Facts{Resource: f.Resource, Role: f.Role, Device: path, Error: f.Cause.Error(),
		Reason: "the disk was given up: " + f.Cause.Error()})
}

// tellHandlers runs the handlers of events of replication.
func (n *Node) tellHandlers(e replication.Event) {
	facts := handlers.Facts{Resource: e.Resource, Peer: e.Peer, Generation: e.Generation, Reason: e.Reason}
	switch h := n.held(e.Resource); {
	case e.Kind == replication.EventSplitBrain && e.To == string(control.ConnectionSplitBrain):
		n.handlers.Notify(handlers.SplitBrain, facts)
	case e.Kind == "resync" && e.To == "running":
		n.handlers.Notify(handlers.ResyncStart, facts)
	case e.Kind == "replication" && e.Reason == replication.ResyncFinished:
		n.handlers.Notify(handlers.ResyncDone, facts)
	case e.Kind == "connection" && h != nil:
		h.peerSeen(e, func() {
			if n.ctx.Err() == nil {
				n.handlers.Notify(handlers.PeerLost, facts)
			}
		})
	}
}

// peerSeen calls lost once a peer has been away for a while without a goodbye.
func (h *held) peerSeen(e replication.Event, lost func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if timer := h.away[e.Peer]; timer != nil {
		timer.Stop()
		delete(h.away, e.Peer)
	}
	if e.To == string(control.ConnectionConnecting) && !e.Orderly {
		if h.away == nil {
			h.away = map[string]*time.Timer{}
		}
		h.away[e.Peer] = time.AfterFunc(lostAfter, lost)
	}
}

// quorumLoop tells when requests of a Primary have waited for a while for want of a majority, once each time. It owns since;
// a timer wakes it, the end of the node ends it.
func (n *Node) quorumLoop() {
	ticker := time.NewTicker(quorumCheck)
	defer ticker.Stop()
	since := map[*held]time.Time{} // zero: told already
	for {
		select {
		case <-ticker.C:
		case <-n.ctx.Done():
			return
		}
		for _, h := range n.allHeld() {
			n.watchQuorum(h, since)
		}
	}
}

func (n *Node) watchQuorum(h *held, since map[*held]time.Time) {
	waiting := ""
	if h.resource != nil && h.resource.Serving() && n.quorum.Status().Leader == "" {
		if st := h.resource.Status(); st.Suspended && !st.ByOperator {
			waiting = st.Reason
		}
	}
	begin, known := since[h]
	switch {
	case waiting == "" && known && begin.IsZero():
		n.emit(replication.Event{Time: time.Now(), Resource: h.name, Kind: "suspended", To: control.SuspendedByNobody, Reason: "there is a majority again"})
		fallthrough
	case waiting == "":
		delete(since, h)
	case !known:
		since[h] = time.Now()
	case !begin.IsZero() && time.Since(begin) >= quorumLostAfter:
		since[h] = time.Time{}
		n.emit(replication.Event{Time: time.Now(), Resource: h.name, Kind: "suspended", To: control.SuspendedByCluster,
			Reason: "no majority of the voters can be reached: " + waiting})
		facts := n.facts(h, control.RolePrimary)
		facts.Reason = waiting
		n.handlers.Notify(handlers.QuorumLost, facts)
	}
}
