package quorum

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

const (
	beatVersion  = 1
	maxBeatBytes = 8 << 10 // 64 names with room for escapes
	// beatPatience is how long a connection may carry nothing, in either direction, before it is given up.
	beatPatience = 500 * time.Millisecond
	// beatRedial is the pause before another attempt to reach a node that could not be reached.
	beatRedial = 50 * time.Millisecond
	// beatAnswer is what a beat is answered with.
	beatAnswer = 1
)

// beat is a sign of life on the channel "beat".
type beat struct {
	Version     int      `json:"v"`
	Node        string   `json:"node"`
	Incarnation uint64   `json:"incarnation"`
	Suspects    []string `json:"suspects,omitempty"`
}

// readBeat reads a beat and checks it.
func readBeat(r io.Reader) (beat, error) {
	var b beat
	if err := readFrame(r, &b, maxBeatBytes); err != nil {
		return beat{}, err
	}
	switch {
	case b.Version != beatVersion:
		return beat{}, fmt.Errorf("%w: beat of version %d, this node knows %d", ErrFrame, b.Version, beatVersion)
	case b.Incarnation == 0:
		return beat{}, fmt.Errorf("%w: beat without an incarnation", ErrFrame)
	case len(b.Suspects) > maxNodes:
		return beat{}, fmt.Errorf("%w: beat with %d suspects", ErrFrame, len(b.Suspects))
	}
	for _, name := range append([]string{b.Node}, b.Suspects...) {
		if err := validName("node", name); err != nil {
			return beat{}, fmt.Errorf("%w: beat: %s", ErrFrame, Reason(err))
		}
	}
	return b, nil
}

// Liveness is who is heard, as this node sees it.
type Liveness struct {
	// Nodes has every other node of the cluster.
	Nodes map[string]Suspicion
	// Voters is how many there are.
	Voters int
}

// Liveness returns what is held of the other nodes now.
func (n *Node) Liveness() Liveness {
	voters := n.voters()
	return Liveness{Nodes: n.hearing.suspicions(slices.Collect(maps.Keys(n.State().Nodes)), voters, time.Now()), Voters: len(voters)}
}

// Exited notes that an incarnation of a node has certainly ended: the supervisor on its machine has seen it.
func (n *Node) Exited(node string, incarnation uint64) {
	if n.hearing.exit(node, incarnation) {
		n.log.Info("a node's process has ended", "peer", node, "peer_incarnation", incarnation)
		n.changed.notify()
	}
}

// voters returns the names of those that vote.
func (n *Node) voters() []string {
	var names []string
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			names = append(names, string(s.ID))
		}
	}
	return names
}

// beater sends beats to one node.
type beater struct {
	node, address string
	cancel        context.CancelFunc
}

// beatLoop owns the beaters, one per other node of the record, and notices the passing of time: a tick wakes it, Close ends it.
func (n *Node) beatLoop() {
	tick := time.NewTicker(n.cfg.Timing.Beat)
	defer tick.Stop()
	beaters := map[string]*beater{}
	held := n.Liveness()
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		n.hearing.look(time.Now(), n.cfg.Timing.Beat)
		n.updateBeaters(beaters)
		if now := n.Liveness(); now.Voters != held.Voters || !maps.Equal(now.Nodes, held.Nodes) {
			n.logSuspicions(held, now)
			held = now
			n.changed.notify()
		}
	}
}

func (n *Node) logSuspicions(before, now Liveness) {
	for name, s := range now.Nodes {
		if s != before.Nodes[name] {
			n.log.Info("liveness", "peer", name, "suspected", s.Suspected, "votes", s.Votes, "voters", now.Voters, "exited", s.Exited)
		}
	}
}

// updateBeaters starts and ends beaters as nodes come, go and move.
func (n *Node) updateBeaters(beaters map[string]*beater) {
	state := n.State()
	for name, b := range beaters {
		if record, known := state.Nodes[name]; !known || record.Address != b.address {
			b.cancel()
			delete(beaters, name)
		}
	}
	for name, record := range state.Nodes {
		if name == n.cfg.Node || beaters[name] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(n.ctx)
		b := &beater{node: name, address: record.Address, cancel: cancel}
		beaters[name] = b
		n.beaters.Go(func() { n.sendBeats(ctx, b) })
	}
	n.hearing.keep(state.Nodes)
}

// sendBeats keeps one connection to a node and sends beats on it, until ctx ends. A connection that ends is replaced at
// once: whether the port refuses the next one tells a process that died from a link that did.
func (n *Node) sendBeats(ctx context.Context, b *beater) {
	for ctx.Err() == nil {
		dialCtx, cancel := context.WithTimeout(ctx, n.cfg.Timing.Dial)
		conn, err := n.cfg.Dial(dialCtx, b.address, b.node, ChannelBeat)
		cancel()
		if err == nil {
			began := time.Now()
			n.beatOn(ctx, conn)
			if time.Since(began) > beatRedial {
				continue
			}
		}
		if errors.Is(err, syscall.ECONNREFUSED) && n.hearing.refuse(b.node, time.Now()) {
			n.changed.notify()
		}
		select {
		case <-time.After(beatRedial):
		case <-ctx.Done():
		}
	}
}

// beatOn sends beats on a connection until it fails or ctx ends. A goroutine takes the answers; it ends with the connection.
func (n *Node) beatOn(ctx context.Context, conn net.Conn) {
	var answered atomic.Int64 // when, in nanoseconds since began
	began := time.Now()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		answer := make([]byte, 64)
		for {
			if _, err := conn.Read(answer); err != nil {
				return
			}
			answered.Store(int64(time.Since(began)))
		}
	}()
	tick := time.NewTicker(n.cfg.Timing.Beat)
	defer tick.Stop()
	for alive := true; alive; {
		if err := n.sendBeat(conn); err != nil || time.Since(began)-time.Duration(answered.Load()) > beatPatience {
			break
		}
		select {
		case <-tick.C:
		case <-gone:
			alive = false
		case <-ctx.Done():
			alive = false
		}
	}
	n.closeQuietly(conn)
	<-gone
}

func (n *Node) sendBeat(conn net.Conn) error {
	b := beat{Version: beatVersion, Node: n.cfg.Node, Incarnation: n.cfg.Incarnation}
	for name, s := range n.Liveness().Nodes {
		if s.Suspected {
			b.Suspects = append(b.Suspects, name)
		}
	}
	slices.Sort(b.Suspects)
	if err := conn.SetWriteDeadline(time.Now().Add(beatPatience)); err != nil {
		return err
	}
	return writeFrame(conn, b, maxBeatBytes)
}

// hear takes beats from a connection and answers them, until it fails.
func (n *Node) hear(conn net.Conn) {
	for {
		if err := conn.SetDeadline(time.Now().Add(2 * beatPatience)); err != nil {
			n.log.Debug("beats", "error", err)
			return
		}
		b, err := readBeat(conn)
		if err == nil && n.cfg.PeerName != nil && n.cfg.PeerName(conn) != b.Node {
			err = fmt.Errorf("%w: beat of %s from %s", ErrFrame, b.Node, n.cfg.PeerName(conn))
		}
		if err == nil && !n.State().hasNode(b.Node) {
			err = fmt.Errorf("%w: beat of %s, which is no node of the cluster", ErrFrame, b.Node)
		}
		if err == nil {
			if n.hearing.beat(b, time.Now()) {
				n.changed.notify()
			}
			_, err = conn.Write([]byte{beatAnswer})
		}
		if err != nil {
			n.log.Debug("beats", "error", err)
			return
		}
	}
}
