package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a TCP or unix connection. All methods may be called from any goroutine; one may read while another writes.
type Conn struct {
	fd            int // does not block
	local, remote net.Addr
	read, write   direction
	poll          busyPoll

	mu     sync.Mutex
	users  int // calls that use the descriptors
	closed bool
}

// direction is what a reader or a writer waits for besides the socket itself.
type direction struct {
	events   int16
	waker    int          // an eventfd: readable when the deadline was moved
	deadline atomic.Int64 // nanoseconds since 1970; 0 means none
}

// New takes conn out of the runtime's poller. It returns conn itself when it is no plain socket. On an error conn is as
// it was.
func New(conn net.Conn) (net.Conn, error) {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return conn, nil
	}
	fd, err := duplicate(conn)
	if err != nil {
		return nil, fmt.Errorf("take over a connection: %w", err)
	}
	c := &Conn{fd: fd, local: conn.LocalAddr(), remote: conn.RemoteAddr(), read: direction{events: unix.POLLIN, waker: -1},
		write: direction{events: unix.POLLOUT, waker: -1}}
	for _, d := range []*direction{&c.read, &c.write} {
		if d.waker, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return nil, errors.Join(fmt.Errorf("take over a connection: %w", err), c.Close())
		}
	}
	// The duplicate keeps the connection open; only the poller forgets it.
	if err := conn.Close(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func duplicate(conn net.Conn) (int, error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	controlErr := raw.Control(func(original uintptr) {
		fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(controlErr, err)
}

// enter keeps the descriptors open until leave; it fails on a closed connection.
func (c *Conn) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.users++
	return nil
}

func (c *Conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.users == 0 && c.closed {
		c.release()
	}
}

// release gives the descriptors back. Nothing can be done about a failure, and nothing is lost by one: whatever was to be
// sent is the kernel's already.
func (c *Conn) release() {
	for _, fd := range []int{c.fd, c.read.waker, c.write.waker} {
		if fd >= 0 && unix.Close(fd) != nil {
			continue
		}
	}
}

// Close ends the connection and everything that waits for it. Further calls return net.ErrClosed.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	if c.users > 0 {
		return c.shutdown(unix.SHUT_RDWR) // which makes the socket ready for whoever waits
	}
	c.release()
	return nil
}

// CloseWrite tells the other end that nothing more comes.
func (c *Conn) CloseWrite() error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	return c.shutdown(unix.SHUT_WR)
}

func (c *Conn) shutdown(how int) error {
	if err := unix.Shutdown(c.fd, how); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return os.NewSyscallError("shutdown", err)
	}
	return nil
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	defer c.leave()
	written := 0
	for written < len(p) {
		n, err := unix.Write(c.fd, p[written:])
		switch {
		case err == nil:
			written += n
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := c.wait(&c.write); err != nil {
				return written, err
			}
		default:
			return written, c.unlessClosed(os.NewSyscallError("write", err))
		}
	}
	return written, nil
}

// unlessClosed is err, or that the connection is closed, which explains it better.
func (c *Conn) unlessClosed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return err
}

// wait returns nil once the socket may be ready, or says why there is no point in waiting.
func (c *Conn) wait(d *direction) error {
	fds := [2]unix.PollFd{{Fd: int32(c.fd), Events: d.events}, {Fd: int32(d.waker), Events: unix.POLLIN}}
	for {
		if err := c.unlessClosed(nil); err != nil {
			return err
		}
		limit, err := timeLeft(d.deadline.Load())
		if err != nil {
			return err
		}
		fds[0].Revents, fds[1].Revents = 0, 0
		n, err := unix.Ppoll(fds[:], limit, nil)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("ppoll", err)
		case n > 0 && fds[0].Revents != 0:
			return nil
		case n > 0:
			d.calm()
		}
	}
}

// wake has whoever waits look at the deadline again.
func (d *direction) wake() error {
	one := [8]byte{1}
	if _, err := unix.Write(d.waker, one[:]); err != nil && !errors.Is(err, unix.EAGAIN) { // EAGAIN: it is awake enough
		return os.NewSyscallError("eventfd", err)
	}
	return nil
}

// calm takes the wake-up back. What it was for is looked at before the next wait.
func (d *direction) calm() {
	var count [8]byte
	if _, err := unix.Read(d.waker, count[:]); err != nil {
		return // taken back already
	}
}

// timeLeft is the time until a deadline, nil for none.
func timeLeft(deadline int64) (*unix.Timespec, error) {
	if deadline == 0 {
		return nil, nil
	}
	left := time.Until(time.Unix(0, deadline))
	if left <= 0 {
		return nil, os.ErrDeadlineExceeded
	}
	limit := unix.NsecToTimespec(int64(left))
	return &limit, nil
}

// SetLinger is as that of a TCP connection: with 0, Close drops what was not sent yet and resets the connection.
func (c *Conn) SetLinger(seconds int) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	linger := unix.Linger{Onoff: 1, Linger: int32(max(seconds, 0))}
	if seconds < 0 {
		linger.Onoff = 0
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger))
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.read, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.write, t) }

func (c *Conn) setDeadline(d *direction, t time.Time) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	at := int64(0)
	if !t.IsZero() {
		at = max(t.UnixNano(), 1)
	}
	if d.deadline.Swap(at) == at {
		return nil
	}
	return d.wake()
}
