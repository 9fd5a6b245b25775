package nbd

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
)

func testLedger(r *reserve) *ledger {
	return newLedger(r, Config{ReservedBytes: 10, ConnectionBytes: 100})
}

// The reserve is given out in order of arrival: a small claim does not overtake a large one that waits.
func TestReserveIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reserve{freeBytes: 100}
		holder, large, small := testLedger(r), testLedger(r), testLedger(r)
		held, ok := holder.tryCharge(60)
		if !ok {
			t.Fatal("nothing to begin with")
		}
		order, release := make(chan string, 2), make(chan struct{})
		wait := func(name string, l *ledger, bytes int64) {
			c, ok := l.awaitCharge(bytes, nil)
			if !ok {
				t.Error(name)
			}
			order <- name
			<-release
			l.refund(c)
		}
		go wait("large", large, 90)
		synctest.Wait()
		if _, ok := small.tryCharge(20); ok {
			t.Error("overtook the large claim at once")
		}
		go wait("small", small, 20)
		synctest.Wait()
		if len(order) != 0 {
			t.Errorf("%s was served while the large claim waits", <-order)
		}
		holder.refund(held)
		synctest.Wait()
		if first := <-order; first != "large" || len(order) != 0 {
			t.Errorf("%s was served first, and %d more", first, len(order))
		}
		close(release)
		synctest.Wait()
		if r.freeBytes != 100 || r.contended() {
			t.Errorf("%d bytes free", r.freeBytes)
		}
	})
}

// Who gives up waiting takes nothing with it, and lets those behind it pass.
func TestGivingUpReturnsTheClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reserve{freeBytes: 100}
		holder, leaving, staying := testLedger(r), testLedger(r), testLedger(r)
		held, _ := holder.tryCharge(60)
		stop := make(chan struct{})
		go func() {
			if _, ok := leaving.awaitCharge(90, stop); ok {
				t.Error("was served")
			}
		}()
		synctest.Wait()
		served := make(chan charge, 1)
		go func() {
			c, _ := staying.awaitCharge(40, nil)
			served <- c
		}()
		synctest.Wait()
		close(stop)
		staying.refund(<-served)
		holder.refund(held)
		if r.freeBytes != 100 || r.contended() {
			t.Errorf("%d bytes free", r.freeBytes)
		}
	})
}

// A refund of the connection's own share wakes a reader that waits for the reserve.
func TestOwnShareServesWhoWaitsForTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reserve{}
		l := testLedger(r)
		own, _ := l.tryCharge(10)
		served := make(chan charge, 1)
		go func() {
			c, _ := l.awaitCharge(5, nil)
			served <- c
		}()
		synctest.Wait()
		l.refund(own)
		if c := <-served; c.ownBytes != 5 || r.contended() {
			t.Errorf("%+v, contended %v", c, r.contended())
		}
	})
}

// Many connections at random: never more than there is, and all of it back in the end.
func TestLedgersTogether(t *testing.T) {
	r := &reserve{freeBytes: 200}
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, 0))
			l := testLedger(r)
			var held []charge
			for range 2000 {
				if bytes := 1 + random.Int64N(60); l.heldBytes()+bytes <= 10 || len(held) == 0 {
					if c, ok := l.awaitCharge(bytes, nil); ok {
						held = append(held, c)
					}
					continue
				}
				l.refund(held[0])
				held = held[1:]
			}
			for _, c := range held {
				l.refund(c)
			}
			if l.heldBytes() != 0 {
				t.Errorf("%d bytes held", l.heldBytes())
			}
		})
	}
	wg.Wait()
	if r.freeBytes != 200 || r.contended() {
		t.Errorf("%d bytes free", r.freeBytes)
	}
}

func TestBufferClasses(t *testing.T) {
	var p buffers
	for _, c := range []struct {
		n     uint32
		class int
	}{{0, 0}, {1, 0}, {4096, 0}, {4097, 1}, {8192, 1}, {8193, 2}, {1 << 20, 8}, {1<<20 + 1, 9}, {maxBufferBytes, bufferClasses - 1}} {
		b := p.lend(c.n)
		if b.class != c.class || len(b.data) < int(c.n) || misalignment(b.data) != 0 || int64(len(b.data)) != classBytes(c.class) {
			t.Errorf("%d bytes: class %d with %d bytes, misaligned by %d", c.n, b.class, len(b.data), misalignment(b.data))
		}
		p.giveBack(b)
	}
}
