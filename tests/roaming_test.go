package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"duet/nbd/nbdclient"
)

// redialPause is how soon a client that finds nobody tries the next address.
const redialPause = time.Millisecond

// roam starts the recorder's load as clients do that follow the Primary: a connection that ends is opened again, to whichever of the
// servers takes it, and the write that has no answer is sent again. A reply with an error ends the load.
func (r *recorder) roam(t *testing.T, uris ...string) (l *load, reconnects *atomic.Int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l = &load{recorder: r, stopping: make(chan struct{}), done: make(chan struct{})}
	r.markPause()
	reconnects = new(atomic.Int64)
	failures := make(chan error, r.workers)
	for worker := range r.workers {
		c := &roamer{load: l, uris: uris, reconnects: reconnects}
		go func() { failures <- errors.Join(c.work(ctx, uint64(worker)), c.close()) }()
	}
	// This goroutine owns the end of the load: it ends when every worker has.
	go func() {
		defer close(l.done)
		for range r.workers {
			if err := <-failures; err != nil && l.err == nil {
				l.err = err
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-l.done
	})
	return l, reconnects
}

// roamer is one client.
type roamer struct {
	*load
	uris       []string
	next       int // of uris
	client     *nbdclient.Client
	reconnects *atomic.Int64
}

// work writes random blocks of this worker, one at a time, until it is asked to stop or a write is answered with an error.
func (c *roamer) work(ctx context.Context, worker uint64) error {
	own := c.blockCount / uint64(c.workers)
	p := make([]byte, blockBytes)
	for {
		block := c.firstBlock + rand.Uint64N(own)*uint64(c.workers) + worker
		number := c.send(block)
		fillBlock(p, block, number)
		for written := false; !written; {
			select {
			case <-c.stopping:
				return nil
			default:
			}
			if c.client == nil {
				if err := c.connect(ctx); err != nil {
					return err
				}
				continue
			}
			err := c.client.Write(ctx, p, block*blockBytes)
			if answer := (*nbdclient.RequestError)(nil); errors.As(err, &answer) {
				return fmt.Errorf("write of block %d at %s: %w", block, c.uris[c.next], err)
			}
			if written = err == nil; !written {
				if err := c.close(); err != nil {
					return err
				}
			}
		}
		c.answered(block, number)
	}
}

// connect tries the next address.
func (c *roamer) connect(ctx context.Context) error {
	parsed, err := url.Parse(c.uris[c.next])
	if err != nil {
		return err
	}
	attempt, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	client, err := nbdclient.Dial(attempt, "tcp", parsed.Host, nbdclient.Config{Export: strings.TrimPrefix(parsed.Path, "/")})
	if err == nil {
		c.client = client
		c.reconnects.Add(1)
		return nil
	}
	c.next = (c.next + 1) % len(c.uris)
	pause := time.NewTimer(redialPause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-c.stopping:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// close gives the connection up. That it is lost already is why.
func (c *roamer) close() error {
	if c.client != nil {
		if err := c.client.Close(); err != nil && c.client.Err() == nil {
			return err
		}
	}
	c.client = nil
	return nil
}
