package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/handlers"
	"duet/internal/mux"
	"duet/internal/pki"
	"duet/internal/supervisor"
	"duet/nbd"
	"duet/quorum"
	"duet/replication"
)

// Time bounds of a node's life.
const (
	startLimit = 10 * time.Minute // to find the cluster at a start; until then the node says what it waits for
	stopLimit  = 15 * time.Second // to leave in good order
	// outlastLimit is how long a node that stops stays a voter for the sake of Primaries that may be stopping too.
	outlastLimit = 1500 * time.Millisecond
	askLimit     = 20 * time.Second // for what another node is asked
)

// Options are what `duet run` is given.
type Options struct {
	Dir     config.Dir
	Logger  *slog.Logger
	Version control.VersionInfo // of this program
	// Reads says what a Primary needs for a read while other replicas are in sync.
	Reads replication.ReadMode
	// Supervise starts a supervisor of the directory, and returns when it serves or has ended; nil: there is to be none.
	Supervise func(context.Context) error
	// Ready is called once the node takes its part; may be nil.
	Ready func()
}

// Node is a running daemon. It implements control.Node.
type Node struct {
	dir         config.Dir
	config      *config.Node
	log         *slog.Logger
	version     control.VersionInfo
	reads       replication.ReadMode
	incarnation uint64
	member      bool   // it was a member before this start
	recovery    uint64 // how often the quorum of its cluster was rebuilt, as this node knows
	bootID      string
	credentials *pki.Credentials
	authority   *pki.CA // nil on a witness

	mux     *mux.Mux
	dialer  *mux.Dialer
	quorum  *quorum.Node
	journal *journal
	nbd     *nbd.Server
	control *control.Server
	// takeover is nil on a witness, and before the record is known.
	takeover *Takeover
	keeper   *supervisor.Keeper // nil: no supervisor
	// gaveUp says, once the resources are closed, that this process is Primary of nothing any more.
	gaveUp bool
	exits  *exitDesk

	handlers *handlers.Engine
	fences   fencers

	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup

	outlived atomic.Pointer[mux.OtherRecovery] // set when somebody said that the quorum was rebuilt without this node

	mu        sync.Mutex
	ready     bool
	stopping  bool // nobody is promoted here any more
	view      leaderView
	resources map[string]*held
	prepared  map[string]*prepared // by resource id
}

// address is where a node is reached, as far as this one knows.
func (n *Node) address(name string) (string, error) {
	if record, ok := n.quorum.State().Nodes[name]; ok {
		return record.Address, nil
	}
	for _, peer := range n.config.Peers {
		if peer.Name == name {
			return peer.Address, nil
		}
	}
	return "", fmt.Errorf("node %s is not known", name)
}

// connect opens a channel to whoever is at an address.
func (n *Node) connect(ctx context.Context, address, name string, channel mux.Channel) (*mux.Conn, error) {
	conn, err := n.dialer.Dial(ctx, address, name, channel)
	if other := (*mux.OtherRecovery)(nil); errors.As(err, &other) && other.Outlived() {
		n.outlived.Store(other)
	}
	return conn, err
}

// dial opens a channel to a node.
func (n *Node) dial(ctx context.Context, name string, channel mux.Channel) (net.Conn, error) {
	address, err := n.address(name)
	if err != nil {
		return nil, err
	}
	conn, err := n.connect(ctx, address, name, channel)
	if err != nil {
		return nil, err
	}
	if channel == mux.ChannelPeer {
		if err := conn.TakeOut(); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

// peer is a client of another node's control API.
func (n *Node) peer(name string) *control.Client {
	return control.NewClient(func(ctx context.Context) (net.Conn, error) { return n.dial(ctx, name, mux.ChannelControl) })
}

// proposeError is what the operator is told of a proposal that failed.
func proposeError(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, quorum.ErrRefused):
		return control.Errorf(control.CodeRefused, "%s: %s", what, quorum.Reason(err))
	case errors.Is(err, quorum.ErrStale):
		return control.Errorf(control.CodeRefused, "%s: the record has changed meanwhile", what).WithHint("try again")
	case errors.Is(err, quorum.ErrNoLeader):
		return control.Errorf(control.CodeUnreachable, "%s: no majority of the voters can be reached", what).WithHint("see duet quorum status")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, quorum.ErrUnknownOutcome):
		return control.Errorf(control.CodeTimeout, "%s: no answer in time; it may still happen", what)
	}
	return control.Errorf(control.CodeInternal, "%s: %v", what, err)
}
