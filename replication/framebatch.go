package replication

const (
	// copiedPayloadBytes is the largest payload that is copied beside its header: a vector of its own costs more.
	copiedPayloadBytes = 1 << 10
	// keptArenaBytes is the largest arena that is kept for reuse after a burst.
	keptArenaBytes = 1 << 20
)

// frameBatch is a run of encoded frames: an arena of headers and small payloads, cut where a payload that is only
// referenced belongs. Sending consumes it from the front.
type frameBatch struct {
	arena []byte
	cuts  []payloadCut
	bytes int // not consumed yet

	arenaDone   int // bytes of arena consumed
	cutsDone    int // cuts consumed
	payloadDone int // bytes of the payload of cuts[cutsDone] consumed
}

// payloadCut says that payload goes between arena[:at] and arena[at:]. It is never empty.
type payloadCut struct {
	at      int
	payload []byte
}

// add appends one frame.
func (b *frameBatch) add(h *Header, payload []byte) {
	at := len(b.arena)
	b.arena = append(b.arena, zeroHeader[:]...)
	h.Encode(b.arena[at:])
	b.bytes += HeaderBytes + len(payload)
	if len(payload) <= copiedPayloadBytes {
		b.arena = append(b.arena, payload...)
		return
	}
	b.cuts = append(b.cuts, payloadCut{at: len(b.arena), payload: payload})
}

var zeroHeader [HeaderBytes]byte

// pieces appends what is not consumed to dst, in order, as far as its capacity allows.
func (b *frameBatch) pieces(dst [][]byte) [][]byte {
	at, skip := b.arenaDone, b.payloadDone
	for i := b.cutsDone; i < len(b.cuts); i++ {
		if cap(dst)-len(dst) < 2 {
			return dst
		}
		cut := &b.cuts[i]
		if at < cut.at {
			dst = append(dst, b.arena[at:cut.at])
			at = cut.at
		}
		dst = append(dst, cut.payload[skip:])
		skip = 0
	}
	if at < len(b.arena) && len(dst) < cap(dst) {
		dst = append(dst, b.arena[at:])
	}
	return dst
}

// consume drops n bytes from the front, and the references to payloads that lie before them.
func (b *frameBatch) consume(n int) {
	b.bytes -= n
	for n > 0 {
		end := len(b.arena)
		if b.cutsDone < len(b.cuts) {
			end = b.cuts[b.cutsDone].at
		}
		step := min(n, end-b.arenaDone)
		b.arenaDone += step
		n -= step
		if n == 0 || b.cutsDone == len(b.cuts) {
			return
		}
		cut := &b.cuts[b.cutsDone]
		step = min(n, len(cut.payload)-b.payloadDone)
		b.payloadDone += step
		n -= step
		if b.payloadDone == len(cut.payload) {
			cut.payload, b.payloadDone = nil, 0
			b.cutsDone++
		}
	}
}

// reset empties b and drops all references to payloads.
func (b *frameBatch) reset() {
	clear(b.cuts)
	b.cuts, b.arena = b.cuts[:0], b.arena[:0]
	if cap(b.arena) > keptArenaBytes {
		b.arena = nil
	}
	b.bytes, b.arenaDone, b.cutsDone, b.payloadDone = 0, 0, 0, 0
}
