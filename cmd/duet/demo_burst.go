package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"duet/nbd/nbdclient"
)

// The burst writes behind the load's blocks: a part of each extent, extent by extent, so that what the Primary's sockets
// could not take any more lies in extents of which the Secondary has seen nothing.
const (
	burstConnections  = 4
	burstWriteBytes   = 128 << 10
	burstWriteBlocks  = burstWriteBytes / demoBlockBytes
	burstPerExtent    = 12
	burstFirstExtent  = demoLoadBlocks * demoBlockBytes / demoExtentBytes
	burstExtents      = demoUsedBytes/demoExtentBytes - burstFirstExtent
	burstWrites       = burstExtents * burstPerExtent
	burstExtentBlocks = demoExtentBytes / demoBlockBytes
	// burstAhead is how many writes of the burst the Primary's disk must hold that the Secondary's has not: 48 MiB,
	// several times what the sockets between the two take.
	burstAhead = 48 << 20 / burstWriteBytes
)

// burst is a set of writes that are all in flight at once.
type burst struct {
	ledger       *blockLedger
	clients      []*nbdclient.Client
	senders      sync.WaitGroup
	versions     [burstWrites]atomic.Uint64 // of the writes that were issued
	acknowledged atomic.Int64
}

// burstBlock returns the first block of a write of the burst.
func burstBlock(write int) uint64 {
	extent := burstFirstExtent + write/burstPerExtent
	return uint64(extent*burstExtentBlocks + write%burstPerExtent*burstWriteBlocks)
}

// beginBurst connects and starts to send.
func beginBurst(ctx context.Context, ledger *blockLedger, address string) (*burst, error) {
	b := &burst{ledger: ledger}
	for range burstConnections {
		client, err := nbdclient.Dial(ctx, "tcp", address, nbdclient.Config{Export: demoResource, MaxInFlight: burstWrites})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connect to the device: %w", err), b.close())
		}
		b.clients = append(b.clients, client)
	}
	for i, client := range b.clients {
		b.senders.Go(func() { b.sendShare(ctx, client, i) })
	}
	return b, nil
}

// sendShare is a sender: it owns every fourth write, and ends when all are sent or the connection is lost.
func (b *burst) sendShare(ctx context.Context, client *nbdclient.Client, first int) {
	for write := first; write < burstWrites; write += burstConnections {
		if err := b.send(ctx, client, write); err != nil {
			return // arrived counts what is missing
		}
	}
}

// send starts one write. Its error is that of the connection, which the Primary's end is meant to bring about.
func (b *burst) send(ctx context.Context, client *nbdclient.Client, write int) error {
	first := burstBlock(write)
	version, ok := b.ledger.issue(first, burstWriteBlocks)
	if !ok {
		return fmt.Errorf("block %d is written already", first)
	}
	content := make([]byte, burstWriteBytes)
	for i := range uint64(burstWriteBlocks) {
		fillBlock(content[i*demoBlockBytes:(i+1)*demoBlockBytes], first+i, version)
	}
	b.versions[write].Store(version)
	request := nbdclient.Request{Op: nbdclient.Write, OffsetBytes: first * demoBlockBytes, Data: content}
	answer := func(err error) {
		b.ledger.answer(first, burstWriteBlocks, err == nil)
		if err == nil {
			b.acknowledged.Add(1)
		}
	}
	err := client.Start(ctx, request, answer)
	if err != nil {
		b.ledger.answer(first, burstWriteBlocks, false)
	}
	return err
}

// arrived counts the writes whose first block a disk holds.
func (b *burst) arrived(disk string) (count int, err error) {
	f, err := os.Open(disk)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	content := make([]byte, demoBlockBytes)
	for write := range b.versions {
		wanted := b.versions[write].Load()
		if wanted == 0 {
			continue
		}
		first := burstBlock(write)
		if _, err := f.ReadAt(content, int64(first*demoBlockBytes)); err != nil {
			return 0, err
		}
		// A write that is under way shows a damaged block: it has not arrived.
		if version, err := readBlock(content, first); err == nil && version == wanted {
			count++
		}
	}
	return count, nil
}

// close ends the connections and waits until every write has its answer or none.
func (b *burst) close() error {
	var failures error
	for _, client := range b.clients {
		if err := client.Close(); err != nil && !errors.Is(err, nbdclient.ErrLost) {
			failures = errors.Join(failures, err)
		}
	}
	b.senders.Wait()
	return failures
}
