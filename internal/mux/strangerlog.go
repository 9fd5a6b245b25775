package mux

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// strangerLines is how many lines strangers may cause per strangerWindow:
	// else filling the disk with log lines would be the cheapest attack.
	strangerLines  = 20
	strangerWindow = 10 * time.Second
)

// strangerLog logs introductions that failed, within bounds.
type strangerLog struct {
	logger *slog.Logger

	mu         sync.Mutex
	began      time.Time // of the present window
	lines      int       // in it
	suppressed int       // since the last line
}

func newStrangerLog(logger *slog.Logger) *strangerLog { return &strangerLog{logger: logger} }

// note logs a failure at level Warn, or Debug if the other end only connected
// and hung up, as port scans and health checks do.
func (l *strangerLog) note(what string, conn net.Conn, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		l.logger.Debug(what, "remote", conn.RemoteAddr(), "error", err)
		return
	}
	suppressed, ok := l.take(time.Now())
	if !ok {
		return
	}
	attributes := []any{"remote", conn.RemoteAddr(), "error", err}
	if suppressed > 0 {
		attributes = append(attributes, "suppressed", suppressed)
	}
	l.logger.Warn(what, attributes...)
}

// take asks for one line; suppressed is how many were not written before it.
func (l *strangerLog) take(now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.began) >= strangerWindow {
		l.began, l.lines = now, 0
	}
	if l.lines >= strangerLines {
		l.suppressed++
		return 0, false
	}
	l.lines++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}
