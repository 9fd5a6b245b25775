package sim

import (
	"duet/nbd"
)

// authority watches who acknowledges: in each generation at most one process, and none that was superseded before the
// write began. A Primary is superseded once another process serves in a later generation.
type authority struct {
	generation uint64 // the newest in which somebody served
	process    *process
	acted      map[uint64]*process // who acknowledged, by generation
}

// served notes that a process serves in a generation.
func (w *world) served(p *process, generation uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if generation > w.authority.generation {
		w.authority.generation, w.authority.process = generation, p
	}
}

// guardedDevice is a replica's device with that check in between.
type guardedDevice struct {
	nbd.Device
	process *process
	volume  interface{ Generation() uint64 }
	revoked <-chan struct{}
}

// Write implements nbd.Device.
func (d *guardedDevice) Write(p []byte, offset uint64, fua bool, b nbd.Batch, c nbd.Completion) {
	d.Device.Write(p, offset, fua, b, d.guard(c))
}

// Trim implements nbd.Device.
func (d *guardedDevice) Trim(offset, length uint64, fua bool, b nbd.Batch, c nbd.Completion) {
	d.Device.Trim(offset, length, fua, b, d.guard(c))
}

// Zero implements nbd.Device.
func (d *guardedDevice) Zero(offset, length uint64, fua, noHole, fast bool, b nbd.Batch, c nbd.Completion) {
	d.Device.Zero(offset, length, fua, noHole, fast, b, d.guard(c))
}

// Flush implements nbd.Device.
func (d *guardedDevice) Flush(b nbd.Batch, c nbd.Completion) { d.Device.Flush(b, d.guard(c)) }

func (d *guardedDevice) guard(c nbd.Completion) nbd.Completion {
	w := d.process.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return &guardedCompletion{Completion: c, device: d, generation: w.authority.generation, by: w.authority.process}
}

// guardedCompletion is a request under way, and who served when it began.
type guardedCompletion struct {
	nbd.Completion
	device     *guardedDevice
	generation uint64
	by         *process
}

// Complete implements nbd.Completion.
func (g *guardedCompletion) Complete(b interface {
	Defer(f interface{ Flush() })
	More() bool
}, err error) {
	if err == nil {
		g.judge()
	}
	g.Completion.Complete(b, err)
}

// judge is called when the request was done, just before the client is told.
func (g *guardedCompletion) judge() {
	p, acting := g.device.process, g.device.volume.Generation()
	select {
	case <-g.device.revoked: // no reply leaves any more
		return
	case <-p.killed: // nor of a process that is dead
		return
	default:
	}
	w := p.world
	w.mu.Lock()
	other := w.authority.acted[acting]
	if other == nil {
		w.authority.acted[acting] = p
	}
	w.mu.Unlock()
	w.served(p, acting)
	if other != nil && other != p {
		w.problem("%s.%d and %s.%d both acknowledge in generation %d", other.machine.name, other.incarnation, p.machine.name, p.incarnation, acting)
	}
	if g.by != p && g.generation > acting {
		w.problem("%s.%d acknowledges in generation %d what was asked after %s.%d served in generation %d", p.machine.name, p.incarnation, acting,
			g.by.machine.name, g.by.incarnation, g.generation)
	}
}
