package replication

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
)

// wiring is the connections of a testCluster. Each frame is shown to watch before it is sent.
type wiring struct {
	mu   sync.Mutex
	open []*line
	// watch is called by whoever sends, and may keep it waiting, but no longer than until gone is closed. With cut, the frame
	// is not sent, and all connections between the two nodes end.
	watch func(f lineFrame) (cut bool)
}

// lineFrame is a frame on its way.
type lineFrame struct {
	Header
	from, to string
	gone     <-chan struct{} // closed when its connection ends
}

// line is one end of a connection: what from writes to it, to reads at the other end.
type line struct {
	net.Conn
	wiring   *wiring
	from, to string
	head     []byte
	left     int // of the payload
	gone     chan struct{}
	once     *sync.Once // both ends'
	writes   sync.Mutex // a refusal may come beside an answer
}

// between is a connection of two nodes, under watch.
func (l *wiring) between(dialler, acceptor string) (nearEnd, farEnd net.Conn) {
	near, far := net.Pipe()
	gone, once := make(chan struct{}), &sync.Once{}
	a := &line{Conn: near, wiring: l, from: dialler, to: acceptor, gone: gone, once: once}
	b := &line{Conn: far, wiring: l, from: acceptor, to: dialler, gone: gone, once: once}
	l.mu.Lock()
	l.open = slices.DeleteFunc(l.open, (*line).ended)
	l.open = append(l.open, a, b)
	l.mu.Unlock()
	return a, b
}

// show makes watch see every frame from now on.
func (l *wiring) show(watch func(f lineFrame) (cut bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch = watch
}

func (l *wiring) sees(f lineFrame) (cut bool) {
	l.mu.Lock()
	watch := l.watch
	l.mu.Unlock()
	return watch != nil && watch(f)
}

// cut ends all connections between two nodes; "" stands for any.
func (l *wiring) cut(a, b string) {
	l.mu.Lock()
	open := slices.Clone(l.open)
	l.mu.Unlock()
	fits := func(pattern, name string) bool { return pattern == "" || pattern == name }
	for _, each := range open {
		if fits(a, each.from) && fits(b, each.to) || fits(b, each.from) && fits(a, each.to) {
			if err := each.end(); err != nil {
				panic(err) // a pipe always closes
			}
		}
	}
}

func (l *line) ended() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// end ends the connection.
func (l *line) end() error {
	l.once.Do(func() { close(l.gone) })
	return l.Conn.Close()
}

// Close implements net.Conn.
func (l *line) Close() error { return l.end() }

// Write passes on what comes before a frame that is cut.
func (l *line) Write(p []byte) (int, error) {
	l.writes.Lock()
	defer l.writes.Unlock()
	sent := 0
	for at := 0; at < len(p); {
		if l.left > 0 {
			step := min(l.left, len(p)-at)
			l.left, at = l.left-step, at+step
			continue
		}
		begin := at
		step := min(HeaderBytes-len(l.head), len(p)-at)
		l.head = append(l.head, p[at:at+step]...)
		at += step
		if len(l.head) < HeaderBytes {
			continue
		}
		f := lineFrame{Header: headerOf(l.head), from: l.from, to: l.to, gone: l.gone}
		l.left, l.head = int(f.PayloadLength), l.head[:0]
		n, err := l.Conn.Write(p[sent:begin]) // what is before it is under way, whatever becomes of it
		if sent += n; err != nil {
			return sent, err
		}
		if l.wiring.sees(f) {
			l.wiring.cut(l.from, l.to)
			return sent, io.ErrClosedPipe
		}
	}
	n, err := l.Conn.Write(p[sent:])
	return sent + n, err
}

// headerOf takes from a header what tests look at.
func headerOf(p []byte) Header {
	return Header{Type: FrameType(binary.LittleEndian.Uint16(p[4:])), PayloadLength: binary.LittleEndian.Uint32(p[12:]),
		Seq: binary.LittleEndian.Uint64(p[16:]), Generation: binary.LittleEndian.Uint64(p[24:]),
		Offset: binary.LittleEndian.Uint64(p[32:]), Length: binary.LittleEndian.Uint64(p[40:])}
}
