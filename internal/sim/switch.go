package sim

import (
	"context"
	"time"
)

// switchRoles is an operator who moves the Primary's role about, whatever else happens meanwhile.
func (w *world) switchRoles(ctx context.Context) {
	for ctx.Err() == nil {
		pause(nil, time.Duration(200+w.switcher.IntN(1800))*time.Millisecond)
		to := w.data()[w.switcher.IntN(len(w.data()))]
		r := w.look()
		if r == nil || !w.primaryLives() || to.name == r.Primary || to.current().dead() {
			continue
		}
		replica := w.machine(r.Primary).current().replica()
		if replica == nil {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, time.Duration(1+w.switcher.IntN(3000))*time.Millisecond)
		_, err := replica.HandOver(limit, to.name, to.current().incarnation)
		w.log.Info("OPERATOR switch", "from", r.Primary, "to", to.name, "error", err)
		if err == nil {
			w.count(func(n *Counts) { n.Switches++ })
		}
		cancel()
	}
}
