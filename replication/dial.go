package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"time"
)

// dialPace spaces the attempts to connect. A few sessions may follow each other at once: a change of the generation ends
// one, and the next begins anew. After these the pauses grow, also when each attempt succeeds.
type dialPace struct {
	timing    *Timing
	backoff   time.Duration // after the last attempt that failed
	rest      time.Duration // after the last one that succeeded
	brief     int           // sessions in a row that ended at once
	connected time.Time
}

// briefAtOnce is how many sessions that end at once follow each other without a pause.
const briefAtOnce = 4

// next is the pause after an attempt: at least rest, and limit unless something happens.
func (p *dialPace) next(now time.Time, connected bool) (rest, limit time.Duration) {
	if !connected {
		p.backoff = min(max(2*p.backoff, p.timing.RetryMin), p.timing.RetryMax)
		return 0, p.backoff
	}
	if now.Sub(p.connected) > p.rest+p.timing.RetryMin {
		p.brief, p.rest = 0, 0
	}
	p.connected, p.backoff = now, 0
	if p.brief++; p.brief >= briefAtOnce {
		p.rest = min(max(2*p.rest, p.timing.RetryMin), p.timing.RetryMax)
	}
	return p.rest, max(p.rest, p.timing.RetryMin)
}

// dialLoop owns the attempts to connect; a lost session or Connect wakes it, else the back-off; Close, or the end of the
// replica, ends it.
func (l *link) dialLoop() {
	r := l.resource
	pace := dialPace{timing: &r.cfg.Timing}
	for {
		rest, limit := time.Duration(0), r.cfg.Timing.RetryMin
		var mine hello
		want := false
		if r.call(r.ctx, func() {
			if want = l.session == nil && !l.gone && !l.standAlone && !l.lost && !r.closing && !r.holding && !r.changing(); want {
				mine = r.helloTo(l)
			}
		}) != nil {
			return
		}
		if want {
			err := l.dial(mine)
			if err != nil {
				r.log.Debug("connect", "peer", l.node, "error", err)
				r.post(func() { l.reason = err.Error() })
			}
			rest, limit = pace.next(time.Now(), err == nil)
		}
		if !l.rest(rest, nil) || !l.rest(limit-rest, l.wake) {
			return
		}
	}
}

// rest waits, at most until it is woken, and reports whether the link goes on.
func (l *link) rest(d time.Duration, wake <-chan struct{}) bool {
	r := l.resource
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.ctx.Done():
		return false
	case <-l.ended:
		return false
	case <-wake:
	case <-timer.C:
	}
	return r.ctx.Err() == nil
}

// dial opens both connections of a session.
func (l *link) dial(mine hello) error {
	r := l.resource
	ctx, cancel := context.WithTimeout(r.ctx, handshakeLimit)
	defer cancel()
	if _, err := rand.Read(mine.SessionID[:]); err != nil {
		return err
	}
	mine.Kind = dataConnection
	data, theirs, err := l.dialOne(ctx, &mine)
	if err != nil {
		return err
	}
	mine.Kind = ackConnection
	ack, _, err := l.dialOne(ctx, &mine)
	if err != nil {
		return errors.Join(err, data.Close())
	}
	r.post(func() { l.install(&mine, theirs, data, ack) })
	return nil
}

func (l *link) dialOne(ctx context.Context, mine *hello) (net.Conn, hello, error) {
	conn, err := l.resource.cfg.Dial(ctx, l.node)
	if err != nil {
		return nil, hello{}, err
	}
	theirs, err := greet(conn, mine)
	if err == nil {
		err = l.resource.checkHello(&theirs)
	}
	if err != nil {
		return nil, hello{}, errors.Join(err, conn.Close())
	}
	return conn, theirs, nil
}
