package sim

import (
	"context"
	"syscall"
	"time"

	"duet/replication"
)

// disturb lets happen what the plan says, except for what it skips. It ends soon after the last.
func (w *world) disturb() {
	all := schedule(w.plan.Seed, w.plan.Length)
	for len(all) > 0 && w.plan.Skip[len(all)-1] {
		all = all[:len(all)-1]
	}
	for _, s := range all {
		pause(nil, s.after)
		if w.plan.Skip[s.number] {
			continue
		}
		w.look()
		w.log.Info("TROUBLE", "number", s.number)
		if s.must == mustNothing {
			w.fault(s)
		} else {
			w.insist(s)
		}
	}
	if len(w.plan.Skip) > 0 {
		pause(nil, 2*time.Second)
	}
}

// fault makes one thing go wrong, or lets one recover.
func (w *world) fault(s *trouble) {
	m := w.machines[s.draw(len(w.machines))]
	other := w.machines[s.draw(len(w.machines))]
	data := w.data()[s.draw(len(w.data()))]
	switch n := s.draw(100); {
	case n < 10:
		w.killProcess(data)
		w.reviveLater(s, data)
	case n < 18:
		w.ambush(s, data)
	case n < 22:
		w.killProcess(m)
		w.reviveLater(s, m)
	case n < 34:
		w.losePower(data)
		w.reviveLater(s, data)
	case n < 39:
		w.count(func(n *Counts) { n.Blackouts++ })
		for _, each := range w.machines {
			w.losePower(each)
			w.reviveLater(s, each)
		}
	case n < 43:
		for _, each := range w.machines {
			w.killProcess(each)
			w.reviveLater(s, each)
		}
	case n < 60 && m != other:
		w.cut(m.name, other.name, s.draw(2) == 0, s.millis(6000))
	case n < 66:
		w.isolate(w.oftenPrimary(s, m.name), s.millis(8000))
	case n < 74:
		w.network.healAll()
	case n < 82 && m != other:
		w.count(func(n *Counts) { n.Resets++ })
		w.log.Info("FAULT reset", "a", m.name, "b", other.name)
		w.network.reset(m.name, other.name)
	case n < 92:
		w.diskFault(s, data)
	default:
		w.stopOrderly(data)
		w.reviveLater(s, data)
	}
}

// insist makes what every history must have go wrong for somebody who lives.
func (w *world) insist(s *trouble) {
	data := w.data()
	first := s.draw(len(data))
	victim := data[first]
	for i := range data {
		if m := data[(first+i)%len(data)]; m.current().ctx.Err() == nil {
			victim = m
			break
		}
	}
	switch s.must {
	case mustKill:
		w.revive(victim)
		w.killProcess(victim)
		w.reviveLater(s, victim)
	case mustLosePower:
		w.revive(victim)
		w.losePower(victim)
		w.reviveLater(s, victim)
	default:
		others := make([]*machine, 0, len(w.machines))
		for _, m := range w.machines {
			if m != victim {
				others = append(others, m)
			}
		}
		w.cut(victim.name, others[s.draw(len(others))].name, true, time.Second+s.millis(5000))
	}
}

// ambush strikes in the middle of the next resync.
func (w *world) ambush(s *trouble, m *machine) {
	power, delay, away := s.draw(2) == 0, s.millis(20), s.millis(5000)
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
		w.later(away, func() { w.revive(m) })
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
func (w *world) cut(a, b string, both bool, length time.Duration) {
	w.count(func(n *Counts) { n.Cuts++ })
	w.log.Info("FAULT cut", "from", a, "to", b, "both", both)
	w.network.setCut(direction{a, b}, true)
	if both {
		w.network.setCut(direction{b, a}, true)
	}
	w.later(length, func() {
		w.network.setCut(direction{a, b}, false)
		w.network.setCut(direction{b, a}, false)
	})
}

// oftenPrimary is the Primary every other time: to be deposed without a word is the fate that leases are for.
func (w *world) oftenPrimary(s *trouble, other string) string {
	if r := w.look(); s.draw(2) == 0 && r != nil && r.Primary != "" {
		return r.Primary
	}
	return other
}

func (w *world) isolate(name string, length time.Duration) {
	w.count(func(n *Counts) { n.Cuts++ })
	w.log.Info("FAULT isolate", "node", name)
	for _, m := range w.machines {
		if m.name != name {
			w.network.setCut(direction{m.name, name}, true)
			w.network.setCut(direction{name, m.name}, true)
		}
	}
	w.later(length, w.network.healAll)
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
	ended := m.current()
	ended.kill()
	w.network.loseProcess(m.name)
	w.certify(ended)
	w.checkMarks("after a kill of " + m.name)
}

// certify is the supervisor of a machine: in every second history it tells all nodes that it reaches that a process has ended.
func (w *world) certify(ended *process) {
	if w.plan.Seed%4 != 0 {
		return
	}
	for _, m := range w.machines {
		if p := m.current(); m != ended.machine && p != nil && !w.network.isCut(m.name, ended.machine.name) && !p.dead() {
			w.later(w.network.hop(), func() {
				if q := p.quorumNode(); q != nil {
					q.Exited(ended.machine.name, ended.incarnation)
				}
			})
		}
	}
}

// losePower takes a machine's power: processes, page cache, connections.
func (w *world) losePower(m *machine) {
	w.look()
	if w.network.isDown(m.name) {
		return
	}
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
	w.checkMarks("after the power failed at " + m.name)
}

// reviveLater starts a machine's process again, after a while.
func (w *world) reviveLater(s *trouble, m *machine) {
	w.later(s.millis(5000), func() { w.revive(m) })
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
}

// diskFault makes a disk slow, stuck, full or faulty, if another replica is in sync.
func (w *world) diskFault(s *trouble, m *machine) {
	r := w.look()
	if r == nil || len(r.InSync) < 2 || w.faulty != "" && w.faulty != m.name {
		return
	}
	w.count(func(n *Counts) { n.DiskFaults++ })
	w.faulty = m.name
	w.log.Info("FAULT disk", "node", m.name)
	switch d := []*disk{m.data, m.meta}[s.draw(2)]; s.draw(7) {
	case 0, 1:
		d.setSlow(s.millis(300))
	case 2, 3:
		d.setStuck()
	case 4:
		w.count(func(n *Counts) { n.FullDisks++ })
		d.setFailing(opWrite, syscall.ENOSPC)
	default:
		d.setFailing(operation(1+s.draw(7)), errIO)
	}
	restart, power, away := s.draw(3) > 0, s.draw(2) == 0, s.millis(5000)
	w.later(s.millis(4000), func() {
		m.data.heal()
		m.meta.heal()
		if restart { // whoever lost its disk gets it back with the next start
			if power {
				w.losePower(m)
			} else {
				w.killProcess(m)
			}
			w.later(away, func() { w.revive(m) })
			return
		}
		w.exchange(m)
	})
}

// exchange is an operator at a disk: one that was given up is attached again while the process runs, one that is in use is
// detached for a while.
func (w *world) exchange(m *machine) {
	p := m.current()
	replica := p.replica()
	if replica == nil || p.dead() {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	err := replica.Detach(ctx)
	w.log.Info("OPERATOR detach", "node", m.name, "error", err)
	pause(nil, 300*time.Millisecond)
	err = replica.AttachDisk(ctx, func() (replication.Disk, replication.MetadataFile, error) {
		return openDisk{m.data, p}, openDisk{m.meta, p}, nil
	})
	w.log.Info("OPERATOR attach", "node", m.name, "error", err)
	if err == nil {
		w.count(func(n *Counts) { n.Attached++ })
	}
}

// operate is the operator: when nobody is Primary somebody is made Primary.
func (w *world) operate(ctx context.Context) {
	for ctx.Err() == nil {
		pause(nil, time.Duration(100+w.operator.IntN(900))*time.Millisecond)
		m := w.data()[w.operator.IntN(len(w.data()))]
		if r := w.look(); r == nil || w.primaryLives() && w.operator.IntN(w.patience(m, r.Primary)) > 0 ||
			w.plan.Automatic && !r.Hold && w.operator.IntN(10) > 0 {
			continue
		}
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

// patience is how seldom a machine is promoted over a Primary that lives: more often if the two can't hear each other.
func (w *world) patience(m *machine, primary string) int {
	if w.network.isCut(m.name, primary) {
		return 2
	}
	return 40
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
