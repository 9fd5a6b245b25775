package sim

import (
	"fmt"
	"time"
)

// left says what processes that ended still hold.
func (w *world) left() string {
	text := ""
	for _, p := range w.launched {
		r := p.replica()
		if r == nil {
			continue
		}
		if left := r.Volume().Left(); left != "" {
			text += fmt.Sprintf("%s %d: %s\n", p.machine.name, p.incarnation, left)
		}
	}
	return text
}

// checkNothingHeld: a replica at rest holds nothing that grows with the load.
func (w *world) checkNothingHeld() {
	held := ""
	atRest := w.wait(10*time.Second, func() bool {
		held = ""
		for _, m := range w.data() {
			if r := m.current().replica(); r != nil && !m.current().dead() {
				if of := r.Held(); of != "" {
					held += fmt.Sprintf("%s.%d: %s; ", m.name, m.current().incarnation, of)
				}
			}
		}
		return held == ""
	})
	if !atRest {
		w.problem("replicas at rest hold %s", held)
	}
}
