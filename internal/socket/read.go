package socket

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// busyPollLimit bounds how long a reader looks for what it expects soon before its thread sleeps. It is a little more
	// than a replicated write takes.
	busyPollLimit = 50 * time.Microsecond
	// busyPollProcessors is how many processors a machine must have for that: the reader must not keep whoever it waits
	// for from running.
	busyPollProcessors = 4
	// ampleBytes is how much is waited for at most when much is expected.
	ampleBytes = 256 << 10
	// ampleWait bounds that wait. The other end may have less to send, or may be slow, and then what is there will do.
	ampleWait = 5 * time.Millisecond
)

// busyPoll decides whether a reader looks again and again instead of going to sleep. Waking a thread whose processor
// has gone idle takes several microseconds, on a virtual machine more; for one small request at a time, which wakes four
// threads on its way, that is half of the latency. Looking pays only while what is waited for does come that soon, so the
// last wait decides about the next one: at most one look in a row is in vain.
type busyPoll struct {
	wanted atomic.Bool
	missed atomic.Bool // the last wait took longer than looking may
}

// ExpectSoon says whether the next reads are for something that arrives within microseconds, like the answer to what was
// just sent.
func (c *Conn) ExpectSoon(soon bool) {
	c.poll.wanted.Store(soon && runtime.NumCPU() >= busyPollProcessors)
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	defer c.leave()
	if len(p) == 0 {
		return 0, nil
	}
	if !c.poll.wanted.Load() {
		return c.readOrWait(p)
	}
	began := time.Now()
	n, err := c.look(p, began)
	if n == 0 && err == nil {
		n, err = c.readOrWait(p)
	}
	c.poll.missed.Store(time.Since(began) > busyPollLimit)
	return n, err
}

// look reads without waiting, again and again if that has a chance. It returns 0 and no error when nothing came.
func (c *Conn) look(p []byte, began time.Time) (int, error) {
	for {
		n, err := c.tryRead(p)
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		if c.poll.missed.Load() || time.Since(began) > busyPollLimit {
			return 0, nil
		}
		yield()
	}
}

// yield lets another thread that wants this processor go first.
func yield() {
	if _, _, errno := unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0); errno != 0 {
		runtime.Gosched() // it never fails
	}
}

// readOrWait reads, after waiting for it.
func (c *Conn) readOrWait(p []byte) (int, error) {
	for {
		n, err := c.tryRead(p)
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		if err := c.wait(&c.read); err != nil {
			return 0, err
		}
	}
}

// tryRead reads once; unix.EAGAIN says that there is nothing to read.
func (c *Conn) tryRead(p []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, p) // with what the race detector has to know
		switch {
		case err == nil && n == 0:
			return 0, c.unlessClosed(io.EOF)
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, unix.EAGAIN
		case !errors.Is(err, unix.EINTR):
			return 0, c.unlessClosed(os.NewSyscallError("read", err))
		}
	}
}

// ReadAmple is Read for who expects that p can be filled: if nothing is there yet it waits, for a moment, until a good
// part of p can be, so that the thread is not woken for every segment.
func (c *Conn) ReadAmple(p []byte) (int, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	defer c.leave()
	n, err := c.tryRead(p)
	if !errors.Is(err, unix.EAGAIN) {
		return n, err
	}
	if err := c.waitForAmple(min(len(p), ampleBytes)); err != nil {
		return 0, c.unlessClosed(err)
	}
	return c.readOrWait(p)
}

// waitForAmple is no more than a delay: whatever ends it, the read that follows finds out.
func (c *Conn) waitForAmple(bytes int) error {
	if err := c.setLowWater(bytes); err != nil {
		return err
	}
	fds := [1]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
	limit := unix.NsecToTimespec(int64(ampleWait))
	_, err := unix.Ppoll(fds[:], &limit, nil)
	if errors.Is(err, unix.EINTR) {
		err = nil
	}
	return errors.Join(os.NewSyscallError("ppoll", err), c.setLowWater(1))
}

// setLowWater has the socket count as readable from so many bytes on.
func (c *Conn) setLowWater(bytes int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes))
}
