package forgetful

import "sync"

// stall is a disk that stops in the middle of its work: so a power cut can be placed between any two steps of a process.
type stall struct {
	mu       sync.Mutex
	done     int           // changes and syncs so far
	left     int           // how many more are done before the disk stalls; negative: all
	begun    chan struct{} // closed when one has to wait
	released chan struct{} // closed when they need not wait any more; nil unless the disk is to stall
}

func newStall() *stall { return &stall{left: -1} }

// pass counts a change or a sync. It waits while the disk stalls; false says that it must not be done any more.
func (s *stall) pass() bool {
	s.mu.Lock()
	if s.left != 0 {
		s.left = max(-1, s.left-1)
		s.done++
		s.mu.Unlock()
		return true
	}
	released := s.released
	if released != nil {
		s.begin()
	}
	s.mu.Unlock()
	if released == nil {
		return false
	}
	<-released
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return false
	}
	s.done++
	return true
}

// begin tells that the disk stalls; s.mu is held.
func (s *stall) begin() {
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
}

func (s *stall) after(changes int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.begun, s.released = changes, make(chan struct{}), make(chan struct{})
	return s.begun
}

// release lets go of everybody who waits; their changes are not done. It may be called again.
func (s *stall) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released == nil {
		return
	}
	close(s.released)
	s.left, s.released = 0, nil
}

// resume lets go of everybody who waits, and of whoever comes later; their changes are done.
func (s *stall) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released == nil {
		return
	}
	close(s.released)
	s.left, s.released = -1, nil
}

func (s *stall) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = -1
}

// StallAfter has the disk stop after so many more changes and syncs: the next one is not answered, and so are all that
// follow. The channel is closed when that happens. LetGo must be called once the processes that wait are told to die.
func (f *FS) StallAfter(changes int) <-chan struct{} { return f.stall.after(changes) }

// LetGo ends the wait of processes that were killed. What they waited for is not done, nor is anything until the next
// PowerCut.
func (f *FS) LetGo() { f.stall.release() }

// Resume ends a stall: what waits is done.
func (f *FS) Resume() { f.stall.resume() }

// Changes is how many changes and syncs were done so far.
func (f *FS) Changes() int {
	f.stall.mu.Lock()
	defer f.stall.mu.Unlock()
	return f.stall.done
}
