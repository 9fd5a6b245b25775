package sim

import (
	"context"
	"math/rand/v2"
	"time"

	"duet/quorum"
)

const (
	// largestBytes is what the disks have room for.
	largestBytes = 4 * deviceBytes
	// meanGrowth is the mean time between two attempts to make the device larger, in the histories that have any.
	meanGrowth = 4 * time.Second
)

// growNowAndThen is an operator who makes the device larger, in one of three histories. It ends with the faults.
func (w *world) growNowAndThen() {
	random := rand.New(rand.NewPCG(w.plan.Seed, 7))
	if random.IntN(3) > 0 {
		return
	}
	for !w.stopped.Load() {
		pause(nil, time.Duration(random.IntN(2*int(meanGrowth))))
		more := uint64(1+random.IntN(8*1024)) * pageBytes
		if w.grow(more, random.IntN(3) > 0) {
			w.count(func(n *Counts) { n.Growths++ })
		}
	}
}

// grow does what internal/node does: every replica makes room, and then the quorum has the word.
func (w *world) grow(more uint64, equal bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r := w.look()
	if r == nil || r.SizeBytes+more > largestBytes {
		return false
	}
	command := quorum.GrowResource{Resource: resourceName, Generation: r.Generation, SizeBytes: r.SizeBytes + more, Equal: equal, Prepared: map[string]uint64{}}
	var proposer *process
	for _, m := range w.data() {
		p := m.current()
		replica := p.replica()
		if replica == nil || p.dead() {
			return false
		}
		room, err := replica.MakeRoom(ctx, r.SizeBytes, command.SizeBytes, false)
		if err != nil {
			w.log.Debug("make room", "node", m.name, "error", err)
			return false
		}
		command.Prepared[m.name], proposer = room.Incarnation, p
	}
	_, err := proposer.quorum.Propose(ctx, command)
	w.log.Info("grow", "to", command.SizeBytes, "equal", equal, "error", err)
	return err == nil
}
