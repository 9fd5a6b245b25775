package forgetful

import (
	"maps"
	"math/rand/v2"
	"path"
	"slices"
)

// naming gives a name to a node, or takes it away from whatever has it when node is nil.
type naming struct {
	name string
	node *node
}

// directory is the names in a directory as everybody sees them and as the disk has them. An unsynced change is a list
// of namings that are kept or lost together.
type directory struct {
	current, durable map[string]*node
	unsynced         [][]naming
}

func newDirectory() *directory {
	return &directory{current: make(map[string]*node), durable: make(map[string]*node)}
}

func (d *directory) do(change ...naming) {
	apply(d.current, change)
	d.unsynced = append(d.unsynced, change)
}

func apply(names map[string]*node, change []naming) {
	for _, c := range change {
		if c.node == nil {
			delete(names, c.name)
		} else {
			names[c.name] = c.node
		}
	}
}

// sync makes the current names durable.
func (d *directory) sync() {
	d.durable, d.unsynced = maps.Clone(d.current), nil
}

// forget makes the durable names what is found after the power cut, and those the current ones.
func (d *directory) forget(random *rand.Rand, loss *Loss) {
	draw := fatesOf(random)
	for _, change := range d.unsynced {
		loss.Names++
		// A change of names can't be torn: of three fates two are the same here.
		if draw() == kept {
			apply(d.durable, change)
		} else {
			loss.NamesLost++
		}
	}
	d.current, d.unsynced = maps.Clone(d.durable), nil
}

// unsyncedNames lists what is, or was, named differently than the disk has it, here and below.
func (d *directory) unsyncedNames(prefix string) []string {
	var names []string
	for name, n := range d.current {
		if d.durable[name] != n {
			names = append(names, path.Join(prefix, name))
		}
		if n.directory != nil {
			names = append(names, n.directory.unsyncedNames(path.Join(prefix, name))...)
		}
	}
	for name := range d.durable {
		if d.current[name] == nil {
			names = append(names, path.Join(prefix, name))
		}
	}
	slices.Sort(names)
	return names
}
