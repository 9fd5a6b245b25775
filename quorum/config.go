package quorum

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// Channel names one of the streams that nodes open to each other. The dialer says which one it wants.
type Channel string

// The channels of this package.
const (
	ChannelRaft    Channel = "raft"
	ChannelForward Channel = "forward"
	ChannelBeat    Channel = "beat"
)

// Seed is a node to ask before this one knows the cluster. Node may be "": whoever answers at Address.
type Seed struct {
	Node    string
	Address string
}

// Config is what a Node needs. Node, Incarnation, BootID, Advertise, Accept and Dial are required, and so is Dir
// unless Storage is given.
type Config struct {
	// Node is this node's name, and its identity in Raft.
	Node string
	// Incarnation was raised durably at this start, before anything was sent anywhere.
	Incarnation uint64
	// BootID changes when the machine restarts, and only then.
	BootID string
	// Dir holds the Raft log and snapshots. It is made if it is missing.
	Dir string
	// Member: this node was part of a cluster before. Start then refuses a store that is gone or empty: its votes went
	// with it, and a node without them could give a second one in a term.
	Member bool
	// Advertise is the address at which the other nodes reach this one.
	Advertise string
	// Seeds are asked while the Raft configuration is unknown or nobody in it answers.
	Seeds []Seed

	// Accept gives the listener of a channel. Close closes the listeners.
	Accept func(Channel) net.Listener
	// Dial connects to a node. If node is not "", the connection has to be proven to lead there.
	Dial func(ctx context.Context, address, node string, channel Channel) (net.Conn, error)
	// PeerName returns the proven name of the other end of an accepted connection, "" if it has none. If PeerName is
	// set, commands are taken only from nodes of the cluster.
	PeerName func(net.Conn) string

	// Timing is completed with defaults where it is zero.
	Timing Timing
	// Logger gets what happens here and, one level lower, what Raft says. The default discards it.
	Logger *slog.Logger

	// Storage replaces the files in Dir, and Transport what goes over ChannelRaft. Both are for tests and simulation.
	Storage   *Storage
	Transport raft.Transport
}

// Timing holds every time bound of the package. docs/QUORUM.md has the measurements behind the defaults.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for this long looks around; default 200 ms
	Election  time.Duration // length of one attempt to become leader; default: as Heartbeat
	Lease     time.Duration // a leader without a majority for this long steps down; default: half of Heartbeat
	Commit    time.Duration // how soon an idle follower learns what is committed; default 5 ms
	Transport time.Duration // bound of one Raft message; default 500 ms
	Store     time.Duration // a log write slower than this is a failed disk; default 5 s
	Dial      time.Duration // bound of connecting in order to forward; default 250 ms
	Propose   time.Duration // bound of a call whose context has no earlier end; default 10 s
	Beat      time.Duration // between two beats; default 40 ms, or a fifth of Suspect if that is less
	Suspect   time.Duration // a node of which nothing was heard for this long is suspected; default 200 ms

	SnapshotInterval  time.Duration // how often it is checked whether a snapshot is due; default 2 min
	SnapshotThreshold uint64        // log entries that make a snapshot due; default 1024
	TrailingLogs      uint64        // entries kept behind a snapshot for slow followers; default 1024
}

func (t Timing) withDefaults() Timing {
	orDuration := func(value *time.Duration, standard time.Duration) {
		if *value == 0 {
			*value = standard
		}
	}
	orDuration(&t.Heartbeat, 200*time.Millisecond)
	orDuration(&t.Election, t.Heartbeat)
	orDuration(&t.Lease, t.Heartbeat/2)
	orDuration(&t.Commit, 5*time.Millisecond)
	orDuration(&t.Transport, 500*time.Millisecond)
	orDuration(&t.Store, 5*time.Second)
	orDuration(&t.Dial, 250*time.Millisecond)
	orDuration(&t.Propose, 10*time.Second)
	if t.Beat == 0 && t.Suspect > 0 {
		t.Beat = min(40*time.Millisecond, t.Suspect/5)
	}
	orDuration(&t.Beat, 40*time.Millisecond)
	orDuration(&t.Suspect, 5*t.Beat)
	orDuration(&t.SnapshotInterval, 2*time.Minute)
	if t.SnapshotThreshold == 0 {
		t.SnapshotThreshold = 1024
	}
	if t.TrailingLogs == 0 {
		t.TrailingLogs = 1024
	}
	return t
}

func (t Timing) validate() error {
	for name, value := range map[string]time.Duration{
		"heartbeat": t.Heartbeat, "election": t.Election, "lease": t.Lease, "commit": t.Commit, "transport": t.Transport,
		"store": t.Store, "dial": t.Dial, "propose": t.Propose, "snapshot interval": t.SnapshotInterval,
		"beat": t.Beat, "suspect": t.Suspect,
	} {
		if value <= 0 {
			return fmt.Errorf("quorum: timing: %s is %s", name, value)
		}
	}
	switch {
	case t.Election < t.Heartbeat:
		return fmt.Errorf("quorum: timing: election %s is shorter than heartbeat %s", t.Election, t.Heartbeat)
	case t.Suspect < 2*t.Beat:
		return fmt.Errorf("quorum: timing: suspect %s is less than two beats of %s", t.Suspect, t.Beat)
	case t.Lease > t.Heartbeat:
		return fmt.Errorf("quorum: timing: lease %s is longer than heartbeat %s", t.Lease, t.Heartbeat)
	}
	return nil
}

// Validate reports what is missing or contradictory.
func (c Config) Validate() error {
	if err := validName("node", c.Node); err != nil {
		return fmt.Errorf("quorum: config: %s", Reason(err))
	}
	switch {
	case c.Incarnation == 0:
		return errors.New("quorum: config: incarnation 0")
	case c.BootID == "" || len(c.BootID) > maxID:
		return fmt.Errorf("quorum: config: a boot id has 1 to %d bytes", maxID)
	case c.Advertise == "" || len(c.Advertise) > maxAddress:
		return fmt.Errorf("quorum: config: an address to advertise has 1 to %d bytes", maxAddress)
	case c.Accept == nil || c.Dial == nil:
		return errors.New("quorum: config: Accept and Dial are required")
	case c.Dir == "" && c.Storage == nil:
		return errors.New("quorum: config: neither Dir nor Storage is given")
	}
	return c.Timing.withDefaults().validate()
}

// withDefaults returns the Config that the package works with.
func (c Config) withDefaults() Config {
	c.Timing = c.Timing.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return c
}

// raftConfig is the library's configuration. Each departure from its defaults has a reason in docs/QUORUM.md.
func (c Config) raftConfig() *raft.Config {
	r := raft.DefaultConfig()
	r.LocalID = raft.ServerID(c.Node)
	r.HeartbeatTimeout = c.Timing.Heartbeat
	r.ElectionTimeout = c.Timing.Election
	r.LeaderLeaseTimeout = c.Timing.Lease
	r.CommitTimeout = c.Timing.Commit
	r.SnapshotInterval = c.Timing.SnapshotInterval
	r.SnapshotThreshold = c.Timing.SnapshotThreshold
	r.TrailingLogs = c.Timing.TrailingLogs
	r.ShutdownOnRemove = false // a removed node goes on forwarding, and may be admitted again
	r.PreVoteDisabled = false  // without it a node that was cut off deposes a healthy leader when it returns
	r.Logger = raftLogger(c.Logger)
	return r
}
