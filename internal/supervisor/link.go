package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

const (
	watchInterval = time.Second     // between two reports that keep a connection warm
	answerTime    = 3 * time.Second // for an answer; then the connection is replaced
	firstPause    = 50 * time.Millisecond
	longestPause  = 2 * time.Second
)

// account is what there is to tell a peer.
type account struct {
	node    string
	current uint64   // the incarnation that runs, 0: none
	owed    []uint64 // incarnations whose exit it has not been told
}

// book is where a link looks up what to tell, and notes what was taken.
type book interface {
	connect(ctx context.Context, peer Peer) (net.Conn, error)
	account(peer string) account
	taken(peer string, incarnation uint64) time.Duration
}

// link is the connection to one other node.
type link struct {
	peer   Peer
	book   book
	log    *slog.Logger
	wake   chan struct{} // there may be something to tell
	cancel context.CancelFunc
}

// run keeps a connection to the node and tells what is to be told. It is woken by news and ended by ctx.
func (l *link) run(ctx context.Context) {
	pause, silent := firstPause, false
	for ctx.Err() == nil {
		conn, err := l.book.connect(ctx, l.peer)
		if err == nil {
			l.log.Info("connected")
			pause, silent = firstPause, false
			err = l.talk(ctx, conn)
		}
		if ctx.Err() == nil && !silent {
			l.log.Info("not connected", "error", err)
			silent = true // a node that is down for long fills no log
		}
		if l.rest(ctx, pause) {
			pause = min(2*pause, longestPause)
		} else {
			pause = firstPause
		}
	}
}

// rest waits, and reports whether it was let: a certificate that has become due ends it.
func (l *link) rest(ctx context.Context, pause time.Duration) bool {
	before := len(l.book.account(l.peer.Name).owed)
	over := time.NewTimer(pause)
	defer over.Stop()
	for {
		select {
		case <-over.C:
			return true
		case <-l.wake:
			if len(l.book.account(l.peer.Name).owed) > before {
				return false
			}
		case <-ctx.Done():
			return true
		}
	}
}

// sent is a report that was not answered yet.
type sent struct {
	incarnation uint64 // of a certificate; 0: it was none
	at          time.Time
}

// conversation is what happens on one connection.
type conversation struct {
	*link
	conn    net.Conn
	waiting []sent // in order
	told    map[uint64]bool
	watched uint64 // by the latest report
	latest  time.Time
}

// talk reports on a connection until it fails or ctx ends, and closes it. A goroutine reads the answers; it ends with the
// connection.
func (l *link) talk(ctx context.Context, conn net.Conn) (err error) {
	answers, unread := make(chan byte), make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		readAnswers(conn, answers, unread)
	}()
	defer func() {
		close(unread)
		err = errors.Join(err, ignoreClosed(conn.Close()))
		<-read
	}()
	tick := time.NewTicker(watchInterval / 4)
	defer tick.Stop()
	c := &conversation{link: l, conn: conn, told: map[uint64]bool{}}
	for {
		if err := c.tell(time.Now()); err != nil {
			return err
		}
		select {
		case answer, open := <-answers:
			if !open {
				return errors.New("the other end has closed it")
			}
			if err := c.answered(answer); err != nil {
				return err
			}
		case <-l.wake:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readAnswers posts what comes, until the connection ends or nobody wants it any more.
func readAnswers(conn net.Conn, answers chan<- byte, unread <-chan struct{}) {
	defer close(answers)
	var one [1]byte
	for {
		if _, err := conn.Read(one[:]); err != nil {
			return
		}
		select {
		case answers <- one[0]:
		case <-unread:
			return
		}
	}
}

// tell sends what is due: certificates that this connection has not carried, and a sign that it is watched.
func (c *conversation) tell(now time.Time) error {
	if len(c.waiting) > 0 && now.Sub(c.waiting[0].at) > answerTime {
		return fmt.Errorf("no answer within %s", answerTime)
	}
	a := c.book.account(c.peer.Name)
	for _, incarnation := range a.owed {
		if c.told[incarnation] {
			continue
		}
		c.told[incarnation] = true
		if err := c.send(Report{Version: protocolVersion, Kind: KindExit, Node: a.node, Incarnation: incarnation}, sent{incarnation, now}); err != nil {
			return err
		}
	}
	if c.latest.IsZero() || a.current != c.watched || len(c.waiting) == 0 && now.Sub(c.latest) >= watchInterval {
		c.watched = a.current
		return c.send(Report{Version: protocolVersion, Kind: KindWatch, Node: a.node, Incarnation: a.current}, sent{0, now})
	}
	return nil
}

func (c *conversation) send(r Report, s sent) error {
	if err := c.conn.SetWriteDeadline(s.at.Add(answerTime)); err != nil {
		return err
	}
	c.latest = s.at
	c.waiting = append(c.waiting, s)
	return writeFrame(c.conn, r, maxReportBytes)
}

// answered notes the answer to the oldest report that has none.
func (c *conversation) answered(answer byte) error {
	if answer != reportTaken || len(c.waiting) == 0 {
		return fmt.Errorf("%w: answer %d to %d reports", ErrFrame, answer, len(c.waiting))
	}
	incarnation := c.waiting[0].incarnation
	c.waiting = c.waiting[1:]
	if incarnation != 0 {
		took := c.book.taken(c.peer.Name, incarnation)
		c.log.Info("certificate taken", "incarnation", incarnation, "took", took)
	}
	return nil
}
