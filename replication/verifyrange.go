package replication

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"duet/bitmap"
)

// blockHashBytes is how much of a block's SHA-256 is compared.
const blockHashBytes = 16

// verifyAskBound is how many unanswered requests of a Primary a Secondary bears.
const verifyAskBound = 4 * verifyWindow

// errVerifyHashes is wrapped by every error of decoding VerifyHashes.
var errVerifyHashes = errors.New("bad block hashes")

// zeroBlockHash is the hash of a block that was never written.
var zeroBlockHash = blockHash(make([]byte, bitmap.BlockBytes))

func blockHash(p []byte) [blockHashBytes]byte {
	sum := sha256.Sum256(p)
	return [blockHashBytes]byte(sum[:])
}

// rangeContent is what one replica says of a range: its block hashes, or that nothing is stored there, or, of a range
// that is too long to be hashed at once, neither.
type rangeContent struct {
	hashes []byte
	hole   bool
	err    error
}

// hashAt is the hash of a block of a range that was hashed.
func (c *rangeContent) hashAt(block int) [blockHashBytes]byte {
	if c.hole {
		return zeroBlockHash
	}
	return [blockHashBytes]byte(c.hashes[block*blockHashBytes:])
}

// decodeRangeContent reads VerifyHashes, whose header was checked on its own. What is accepted has a hash for every
// block of a range up to MaxVerifyBytes, or is a hole, or has an error.
func decodeRangeContent(h *Header, payload []byte) (rangeContent, error) {
	want := 0
	if h.Length <= MaxVerifyBytes {
		want = int(h.Length / bitmap.BlockBytes * blockHashBytes)
	}
	switch {
	case !wholeBlocks(h):
		return rangeContent{}, fmt.Errorf("%w: %d bytes at %d are no whole blocks", errVerifyHashes, h.Length, h.Offset)
	case h.Flags&FlagFailed != 0:
		return rangeContent{err: errors.New(reasonText(string(payload)))}, nil
	case h.Flags&FlagHole != 0 && len(payload) == 0:
		return rangeContent{hole: true}, nil
	case h.Flags&FlagHole != 0 || len(payload) != want:
		return rangeContent{}, fmt.Errorf("%w: %d bytes for a range of %d", errVerifyHashes, len(payload), h.Length)
	}
	return rangeContent{hashes: payload}, nil
}

// wholeBlocks reports whether the range begins and ends where blocks do.
func wholeBlocks(h *Header) bool {
	return h.Offset%bitmap.BlockBytes == 0 && h.Length%bitmap.BlockBytes == 0
}

// blockMask is a set of blocks of one range.
type blockMask [MaxVerifyBytes / bitmap.BlockBytes / 64]uint64

func (m *blockMask) set(block int) { m[block/64] |= 1 << (block % 64) }

func (m *blockMask) and(other *blockMask) {
	for i := range m {
		m[i] &= other[i]
	}
}

// runs calls emit for consecutive blocks.
func (m *blockMask) runs(emit func(first, count int)) {
	const all = len(m) * 64
	for at := 0; at < all; {
		first := at
		for at < all && m[at/64]&(1<<(at%64)) != 0 {
			at++
		}
		if at > first {
			emit(first, at-first)
			continue
		}
		if rest := m[at/64] >> (at % 64); rest != 0 {
			at += bits.TrailingZeros64(rest)
		} else {
			at = (at/64 + 1) * 64
		}
	}
}

// verifyRange is one range on its way through a verification. It belongs to its request from submit to finishVerify;
// each leg writes its own content, and the last one compares.
type verifyRange struct {
	of     *verification
	off, n uint64
	first  []blockMask // what differed at the first look, by peer; nil: this is the first

	mine    rangeContent
	theirs  []rangeContent // by peer
	differs []blockMask    // by peer; nil: nothing differs
	pieces  bool           // too long to be hashed, and no hole everywhere
}

// compare fills differs and pieces.
func (w *verifyRange) compare() {
	for i := range w.theirs {
		theirs := &w.theirs[i]
		switch {
		case w.mine.err != nil || theirs.err != nil || w.mine.hole && theirs.hole:
		case w.n > MaxVerifyBytes:
			w.pieces = true
		default:
			w.compareBlocks(i)
		}
	}
}

func (w *verifyRange) compareBlocks(peer int) {
	for block := range int(w.n / bitmap.BlockBytes) {
		if w.mine.hashAt(block) == w.theirs[peer].hashAt(block) {
			continue
		}
		if w.differs == nil {
			w.differs = make([]blockMask, len(w.theirs))
		}
		w.differs[peer].set(block)
	}
}

// failure is the first error of a leg.
func (w *verifyRange) failure() error {
	if w.mine.err != nil {
		return w.mine.err
	}
	for i := range w.theirs {
		if err := w.theirs[i].err; err != nil {
			return err
		}
	}
	return nil
}

// verifySession is a session's part in verifications, guarded by Volume.mu.
type verifySession struct {
	asked   map[uint64]verifyAsk // a Primary's
	lastSeq uint64
	serving int  // a Secondary's: requests that it has not answered
	running bool // a Secondary's: asked, and not told that it is over
}

// verifyAsk is one leg of a request that waits for VerifyHashes.
type verifyAsk struct {
	request *request
	peer    int // index among the peers of the verification
	since   time.Time
}

// answer ends the leg.
func (a *verifyAsk) answer(content rangeContent) {
	a.request.verify.theirs[a.peer] = content
	a.request.volume.legDone(a.request, nil)
}

// startVerify asks the peers for r's range, which is locked, and hashes the local blocks meanwhile.
func (v *Volume) startVerify(r *request) {
	w := r.verify
	v.mu.Lock()
	local := v.local
	if w.of.stopped || local == nil || v.localDead {
		v.mu.Unlock()
		w.mine.err = errVerifyStopped
		v.finishVerify(r, nil)
		return
	}
	r.legs.Store(int32(len(w.of.peers)) + 1)
	for i, p := range w.of.peers {
		p.session.askVerifyLocked(r, i)
	}
	v.mu.Unlock()
	for _, p := range w.of.peers {
		p.session.dataWriter.Flush()
	}
	w.mine = v.hashRange(local.disk, r)
	v.legDone(r, nil)
}

// askVerifyLocked sends r's leg to the peer. The local leg is still to come, so that none of these is the last.
func (s *session) askVerifyLocked(r *request, peer int) {
	if s.closed {
		r.verify.theirs[peer].err = s.lost()
		r.legs.Add(-1)
		return
	}
	s.verify.lastSeq++
	s.verify.asked[s.verify.lastSeq] = verifyAsk{request: r, peer: peer, since: time.Now()}
	s.header = Header{Type: FrameVerifyRequest, Seq: s.verify.lastSeq, Generation: s.volume.generation,
		Offset: r.offsetBytes, Length: r.lengthBytes}
	s.dataWriter.append(&s.header, nil)
}

// lost says why a session that was closed is.
func (s *session) lost() error { return fmt.Errorf("the session with %s ended: %w", s.peer, s.cause) }

// hashRange reads r's range, unless it is a hole or too long.
func (v *Volume) hashRange(disk Disk, r *request) rangeContent {
	switch {
	case isHole(disk, r.offsetBytes, r.lengthBytes):
		return rangeContent{hole: true}
	case r.lengthBytes > MaxVerifyBytes:
		return rangeContent{}
	}
	b := v.buffers.get(int(r.lengthBytes))
	if _, err := disk.ReadAt(b.p, int64(r.offsetBytes)); err != nil {
		if !errors.Is(err, errGivenUp) {
			v.buffers.put(b)
		}
		return rangeContent{err: fmt.Errorf("read %d bytes at %d: %w", r.lengthBytes, r.offsetBytes, err)}
	}
	hashes := make([]byte, 0, r.lengthBytes/bitmap.BlockBytes*blockHashBytes)
	for p := b.p; len(p) > 0; p = p[bitmap.BlockBytes:] {
		hash := blockHash(p[:bitmap.BlockBytes])
		hashes = append(hashes, hash[:]...)
	}
	v.buffers.put(b)
	return rangeContent{hashes: hashes}
}

// verifyAnswered takes the peer's leg of a range. What was given up meanwhile is ignored.
func (s *session) verifyAnswered(h *Header, payload []byte) error {
	content, err := decodeRangeContent(h, payload)
	if err != nil {
		return fmt.Errorf("%s: %w", s.peer, err)
	}
	s.volume.mu.Lock()
	ask, known := s.verify.asked[h.Seq]
	if !known && h.Seq <= s.verify.lastSeq {
		s.volume.mu.Unlock()
		return nil
	}
	if !known || ask.request.offsetBytes != h.Offset || ask.request.lengthBytes != h.Length {
		s.volume.mu.Unlock()
		return fmt.Errorf("%s sent %s, which was not asked", s.peer, h)
	}
	delete(s.verify.asked, h.Seq)
	s.volume.mu.Unlock()
	if content.err != nil {
		content.err = fmt.Errorf("%s: %w", s.peer, content.err)
	}
	ask.answer(content)
	return nil
}

// releaseVerifyAsks ends the legs of a session that has ended.
func (s *session) releaseVerifyAsks() {
	s.volume.mu.Lock()
	asked := s.verify.asked
	s.verify.asked = nil // the session is closed: nothing is added any more
	s.volume.mu.Unlock()
	for _, ask := range asked {
		ask.answer(rangeContent{err: s.lost()})
	}
}

// finishVerify ends the look at r's range.
func (v *Volume) finishVerify(r *request, b Batch) {
	w := r.verify
	w.compare()
	v.mu.Lock()
	v.releaseLocked(r, b)
	w.of.finished <- w // never full: it has room for every range in flight
}

// verifyAsked hands the Primary's request to a worker. It holds the lock of the range, so nothing that arrives before the
// answer is a write to it.
func (s *session) verifyAsked(h *Header) error {
	v := s.volume
	if !wholeBlocks(h) {
		return fmt.Errorf("%s sent %s, which are no whole blocks", s.peer, h)
	}
	v.mu.Lock()
	if generation := s.generation; generation != h.Generation {
		v.mu.Unlock()
		return s.reject(h.Generation, generation)
	}
	if s.verify.serving >= verifyAskBound {
		v.mu.Unlock()
		return fmt.Errorf("%s asks for more than %d ranges at once", s.peer, verifyAskBound)
	}
	s.verify.serving++
	s.applying++
	begun := !s.verify.running
	s.verify.running = true
	v.mu.Unlock()
	if begun {
		s.resource.post(func() { s.resource.emit("verify", s.peer, "running", s.peer+" compares this replica with its own") })
	}
	r := v.getRequest(opVerifyServe, h.Offset, h.Length)
	r.origin, r.seq = s, h.Seq
	v.resumeOnWorker(r, phaseLocal)
	return nil
}

// serveVerify answers the Primary; local is nil when the disk is not used any more.
func (v *Volume) serveVerify(r *request, local *localDisk) {
	s := r.origin
	content := rangeContent{err: errors.New("the disk is not in use")}
	if local != nil {
		content = v.hashRange(local.disk, r)
	}
	h := Header{Type: FrameVerifyHashes, Seq: r.seq, Offset: r.offsetBytes, Length: r.lengthBytes}
	payload := content.hashes
	switch {
	case content.err != nil:
		h.Flags, payload = FlagFailed, []byte(reasonText(content.err.Error()))
	case content.hole:
		h.Flags = FlagHole
	}
	v.mu.Lock()
	s.verify.serving--
	v.mu.Unlock()
	s.sendFrame(h, payload)
	v.appliedOne(r)
}
