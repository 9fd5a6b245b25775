package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/mux"
	"duet/internal/pki"
	"duet/internal/socket"
	"duet/nbd"
	"duet/quorum"
)

// Run is the daemon: it takes its part in the cluster until ctx ends, and then leaves in good order.
func Run(ctx context.Context, o Options) error {
	lock, err := o.Dir.Lock()
	if err != nil {
		return err
	}
	n, err := open(o)
	if err == nil {
		err = n.run(ctx, o)
	}
	return errors.Join(err, lock.Close())
}

// open reads the directory and counts the start, before any contact with others.
func open(o Options) (*Node, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	cfg, err := o.Dir.LoadNode()
	if err != nil {
		return nil, err
	}
	n := &Node{dir: o.Dir, config: cfg, log: o.Logger, version: o.Version, reads: o.Reads, journal: newJournal(cfg.Name),
		resources: map[string]*held{}, prepared: map[string]*prepared{}, exits: newExitDesk()}
	if n.member, err = o.Dir.Member(); err != nil {
		return nil, err
	}
	if n.recovery, err = knownRecovery(o.Dir); err != nil {
		return nil, err
	}
	if n.incarnation, err = o.Dir.BumpIncarnation(); err != nil {
		return nil, err
	}
	if n.bootID, err = config.BootID(); err != nil {
		return nil, err
	}
	if n.credentials, err = o.Dir.LoadCredentials(); err != nil {
		return nil, err
	}
	if cfg.Kind == config.KindData {
		if n.authority, err = o.Dir.LoadAuthority(); err != nil {
			return nil, err
		}
	}
	if n.handlers, err = n.newHandlers(); err != nil {
		return nil, err
	}
	return n, nil
}

// knownRecovery is how often the quorum of the cluster was rebuilt: as of the join, or as the record has it since.
func knownRecovery(dir config.Dir) (uint64, error) {
	joined, err := dir.Recovery()
	if err != nil {
		return 0, err
	}
	stored, err := quorum.StoredRecovery(dir.Raft())
	return max(joined, stored), err
}

// run starts everything in the order in which it is needed, waits, and ends it in reverse.
func (n *Node) run(ctx context.Context, o Options) (err error) {
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer n.cancel()
	ctx, expel := context.WithCancelCause(ctx)
	defer expel(nil)
	defer func() { n.stopKeeper(err) }()
	credentials := n.credentials
	if n.config.Insecure {
		credentials = nil
	}
	if n.dialer, err = mux.NewDialer(n.config.Name, credentials, 0); err != nil {
		return err
	}
	n.dialer.AtRecovery(n.recovery)
	n.mux, err = mux.Listen(ctx, mux.Config{Node: n.config.Name, Address: n.config.Listen, Credentials: credentials,
		Insecure: n.config.Insecure, Recovery: n.recovery, Logger: n.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.mux.Close()) }()
	if err := n.startQuorum(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.quorum.Close()) }()
	if err := n.startControl(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stopControl()) }()
	exits, err := n.mux.Channel(mux.ChannelExit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exits.Close()) }()
	n.loops.Go(func() { n.acceptSupervisors(exits) })
	n.loops.Go(func() { n.watchMembership(expel) })
	if err := n.enterCluster(ctx); err != nil {
		return n.notEntered(ctx, err)
	}
	defer func() { err = errors.Join(err, n.closePrepared()) }()
	peers, err := n.mux.Channel(mux.ChannelPeer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, peers.Close()) }()
	n.startKeeper(o.Supervise)
	defer n.noteRoles()
	defer n.outlastPrimaries()
	defer n.stopHandlers()
	defer n.stopResources()
	defer n.stopTakeover()
	n.clearLeft()
	if err := n.serve(peers); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stopNBD()) }()
	defer n.vacate()
	if o.Ready != nil {
		o.Ready()
	}
	n.log.Info("ready", "node", n.config.Name, "incarnation", n.incarnation)
	select {
	case <-ctx.Done():
		n.log.Info("stopping", "node", n.config.Name)
		return whyExpelled(ctx, nil)
	case <-n.quorum.Failed():
		return errors.New("the store of the quorum has failed: this node can't go on; look at its disk and start it again")
	}
}

// notEntered is what a daemon ends with that did not come into its cluster.
func (n *Node) notEntered(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	n.log.Info("stopping", "node", n.config.Name, "error", err) // told to end before it had begun, which is in good order, too
	return whyExpelled(ctx, nil)
}

// startQuorum opens the Raft node on its channels.
func (n *Node) startQuorum(ctx context.Context) error {
	listeners := map[quorum.Channel]net.Listener{}
	for _, channel := range []quorum.Channel{quorum.ChannelRaft, quorum.ChannelForward, quorum.ChannelBeat} {
		listener, err := n.mux.Channel(mux.Channel(channel))
		if err != nil {
			return err
		}
		listeners[channel] = listener
	}
	var seeds []quorum.Seed
	for _, peer := range n.config.Peers {
		seeds = append(seeds, quorum.Seed{Node: peer.Name, Address: peer.Address})
	}
	var err error
	n.quorum, err = quorum.Start(ctx, quorum.Config{
		Node: n.config.Name, Incarnation: n.incarnation, BootID: n.bootID, Dir: n.dir.Raft(), Member: n.member, Advertise: n.config.Advertise,
		Seeds: seeds, Accept: func(c quorum.Channel) net.Listener { return listeners[c] },
		Dial: func(ctx context.Context, address, node string, c quorum.Channel) (net.Conn, error) {
			conn, err := n.connect(ctx, address, node, mux.Channel(c))
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
		PeerName: peerName,
		Timing: quorum.Timing{Heartbeat: n.config.RaftHeartbeat, Election: n.config.RaftElection, Lease: n.config.RaftLease,
			Suspect: n.config.Suspect},
		Logger: n.log,
	})
	if errors.Is(err, quorum.ErrStoreLost) {
		return fmt.Errorf("%s is gone or empty, but %s was a member of the cluster already, and its votes were in there: put it back "+
			"if it is elsewhere (not mounted, moved); else move %s away and join again with a token of another node",
			n.dir.Raft(), n.config.Name, n.dir)
	}
	return err
}

// peerName is the proven name at the other end.
func peerName(conn net.Conn) string {
	identity, ok := mux.PeerOf(conn)
	if !ok {
		return ""
	}
	return identity.Name
}

// enterCluster becomes a member, if this is the first start, and registers this incarnation. Nothing of the record is
// acted on before the barrier: until then it is replayed history.
func (n *Node) enterCluster(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if !n.member {
		if err := n.becomeMember(ctx); err != nil {
			return fmt.Errorf("enter the cluster: %w", err)
		}
	}
	switch _, err := n.quorum.Register(ctx, n.config.NBD); {
	case errors.Is(err, quorum.ErrRefused):
		return n.errRemoved(quorum.Reason(err))
	case err != nil:
		return fmt.Errorf("register with the cluster: %w", err)
	}
	if err := n.quorum.Barrier(ctx); err != nil {
		return fmt.Errorf("learn the record: %w", err)
	}
	n.mu.Lock()
	n.ready = true
	n.mu.Unlock()
	n.tellRecovery()
	return nil
}

// becomeMember founds the cluster or has this node admitted, and goes on with what a killed start began: Raft may know of
// members before the record knows the founder, or before this node has its vote. The mark comes after the store is a
// member's and before the registration, from which on the cluster counts on what is in it.
func (n *Node) becomeMember(ctx context.Context) error {
	var err error
	switch {
	case len(n.config.Peers) == 0:
		err = n.quorum.Bootstrap(ctx, n.config.Cluster)
	case !n.votes():
		err = n.quorum.Admit(ctx)
	}
	if err != nil {
		return err
	}
	return n.dir.MarkMember(n.config.Cluster)
}

// votes tells whether this node has a vote, as far as it knows.
func (n *Node) votes() bool {
	return slices.ContainsFunc(n.quorum.Status().Voters, func(v quorum.Voter) bool { return v.Node == n.config.Name && v.Votes })
}

// startControl serves the control API on the unix socket and to other nodes.
func (n *Node) startControl() error {
	var err error
	if n.control, err = control.NewServer(control.ServerConfig{Node: n, Logger: n.log}); err != nil {
		return err
	}
	local, err := control.ListenLocal(n.dir.ControlSocket())
	if err != nil {
		return err
	}
	nodes, err := n.mux.Channel(mux.ChannelControl)
	if err != nil {
		return errors.Join(err, local.Close())
	}
	joins, err := n.mux.Channel(mux.ChannelJoin)
	if err != nil {
		return errors.Join(err, local.Close())
	}
	n.serveControl(local, control.LocalOrigin)
	n.serveControl(nodes, n.memberOrigin)
	n.serveControl(joins, func(c net.Conn) control.Origin { return control.Origin{Kind: control.OriginJoin, Name: peerName(c)} })
	return nil
}

// memberOrigin is who asks as another node. One that was removed keeps its certificate, and may ask for nothing.
func (n *Node) memberOrigin(c net.Conn) control.Origin {
	name := peerName(c)
	if _, member := n.quorum.State().Nodes[name]; !member {
		return control.Origin{Name: name}
	}
	return control.Origin{Kind: control.OriginNode, Name: name}
}

func (n *Node) serveControl(l net.Listener, origin func(net.Conn) control.Origin) {
	n.loops.Go(func() {
		if err := n.control.Serve(l, origin); err != nil {
			n.log.Error("control server", "error", err)
		}
	})
}

func (n *Node) stopControl() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	err := n.control.Close(ctx)
	n.cancel()
	n.loops.Wait()
	return err
}

// stopTakeover ends automatic promotion, before the roles are given up.
func (n *Node) stopTakeover() {
	if t := n.takeovers(); t != nil {
		t.Close()
	}
}

// serve attaches the resources and opens the ports of clients and peers.
func (n *Node) serve(peers net.Listener) error {
	n.syncResources()
	n.loops.Go(n.watchLoop)
	n.loops.Go(n.quorumLoop)
	n.loops.Go(func() { n.acceptPeers(peers) })
	if n.config.Kind != config.KindData {
		return nil
	}
	takeover := StartTakeover(TakeoverConfig{Node: n.config.Name, Incarnation: n.incarnation, Quorum: n.quorum, Replica: n.replicaOf,
		Promote: n.takeOver, Logger: n.log})
	n.mu.Lock()
	n.takeover = takeover
	n.mu.Unlock()
	return n.startNBD()
}

// startNBD serves clients: in plaintext on loopback and the unix socket, elsewhere only by TLS with a certificate.
func (n *Node) startNBD() error {
	cfg := nbd.Config{Logger: n.log, TLSRequired: !n.config.Insecure, TLSExemptLocal: true}
	var err error
	if cfg.TLS, err = pki.NBDServerConfig(n.credentials); err != nil {
		return err
	}
	if n.nbd, err = nbd.Start(exports{n}, cfg); err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", n.config.NBD)
	if err != nil {
		return err
	}
	unix, err := control.ListenLocal(n.dir.NBDSocket())
	if err != nil {
		return errors.Join(err, tcp.Close())
	}
	for _, l := range []net.Listener{tcp, unix} {
		n.loops.Go(func() {
			if err := n.nbd.Serve(directListener{l}); err != nil {
				n.log.Error("NBD server", "error", err)
			}
		})
	}
	return nil
}

// outlastPrimaries keeps this voter for a moment while other nodes are Primary: when the whole cluster is stopped at once,
// they need a majority to give their roles up in good order.
func (n *Node) outlastPrimaries() {
	if n.quorum.Status().Leader == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), outlastLimit)
	defer cancel()
	err := n.waitFor(ctx, "the Primaries", func() bool {
		state := n.quorum.State()
		for _, r := range state.Resources {
			if r.Primary != "" && r.Primary != n.config.Name && state.Nodes[r.Primary].Incarnation == r.PrimaryIncarnation {
				return false
			}
		}
		return true
	})
	if err != nil {
		n.log.Debug("other nodes are Primary and go on", "error", err)
	}
}

// directListener takes the connections of NBD clients out of the runtime's poller. The server bounds how many there are.
type directListener struct{ net.Listener }

func (l directListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	direct, err := socket.New(conn)
	if err != nil {
		return conn, nil // slower, and as good
	}
	return direct, nil
}

func (n *Node) stopNBD() error {
	if n.nbd == nil {
		return nil
	}
	limit := stopLimit / 3
	if n.suspendedHere() { // what waits there has no end
		limit = waitInterval
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := n.nbd.Close(ctx); err != nil {
		n.log.Warn("NBD clients were cut off", "error", err)
	}
	return nil
}
