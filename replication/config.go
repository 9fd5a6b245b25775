package replication

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Config is what a Resource needs of its surroundings.
type Config struct {
	ClusterID   string
	Node        string // this node
	Incarnation uint64 // of this process, above every earlier one of this node
	BootID      string

	Arbiter Arbiter
	// Dial opens an authenticated connection to the replication port of a node.
	Dial func(ctx context.Context, node string) (net.Conn, error)
	// Emit receives every state change with its reason; it must not block. May be nil.
	Emit   func(Event)
	Logger *slog.Logger
	Timing Timing
	// Revoke is called when the node may not answer clients any more, before any request in flight is dropped: on
	// return no reply of an earlier request leaves the node. It must not block on the requests themselves. May be nil.
	Revoke func(reason string)
	// DiskFailed is called when the local disk is given up; it must not block. May be nil.
	DiskFailed func(DiskFailure)
	// Role lets others take part when the role changes.
	Role RoleHooks
	// OpenUndo opens the undo file of a replica that is given up, at path, or, if that is empty, at a place of its own for this
	// decision. With create it is made when it is absent, and its name is durable on return; fresh: it was. May be nil: then no
	// replica is given up.
	OpenUndo func(path string, identity *UndoIdentity, create bool) (file UndoFile, fresh bool, err error)
	// Leases says how a Primary makes sure that a read is not stale.
	Leases LeaseConfig
	// Workers bounds the goroutines that wait for the disk; 0 means defaultWorkers.
	Workers int
}

const defaultWorkers = 8

// LeaseConfig says how reads are kept from being stale.
type LeaseConfig struct {
	Mode ReadMode
	// Length is how long a lease lasts; all nodes of a cluster have the same. 0 means defaultLease.
	Length time.Duration
	// Clock never stops and is never set; its zero is anywhere. Nil means CLOCK_BOOTTIME.
	Clock func() time.Duration
}

const defaultLease = 250 * time.Millisecond

// Timing is every duration that replication waits for.
type Timing struct {
	PingInterval time.Duration // between signs of life on a session
	PeerTimeout  time.Duration // silence after which a session is given up
	Suspect      time.Duration // silence of a Primary after which another node may be promoted if that is asked for
	AckTimeout   time.Duration // age of an unanswered write after which a session is given up
	ConnectGrace time.Duration // how long a fresh Primary waits for in-sync peers before it goes on without them
	RetryMin     time.Duration // back-off of connection attempts and proposals
	RetryMax     time.Duration
	IdleBarrier  time.Duration // a quiet transfer log is made stable after this long
	BusyBarrier  time.Duration // a busy one after this long
	// DiskTimeout is how long an operation on the local disk may take before the disk counts as failed, where the
	// configuration doesn't say; negative: for ever.
	DiskTimeout time.Duration

	LeaseInterval time.Duration // between rounds of asking for leases
}

// DefaultTiming suits a local network.
func DefaultTiming() Timing {
	return Timing{
		PingInterval: 250 * time.Millisecond,
		PeerTimeout:  3 * time.Second,
		Suspect:      250 * time.Millisecond,
		AckTimeout:   20 * time.Second,
		ConnectGrace: 5 * time.Second,
		RetryMin:     50 * time.Millisecond,
		RetryMax:     2 * time.Second,
		IdleBarrier:  time.Second,
		BusyBarrier:  30 * time.Second,
		DiskTimeout:  10 * time.Second,

		LeaseInterval: 50 * time.Millisecond,
	}
}

// withDefaults fills zero durations in.
func (t Timing) withDefaults() Timing {
	d := DefaultTiming()
	for _, pair := range []struct{ have, def *time.Duration }{
		{&t.PingInterval, &d.PingInterval}, {&t.PeerTimeout, &d.PeerTimeout}, {&t.AckTimeout, &d.AckTimeout},
		{&t.ConnectGrace, &d.ConnectGrace}, {&t.RetryMin, &d.RetryMin}, {&t.RetryMax, &d.RetryMax},
		{&t.IdleBarrier, &d.IdleBarrier}, {&t.BusyBarrier, &d.BusyBarrier}, {&t.DiskTimeout, &d.DiskTimeout},
		{&t.LeaseInterval, &d.LeaseInterval}, {&t.Suspect, &d.Suspect},
	} {
		if *pair.have == 0 {
			*pair.have = *pair.def
		}
	}
	return t
}

func (c *Config) validate() error {
	switch {
	case c.ClusterID == "" || c.Node == "" || c.Incarnation == 0:
		return errors.New("replication: cluster, node and incarnation are required")
	case c.Arbiter == nil || c.Dial == nil:
		return errors.New("replication: an arbiter and a dialer are required")
	}
	c.Timing = c.Timing.withDefaults()
	if c.Workers == 0 {
		c.Workers = defaultWorkers
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Leases.Length == 0 {
		c.Leases.Length = defaultLease
	}
	if c.Leases.Clock == nil {
		c.Leases.Clock = bootTime
	}
	if c.Emit == nil {
		c.Emit = func(Event) {}
	}
	if c.DiskFailed == nil {
		c.DiskFailed = func(DiskFailure) {}
	}
	c.Role = c.Role.withDefaults()
	if c.Revoke == nil {
		c.Revoke = func(string) {}
	}
	return nil
}

// DiskFailure is the end of the use of a disk, as somebody who has to do something about it wants to know it.
type DiskFailure struct {
	Resource string
	Policy   OnIOError
	Role     string
	Cause    error
}

// ResyncFinished is the reason of the event that a replica is up to date, on its source and on itself.
const ResyncFinished = "resync finished"

// Event is a state change with its reason.
type Event struct {
	Time       time.Time
	Resource   string
	Kind       string // role, disk, connection, replication, generation, resync, io, suspended
	Peer       string
	From, To   string
	Reason     string
	Generation uint64
	Orderly    bool // of a connection that has ended: the other end said goodbye, or this one did
}
