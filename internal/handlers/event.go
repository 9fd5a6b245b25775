package handlers

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Event is what a handler is run on; its name is the executable's.
type Event string

// The events. Those called before-* can refuse what is to come.
const (
	BeforePromote Event = "before-promote"
	AfterPromote  Event = "after-promote"
	BeforeDemote  Event = "before-demote"
	AfterDemote   Event = "after-demote"
	FencePeer     Event = "fence-peer"
	PeerLost      Event = "peer-lost"
	SplitBrain    Event = "split-brain"
	LocalIOError  Event = "local-io-error"
	QuorumLost    Event = "quorum-lost"
	ResyncStart   Event = "resync-start"
	ResyncDone    Event = "resync-done"
)

// kind is what an event has of its own.
type kind struct {
	limit time.Duration
	// notice: it only tells; a change of role does not wait for it.
	notice bool
	// all: further handlers of a directory run although one has failed.
	all bool
}

// kinds has every event. A mount may have to replay a journal, and a management board is slow.
func kinds() map[Event]kind {
	return map[Event]kind{
		BeforePromote: {limit: 20 * time.Second},
		AfterPromote:  {limit: time.Minute},
		BeforeDemote:  {limit: 20 * time.Second},
		AfterDemote:   {limit: 20 * time.Second, all: true},
		FencePeer:     {limit: time.Minute, all: true},
		PeerLost:      {limit: 30 * time.Second, notice: true, all: true},
		SplitBrain:    {limit: 30 * time.Second, notice: true, all: true},
		LocalIOError:  {limit: 30 * time.Second, notice: true, all: true},
		QuorumLost:    {limit: 30 * time.Second, notice: true, all: true},
		ResyncStart:   {limit: 30 * time.Second, notice: true, all: true},
		ResyncDone:    {limit: 30 * time.Second, notice: true, all: true},
	}
}

// Known tells whether there is such an event.
func Known(name string) bool {
	_, ok := kinds()[Event(name)]
	return ok
}

// Facts are what a handler is told, by its environment.
type Facts struct {
	Resource    string
	Role        string // of this node, when the event happened
	Peer        string // the other node, where there is one
	PeerAddress string
	Generation  uint64
	Reason      string // for people
	Device      string // the path of the replica's disk
	Error       string // of that disk
	// Forced: the role is lost already, and nothing can be refused any more.
	Forced bool
}

// environment is that of a handler: the daemon's, less what begins with DUET_, and the facts. Every fact is set: one that
// does not apply is empty.
func (e *Engine) environment(t *task) []string {
	inherited := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "DUET_") })
	forced := ""
	if t.facts.Forced {
		forced = "1"
	}
	facts := [][2]string{
		{"EVENT", string(t.event)}, {"RESOURCE", t.facts.Resource}, {"NODE", e.cfg.Node}, {"ROLE", t.facts.Role}, {"PEER", t.facts.Peer},
		{"PEER_ADDRESS", t.facts.PeerAddress}, {"GENERATION", generation(t.facts.Generation)}, {"REASON", t.facts.Reason},
		{"FORCED", forced}, {"LIMIT", strconv.Itoa(int(t.limit / time.Second))}, {"DEVICE", t.facts.Device}, {"ERROR", t.facts.Error},
		{"DIR", e.cfg.NodeDir}, {"NBD", e.cfg.NBD}, {"NBD_SOCKET", e.cfg.NBDSocket}, {"PROGRAM", e.cfg.Program},
	}
	for _, fact := range facts {
		inherited = append(inherited, fmt.Sprintf("DUET_%s=%s", fact[0], strings.ReplaceAll(fact[1], "\x00", "")))
	}
	return inherited
}

func generation(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
