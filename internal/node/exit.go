package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/supervisor"
)

// Kinds of the events of supervisors.
const (
	eventSupervisor = "supervisor" // a peer's supervisor connects or leaves
	eventExit       = "exit"       // a certificate
)

// startKeeper has a supervisor watch this process. The record has its incarnation by now: a copy of the directory would have
// been refused, and must not get the number of the process that really runs certified.
func (n *Node) startKeeper(start func(context.Context) error) {
	if start == nil || n.config.Kind != config.KindData {
		return
	}
	n.keeper = supervisor.Keep(supervisor.KeeperConfig{
		Dir: n.dir, Node: n.config.Name, Incarnation: n.incarnation, Recovery: n.recovery, Program: n.version.Version + " " + n.version.Revision,
		Peers: n.otherNodes, Start: start, Logger: n.log,
	})
}

// stopKeeper tells the supervisor whether this process ends in good order: nobody needs to know of such an end.
func (n *Node) stopKeeper(failure error) {
	if n.keeper != nil {
		n.keeper.Close(failure == nil && n.gaveUp)
	}
}

// recordLag is how long this node's copy of the record may be behind what was committed for it.
const recordLag = 500 * time.Millisecond

// noteRoles looks, while the record is still heard of, whether all roles were given up.
func (n *Node) noteRoles() {
	ctx, cancel := context.WithTimeout(context.Background(), recordLag)
	defer cancel()
	err := n.waitFor(ctx, "the record to have no role of this node", func() bool { return !n.isPrimarySomewhere() })
	n.gaveUp = err == nil
}

// isPrimarySomewhere tells whether the record, as far as it is known here, has this process as a Primary.
func (n *Node) isPrimarySomewhere() bool {
	for _, r := range n.quorum.State().Resources {
		if r.Primary == n.config.Name && r.PrimaryIncarnation == n.incarnation {
			return true
		}
	}
	return false
}

// otherNodes are whom the supervisor certifies to.
func (n *Node) otherNodes() ([]supervisor.Peer, <-chan struct{}) {
	changed := n.quorum.Changed()
	var peers []supervisor.Peer
	for name, record := range n.quorum.State().Nodes {
		if name != n.config.Name {
			peers = append(peers, supervisor.Peer{Name: name, Address: record.Address})
		}
	}
	slices.SortFunc(peers, func(a, b supervisor.Peer) int { return strings.Compare(a.Name, b.Name) })
	return peers, changed
}

// exitDesk is where the supervisors of other nodes report.
type exitDesk struct {
	mu        sync.Mutex
	conns     map[string]net.Conn // by node: the newest connection counts
	certified map[string]uint64   // the newest incarnation, by node
}

func newExitDesk() *exitDesk {
	return &exitDesk{conns: map[string]net.Conn{}, certified: map[string]uint64{}}
}

// enter makes conn the connection of a node. A former one is closed: a node has one supervisor.
func (d *exitDesk) enter(name string, conn net.Conn) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	former := d.conns[name]
	d.conns[name] = conn
	if former == nil {
		return nil
	}
	return former.Close()
}

// leave reports whether conn was still the connection of the node.
func (d *exitDesk) leave(name string, conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns[name] != conn {
		return false
	}
	delete(d.conns, name)
	return true
}

// isNews notes a certificate.
func (d *exitDesk) isNews(name string, incarnation uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if incarnation <= d.certified[name] {
		return false
	}
	d.certified[name] = incarnation
	return true
}

// acceptSupervisors serves the channel "exit"; the end of the port ends it.
func (n *Node) acceptSupervisors(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				n.log.Error("accept supervisors", "error", err)
			}
			return
		}
		n.loops.Go(func() { n.hearSupervisor(conn) })
	}
}

// hearSupervisor takes what the supervisor of another node has to say, until the connection or this node ends.
func (n *Node) hearSupervisor(conn net.Conn) {
	name := peerName(conn)
	if !n.isNode(name) {
		n.log.Debug("a supervisor of no node of the cluster, as far as is known here", "peer", name, "error", conn.Close())
		return
	}
	stop := context.AfterFunc(n.ctx, func() {
		if err := conn.Close(); err != nil {
			n.log.Debug("supervisor", "peer", name, "error", err)
		}
	})
	defer stop()
	if err := n.exits.enter(name, conn); err != nil {
		n.log.Debug("supervisor", "peer", name, "error", err)
	}
	watched := uint64(0)
	err := supervisor.Receive(conn, name, func(r supervisor.Report) error {
		if !n.isNode(name) {
			return errors.New("it is no node of the cluster any more")
		}
		switch {
		case r.Kind == supervisor.KindExit:
			n.exited(name, r.Incarnation)
		case r.Incarnation != watched:
			watched = r.Incarnation
			n.noteWatched(name, watched)
		}
		return nil
	})
	if n.exits.leave(name, conn) && n.ctx.Err() == nil {
		n.log.Info("the supervisor of a node is gone", "peer", name, "error", err)
		n.journal.add(control.Event{Peer: name, Kind: eventSupervisor, New: "gone", Message: "the supervisor of " + name + " is gone: " + err.Error()})
	}
	if err := conn.Close(); err != nil {
		n.log.Debug("supervisor", "peer", name, "error", err)
	}
}

// isNode tells whether the record has a node of that name.
func (n *Node) isNode(name string) bool {
	_, known := n.quorum.State().Nodes[name]
	return known
}

// noteWatched says what a peer's supervisor watches.
func (n *Node) noteWatched(name string, incarnation uint64) {
	if incarnation == 0 {
		return // what it watched has ended
	}
	n.log.Info("a supervisor watches a node", "peer", name, "peer_incarnation", incarnation)
	n.journal.add(control.Event{Peer: name, Kind: eventSupervisor, New: "watching",
		Message: fmt.Sprintf("a supervisor watches incarnation %d of %s", incarnation, name)})
}

// exited is told by the supervisor of a node that an incarnation of it has certainly ended.
func (n *Node) exited(name string, incarnation uint64) {
	n.quorum.Exited(name, incarnation)
	if !n.exits.isNews(name, incarnation) {
		return
	}
	n.log.Info("a node's process has ended: its supervisor saw it", "peer", name, "peer_incarnation", incarnation)
	n.journal.add(control.Event{Peer: name, Kind: eventExit, New: "exited",
		Message: fmt.Sprintf("incarnation %d of %s has ended: its supervisor saw it", incarnation, name)})
}
