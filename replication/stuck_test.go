package replication

import (
	"log/slog"
	"sync"
	"testing"
)

// A request that meets a failed disk while the control loop settles what to do is settled too, or goes on without the disk;
// it is not kept after the last look.
func TestRequestIsNotKeptBehindTheSettling(t *testing.T) {
	v := newVolume(testDeviceBytes, 1, slog.New(slog.DiscardHandler))
	defer v.close()
	for round := range 200000 {
		v.localDead, v.local = true, nil
		done := make(waitCompletion, 1)
		r := v.getRequest(opWrite, 0, 4096)
		r.completion = done
		r.legs.Store(1)
		v.inOpen, r.epoch = 1, v.epoch
		v.stats.upperPending.Add(1)
		v.ranges.lock(&r.entry)
		var both sync.WaitGroup
		var ready sync.WaitGroup
		ready.Add(1)
		both.Go(func() { ready.Done(); v.executeLocal(r, nil) })
		ready.Wait()
		v.mu.Lock()
		stuck := v.stuckLocal
		v.stuckLocal, v.localDead = nil, false
		v.mu.Unlock()
		for _, req := range stuck {
			v.settle(req, false)
		}
		both.Wait()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("round %d: kept, with nobody left to settle it", round)
		}
	}
}
