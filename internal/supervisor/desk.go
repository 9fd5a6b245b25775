package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	greetTime   = 5 * time.Second // for each step of a registration
	maxVisitors = 8               // daemons at the desk at the same time
	acceptPause = 100 * time.Millisecond
)

// acceptDaemons serves the unix socket. It is woken by connections and ended by the listener's end.
func (s *Supervisor) acceptDaemons(listener net.Listener) {
	places := make(chan struct{}, maxVisitors)
	for {
		conn, err := listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Warn("accept a daemon", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-s.ctx.Done():
			}
			continue
		}
		select {
		case places <- struct{}{}:
			s.loops.Go(func() {
				s.serveDaemon(conn)
				<-places
			})
		default:
			s.log.Warn("too many daemons at once", "error", conn.Close())
		}
	}
}

// serveDaemon is the desk of one daemon, which keeps its connection while it runs. The end of either ends it.
func (s *Supervisor) serveDaemon(conn net.Conn) {
	stop := context.AfterFunc(s.ctx, func() {
		if err := ignoreClosed(conn.Close()); err != nil {
			s.log.Warn("close", "error", err)
		}
	})
	defer stop()
	err := s.admit(conn)
	s.log.Debug("daemon", "error", errors.Join(err, ignoreClosed(conn.Close())))
}

// admit finds out who is there, and does what it wants.
func (s *Supervisor) admit(conn net.Conn) error {
	pid, err := processAt(conn)
	if err != nil {
		return err
	}
	pidfd, err := openProcess(pid)
	if err != nil {
		return err
	}
	// Whoever answers the challenge runs after the pidfd was opened: the process was not replaced by another of its number.
	q, err := s.greet(conn)
	if err == nil && q.Kind == verbEnd {
		s.log.Info("told to end", "pid", pid)
		s.finish()
		return pidfd.Close()
	}
	if err == nil {
		err = s.begin(candidate{pid: pid, pidfd: pidfd, request: q})
	}
	if err != nil {
		return errors.Join(err, pidfd.Close(), writeFrame(conn, answer{Kind: answerRefused, Reason: err.Error()}, maxRequestBytes))
	}
	s.log.Info("watched", "pid", pid, "incarnation", q.Incarnation, "peers", len(q.Peers))
	if err := writeFrame(conn, answer{Kind: answerWatching}, maxRequestBytes); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return s.attend(conn, q.Incarnation)
}

// processAt returns the process at the other end, which must be of the same user.
func processAt(conn net.Conn) (int, error) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T is no unix socket", conn)
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	var failure error
	if err := raw.Control(func(fd uintptr) {
		credentials, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failure != nil {
		return 0, fmt.Errorf("who is at the socket: %w", failure)
	}
	if int(credentials.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("process %d is of user %d", credentials.Pid, credentials.Uid)
	}
	return int(credentials.Pid), nil
}

// greet says who this is and gets the first request, with the answer to the challenge. It sets a deadline, which stays.
func (s *Supervisor) greet(conn net.Conn) (request, error) {
	if err := conn.SetDeadline(time.Now().Add(greetTime)); err != nil {
		return request{}, err
	}
	g := greeting{Version: protocolVersion, PID: os.Getpid(), Program: s.config.Program, Challenge: newChallenge()}
	if err := writeFrame(conn, g, maxRequestBytes); err != nil {
		return request{}, err
	}
	q, err := readRequest(conn)
	switch {
	case err != nil:
		return request{}, err
	case q.Kind != verbRun && q.Kind != verbEnd:
		return request{}, fmt.Errorf("%w: begins with %.20q", ErrFrame, q.Kind)
	case q.Challenge != g.Challenge:
		return request{}, fmt.Errorf("%w: the challenge is not answered", ErrFrame)
	}
	return q, nil
}

// begin checks that the daemon is that of the directory, and watches it.
func (s *Supervisor) begin(c candidate) (err error) {
	if c.dial, err = s.identify(c.request); err != nil {
		return err
	}
	return s.watch(c)
}

// attend takes what the daemon says while it is watched.
func (s *Supervisor) attend(conn net.Conn, incarnation uint64) error {
	for {
		q, err := readRequest(conn)
		if err != nil {
			return err
		}
		switch q.Kind {
		case verbPeers:
			s.setPeers(q.Peers)
		case verbOrderly:
			s.orderly(incarnation)
		case verbEnd:
			s.finish()
			return nil
		default:
			return fmt.Errorf("%w: %.20q", ErrFrame, q.Kind)
		}
		if err := conn.SetWriteDeadline(time.Now().Add(greetTime)); err != nil {
			return err
		}
		if err := writeFrame(conn, answer{Kind: answerNoted}, maxRequestBytes); err != nil {
			return err
		}
	}
}
