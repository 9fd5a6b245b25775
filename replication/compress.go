package replication

import (
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// worthwhileRatio: what doesn't become smaller than this share of itself is sent as it is.
	worthwhileRatio = 0.9
	// smallestPacked: below it the frame's header and the call count for more than the content.
	smallestPacked = 8 << 10
	// presumedSpeed is what a compressor is believed to do, in bytes per second, until it was tried.
	presumedSpeed     = 1 << 30
	firstPackingPause = 4
	lastPackingPause  = 256
)

// packingChoice decides whether compression pays: when the link is slower than the compressor and the content shrinks.
// The processor is then not what the resync waits for. Where it didn't pay, it is tried again ever more rarely.
type packingChoice struct {
	ratio, speed float64 // averages; 0: never tried
	skip, pause  int
}

// next reports whether the next piece is to be compressed for a link of so many bytes per second, 0 if it was never seen
// to be the bottleneck.
func (c *packingChoice) next(link float64) bool {
	if link == 0 || c.skip > 0 {
		c.skip = max(0, c.skip-1)
		return false
	}
	speed := c.speed
	if speed == 0 {
		speed = presumedSpeed
	}
	if link < worthwhileRatio*speed {
		if c.speed > 0 && c.ratio <= worthwhileRatio {
			c.pause = 0
		}
		return true
	}
	c.retreat()
	c.speed = 0 // a busy processor may have been the reason
	return false
}

// learn takes what became of a piece.
func (c *packingChoice) learn(content, packed int, took time.Duration) {
	ratio, speed := float64(packed)/float64(content), float64(content)/max(took.Seconds(), 1e-9)
	if c.speed == 0 {
		c.ratio, c.speed = ratio, speed
	}
	c.ratio, c.speed = average(c.ratio, ratio), average(c.speed, speed)
	if c.ratio > worthwhileRatio {
		c.retreat()
	}
}

func (c *packingChoice) retreat() {
	c.pause = min(max(firstPackingPause, 2*c.pause), lastPackingPause)
	c.skip = c.pause
}

// average moves a quarter of the way.
func average(old, now float64) float64 { return old + (now-old)/4 }

// packer compresses for one session, on any number of workers.
type packer struct {
	mu      sync.Mutex
	choice  packingChoice
	encoder *zstd.Encoder // made when it is needed first
	decoder *zstd.Decoder
}

// pack returns content compressed into b, or nil if it is to be sent as it is.
func (k *packer) pack(content []byte, link float64, b *buffer) ([]byte, error) {
	k.mu.Lock()
	if len(content) < smallestPacked || !k.choice.next(link) {
		k.mu.Unlock()
		return nil, nil
	}
	if k.encoder == nil {
		var err error
		k.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(MaxResyncBytes), zstd.WithLowerEncoderMem(true))
		if err != nil {
			k.mu.Unlock()
			return nil, err
		}
	}
	k.mu.Unlock()
	began := time.Now()
	packed := k.encoder.EncodeAll(content, b.p[:0])
	took := time.Since(began)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.choice.learn(len(content), len(packed), took)
	if float64(len(packed)) > worthwhileRatio*float64(len(content)) {
		return nil, nil
	}
	return packed, nil
}

// unpack expands packed into p, which it has to fill exactly. No more than that is ever expanded.
func (k *packer) unpack(packed, p []byte) error {
	k.mu.Lock()
	if k.decoder == nil {
		var err error
		k.decoder, err = zstd.NewReader(nil, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(MaxResyncBytes),
			zstd.WithDecoderMaxWindow(MaxResyncBytes), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			k.mu.Unlock()
			return err
		}
	}
	k.mu.Unlock()
	content, err := k.decoder.DecodeAll(packed, p[:0:len(p)])
	if err != nil {
		return err
	}
	if len(content) != len(p) {
		return fmt.Errorf("%w: %d bytes of content for a range of %d", errMessage, len(content), len(p))
	}
	return nil
}

// close frees what unpack made; nothing may be unpacked any more.
func (k *packer) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.decoder != nil {
		k.decoder.Close()
	}
}

// unpack replaces the compressed payload of r by its content, on a worker, and writes that.
func (v *Volume) unpack(r *request) {
	s := r.origin
	content := v.buffers.get(int(r.lengthBytes))
	err := s.packer.unpack(r.p, content.p)
	v.buffers.put(r.payload)
	r.payload, r.p = content, content.p
	if err == nil {
		v.executeLocal(r, nil)
		return
	}
	s.fail(fmt.Errorf("%s sent compressed data that is none: %w", s.peer, err))
	v.mu.Lock()
	r.err = err
	v.mu.Unlock()
	v.legDone(r, nil)
}

// linkMeter measures how fast a connection takes data while it is the bottleneck.
type linkMeter struct {
	bytes int
	time  time.Duration
	rate  float64 // bytes per second; 0: it never was
}

const (
	meterBytes = 1 << 20
	meterTime  = 20 * time.Millisecond
)

// add counts what was sent while there was more to send.
func (m *linkMeter) add(n int, took time.Duration) {
	m.bytes, m.time = m.bytes+n, m.time+took
	if m.bytes < meterBytes && m.time < meterTime || m.bytes == 0 || m.time <= 0 {
		return
	}
	rate := float64(m.bytes) / m.time.Seconds()
	if m.rate == 0 {
		m.rate = rate
	}
	m.rate, m.bytes, m.time = average(m.rate, rate), 0, 0
}
