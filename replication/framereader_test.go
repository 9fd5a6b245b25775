package replication

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// hintedSource is a connection that takes hints, and gives what it has in pieces of any size.
type hintedSource struct {
	io.Reader
	random      *rand.Rand
	soon        int // how often the next frame was expected soon
	ampleAsked  int // bytes that were asked for as ample
	ahead       int // bytes that were read otherwise
	largestRead int // of those
}

func (s *hintedSource) ExpectSoon(soon bool) {
	if soon {
		s.soon++
	}
}

func (s *hintedSource) piece(p []byte) []byte { return p[:1+s.random.IntN(len(p))] }

func (s *hintedSource) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(s.piece(p))
	s.ahead += n
	s.largestRead = max(s.largestRead, len(p))
	return n, err
}

func (s *hintedSource) ReadAmple(p []byte) (int, error) {
	n, err := s.Reader.Read(s.piece(p))
	s.ampleAsked += n
	return n, err
}

// TestFramesOfAllSizes reads small and large frames, mixed at random, and compares them with what was sent.
func TestFramesOfAllSizes(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		var stream []byte
		var payloads [][]byte
		for range 200 {
			payload := make([]byte, random.IntN(1<<random.IntN(19))+1)
			for i := range payload {
				payload[i] = byte(random.Uint32())
			}
			h := Header{Type: FrameData, Generation: 1, Length: uint64(len(payload))}
			h.setPayload(payload)
			stream, payloads = append(stream, encodedFrame(&h, payload)...), append(payloads, payload)
		}
		in := newFrameReader(&hintedSource{Reader: bytes.NewReader(stream), random: random}, 64<<10)
		for i, want := range payloads {
			var h Header
			if err := in.header(&h); err != nil {
				t.Fatalf("seed %d, frame %d: %v", seed, i, err)
			}
			got := make([]byte, h.PayloadLength)
			if err := in.payload(&h, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("seed %d, frame %d of %d bytes: %v", seed, i, len(want), err)
			}
		}
	}
}

// TestLargePayloadsAreNotCopied: between large frames nothing but headers is read through the buffer.
func TestLargePayloadsAreNotCopied(t *testing.T) {
	const frames, bytesEach = 10, 1 << 20
	h := Header{Type: FrameData, Generation: 1, Length: bytesEach}
	payload := make([]byte, bytesEach)
	h.setPayload(payload)
	stream := bytes.Repeat(encodedFrame(&h, payload), frames)
	source := &hintedSource{Reader: bytes.NewReader(stream), random: rand.New(rand.NewPCG(1, 1))}
	in := newFrameReader(source, 64<<10)
	for range frames {
		if err := in.header(&h); err != nil {
			t.Fatal(err)
		}
		if err := in.payload(&h, payload); err != nil {
			t.Fatal(err)
		}
	}
	if most := frames*(HeaderBytes+2*directReadBytes) + 64<<10; source.ahead > most {
		t.Errorf("%d bytes went through the buffer, at most %d should", source.ahead, most)
	}
	if source.soon > 0 {
		t.Errorf("a large frame was expected soon %d times", source.soon)
	}
}

// TestLoneFramesAreExpectedSoon: only who is served one small frame at a time is worth a busy look.
func TestLoneFramesAreExpectedSoon(t *testing.T) {
	h := Header{Type: FrameWriteAck, Seq: 1, Generation: 1}
	frame := encodedFrame(&h, nil)
	for name, test := range map[string]struct {
		perRead int
		soon    bool
	}{"one at a time": {1, true}, "two at a time": {2, false}} {
		t.Run(name, func(t *testing.T) {
			reader, writer := io.Pipe()
			go func() {
				for range 10 {
					if _, err := writer.Write(bytes.Repeat(frame, test.perRead)); err != nil {
						t.Error(err)
					}
				}
				writer.CloseWithError(io.EOF)
			}()
			source := &wholeSource{Reader: reader}
			in := newFrameReader(source, 4096)
			for in.header(&h) == nil {
			}
			if got := source.soon > 0; got != test.soon {
				t.Errorf("the next frame was expected soon %d times", source.soon)
			}
		})
	}
}

// wholeSource gives what one write brought.
type wholeSource struct {
	io.Reader
	soon int
}

func (s *wholeSource) ExpectSoon(soon bool) {
	if soon {
		s.soon++
	}
}
