package quorum

import (
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Reach says whether a voter answers. Only the leader talks to all of them.
type Reach string

// What is known about a voter.
const (
	ReachYes     Reach = "yes"
	ReachNo      Reach = "no"
	ReachUnknown Reach = "unknown"
)

// Status is what an operator wants to see of the quorum, as this node sees it.
type Status struct {
	Node         string        `json:"node"`
	State        string        `json:"state"`  // leader, follower, candidate, or failed: see StoreError
	Leader       string        `json:"leader"` // "" when none is known
	Term         uint64        `json:"term"`
	LastIndex    uint64        `json:"last_index"`
	CommitIndex  uint64        `json:"commit_index"`
	AppliedIndex uint64        `json:"applied_index"`
	LastContact  time.Duration `json:"last_contact"` // since the leader was heard; 0 on the leader, negative: never
	Voters       []Voter       `json:"voters"`
	StoreError   string        `json:"store_error,omitempty"` // why this node votes no more
}

// Voter is a member of the Raft configuration.
type Voter struct {
	Node      string    `json:"node"`
	Address   string    `json:"address"`
	Votes     bool      `json:"votes"` // false: it receives the log but has no vote (yet)
	Reach     Reach     `json:"reach"`
	LastHeard time.Time `json:"last_heard,omitzero"` // of one that does not answer; zero when unknown
}

// Status returns the quorum as this node sees it.
func (n *Node) Status() Status {
	r := n.raft.Load()
	_, leader := r.LeaderWithID()
	_, applied := n.fsm.view()
	s := Status{
		Node: n.cfg.Node, State: strings.ToLower(r.State().String()), Leader: string(leader), Term: r.CurrentTerm(),
		LastIndex: r.LastIndex(), CommitIndex: r.CommitIndex(), AppliedIndex: applied,
		LastContact: n.sinceContact(r),
	}
	if err := n.store.err(); err != nil {
		// Raft itself may still name the state it was in when it was shut down.
		s.State, s.StoreError = "failed", err.Error()
	}
	for _, server := range n.servers() {
		s.Voters = append(s.Voters, n.voter(server, r))
	}
	return s
}

func (n *Node) sinceContact(r *raft.Raft) time.Duration {
	switch last := r.LastContact(); {
	case n.leads():
		return 0
	case last.IsZero():
		return -1
	default:
		return time.Since(last)
	}
}

func (n *Node) voter(server raft.Server, r *raft.Raft) Voter {
	v := Voter{Node: string(server.ID), Address: string(server.Address), Votes: server.Suffrage == raft.Voter, Reach: ReachUnknown}
	_, leader := r.LeaderWithID()
	switch {
	case v.Node == n.cfg.Node:
		v.Reach = ReachYes
	case n.leads():
		v.Reach, v.LastHeard = n.view.reach(server.ID)
	case server.ID == leader:
		v.Reach, v.LastHeard = ReachYes, r.LastContact()
	}
	return v
}

// leadership is what watchLoop has seen: who leads, and which voters a leader misses. The zero value is ready.
type leadership struct {
	mu      sync.Mutex
	leader  raft.ServerID
	missing map[raft.ServerID]time.Time // last heard, of voters that do not answer
}

func (l *leadership) reach(node raft.ServerID) (Reach, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, missing := l.missing[node]; missing {
		return ReachNo, last
	}
	return ReachYes, time.Time{}
}

// note takes in an observation and reports whether it is news.
func (l *leadership) note(data any) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.missing == nil {
		l.missing = map[raft.ServerID]time.Time{}
	}
	switch o := data.(type) {
	case raft.LeaderObservation:
		clear(l.missing)
		news := l.leader != o.LeaderID
		l.leader = o.LeaderID
		return news
	case raft.FailedHeartbeatObservation:
		_, known := l.missing[o.PeerID]
		l.missing[o.PeerID] = o.LastContact
		return !known
	case raft.ResumedHeartbeatObservation:
		_, known := l.missing[o.PeerID]
		delete(l.missing, o.PeerID)
		return known
	case raft.RaftState:
		return true
	}
	return false
}

// observationsKept is the room for observations that watchLoop has not taken yet. Raft drops what does not fit; the
// next one of the same sort sets the picture right.
const observationsKept = 64

// observed says which observations watchLoop wants.
func observed(o *raft.Observation) bool {
	switch o.Data.(type) {
	case raft.LeaderObservation, raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.RaftState:
		return true
	}
	return false
}

// watchLoop follows who leads and who answers, and shuts Raft down when the store fails. It owns n.view, is woken by
// Raft's observations and by the store, and ends with Close.
func (n *Node) watchLoop(observations <-chan raft.Observation) {
	failed := n.store.failed
	for {
		select {
		case o := <-observations:
			if n.view.note(o.Data) {
				n.logNews(o.Data)
				n.leader.notify()
				n.changed.notify()
			}
		case <-failed:
			failed = nil // once
			n.log.Error("the Raft log failed: this node votes no more until it is restarted", "error", n.store.err())
			n.stopRaft()
			n.leader.notify()
			n.changed.notify()
		case <-n.ctx.Done():
			return
		}
	}
}

func (n *Node) logNews(data any) {
	term := n.raft.Load().CurrentTerm()
	switch o := data.(type) {
	case raft.LeaderObservation:
		if o.LeaderID == "" {
			n.log.Info("the leader is lost", "term", term)
			return
		}
		n.log.Info("leader elected", "leader", o.LeaderID, "term", term)
	case raft.FailedHeartbeatObservation:
		n.log.Info("a voter does not answer", "peer", o.PeerID, "last_contact", o.LastContact, "term", term)
	case raft.ResumedHeartbeatObservation:
		n.log.Info("a voter answers again", "peer", o.PeerID, "term", term)
	}
}
