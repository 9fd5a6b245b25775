package replication

import (
	"log/slog"
	"sync"
	"testing"

	"duet/bitmap"
)

// A request that meets a failed disk while the control loop settles what to do is settled too, or goes on without the disk;
// it is not kept after the last look.
func TestRequestIsNotKeptBehindTheSettling(t *testing.T) {
	v := newVolume(testDeviceBytes, 1, slog.New(slog.DiscardHandler))
	defer v.close()
	region := &memoryDisk{p: make([]byte, bitmap.RegionBytes(testDeviceBytes, 16))}
	cfg := bitmap.Config{DeviceBytes: testDeviceBytes, ALExtents: 16}
	if err := bitmap.Format(region, cfg); err != nil {
		t.Fatal(err)
	}
	store, _, err := bitmap.Open(region, cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(false); err != nil {
			t.Error(err)
		}
	}()
	hot := make(chan error)
	store.Acquire(0, 0, func(err error) { hot <- err })
	if err := <-hot; err != nil {
		t.Fatal(err)
	}
	local := &localDisk{store: store}
	for round := range 200000 {
		store.Retain(0, 0)
		v.localDead, v.local = true, local
		done := make(waitCompletion, 1)
		r := v.getRequest(opWrite, 0, 4096)
		r.completion, r.held = done, local
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
		v.stuckLocal, v.localDead, v.local = nil, false, nil
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
