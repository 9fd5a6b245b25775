package sim

import (
	"context"
	"time"
)

// disturb lets faults happen for as long as the plan says.
func (w *world) disturb() {
	end := time.Now().Add(w.plan.Length)
	for time.Now().Before(end) {
		pause(nil, time.Duration(w.random.IntN(1500))*time.Millisecond)
		w.look()
		w.fault()
	}
}

// fault makes one thing go wrong, or lets one recover.
func (w *world) fault() {
	m := w.machines[w.random.IntN(len(w.machines))]
	other := w.machines[w.random.IntN(len(w.machines))]
	data := w.data()[w.random.IntN(len(w.data()))]
	switch n := w.random.IntN(100); {
	case n < 18:
		w.killProcess(data)
		w.reviveLater(data)
	case n < 22:
		w.killProcess(m)
		w.reviveLater(m)
	case n < 34:
		w.losePower(data)
		w.reviveLater(data)
	case n < 39:
		w.counts.Blackouts++
		for _, each := range w.machines {
			w.losePower(each)
			w.reviveLater(each)
		}
	case n < 43:
		for _, each := range w.machines {
			w.killProcess(each)
			w.reviveLater(each)
		}
	case n < 60 && m != other:
		w.cut(m.name, other.name)
	case n < 66:
		w.isolate(m.name)
	case n < 74:
		w.network.healAll()
	case n < 82 && m != other:
		w.counts.Resets++
		w.log.Info("FAULT reset", "a", m.name, "b", other.name)
		w.network.reset(m.name, other.name)
	case n < 92:
		w.diskFault(data)
	default:
		w.stopOrderly(data)
	}
}

// cut stops one direction or both between two machines, for a while.
func (w *world) cut(a, b string) {
	w.counts.Cuts++
	both := w.random.IntN(2) == 0
	w.log.Info("FAULT cut", "from", a, "to", b, "both", both)
	w.network.setCut(direction{a, b}, true)
	if both {
		w.network.setCut(direction{b, a}, true)
	}
	w.later(time.Duration(w.random.IntN(6000))*time.Millisecond, func() {
		w.network.setCut(direction{a, b}, false)
		w.network.setCut(direction{b, a}, false)
	})
}

func (w *world) isolate(name string) {
	w.counts.Cuts++
	w.log.Info("FAULT isolate", "node", name)
	for _, m := range w.machines {
		if m.name != name {
			w.network.setCut(direction{m.name, name}, true)
			w.network.setCut(direction{name, m.name}, true)
		}
	}
	w.later(time.Duration(w.random.IntN(8000))*time.Millisecond, w.network.healAll)
}

// later runs f beside the rest, unless peace has come before.
func (w *world) later(delay time.Duration, f func()) {
	w.processes.Go(func() {
		pause(nil, delay)
		if !w.stopped.Load() {
			f()
		}
	})
}

func (w *world) killProcess(m *machine) {
	if m.process.dead() {
		return
	}
	w.counts.Kills++
	w.log.Info("FAULT kill", "node", m.name)
	m.process.kill()
	w.network.loseProcess(m.name)
}

// losePower takes a machine's power: processes, page cache, connections.
func (w *world) losePower(m *machine) {
	w.look()
	w.counts.PowerLosses++
	m.process.kill()
	w.network.losePower(m.name)
	lost := 0
	if m.data != nil {
		lost = m.data.losePower() + m.meta.losePower()
	}
	m.boots++
	at := w.history.now()
	w.mu.Lock()
	if w.newest != nil {
		w.lostAt[m.name], w.lossTime[m.name] = w.newest.Generation, at
	}
	w.noteLossLocked()
	w.mu.Unlock()
	w.log.Info("FAULT power", "node", m.name, "writes", lost, "at", at)
}

// reviveLater starts a machine's process again, after a while.
func (w *world) reviveLater(m *machine) {
	w.later(time.Duration(w.random.IntN(5000))*time.Millisecond, func() { w.revive(m) })
}

// revive starts the process of a machine if it has none.
func (w *world) revive(m *machine) {
	w.starting <- struct{}{}
	defer func() { <-w.starting }()
	if old := m.process; old.ctx.Err() != nil {
		<-old.gone // the port and the disks are free
		w.network.restorePower(m.name)
		w.launch(m)
	}
}

// stopOrderly is SIGTERM.
func (w *world) stopOrderly(m *machine) {
	w.counts.Demands++
	w.log.Info("FAULT stop", "node", m.name)
	m.process.cancel()
	w.reviveLater(m)
}

// diskFault makes a disk slow, stuck, or faulty, if another replica is in sync.
func (w *world) diskFault(m *machine) {
	r := w.look()
	if r == nil || len(r.InSync) < 2 || w.faulty != "" && w.faulty != m.name {
		return
	}
	w.counts.DiskFaults++
	w.faulty = m.name
	w.log.Info("FAULT disk", "node", m.name)
	heal := func() { m.data.heal(); m.meta.heal() }
	switch d := []*disk{m.data, m.meta}[w.random.IntN(2)]; w.random.IntN(6) {
	case 0, 1:
		d.setSlow(time.Duration(w.random.IntN(300)) * time.Millisecond)
	case 2, 3:
		d.setStuck()
	default:
		d.setFailing(operation(1 + w.random.IntN(7)))
	}
	w.later(time.Duration(w.random.IntN(4000))*time.Millisecond, func() {
		heal()
		if w.random.IntN(2) == 0 { // whoever lost its disk gets it back with the next start
			w.killProcess(m)
			w.reviveLater(m)
		}
	})
}

// operate is the operator: when nobody is Primary somebody is made Primary.
func (w *world) operate(ctx context.Context) {
	for ctx.Err() == nil {
		pause(nil, time.Duration(100+w.operator.IntN(900))*time.Millisecond)
		if r := w.look(); r == nil || w.primaryLives() && w.operator.IntN(40) > 0 {
			continue
		}
		m := w.data()[w.operator.IntN(len(w.data()))]
		replica := m.process.replica()
		if replica == nil || m.process.dead() {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, 3*time.Second)
		if err := replica.Promote(limit); err == nil {
			w.mu.Lock()
			w.counts.Promotions++
			w.mu.Unlock()
		} else {
			w.log.Info("promote", "node", m.name, "error", err)
		}
		cancel()
	}
}

// primaryLives says whether the recorded Primary is a living process that is still itself.
func (w *world) primaryLives() bool {
	r := w.look()
	if r == nil || r.Primary == "" {
		return false
	}
	p := w.machine(r.Primary).process
	return !p.dead() && p.ctx.Err() == nil && p.incarnation == r.PrimaryIncarnation
}
