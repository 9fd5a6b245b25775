package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"duet/internal/config"
	"duet/internal/mux"
	"duet/internal/pki"
)

// dialTime bounds an attempt to reach a node.
const dialTime = 3 * time.Second

// errEnding is the answer to a daemon that comes when the supervisor is about to end.
var errEnding = errors.New("this supervisor is about to end")

// dialFunc opens the channel "exit" of a node.
type dialFunc func(ctx context.Context, peer Peer) (net.Conn, error)

// Supervisor is what the goroutines of the process share.
type Supervisor struct {
	config Config
	log    *slog.Logger
	ctx    context.Context // ends links and desks
	cancel context.CancelFunc
	loops  sync.WaitGroup

	mu       sync.Mutex
	ledger   *ledger
	node     string   // the node's name, once a daemon has registered
	dial     dialFunc // with the newest credentials
	links    map[string]*link
	pidfds   map[*os.File]bool // of the sentries
	ending   bool
	finished chan struct{} // closed when somebody wants the end at once
}

func newSupervisor(cfg Config) *Supervisor {
	s := &Supervisor{config: cfg, log: cfg.Logger, ledger: newLedger(time.Now()), links: map[string]*link{},
		pidfds: map[*os.File]bool{}, finished: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// candidate is a daemon that wants to be watched.
type candidate struct {
	pid     int
	pidfd   *os.File // belongs to the supervisor once watch has returned without an error
	request request
	dial    dialFunc
}

// identify makes what the links prove themselves with, from what is in the directory now.
func (s *Supervisor) identify(q request) (dialFunc, error) {
	node, err := s.config.Dir.LoadNode()
	if err != nil {
		return nil, err
	}
	incarnation, err := s.config.Dir.Incarnation()
	if err != nil {
		return nil, err
	}
	if node.Name != q.Node || incarnation != q.Incarnation {
		return nil, fmt.Errorf("the directory is that of %s, incarnation %d, and not of %s, %d", node.Name, incarnation, q.Node, q.Incarnation)
	}
	var credentials *pki.Credentials // none without TLS
	if !node.Insecure {
		if credentials, err = s.config.Dir.LoadCredentials(); err != nil {
			return nil, err
		}
	}
	dialer, err := mux.NewDialer(node.Name, credentials, dialTime)
	if err != nil {
		return nil, err
	}
	dialer.AtRecovery(q.Recovery)
	return func(ctx context.Context, peer Peer) (net.Conn, error) {
		return dialer.Dial(ctx, peer.Address, peer.Name, mux.ChannelExit)
	}, nil
}

// watch begins to watch a process.
func (s *Supervisor) watch(c candidate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return errEnding
	}
	known, err := s.ledger.register(c.request.Incarnation, c.pid)
	if err != nil {
		return err
	}
	s.node, s.dial = c.request.Node, c.dial
	s.setPeersLocked(c.request.Peers)
	if known {
		return c.pidfd.Close()
	}
	s.pidfds[c.pidfd] = true
	s.loops.Go(func() { s.sentry(c.request.Incarnation, c.pidfd) })
	return nil
}

// sentry owns a pidfd: it waits for the end of its process, and ends with that, or with the supervisor.
func (s *Supervisor) sentry(incarnation uint64, pidfd *os.File) {
	err := waitExit(pidfd)
	certified := false
	s.mu.Lock()
	delete(s.pidfds, pidfd)
	if err == nil {
		certified = s.ledger.exited(incarnation, time.Now())
	} else {
		s.ledger.drop(incarnation, time.Now())
	}
	s.wakeLocked()
	s.mu.Unlock()
	s.log.Info("no longer watched", "incarnation", incarnation, "certified", certified, "error", errors.Join(err, ignoreClosed(pidfd.Close())))
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// setPeers is told by the daemon.
func (s *Supervisor) setPeers(peers []Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.setPeersLocked(peers)
	}
}

// setPeersLocked starts and ends links as nodes come, go and move.
func (s *Supervisor) setPeersLocked(peers []Peer) {
	wanted := map[string]Peer{}
	var names []string
	for _, peer := range peers {
		if peer.Name != s.node {
			wanted[peer.Name] = peer
			names = append(names, peer.Name)
		}
	}
	s.ledger.setPeers(names)
	for name, l := range s.links {
		if wanted[name] != l.peer {
			l.cancel()
			delete(s.links, name)
		}
	}
	for name, peer := range wanted {
		if s.links[name] == nil {
			s.startLinkLocked(peer)
		}
	}
	s.wakeLocked()
}

func (s *Supervisor) startLinkLocked(peer Peer) {
	ctx, cancel := context.WithCancel(s.ctx)
	l := &link{peer: peer, book: s, log: s.log.With("peer", peer.Name), wake: make(chan struct{}, 1), cancel: cancel}
	s.links[peer.Name] = l
	s.loops.Go(func() { l.run(ctx) })
}

// wakeLocked has every link look at what it owes.
func (s *Supervisor) wakeLocked() {
	for _, l := range s.links {
		select {
		case l.wake <- struct{}{}:
		default: // it is about to look
		}
	}
}

// connect implements book.
func (s *Supervisor) connect(ctx context.Context, peer Peer) (net.Conn, error) {
	s.mu.Lock()
	dial := s.dial
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return dial(ctx, peer)
}

// account implements book.
func (s *Supervisor) account(peer string) account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return account{node: s.node, current: s.ledger.current(), owed: s.ledger.owed(peer)}
}

// taken implements book.
func (s *Supervisor) taken(peer string, incarnation uint64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.taken(peer, incarnation, time.Now())
}

// orderly is told by the daemon.
func (s *Supervisor) orderly(incarnation uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.orderly(incarnation)
}

// finish ends the supervisor at once.
func (s *Supervisor) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.ending = true
		close(s.finished)
	}
}

// mayEnd looks whether nothing keeps the supervisor; then no daemon is taken any more.
func (s *Supervisor) mayEnd(terminated bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if terminated {
		s.ledger.terminate(time.Now())
	}
	s.ending = s.ending || s.ledger.over(time.Now())
	return s.ending
}

// close ends all goroutines and waits for them. Processes that are still watched are let go, uncertified.
func (s *Supervisor) close() error {
	s.finish()
	s.cancel()
	s.mu.Lock()
	var errs []error
	for pidfd := range s.pidfds {
		errs = append(errs, ignoreClosed(pidfd.Close()))
	}
	s.mu.Unlock()
	s.loops.Wait()
	return errors.Join(errs...)
}

// newChallenge is what only somebody at the other end who runs now can answer.
func newChallenge() string { return rand.Text() }

// Config is what a supervisor needs.
type Config struct {
	Dir     config.Dir
	Program string // its version
	Logger  *slog.Logger
	// Ready is called once daemons are served; may be nil.
	Ready func()
}
