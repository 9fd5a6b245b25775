package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeBook is a ledger for one link, and what its attempts to connect get.
type fakeBook struct {
	mu     sync.Mutex
	ledger *ledger
	ends   chan net.Conn // one per attempt; nil: it fails
	tries  []time.Time
}

func (b *fakeBook) connect(ctx context.Context, _ Peer) (net.Conn, error) {
	b.mu.Lock()
	b.tries = append(b.tries, time.Now())
	b.mu.Unlock()
	select {
	case end := <-b.ends:
		if end == nil {
			return nil, errors.New("nobody there")
		}
		return end, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *fakeBook) account(peer string) account {
	b.mu.Lock()
	defer b.mu.Unlock()
	return account{node: "n1", current: b.ledger.current(), owed: b.ledger.owed(peer)}
}

func (b *fakeBook) taken(peer string, incarnation uint64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ledger.taken(peer, incarnation, time.Now())
}

// startLink starts a link in the bubble; incarnation 7 runs.
func startLink(t *testing.T) (*fakeBook, *link, func()) {
	t.Helper()
	b := &fakeBook{ledger: newLedger(time.Now()), ends: make(chan net.Conn, 100)}
	b.ledger.setPeers([]string{"n2"})
	b.ledger.run(t, 7)
	ctx, cancel := context.WithCancel(t.Context())
	l := &link{peer: Peer{Name: "n2"}, book: b, log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), cancel: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx)
	}()
	return b, l, func() {
		cancel()
		<-done
	}
}

// exit has the process end.
func (b *fakeBook) exit(l *link, incarnation uint64) {
	b.mu.Lock()
	b.ledger.exited(incarnation, time.Now())
	b.mu.Unlock()
	l.wake <- struct{}{}
}

func (b *fakeBook) owes() int { return len(b.account("n2").owed) }

// accept lets the next attempt to connect succeed, and returns the other end.
func (b *fakeBook) accept() net.Conn {
	near, far := net.Pipe()
	b.ends <- near
	return far
}

// hear reads a report that has to come within a moment.
func hear(t *testing.T, conn net.Conn) Report {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	report, err := readReport(conn)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func take(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte{reportTaken}); err != nil {
		t.Fatal(err)
	}
}

func TestLinkCertifiesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l, end := startLink(t)
		defer end()
		conn := b.accept()
		if r := hear(t, conn); r != (Report{1, KindWatch, "n1", 7}) {
			t.Errorf("begins with %+v", r)
		}
		// The answer is still due when the process ends: the certificate does not wait for it.
		begin := time.Now()
		b.exit(l, 7)
		if r := hear(t, conn); r != (Report{1, KindExit, "n1", 7}) || time.Since(begin) != 0 {
			t.Errorf("%+v after %v", r, time.Since(begin))
		}
		if r := hear(t, conn); r != (Report{1, KindWatch, "n1", 0}) {
			t.Errorf("then %+v", r)
		}
		take(t, conn)
		synctest.Wait()
		if b.owes() != 1 {
			t.Error("the answer to another report was taken for that to the certificate")
		}
		take(t, conn)
		synctest.Wait()
		if b.owes() != 0 {
			t.Error("the answer was not noted")
		}
		take(t, conn)
		if r := hear(t, conn); r.Kind != KindWatch || time.Since(begin) < watchInterval {
			t.Errorf("%+v after %v", r, time.Since(begin))
		}
	})
}

func TestLinkReplacesADeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l, end := startLink(t)
		defer end()
		first := b.accept()
		hear(t, first)
		take(t, first)
		b.exit(l, 7)
		hear(t, first) // and no answer
		begin := time.Now()
		second := b.accept()
		if r := hear(t, second); r != (Report{1, KindExit, "n1", 7}) {
			t.Errorf("%+v", r)
		}
		if late := time.Since(begin); late < answerTime || late > answerTime+time.Second {
			t.Errorf("after %v", late)
		}
		if _, err := readReport(first); err == nil {
			t.Error("the former connection is used")
		}
	})
}

func TestLinkGivesUpOnNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, end := startLink(t)
		defer end()
		conn := b.accept()
		hear(t, conn)
		if _, err := conn.Write([]byte{0xff}); err != nil {
			t.Fatal(err)
		}
		if _, err := readReport(conn); err == nil {
			t.Error("it goes on")
		}
		hear(t, b.accept())
	})
}

func TestLinkBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l, end := startLink(t)
		defer end()
		for range 9 {
			b.ends <- nil
		}
		time.Sleep(time.Minute) // of virtual time; the tenth attempt waits
		b.mu.Lock()
		var pauses []time.Duration
		for i := 1; i < len(b.tries); i++ {
			pauses = append(pauses, b.tries[i].Sub(b.tries[i-1]))
		}
		b.mu.Unlock()
		const ms = time.Millisecond
		if want := []time.Duration{50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms, 2000 * ms}; !slices.Equal(pauses, want) {
			t.Errorf("pauses %v, want %v", pauses, want)
		}
		b.ends <- nil
		synctest.Wait() // it pauses now, for two seconds
		begin := time.Now()
		b.exit(l, 7)
		if r := hear(t, b.accept()); r.Kind != KindExit || time.Since(begin) != 0 {
			t.Errorf("%+v after %v", r, time.Since(begin))
		}
	})
}
