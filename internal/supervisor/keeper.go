package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"syscall"
	"time"

	"duet/internal/config"
)

const (
	farewellTime    = time.Second // to tell the supervisor of an orderly end
	firstRestart    = 100 * time.Millisecond
	longestRestart  = 30 * time.Second
	soundSession    = 10 * time.Second // after which a lost supervisor is replaced at once again
	replacementTime = 5 * time.Second  // for one of another version to end
)

// KeeperConfig is what a daemon says of itself.
type KeeperConfig struct {
	Dir         config.Dir
	Node        string
	Incarnation uint64
	Recovery    uint64 // how often the quorum of the cluster was rebuilt
	Program     string // its version
	// Peers are the other nodes now; the channel is closed when that may have changed.
	Peers func() ([]Peer, <-chan struct{})
	// Start starts a supervisor, and returns when it serves or has ended.
	Start  func(context.Context) error
	Logger *slog.Logger
}

// Keeper is the daemon's side: it sees to it that a supervisor watches this process.
type Keeper struct {
	config   KeeperConfig
	farewell chan bool     // the end has come; whether it is in good order
	done     chan struct{} // closed when the loop has ended
	cancel   context.CancelFunc
}

// Keep starts to keep a supervisor. The committed record must have the incarnation already.
func Keep(cfg KeeperConfig) *Keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{config: cfg, farewell: make(chan bool, 1), done: make(chan struct{}), cancel: cancel}
	go k.loop(ctx)
	return k
}

// Close ends the keeping. The supervisor stays, and sees the process end: if that is in good order, it is told so before, and
// certifies nothing.
func (k *Keeper) Close(orderly bool) {
	k.farewell <- orderly
	select {
	case <-k.done:
	case <-time.After(farewellTime):
	}
	k.cancel()
	<-k.done
}

// errFarewell ends a session with the supervisor, and the loop.
var errFarewell = errors.New("the daemon ends")

// loop owns the connection to the supervisor: one after the other, until Close. It is woken by what happens there.
func (k *Keeper) loop(ctx context.Context) {
	defer close(k.done)
	pause := firstRestart
	for {
		began := time.Now()
		err := k.session(ctx)
		if errors.Is(err, errFarewell) || ctx.Err() != nil {
			return
		}
		if time.Since(began) > soundSession {
			pause = firstRestart
		}
		k.config.Logger.Warn("no supervisor watches this process: its loss would be noticed later", "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-k.farewell:
			return
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, longestRestart)
	}
}

// session is watched by one supervisor, until it is gone or the daemon ends.
func (k *Keeper) session(ctx context.Context) error {
	conn, hello, err := k.reach(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		if err := ignoreClosed(conn.Close()); err != nil {
			k.config.Logger.Debug("supervisor", "error", err)
		}
	})
	defer stop()
	peers, changed := k.config.Peers()
	err = k.register(conn, request{Kind: verbRun, Recovery: k.config.Recovery, Challenge: hello.Challenge, Peers: peers})
	if err != nil {
		return errors.Join(err, ignoreClosed(conn.Close()))
	}
	k.config.Logger.Info("a supervisor watches this process", "pid", hello.PID)
	w := &watched{keeper: k, conn: conn, peers: peers, answers: make(chan answer), gone: make(chan struct{})}
	go w.readAnswers()
	err = w.stay(changed)
	err = errors.Join(err, ignoreClosed(conn.Close()))
	<-w.gone
	return err
}

// reach connects to the supervisor of the directory. If there is none, or one of another version, one is started.
func (k *Keeper) reach(ctx context.Context) (net.Conn, greeting, error) {
	conn, hello, err := k.visit(ctx)
	switch {
	case err == nil && hello.Version == protocolVersion && hello.Program == k.config.Program:
		return conn, hello, nil
	case err == nil:
		k.config.Logger.Info("replace the supervisor by one of this version", "pid", hello.PID, "program", hello.Program)
		if err := dismiss(conn, hello); err != nil {
			return nil, greeting{}, fmt.Errorf("end the supervisor of another version: %w", err)
		}
	case !isGone(err):
		return nil, greeting{}, err
	}
	if err := k.config.Start(ctx); err != nil {
		return nil, greeting{}, fmt.Errorf("start a supervisor: %w", err)
	}
	return k.visit(ctx)
}

// isGone tells whether an error of the socket means that there is no supervisor, or that it is just ending.
func isGone(err error) bool {
	for _, gone := range []error{fs.ErrNotExist, syscall.ECONNREFUSED, io.EOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// visit connects to the supervisor and hears who it is.
func (k *Keeper) visit(ctx context.Context) (net.Conn, greeting, error) {
	return visit(ctx, k.config.Dir)
}

func visit(ctx context.Context, dir config.Dir) (net.Conn, greeting, error) {
	var hello greeting
	conn, err := (&net.Dialer{Timeout: greetTime}).DialContext(ctx, "unix", dir.WatchSocket())
	if err != nil {
		return nil, hello, err
	}
	if err = conn.SetDeadline(time.Now().Add(greetTime)); err == nil {
		err = readFrame(conn, &hello, maxRequestBytes)
	}
	if err != nil {
		return nil, hello, errors.Join(fmt.Errorf("supervisor's greeting: %w", err), conn.Close())
	}
	return conn, hello, nil
}

// dismiss tells a supervisor to end, and waits until it does. It closes the connection.
func dismiss(conn net.Conn, hello greeting) error {
	err := conn.SetDeadline(time.Now().Add(replacementTime))
	if err == nil {
		err = writeFrame(conn, request{Version: hello.Version, Kind: verbEnd, Challenge: hello.Challenge}, maxRequestBytes)
	}
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if isGone(err) {
		err = nil
	}
	return errors.Join(err, ignoreClosed(conn.Close()))
}

// End ends the supervisor of a directory, whatever it does. Where there is none, that is no error.
func End(ctx context.Context, dir config.Dir) error {
	conn, hello, err := visit(ctx, dir)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return dismiss(conn, hello)
}

// register has this process watched. It leaves no deadline.
func (k *Keeper) register(conn net.Conn, q request) error {
	q.Version, q.Node, q.Incarnation = protocolVersion, k.config.Node, k.config.Incarnation
	if err := writeFrame(conn, q, maxRequestBytes); err != nil {
		return err
	}
	var a answer
	if err := readFrame(conn, &a, maxRequestBytes); err != nil {
		return err
	}
	if a.Kind != answerWatching {
		return fmt.Errorf("the supervisor refuses: %s", a.Reason)
	}
	return conn.SetDeadline(time.Time{})
}

// watched is a session in which this process is watched.
type watched struct {
	keeper  *Keeper
	conn    net.Conn
	peers   []Peer // as the supervisor knows them
	answers chan answer
	gone    chan struct{} // closed when the connection has ended
}

// readAnswers posts what the supervisor says, and ends with the connection.
func (w *watched) readAnswers() {
	defer close(w.gone)
	for {
		var a answer
		if err := readFrame(w.conn, &a, maxRequestBytes); err != nil {
			return
		}
		select {
		case w.answers <- a:
		default: // nobody waits for it
		}
	}
}

// stay tells of changes until the supervisor is gone or the daemon ends.
func (w *watched) stay(changed <-chan struct{}) error {
	for {
		select {
		case <-w.gone:
			return errors.New("the supervisor is gone")
		case orderly := <-w.keeper.farewell:
			if orderly {
				w.sayFarewell()
			}
			return errFarewell
		case <-changed:
		}
		var peers []Peer
		peers, changed = w.keeper.config.Peers()
		if slices.Equal(peers, w.peers) {
			continue
		}
		if err := w.say(request{Kind: verbPeers, Peers: peers}); err != nil {
			return err
		}
		w.peers = peers
	}
}

func (w *watched) say(q request) error {
	q.Version = protocolVersion
	if err := w.conn.SetWriteDeadline(time.Now().Add(farewellTime)); err != nil {
		return err
	}
	return writeFrame(w.conn, q, maxRequestBytes)
}

// sayFarewell waits for the answer, so that the supervisor knows before the process ends.
func (w *watched) sayFarewell() {
	if err := w.say(request{Kind: verbOrderly}); err != nil {
		w.keeper.config.Logger.Warn("tell the supervisor of the end", "error", err)
		return
	}
	select {
	case <-w.answers:
	case <-w.gone:
	case <-time.After(farewellTime / 2):
	}
}
