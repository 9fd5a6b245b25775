package nbd

import (
	"bytes"
	"fmt"
	"testing"

	"duet/nbd/nbdclient"
	"duet/nbd/nbdtest"
)

// keepingDevice does not return from a write to its first block until it is let go; the write itself goes on by another way.
type keepingDevice struct {
	*nbdtest.Memory
	letGo chan struct{}
	gone  chan struct{} // has one for each write that was let go
}

func (d *keepingDevice) Write(p []byte, off uint64, fua bool, b Batch, c Completion) {
	if off != 0 {
		d.Memory.Write(p, off, fua, b, c)
		return
	}
	defer func() { d.gone <- struct{}{} }()
	go func() {
		b.(interface{ Stuck() }).Stuck()
		c.(interface{ KeepBuffer() }).KeepBuffer()
		c.Complete(nil, nil)
	}()
	before := bytes.Clone(p)
	<-d.letGo
	if !bytes.Equal(p, before) {
		panic("the payload of a write that has not returned was used for something else")
	}
}

// A device that keeps the reader of a connection does not keep the connection: another reader takes over, for small writes,
// which are submitted with the turn held, as for large ones. When the device returns nothing happens.
func TestDeviceKeepsTheReader(t *testing.T) {
	for _, lengthBytes := range []int{4096, 2 * relayBytes} {
		t.Run(fmt.Sprint(lengthBytes, " bytes"), func(t *testing.T) {
			device := &keepingDevice{Memory: nbdtest.NewMemory(16 << 20), letGo: make(chan struct{}), gone: make(chan struct{}, 8)}
			s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
			client := connect(t, "tcp", listen(t, s, "tcp"), nbdclient.Config{})
			payload := bytes.Repeat([]byte{7}, lengthBytes)
			for round := range 4 { // more often than there are readers
				if err := client.Write(t.Context(), payload, 0); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				writeAndRead(t, client)
			}
			close(device.letGo)
			for range 4 {
				<-device.gone
			}
			writeAndRead(t, client)
		})
	}
}

// A connection ends although a reader of it is kept.
func TestConnectionEndsWithoutTheReader(t *testing.T) {
	device := &keepingDevice{Memory: nbdtest.NewMemory(16 << 20), letGo: make(chan struct{}), gone: make(chan struct{}, 8)}
	s := startServer(t, directory{{Name: "r0", Device: device}}, Config{})
	client := connect(t, "tcp", listen(t, s, "tcp"), nbdclient.Config{})
	if err := client.Write(t.Context(), make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	closeServer(t, s)
	close(device.letGo)
	<-device.gone
}
