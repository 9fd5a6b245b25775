package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"duet/nbd/nbdclient"
)

// checkBytes is how much is read at once; the size of the device is a multiple of it.
const checkBytes = 1 << 20

// maxFindings bounds how many wrong blocks are described.
const maxFindings = 1 << 10

// readBack reads the whole device and settles every block with the ledger. It returns what is wrong with the blocks; its
// error is that of the reading.
func (d *demo) readBack(ctx context.Context, address string) (findings []error, err error) {
	client, err := nbdclient.Dial(ctx, "tcp", address, nbdclient.Config{Export: demoResource})
	if err != nil {
		return nil, fmt.Errorf("connect to the device: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	content := make([]byte, checkBytes)
	for at := uint64(0); at < demoSizeBytes; at += checkBytes {
		if err := client.Read(ctx, content, at); err != nil {
			return nil, fmt.Errorf("read the device: %w", err)
		}
		findings = append(findings, settleBlocks(d.ledger, at/demoBlockBytes, content)...)
		if len(findings) > maxFindings {
			break
		}
	}
	return findings, nil
}

// settleBlocks settles a run of blocks, and returns what is wrong with them.
func settleBlocks(ledger *blockLedger, first uint64, content []byte) (findings []error) {
	for i := range uint64(len(content) / demoBlockBytes) {
		block := first + i
		found, err := readBlock(content[i*demoBlockBytes:(i+1)*demoBlockBytes], block)
		if err != nil {
			err = fmt.Errorf("block %d: %w", block, err)
		} else {
			err = ledger.settle(block, found)
		}
		if err != nil {
			findings = append(findings, err)
		}
	}
	return findings
}

// diskReport is the result of comparing the disks.
type diskReport struct {
	written         int    // blocks that were ever written
	different       int    // blocks that differ between the disks
	wrong           int    // blocks of the first disk that hold something else than they must
	first           uint64 // the first block of either kind
	firstDifference error
}

func (r *diskReport) failure() error {
	switch {
	case r.different > 0:
		return fmt.Errorf("the disks differ in %d blocks, the first of them %d", r.different, r.first)
	case r.wrong > 0:
		return fmt.Errorf("the disks are identical, but %d blocks are wrong: %w", r.wrong, r.firstDifference)
	}
	return nil
}

// compareDisks compares two disks with each other and with what the ledger expects.
func compareDisks(ledger *blockLedger, pathOne, pathTwo string) (report *diskReport, err error) {
	one, err := os.Open(pathOne)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, one.Close()) }()
	two, err := os.Open(pathTwo)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, two.Close()) }()
	report = new(diskReport)
	contentOne, contentTwo := make([]byte, checkBytes), make([]byte, checkBytes)
	for at := uint64(0); at < demoSizeBytes; at += checkBytes {
		if _, err := io.ReadFull(one, contentOne); err != nil {
			return nil, fmt.Errorf("%s: %w", pathOne, err)
		}
		if _, err := io.ReadFull(two, contentTwo); err != nil {
			return nil, fmt.Errorf("%s: %w", pathTwo, err)
		}
		report.addBlocks(ledger, at/demoBlockBytes, contentOne, contentTwo)
	}
	return report, nil
}

func (r *diskReport) addBlocks(ledger *blockLedger, first uint64, one, two []byte) {
	for i := range uint64(len(one) / demoBlockBytes) {
		from, to := i*demoBlockBytes, (i+1)*demoBlockBytes
		r.addBlock(ledger, first+i, one[from:to], two[from:to])
	}
}

func (r *diskReport) addBlock(ledger *blockLedger, block uint64, one, two []byte) {
	wanted := ledger.expected(block)
	if wanted > 0 {
		r.written++
	}
	if !bytes.Equal(one, two) {
		if r.different++; r.different == 1 {
			r.first = block
		}
		return
	}
	found, err := readBlock(one, block)
	if err == nil && found != wanted {
		err = fmt.Errorf("it holds version %d instead of %d", found, wanted)
	}
	if err == nil {
		return
	}
	if r.wrong++; r.wrong == 1 {
		r.firstDifference = fmt.Errorf("block %d: %w", block, err)
	}
}
