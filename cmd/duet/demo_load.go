package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"duet/nbd/nbdclient"
)

const (
	loadConnections = 2
	loadWorkers     = 8 // as many writes are in flight
	// loadFlushEvery is how many writes of a worker are between two flushes, as a filesystem's journal would have it.
	loadFlushEvery = 400
)

// demoLoad writes random blocks at the front of a device until it is told to stop.
type demoLoad struct {
	ledger  *blockLedger
	clients []*nbdclient.Client
	workers sync.WaitGroup
	stop    atomic.Bool

	mu    sync.Mutex
	cause error // why the first worker gave up
}

// beginLoad connects to a device and starts the workers.
func beginLoad(ctx context.Context, ledger *blockLedger, address string) (*demoLoad, error) {
	l := &demoLoad{ledger: ledger}
	for range loadConnections {
		client, err := nbdclient.Dial(ctx, "tcp", address, nbdclient.Config{Export: demoResource})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connect to the device: %w", err), l.abandon())
		}
		l.clients = append(l.clients, client)
	}
	ledger.markPause()
	for i := range loadWorkers {
		client := l.clients[i%loadConnections]
		l.workers.Go(func() { l.work(ctx, client) })
	}
	return l, nil
}

// work is one worker: it owns one write at a time, and ends when told to stop or with the first error.
func (l *demoLoad) work(ctx context.Context, client *nbdclient.Client) {
	content := make([]byte, demoBlockBytes)
	for written := 1; !l.stop.Load(); written++ {
		block := rand.Uint64N(demoLoadBlocks)
		version, ok := l.ledger.issue(block, 1)
		if !ok {
			continue
		}
		fillBlock(content, block, version)
		err := client.Write(ctx, content, block*demoBlockBytes)
		l.ledger.answer(block, 1, err == nil)
		if err == nil && written%loadFlushEvery == 0 {
			err = client.Flush(ctx)
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

func (l *demoLoad) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = err
	}
}

// failure returns why the load ended by itself, nil while it goes on.
func (l *demoLoad) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// end lets the writes in flight finish and returns the first error that any write met.
func (l *demoLoad) end() error {
	l.stop.Store(true)
	l.workers.Wait()
	var closing error
	for _, client := range l.clients {
		closing = errors.Join(closing, client.Close())
	}
	if err := l.failure(); err != nil {
		return fmt.Errorf("the load met an error: %w", err)
	}
	return closing
}

// abandon ends a load, if there is one, whose writes may never be answered.
func (l *demoLoad) abandon() error {
	if l == nil {
		return nil
	}
	l.stop.Store(true)
	var failures error
	for _, client := range l.clients {
		failures = errors.Join(failures, client.Close())
	}
	l.workers.Wait()
	return failures
}
