package crash

import (
	"fmt"
	"io/fs"
	"strings"
)

// Kind is what an Op does.
type Kind uint8

// The kinds of operations.
const (
	Write     Kind = iota // Data at Offset of a file
	Resize                // a file to Offset bytes
	Mode                  // a file's mode
	Attribute             // a file's attribute: Name
	Link                  // Name in a directory is Child
	Unlink                // Name is no longer in a directory
	Rename                // Name in a directory becomes To
	Sync                  // of a file or directory
	Mark                  // Name has happened; nothing on the medium changes
)

// Op is one recorded operation on the file or directory of number Object.
type Op struct {
	Kind   Kind
	Object int
	Path   string // of the object when it was done, for people; "" for regions
	Offset int64
	Data   []byte
	Name   string
	To     string
	Child  int
	Mode   fs.FileMode
}

// String describes the operation for people.
func (o Op) String() string {
	what := [...]string{"write", "resize", "mode", "attribute", "link", "unlink", "rename", "sync", "mark"}[o.Kind]
	text := fmt.Sprintf("%s #%d %s", what, o.Object, o.Path)
	switch o.Kind {
	case Write:
		text += fmt.Sprintf(" %d bytes at %d", len(o.Data), o.Offset)
	case Resize:
		text += fmt.Sprintf(" to %d", o.Offset)
	case Rename:
		text += " " + o.Name + " to " + o.To
	case Link, Unlink, Attribute, Mark:
		text += " " + o.Name
	}
	return strings.TrimSpace(text)
}

// Apply carries the operation out in full.
func (o Op) Apply(i *Image) {
	for _, u := range o.units(i) {
		u.apply(i)
	}
}

// unit is the smallest part of an operation that is lost or kept by itself.
type unit struct {
	id     int // unique in one exploration
	op     Op
	at     int64 // of a write: the offset of its sector in Data; growth for the change of the size
	sector []byte
}

// growth is the unit of a write that makes the file longer.
const growth = -1

// units splits the operation. now is the image with everything before it done.
func (o Op) units(now *Image) []unit {
	switch o.Kind {
	case Sync, Mark:
		return nil
	case Write:
		return o.writeUnits(now.objects[o.Object].content)
	}
	return []unit{{op: o}}
}

func (o Op) writeUnits(now *Content) []unit {
	var all []unit
	if o.Offset+int64(len(o.Data)) > now.size {
		all = append(all, unit{op: o, at: growth})
	}
	for at := int64(0); at < int64(len(o.Data)); {
		end := min((o.Offset+at)/SectorBytes*SectorBytes+SectorBytes-o.Offset, int64(len(o.Data)))
		all = append(all, unit{op: o, at: at, sector: o.Data[at:end]})
		at = end
	}
	return all
}

func (u *unit) apply(i *Image) {
	object := i.objects[u.op.Object]
	switch u.op.Kind {
	case Write:
		if u.at == growth {
			object.content.size = max(object.content.size, u.op.Offset+int64(len(u.op.Data)))
			return
		}
		object.content.Put(u.sector, u.op.Offset+u.at)
	case Resize:
		object.content.Resize(u.op.Offset)
	case Mode:
		object.mode = u.op.Mode
	case Attribute:
		object.attribute = u.op.Name
	case Link:
		object.entries[u.op.Name] = u.op.Child
	case Unlink:
		delete(object.entries, u.op.Name)
	case Rename:
		delete(object.entries, u.op.Name)
		object.entries[u.op.To] = u.op.Child
	}
}
