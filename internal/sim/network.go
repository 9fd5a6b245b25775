package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// dialTimeout bounds attempts to connect to a machine that does not answer.
const dialTimeout = 2 * time.Second

// direction is from one machine to another.
type direction struct{ from, to string }

// network connects machines. Everything in it is guarded by mu; conns wait outside of it.
type network struct {
	mu        sync.Mutex
	random    *rand.Rand
	delay     time.Duration // at most, one way
	cuts      map[direction]bool
	down      map[string]bool // machines without power
	listeners map[string]*listener
	conns     map[*conn]struct{} // open ends
}

func newNetwork(random *rand.Rand) *network {
	return &network{random: random, delay: 400 * time.Microsecond, cuts: map[direction]bool{}, down: map[string]bool{},
		listeners: map[string]*listener{}, conns: map[*conn]struct{}{}}
}

// listen is a port of a machine, named by what it is for.
func (w *network) listen(host, port string) *listener {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &listener{network: w, name: host + "/" + port, backlog: make(chan net.Conn, 64), closed: make(chan struct{})}
	w.listeners[l.name] = l
	return l
}

// dial connects, or waits in vain as long as nothing comes back.
func (w *network) dial(ctx context.Context, from *process, host, port string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	fromHost := from.machine.name
	if !from.sleep(w.hop() + w.hop()) {
		return nil, errDead
	}
	w.mu.Lock()
	lost := w.cuts[direction{fromHost, host}] || w.cuts[direction{host, fromHost}] || w.down[host]
	l := w.listeners[host+"/"+port]
	if lost {
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-from.killed:
		}
		return nil, fmt.Errorf("sim: %s does not answer", host)
	}
	defer w.mu.Unlock()
	if l == nil || l.isClosed() || from.dead() {
		return nil, fmt.Errorf("sim: nobody listens at %s/%s: %w", host, port, syscall.ECONNREFUSED)
	}
	near, far := w.pairLocked(fromHost, host)
	select {
	case l.backlog <- far:
	default:
		return nil, syscall.ECONNREFUSED
	}
	w.conns[near], w.conns[far] = struct{}{}, struct{}{}
	return near, nil
}

func (w *network) pairLocked(a, b string) (near, far *conn) {
	there, back := newStream(w, direction{a, b}), newStream(w, direction{b, a})
	near = &conn{network: w, in: back, out: there, local: a, remote: b}
	far = &conn{network: w, in: there, out: back, local: b, remote: a}
	return near, far
}

// hop is the delay of one message.
func (w *network) hop() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return 20*time.Microsecond + time.Duration(w.random.Int64N(int64(w.delay)))
}

// setCut stops, or resumes, the delivery in one direction.
func (w *network) setCut(d direction, cut bool) {
	w.mu.Lock()
	if cut {
		w.cuts[d] = true
	} else {
		delete(w.cuts, d)
	}
	w.mu.Unlock()
	w.wakeAll()
}

// isCut says whether anything between two machines is stopped now.
func (w *network) isCut(a, b string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts[direction{a, b}] || w.cuts[direction{b, a}]
}

// healAll ends all cuts.
func (w *network) healAll() {
	w.mu.Lock()
	w.cuts = map[direction]bool{}
	w.mu.Unlock()
	w.wakeAll()
}

// isDown says whether a machine has no power.
func (w *network) isDown(host string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down[host]
}

// wakeAll has every reader look again whether something is delivered.
func (w *network) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.in.notify()
	}
}

// passes says whether messages in a direction are delivered now.
func (w *network) passes(d direction) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.cuts[d] && !w.down[d.from] && !w.down[d.to]
}

// reset breaks the connections between two machines, at both ends; with b "", all of a.
func (w *network) reset(a, b string) {
	w.mu.Lock()
	var broken []*conn
	for c := range w.conns {
		if c.local == a && (b == "" || c.remote == b) || c.remote == a && (b == "" || c.local == b) {
			broken = append(broken, c)
		}
	}
	w.mu.Unlock()
	for _, c := range broken {
		if c.local != a && !w.passes(direction{a, c.local}) {
			continue // nobody tells the other end
		}
		c.in.failLocal(syscall.ECONNRESET)
		c.out.failWriter(syscall.ECONNRESET)
	}
}

// loseProcess is the end of a process whose machine lives: its kernel tells the other ends.
func (w *network) loseProcess(host string) {
	w.closeListeners(host)
	w.reset(host, "")
}

// losePower silences a machine. Its own ends are gone, the others learn nothing.
func (w *network) losePower(host string) {
	w.closeListeners(host)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[host] = true
	for c := range w.conns {
		switch host {
		case c.local:
			c.in.failLocal(errDead)
		case c.remote:
			c.in.drop()
		}
	}
}

// restorePower brings a machine back; it answers what belongs to old connections with resets.
func (w *network) restorePower(host string) {
	w.mu.Lock()
	delete(w.down, host)
	w.mu.Unlock()
	w.reset(host, "")
}

func (w *network) closeListeners(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.listeners {
		if l.host() == host {
			l.closeNow()
		}
	}
}

func (w *network) forget(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// listener is a net.Listener of a machine.
type listener struct {
	network *network
	name    string
	backlog chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) host() string {
	for i := range l.name {
		if l.name[i] == '/' {
			return l.name[:i]
		}
	}
	return l.name
}

func (l *listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func (l *listener) closeNow() { l.once.Do(func() { close(l.closed) }) }

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	if l.isClosed() {
		return nil, net.ErrClosed
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	if l.isClosed() {
		return nil
	}
	l.closeNow()
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return address(l.name) }

// address is a machine and a port.
type address string

// Network implements net.Addr.
func (address) Network() string { return "sim" }

func (a address) String() string { return string(a) }
