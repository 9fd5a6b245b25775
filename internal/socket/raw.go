package socket

import "syscall"

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

// rawConn gives out the descriptor, which does not block, and waits where the caller asks for it.
type rawConn struct{ conn *Conn }

// Control implements syscall.RawConn.
func (r rawConn) Control(f func(fd uintptr)) error {
	if err := r.conn.enter(); err != nil {
		return err
	}
	defer r.conn.leave()
	f(uintptr(r.conn.fd))
	return nil
}

// Read implements syscall.RawConn.
func (r rawConn) Read(f func(fd uintptr) bool) error { return r.repeat(f, &r.conn.read) }

// Write implements syscall.RawConn.
func (r rawConn) Write(f func(fd uintptr) bool) error { return r.repeat(f, &r.conn.write) }

func (r rawConn) repeat(f func(fd uintptr) bool, d *direction) error {
	if err := r.conn.enter(); err != nil {
		return err
	}
	defer r.conn.leave()
	if _, err := timeLeft(d.deadline.Load()); err != nil {
		return err
	}
	for !f(uintptr(r.conn.fd)) {
		if err := r.conn.wait(d); err != nil {
			return err
		}
	}
	return nil
}
