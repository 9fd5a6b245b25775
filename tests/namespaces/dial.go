package namespaces

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects from a host. The connection stays in that host's namespace and can be used from anywhere.
func (n *Network) Dial(ctx context.Context, host, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	// This goroutine owns a thread that is in the namespace of the host; it ends when there is a connection, or none.
	go func() {
		runtime.LockOSThread()
		conn, back, err := dialInside(ctx, n.namespace(host), address)
		if back {
			runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dialInside connects from a namespace. It reports whether the thread is back where it was.
func dialInside(ctx context.Context, namespace, address string) (conn net.Conn, back bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, true, err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	away, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return nil, true, err
	}
	defer func() { err = errors.Join(err, away.Close()) }()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, true, fmt.Errorf("setns: %w", err)
	}
	var dialer net.Dialer
	// An address with a number needs no look-up, so the socket is made right here.
	conn, err = dialer.DialContext(ctx, "tcp4", address)
	return conn, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil, err
}
