// Package socket holds connections outside the runtime's poller: whoever reads or writes waits in the kernel, on a thread
// of its own.
//
// The runtime's poller is made for many connections that are mostly idle. For one that answers request after request it
// costs: each message wakes the poller's thread, which looks for the goroutine, wakes a further thread to look for more
// work, and goes to sleep again. A thread that waits for its own socket is woken alone. On small requests, one at a time,
// that is about a fifth of the latency; see docs/BENCHMARKS.md. The price is a thread per waiting goroutine, so
// connections whose number a peer decides have to be bounded elsewhere.
//
// A Conn also takes hints from who reads: that the next message is near, so that the thread may look for it for a moment
// instead of going to sleep, and that much is expected, so that it is not woken for every segment.
//
// A Conn is a net.Conn with deadlines, and a syscall.Conn whose RawConn waits in the same way, so that vectored and
// non-blocking writes work on it as on a *net.TCPConn.
package socket
