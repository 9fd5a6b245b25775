package replication

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestPackingChoice(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		name     string
		link     float64 // bytes per second
		packed   int     // of a MiB
		took     time.Duration
		min, max int // compressed, of a thousand pieces
	}{
		{"slow link, text", 100 * mib, mib / 3, 2 * time.Millisecond, 1000, 1000},
		{"slow link, random", 100 * mib, mib + 20, time.Millisecond, 3, 30},
		{"slow link, hardly smaller", 100 * mib, mib * 95 / 100, 2 * time.Millisecond, 3, 30},
		{"fast link", 4096 * mib, mib / 3, 2 * time.Millisecond, 0, 0},
		{"link as fast as the compressor", 600 * mib, mib / 3, 2 * time.Millisecond, 3, 30},
		{"link that never was full", 0, mib / 3, 2 * time.Millisecond, 0, 0},
	} {
		var c packingChoice
		count := 0
		for range 1000 {
			if c.next(test.link) {
				count++
				c.learn(mib, test.packed, test.took)
			}
		}
		if count < test.min || count > test.max {
			t.Errorf("%s: %d pieces", test.name, count)
		}
	}
}

func TestPackingChoiceReturns(t *testing.T) {
	var c packingChoice
	for range 1000 { // random content, then text
		if c.next(1e8) {
			c.learn(1000, 1001, time.Microsecond)
		}
	}
	count := 0
	for range 2 * lastPackingPause {
		if c.next(1e8) {
			count++
			c.learn(1000, 300, time.Microsecond)
		}
	}
	if count < lastPackingPause {
		t.Errorf("%d of %d pieces are compressed once it pays", count, 2*lastPackingPause)
	}
}

func TestLinkMeter(t *testing.T) {
	var m linkMeter
	m.add(meterBytes/2, time.Millisecond)
	if m.rate != 0 {
		t.Errorf("%v from half a MiB in a millisecond", m.rate)
	}
	m.add(meterBytes/2, time.Millisecond)
	if want := float64(meterBytes) / 0.002; m.rate != want {
		t.Errorf("%v, want %v", m.rate, want)
	}
	for range 50 {
		m.add(meterBytes, 10*time.Millisecond)
	}
	if want := float64(meterBytes) / 0.01; m.rate < 0.99*want || m.rate > 1.01*want {
		t.Errorf("%v after a while, want %v", m.rate, want)
	}
}

// lines is content that shrinks.
func lines(n int) []byte { return bytes.Repeat([]byte("all work and no play\n"), n/21+1)[:n] }

func TestPackAndUnpack(t *testing.T) {
	var k packer
	defer k.close()
	var pool bufferPool
	content := lines(MaxResyncBytes)
	packed, err := k.pack(content, 1e6, pool.get(len(content)))
	if err != nil || len(packed) == 0 || len(packed) > len(content)/10 {
		t.Fatalf("%d bytes became %d, %v", len(content), len(packed), err)
	}
	got := make([]byte, len(content))
	if err := k.unpack(packed, got); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("unpack: %v", err)
	}
	random := randomBytes(1 << 16)
	if packed, err := k.pack(random, 1e6, pool.get(len(random))); packed != nil || err != nil {
		t.Errorf("random content became %d bytes, %v", len(packed), err)
	}
	if packed, err := k.pack(content[:4096], 1e6, pool.get(4096)); packed != nil || err != nil {
		t.Errorf("a block became %d bytes, %v", len(packed), err)
	}
}

func TestUnpackNeverExpandsMoreThanTheRange(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var k packer
	defer k.close()
	for name, n := range map[string]int{"too much": 8193, "far too much": 64 << 20, "too little": 8191, "nothing": 0} {
		room := make([]byte, 16384)
		err := k.unpack(encoder.EncodeAll(make([]byte, n), nil), room[:8192])
		if err == nil || !allZero(room[8192:]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.unpack([]byte("no frame at all"), make([]byte, 8192)); err == nil {
		t.Error("garbage was accepted")
	}
	if err := k.unpack(encoder.EncodeAll(lines(8191), nil), make([]byte, 8192)); !errors.Is(err, errMessage) {
		t.Errorf("too little: %v", err)
	}
}

// slowConn takes 64 KiB per millisecond.
type slowConn struct{ net.Conn }

func (c slowConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		<-time.NewTimer(time.Millisecond).C // the link that this stands for takes the time
		var m int
		m, err = c.Conn.Write(p[:min(len(p), 64<<10)])
		n, p = n+m, p[m:]
	}
	return n, err
}

func TestSlowLinkIsCompressed(t *testing.T) {
	for name, test := range map[string]struct {
		content  []byte
		features features
		min, max uint64
	}{
		"text":                         {lines(testDeviceBytes), allFeatures, 0, testDeviceBytes * 3 / 4},
		"random":                       {randomBytes(testDeviceBytes), allFeatures, testDeviceBytes, testDeviceBytes},
		"text for who can't expand it": {lines(testDeviceBytes), features{pieces: true}, testDeviceBytes, testDeviceBytes},
	} {
		t.Run(name, func(t *testing.T) {
			c := newReturningCluster(t, func(a, b *testNode) {
				copy(a.disk.p, test.content)
				b.disk.becomeSparse()
			})
			c.wire = func(conn net.Conn) net.Conn { return slowConn{conn} }
			c.tweak = func(r *Resource) { r.features = test.features }
			c.start("b")
			c.wait("b in sync", c.allInSync)
			c.equal()
			if sent := c.sourceSent(); sent < test.min || sent > test.max {
				t.Errorf("%d KiB were sent", sent/1024)
			}
		})
	}
}
