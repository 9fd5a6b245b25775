package failover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"duet/nbd/nbdclient"
)

const (
	blockBytes = 4096
	// strideBytes is from one block that is used to the next, so that eight of them share an extent of the activity log.
	strideBytes = 512 << 10
	// clients of the load, each with a connection of its own, and workers of each, with one operation at a time. The last client
	// only reads: it stays with a former Primary for as long as that answers.
	clients, workersPerClient = 3, 3
	// hotBlocks are those that half of all operations meet on.
	hotBlocks = 32
	// patience is how long an operation is waited for before its connection is given up.
	patience = 5 * time.Second
	// stall is how long an operation may take before a client looks whether somebody else is Primary.
	stall = 100 * time.Millisecond
	// retry is between two attempts to connect to the same node, connectTimeout the end of one.
	retry          = 10 * time.Millisecond
	connectTimeout = time.Second
)

// dialer connects with a node's NBD server, and says with which process.
type dialer interface {
	dataNodes() []string
	dial(ctx context.Context, node string) (net.Conn, server, error)
	config() nbdclient.Config
}

// load is a set of clients that write and read all the time.
type load struct {
	*history
	clients []*client
	cancel  context.CancelFunc
	ended   sync.WaitGroup

	mu      sync.Mutex
	wake    chan struct{} // closed when paused becomes false
	paused  bool
	busy    int           // operations in flight
	idle    chan struct{} // closed when paused and none is left
	broken  error         // what no server may answer
	refused map[string]int
}

// client is one application: it goes to whoever is Primary.
type client struct {
	load   *load
	dialer dialer
	reader bool

	mu      sync.Mutex
	session *session      // nil while there is none
	changed chan struct{} // closed when session changes
	begun   map[int]time.Duration
}

// session is a connection to a server.
type session struct {
	nbd    *nbdclient.Client
	conn   net.Conn
	server server
}

// drop ends the session at once, without waiting for what is in flight.
func (s *session) drop() error {
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	<-s.nbd.Lost()
	return nil
}

// begin starts the load. It ends with ctx, or by end.
func begin(ctx context.Context, h *history, d dialer) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{history: h, cancel: cancel, refused: map[string]int{}}
	for i := range clients {
		c := &client{load: l, dialer: d, reader: i == clients-1, changed: make(chan struct{}), begun: map[int]time.Duration{}}
		l.clients = append(l.clients, c)
		l.ended.Go(func() { c.keep(ctx) })
		for worker := range workersPerClient {
			l.ended.Go(func() { c.work(ctx, worker) })
		}
	}
	return l
}

// end ends the load, whatever is in flight, and returns what was wrong with the answers.
func (l *load) end() error {
	l.cancel()
	l.ended.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// pauseAll lets no further operation begin and waits until none is in flight. The last one gives up after patience.
func (l *load) pauseAll() {
	l.mu.Lock()
	l.paused, l.wake, l.idle = true, make(chan struct{}), make(chan struct{})
	idle := l.idle
	if l.busy == 0 {
		close(idle)
	}
	l.mu.Unlock()
	<-idle
}

// resume undoes pauseAll.
func (l *load) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = false
	close(l.wake)
}

func (l *load) isPaused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

// enter waits until operations may begin, and counts one in; false when ctx ends before.
func (l *load) enter(ctx context.Context) bool {
	for {
		l.mu.Lock()
		if !l.paused {
			l.busy++
			l.mu.Unlock()
			return ctx.Err() == nil || l.leave()
		}
		wake := l.wake
		l.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return false
		}
	}
}

// leave counts an operation out. It returns false for enter's sake.
func (l *load) leave() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	if l.paused && l.busy == 0 {
		close(l.idle)
	}
	return false
}

// fault notes what is wrong with an answer.
func (l *load) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = err
	}
}

// keep owns the client's session: it finds a server, drops a lost session, and looks for another server while one is silent. It
// ends with ctx.
func (c *client) keep(ctx context.Context) {
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for ctx.Err() == nil {
		s := c.current()
		switch {
		case s == nil || s.nbd.Err() != nil:
			c.replace(nil)
			c.replace(c.seek(ctx, ""))
			continue
		case c.oldest() > patience:
			c.replace(nil)
			continue
		case c.oldest() > stall:
			look, cancel := context.WithTimeout(ctx, connectTimeout)
			if other := c.seek(look, s.server.node); other != nil {
				c.replace(other)
			}
			cancel()
		}
		select {
		case <-ticker.C:
		case <-s.nbd.Lost():
		case <-ctx.Done():
		}
	}
	c.replace(nil)
}

func (c *client) current() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// replace puts a session in the place of the one that there is.
func (c *client) replace(s *session) {
	c.mu.Lock()
	old := c.session
	c.session = s
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if old != nil {
		if err := old.drop(); err != nil {
			c.load.fault(err)
		}
	}
}

// oldest is for how long the operation that is in flight longest has been.
func (c *client) oldest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, longest := c.load.now(), time.Duration(0)
	for _, begin := range c.begun {
		longest = max(longest, now-begin)
	}
	return longest
}

// seek asks all nodes but one until one of them serves; nil when ctx ends before, or the session that is looked for a replacement of
// answers again.
func (c *client) seek(ctx context.Context, not string) *session {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var nodes []string
	for _, node := range c.dialer.dataNodes() {
		if node != not {
			nodes = append(nodes, node)
		}
	}
	found := make(chan *session)
	var seekers sync.WaitGroup
	for _, node := range nodes {
		// Each owns the attempts at one node; it ends with ctx, or with a session that somebody takes.
		seekers.Go(func() {
			for ctx.Err() == nil {
				s := c.connect(ctx, node)
				if s == nil {
					continue
				}
				select {
				case found <- s:
				case <-ctx.Done():
					if err := s.drop(); err != nil {
						c.load.fault(err)
					}
				}
				return
			}
		})
	}
	defer seekers.Wait()
	defer cancel()
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for {
		select {
		case s := <-found:
			return s
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if not != "" && c.oldest() < stall {
				return nil
			}
		}
	}
}

// connect tries one node once, and takes its time when that fails.
func (c *client) connect(ctx context.Context, node string) *session {
	attempt, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, who, err := c.dialer.dial(attempt, node)
	if err == nil {
		var nbd *nbdclient.Client
		if nbd, err = nbdclient.New(attempt, conn, c.dialer.config()); err == nil {
			return &session{nbd: nbd, conn: conn, server: who}
		}
	}
	pause := time.NewTimer(retry)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
	return nil
}

// work does one operation after the other. It ends with ctx.
func (c *client) work(ctx context.Context, worker int) {
	p := make([]byte, blockBytes)
	for c.load.enter(ctx) {
		block := rand.Uint64N(c.load.blocks)
		if rand.IntN(2) == 0 {
			block = block % hotBlocks * (c.load.blocks / hotBlocks)
		}
		// An operation counts as in flight only once there is a server: a pause does not wait for one.
		if s := c.current(); s != nil && s.nbd.Err() == nil {
			c.do(s, worker, operation{block: block, write: !c.reader && rand.IntN(2) == 0}, p)
			c.load.leave()
			continue
		}
		c.load.leave()
		c.await(ctx)
	}
}

// await waits for a change of session.
func (c *client) await(ctx context.Context) {
	c.mu.Lock()
	changed, there := c.changed, c.session != nil && c.session.nbd.Err() == nil
	c.mu.Unlock()
	if there {
		return
	}
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

// do does an operation and enters what became of it. What has begun is not given up but by dropping the session.
func (c *client) do(s *session, worker int, o operation, p []byte) bool {
	o.server = s.server
	if o.write {
		o.value = c.load.nextNumber()
		fillBlock(p, o.block, o.value)
	}
	o.begin = c.load.now()
	c.note(worker, o.begin)
	var err error
	if o.write {
		err = s.nbd.Write(context.Background(), p, o.block*strideBytes)
	} else {
		err = s.nbd.Read(context.Background(), p, o.block*strideBytes)
	}
	o.end = c.load.now()
	c.note(worker, 0)
	o.answered = err == nil
	if o.answered && !o.write {
		if o.value, err = readBlock(p, o.block); err != nil {
			c.load.fault(fmt.Errorf("%v: %w", o, err))
		}
	}
	c.load.add(o)
	if refusal := (*nbdclient.RequestError)(nil); errors.As(err, &refusal) {
		c.refusal(s, refusal)
	}
	return o.answered
}

// refusal counts an error that a server has answered, and leaves that server for a moment.
func (c *client) refusal(s *session, err *nbdclient.RequestError) {
	c.load.mu.Lock()
	c.load.refused[err.Error()]++
	c.load.mu.Unlock()
	if err := s.drop(); err != nil {
		c.load.fault(err)
	}
}

// note says when the operation of a worker has begun, 0: there is none.
func (c *client) note(worker int, begin time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if begin == 0 {
		delete(c.begun, worker)
		return
	}
	c.begun[worker] = begin
}

// readAll reads every block while the load pauses. It is repeated, with another session if need be, until ctx ends.
func (l *load) readAll(ctx context.Context) error {
	c := l.clients[0]
	left := make([]uint64, l.blocks)
	for i := range left {
		left[i] = uint64(i)
	}
	p := make([]byte, blockBytes)
	for len(left) > 0 {
		s := c.current()
		if s == nil || s.nbd.Err() != nil {
			c.await(ctx)
		} else if c.do(s, workersPerClient, operation{block: left[0]}, p) {
			left = slices.Delete(left, 0, 1)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d blocks could not be read: %w", len(left), ctx.Err())
		}
	}
	return nil
}
