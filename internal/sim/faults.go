package sim

import (
	"context"
	"time"
)

// draw is a random number below n.
func (w *world) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(n)
}

// disturb lets faults happen for as long as the plan says.
func (w *world) disturb() {
	end := time.Now().Add(w.plan.Length)
	for time.Now().Before(end) {
		pause(nil, time.Duration(w.draw(1500))*time.Millisecond)
		w.look()
		w.fault()
	}
}

// fault makes one thing go wrong, or lets one recover.
func (w *world) fault() {
	m := w.machines[w.draw(len(w.machines))]
	other := w.machines[w.draw(len(w.machines))]
	data := w.data()[w.draw(len(w.data()))]
	switch n := w.draw(100); {
	case n < 10:
		w.killProcess(data)
		w.reviveLater(data)
	case n < 18:
		w.ambush(data)
	case n < 22:
		w.killProcess(m)
		w.reviveLater(m)
	case n < 34:
		w.losePower(data)
		w.reviveLater(data)
	case n < 39:
		w.count(func(n *Counts) { n.Blackouts++ })
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
		w.count(func(n *Counts) { n.Resets++ })
		w.log.Info("FAULT reset", "a", m.name, "b", other.name)
		w.network.reset(m.name, other.name)
	case n < 92:
		w.diskFault(data)
	default:
		w.stopOrderly(data)
	}
}

// ambush strikes in the middle of the next resync.
func (w *world) ambush(m *machine) {
	power, delay := w.draw(2) == 0, time.Duration(w.draw(20))*time.Millisecond
	w.processes.Go(func() {
		if !w.wait(5*time.Second, func() bool { return w.stopped.Load() || w.resyncing() }) {
			return
		}
		pause(nil, delay)
		if w.stopped.Load() {
			return
		}
		if power {
			w.losePower(m)
		} else {
			w.killProcess(m)
		}
		w.reviveLater(m)
	})
}

// resyncing says whether a resync runs anywhere.
func (w *world) resyncing() bool {
	for _, m := range w.data() {
		if replica := m.current().replica(); replica != nil && !m.current().dead() && replica.Status().Resync != nil {
			return true
		}
	}
	return false
}

// cut stops one direction or both between two machines, for a while.
func (w *world) cut(a, b string) {
	w.count(func(n *Counts) { n.Cuts++ })
	both := w.draw(2) == 0
	w.log.Info("FAULT cut", "from", a, "to", b, "both", both)
	w.network.setCut(direction{a, b}, true)
	if both {
		w.network.setCut(direction{b, a}, true)
	}
	w.later(time.Duration(w.draw(6000))*time.Millisecond, func() {
		w.network.setCut(direction{a, b}, false)
		w.network.setCut(direction{b, a}, false)
	})
}

func (w *world) isolate(name string) {
	w.count(func(n *Counts) { n.Cuts++ })
	w.log.Info("FAULT isolate", "node", name)
	for _, m := range w.machines {
		if m.name != name {
			w.network.setCut(direction{m.name, name}, true)
			w.network.setCut(direction{name, m.name}, true)
		}
	}
	w.later(time.Duration(w.draw(8000))*time.Millisecond, w.network.healAll)
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
	if m.current().dead() {
		return
	}
	w.count(func(n *Counts) { n.Kills++ })
	w.log.Info("FAULT kill", "node", m.name)
	m.current().kill()
	w.network.loseProcess(m.name)
}

// losePower takes a machine's power: processes, page cache, connections.
func (w *world) losePower(m *machine) {
	w.look()
	w.count(func(n *Counts) { n.PowerLosses++ })
	m.current().kill()
	w.network.losePower(m.name)
	lost := 0
	if m.data != nil {
		lost = m.data.losePower() + m.meta.losePower()
	}
	at := w.history.now()
	w.mu.Lock()
	m.boots.Add(1)
	w.lossTime[m.name] = at
	w.noteLossLocked()
	w.mu.Unlock()
	w.log.Info("FAULT power", "node", m.name, "writes", lost, "at", at)
}

// reviveLater starts a machine's process again, after a while.
func (w *world) reviveLater(m *machine) {
	w.later(time.Duration(w.draw(5000))*time.Millisecond, func() { w.revive(m) })
}

// revive starts the process of a machine if it has none.
func (w *world) revive(m *machine) {
	w.starting <- struct{}{}
	defer func() { <-w.starting }()
	if old := m.current(); old.ctx.Err() != nil {
		<-old.gone // the port and the disks are free
		w.network.restorePower(m.name)
		w.launch(m)
	}
}

// stopOrderly is SIGTERM.
func (w *world) stopOrderly(m *machine) {
	w.count(func(n *Counts) { n.Demands++ })
	w.log.Info("FAULT stop", "node", m.name)
	m.current().cancel()
	w.reviveLater(m)
}

// diskFault makes a disk slow, stuck, or faulty, if another replica is in sync.
func (w *world) diskFault(m *machine) {
	r := w.look()
	if r == nil || len(r.InSync) < 2 || w.faulty != "" && w.faulty != m.name {
		return
	}
	w.count(func(n *Counts) { n.DiskFaults++ })
	w.faulty = m.name
	w.log.Info("FAULT disk", "node", m.name)
	heal := func() { m.data.heal(); m.meta.heal() }
	switch d := []*disk{m.data, m.meta}[w.draw(2)]; w.draw(6) {
	case 0, 1:
		d.setSlow(time.Duration(w.draw(300)) * time.Millisecond)
	case 2, 3:
		d.setStuck()
	default:
		d.setFailing(operation(1 + w.draw(7)))
	}
	w.later(time.Duration(w.draw(4000))*time.Millisecond, func() {
		heal()
		if w.draw(2) == 0 { // whoever lost its disk gets it back with the next start
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
		replica := m.current().replica()
		if replica == nil || m.current().dead() {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, 3*time.Second)
		if err := replica.Promote(limit); err == nil {
			w.count(func(n *Counts) { n.Promotions++ })
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
	p := w.machine(r.Primary).current()
	return !p.dead() && p.ctx.Err() == nil && p.incarnation == r.PrimaryIncarnation
}
