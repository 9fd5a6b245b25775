package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"duet/nbd/nbdclient"
)

// hotBlocks are those that clients touch: few, so that they meet, and spread over all extents.
var hotBlocks = []int64{0, 1, 7, 1023, 1024, 2500, 3073, 4100, 5200, 6300, 7400, 8500, 9600, 10700, 11800, 12900, 14000, 15100, 16383}

// patience is how long clients wait for an answer before they look for another server.
var patience = []time.Duration{300 * time.Millisecond, time.Second, 5 * time.Second}

// client is an application: it goes to whoever is Primary, and does one thing after the other.
type client struct {
	world   *world
	name    string
	random  *rand.Rand
	process *process // of the machine it runs on: none, but it has a name in the network
	nbd     *nbdclient.Client
	server  *process
}

func (w *world) newClient(i int) *client {
	name := fmt.Sprintf("client-%d", i)
	ctx, cancel := context.WithCancel(context.Background())
	return &client{world: w, name: name, random: rand.New(rand.NewPCG(w.plan.Seed, 100+uint64(i))),
		process: &process{world: w, machine: &machine{name: name}, killed: make(chan struct{}), ctx: ctx, cancel: cancel}}
}

// run goes on until the faults end.
func (c *client) run() {
	for !c.world.stopped.Load() {
		if c.connect() {
			c.step()
		}
	}
	c.disconnect()
}

// connect finds the Primary, and reports whether there is a connection.
func (c *client) connect() bool {
	if c.nbd != nil && c.nbd.Err() == nil {
		return true
	}
	c.disconnect()
	data := c.world.data()
	first := c.random.IntN(len(data)) // who was Primary before may still be found
	for i := range data {
		m := data[(first+i)%len(data)]
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		server := m.current()
		conn, err := c.world.network.dial(ctx, c.process, m.name, portNBD)
		if err == nil {
			if c.nbd, err = nbdclient.New(ctx, conn, nbdclient.Config{Export: resourceName, HandshakeTimeout: time.Second}); err == nil {
				c.server = server
				cancel()
				return true
			}
			c.nbd = nil
		}
		cancel()
	}
	pause(nil, time.Duration(20+c.random.IntN(50))*time.Millisecond)
	return false
}

func (c *client) disconnect() {
	if c.nbd != nil {
		if err := c.nbd.Close(); err != nil {
			c.world.log.Debug("close", "client", c.name, "error", err)
		}
		c.nbd = nil
	}
}

// step does one random thing.
func (c *client) step() {
	ctx, cancel := context.WithTimeout(context.Background(), patience[c.random.IntN(len(patience))])
	defer cancel()
	block := hotBlocks[c.random.IntN(len(hotBlocks))]
	if c.random.IntN(3) == 0 { // one that hardly anybody writes again: what becomes of it is seen in the end
		block = c.random.Int64N(deviceBytes / pageBytes)
	}
	if blocks := int64(c.nbd.SizeBytes() / pageBytes); blocks > deviceBytes/pageBytes && c.random.IntN(4) == 0 { // what it has grown by
		block = deviceBytes/pageBytes + c.random.Int64N(blocks-deviceBytes/pageBytes)
	}
	switch n := c.random.IntN(100); {
	case n < 50:
		c.write(ctx, block, n < 5)
	case n < 58:
		c.zero(ctx, block, n < 54)
	case n < 88:
		c.readBlock(ctx, block)
	default:
		c.flush(ctx)
	}
	if c.random.IntN(3) == 0 {
		pause(nil, time.Duration(c.random.IntN(20))*time.Millisecond)
	}
}

// write writes one block, or two.
func (c *client) write(ctx context.Context, block int64, fua bool) {
	blocks := int64(1)
	if c.random.IntN(4) == 0 && block+1 < deviceBytes/pageBytes {
		blocks = 2
	}
	p := make([]byte, blocks*pageBytes)
	var events []*event
	for i := range blocks {
		e := &event{kind: kindWrite, block: block + i, value: c.world.history.newValue(), durable: fua, server: c.asked()}
		fill(p[i*pageBytes:(i+1)*pageBytes], e.block, e.value)
		events = append(events, e)
	}
	c.world.history.begin(events...)
	err := c.nbd.Do(ctx, nbdclient.Request{Op: nbdclient.Write, OffsetBytes: uint64(block * pageBytes), Data: p, FUA: fua})
	if c.answered(err) {
		c.world.history.end(events...)
		c.world.count(func(n *Counts) { n.Writes++ })
	}
}

// zero trims a block, or writes zeroes.
func (c *client) zero(ctx context.Context, block int64, trim bool) {
	e := &event{kind: kindWrite, block: block, server: c.asked()}
	op := nbdclient.Zero
	if trim {
		op = nbdclient.Trim
	}
	c.world.history.begin(e)
	err := c.nbd.Do(ctx, nbdclient.Request{Op: op, OffsetBytes: uint64(block * pageBytes), LengthBytes: pageBytes})
	if c.answered(err) {
		c.world.history.end(e)
		c.world.count(func(n *Counts) { n.Writes++ })
	}
}

func (c *client) flush(ctx context.Context) {
	e := &event{kind: kindFlush, server: c.asked()}
	c.world.history.begin(e)
	if c.answered(c.nbd.Flush(ctx)) {
		c.world.history.end(e)
		c.world.count(func(n *Counts) { n.Flushes++ })
	}
}

// readBlock reads a block, and reports whether it was answered.
func (c *client) readBlock(ctx context.Context, block int64) bool {
	e := &event{kind: kindRead, block: block, server: c.asked()}
	p := make([]byte, pageBytes)
	c.world.history.begin(e)
	err := c.nbd.Read(ctx, p, uint64(block*pageBytes))
	if !c.answered(err) {
		return false
	}
	if e.sectors, err = values(p, block); err != nil {
		c.world.problem("%s: %w", c.server.machine.name, err)
	}
	c.world.history.end(e)
	c.world.count(func(n *Counts) { n.Reads++ })
	return true
}

// asked says whom the client asks now.
func (c *client) asked() string {
	return fmt.Sprintf("%s.%d at %v", c.server.machine.name, c.server.incarnation, time.Since(c.world.began))
}

// answered reports whether the request was done. After an error its outcome is unknown.
func (c *client) answered(err error) bool {
	if err == nil {
		return true
	}
	if errors.Is(err, context.DeadlineExceeded) {
		c.disconnect()
	}
	return false
}

// readAll reads everything that anybody may have written, however long it takes.
func (c *client) readAll() {
	for _, block := range hotBlocks {
		for _, b := range []int64{block, block + 1} {
			if b >= deviceBytes/pageBytes {
				continue
			}
			read := c.world.wait(time.Minute, func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				return c.connect() && c.readBlock(ctx, b)
			})
			if !read {
				c.world.problem("block %d can't be read after the end: %s", b, c.world.describe())
				return
			}
		}
	}
	c.disconnect()
}
