package node

import (
	"errors"
	"io"
	"net"
	"testing"
)

func TestExitDesk(t *testing.T) {
	d := newExitDesk()
	former, other := net.Pipe()
	later, _ := net.Pipe()
	for _, conn := range []net.Conn{former, later} {
		if err := d.enter("n1", conn); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the former connection of the node is still open: %v", err)
	}
	if d.leave("n1", former) {
		t.Error("the end of the former connection was taken for that of the newest")
	}
	if !d.leave("n1", later) || d.leave("n1", later) {
		t.Error("the end of the newest connection was not noted, or twice")
	}
	for i, c := range []struct {
		name        string
		incarnation uint64
		news        bool
	}{
		{"n1", 7, true}, {"n1", 7, false}, {"n1", 6, false}, {"n2", 6, true}, {"n1", 8, true},
	} {
		if got := d.isNews(c.name, c.incarnation); got != c.news {
			t.Errorf("%d: incarnation %d of %s is news: %v", i, c.incarnation, c.name, got)
		}
	}
}
