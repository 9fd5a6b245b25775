package sim

import "fmt"

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
