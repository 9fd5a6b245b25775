package bitmap

// ioLock is a lock that is held across I/O. It is a channel and not a mutex because who waits for it waits for a disk: under
// virtual time a mutex counts as held for a moment only, and the clock would stand still.
type ioLock chan struct{}

func newIOLock() ioLock { return make(ioLock, 1) }

func (l ioLock) lock() { l <- struct{}{} }

func (l ioLock) unlock() { <-l }
