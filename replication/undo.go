package replication

import (
	"errors"
	"fmt"
	"io"
	"time"

	"duet/bitmap"
)

// undoState is the control loop's part of saving what a replica that is given up holds. The open file is Volume.undo; while
// there is none, nothing may be overwritten.
type undoState struct {
	at      uint64    // generation of the decision that the newest file is for
	opening bool      // it is being opened beside the loop
	problem string    // why it could not be opened
	retry   time.Time // not before
}

// errUndoOpen ends the sessions that began before anything could be saved: the next one says that it can.
var errUndoOpen = errors.New("the undo file is open: what is overwritten can be saved now")

// notTarget is why nothing may be copied to this replica for now, "" if it may.
func (r *Resource) notTarget() string {
	mine := r.adopted.replica(r.cfg.Node)
	switch {
	case mine == nil || mine.Discard.At == 0 || r.undo.at == mine.Discard.At && r.volume.undo.Load() != nil:
		return ""
	case r.undo.problem != "":
		return "what it held can't be saved: " + r.undo.problem
	}
	return "its undo file is being opened"
}

// watchUndo keeps the undo file in step with the record: open while this replica is given up and not in sync.
func (r *Resource) watchUndo() {
	mine := r.adopted.replica(r.cfg.Node)
	if mine == nil {
		return
	}
	discard := mine.Discard
	store := r.volume.undo.Load()
	switch {
	case store != nil && (r.undo.at != discard.At || store.failed() != nil):
		r.leaveUndo(store, discard.At == 0 && r.adopted.inSync(r.cfg.Node))
	case discard.At == 0:
		r.undo.problem = ""
	case store == nil && !r.undo.opening && r.local != nil && !time.Now().Before(r.undo.retry):
		r.undo.opening, r.undo.at = true, discard.At
		identity, expected := r.undoIdentity(), r.expectedBlocks()
		begun := r.superblock().Inconsistent && r.superblock().InconsistentSince >= discard.At
		r.loops.Go(func() {
			opened, err := r.openUndo(discard.Undo, identity, !begun, expected)
			r.post(func() { r.undoOpened(identity.DiscardAt, opened, err) })
		})
	}
}

// leaveUndo closes the file. Unless this replica is in sync, no session may go on that could overwrite something.
func (r *Resource) leaveUndo(store *undoStore, finished bool) {
	if err := store.failed(); err != nil {
		r.undo.problem = err.Error()
	}
	if !finished {
		idle := true
		for _, l := range r.links {
			if l.session != nil {
				l.session.fail(errors.New("the undo file is not the one to use any more"))
				idle = false
			}
		}
		if !idle {
			return
		}
	}
	r.volume.undo.Store(nil)
	r.undo.retry = time.Now().Add(r.cfg.Timing.RetryMax)
	r.emit(EventSplitBrain, "", "Saved", fmt.Sprintf("%d blocks are in the undo file of generation %d", store.records(), r.undo.at))
	if err := store.end(finished); err != nil {
		r.log.Error("close the undo file", "error", err)
	}
}

func (r *Resource) undoIdentity() *UndoIdentity {
	mine := r.adopted.replica(r.cfg.Node)
	return &UndoIdentity{ClusterID: r.cfg.ClusterID, Resource: r.name, Node: r.cfg.Node, ResourceID: r.id, SizeBytes: r.adopted.SizeBytes,
		ForkAt: mine.Fork.At, DiscardAt: mine.Discard.At}
}

// expectedBlocks is how many blocks this replica knows that it will lose.
func (r *Resource) expectedBlocks() uint64 {
	var most uint64
	for _, l := range r.links {
		if r.adopted.inSync(l.node) {
			most = max(most, r.local.store.DirtyBlocks(l.slot))
		}
	}
	return most
}

// openUndo opens or makes the file. It may take as long as reading all of it does.
func (r *Resource) openUndo(path string, identity *UndoIdentity, create bool, expected uint64) (*undoStore, error) {
	if r.cfg.OpenUndo == nil {
		return nil, errors.New("this node keeps no undo files")
	}
	file, fresh, err := r.cfg.OpenUndo(path, identity, create)
	if err != nil {
		return nil, err
	}
	store, err := beginUndo(file, identity, fresh || create)
	if err == nil {
		err = store.room(expected)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return store, nil
}

// beginUndo goes on with a file, or makes it one: also if it was made a moment ago and its header did not get there.
func beginUndo(file UndoFile, identity *UndoIdentity, create bool) (*undoStore, error) {
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if create && size <= undoHeaderBytes {
		if _, err := readUndoHeader(file); size == 0 || errors.Is(err, ErrUndoFile) {
			return createUndo(file, &undoHeader{UndoIdentity: *identity, Created: time.Now().Truncate(time.Second)})
		}
	}
	return openUndo(file, identity)
}

func (r *Resource) undoOpened(at uint64, store *undoStore, err error) {
	r.undo.opening = false
	if err != nil {
		known := r.undo.problem == err.Error()
		r.undo.problem, r.undo.retry = err.Error(), time.Now().Add(r.cfg.Timing.RetryMax)
		r.log.Error("undo file", "error", err)
		if !known {
			r.greetAgain(errors.New(r.notTarget()))
		}
		return
	}
	r.undo.problem = ""
	r.volume.undo.Store(store)
	r.log.Info("undo file", "generation", at, "blocks", store.records())
	r.greetAgain(errUndoOpen)
}

// greetAgain ends the sessions, because what this node said of itself when they began is not so any more.
func (r *Resource) greetAgain(why error) {
	for _, l := range r.links {
		if l.session != nil {
			l.session.fail(why)
		}
	}
}

// closeUndo ends the saving at the end of the volume; nothing is overwritten any more.
func (v *Volume) closeUndo() error {
	store := v.undo.Swap(nil)
	if store == nil {
		return nil
	}
	return store.end(false)
}

func (u *undoStore) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failure
}

// room says so if that many blocks, with those that are there, do not fit.
func (u *undoStore) room(blocks uint64) error {
	free, err := u.file.FreeBytes()
	if err != nil {
		return fmt.Errorf("undo file: %w", err)
	}
	if have := u.records(); blocks > have && (blocks-have)*undoRecordBytes > free {
		return fmt.Errorf("the undo file needs up to %d MiB more, and %d MiB are free where it is; make room, or name another place: "+
			"duet split resolve, with --undo-file", (blocks-have)*undoRecordBytes>>20+1, free>>20)
	}
	return nil
}

// saves reports whether r may have to wait until what it overwrites is saved.
func (v *Volume) saves(r *request) bool { return r.origin != nil && v.undo.Load() != nil }

// saveFormer puts what r overwrites on stable media first, if this replica is given up.
func (v *Volume) saveFormer(r *request, disk io.ReaderAt) error {
	if r.origin == nil || !r.mutates() {
		return nil
	}
	store := v.undo.Load()
	if store == nil {
		return nil
	}
	var incoming []byte
	if r.op == opWrite {
		incoming = r.p
	}
	return store.save(disk, r.offsetBytes, r.lengthBytes, incoming)
}

// dropUnsaved ends a request of a peer that may not be executed, and the session with it: so it is never answered.
func (v *Volume) dropUnsaved(r *request, err error, b Batch) {
	r.origin.fail(err)
	v.mu.Lock()
	r.err = err
	v.mu.Unlock()
	v.legDone(r, b)
}

// roomToSave checks, when the blocks of a resync are known, that what they overwrite can be saved.
func (s *session) roomToSave() error {
	store, local := s.volume.undo.Load(), s.localStore()
	if store == nil || local == nil {
		return nil
	}
	blocks := local.DirtyBlocks(s.slot)
	if blocks*bitmap.BlockBytes >= s.volume.SizeBytes() {
		return nil // in full: nobody knows how many blocks differ
	}
	return store.room(blocks)
}

// giveUpResync tells the source why, and ends the session.
func (s *session) giveUpResync(err error) error {
	s.sendFrame(Header{Type: FrameResyncAbort}, []byte(reasonText(err.Error())))
	return err
}
