// Package mux carries everything between nodes over one TCP port per node: it
// admits connections, says which channel each belongs to and who is at the other
// end, and hands them to the channel's listener.
//
//	dialer                                         listener
//	   │── TCP connect ──────────────────────────────▶│
//	   │◀─ TLS 1.3, both show certificates ──────────▶│  stranger: ends here
//	   │── "DUET/1 CHANNEL\n" ───────────────────────▶│  may this kind of node use it?
//	   │◀─ "DUET/1 OK NODE\n" ────────────────────────│  or "DUET/1 REFUSED why\n", and close
//	   │◀═ the channel's own protocol ═══════════════▶│
//
// Without TLS (Insecure, on loopback addresses only) the first line is
// "DUET/1 CHANNEL NODE\n": identity is then claimed, not proven. A dialer with a
// join token claims the token's id.
//
// Where the quorum of the cluster was rebuilt, the first line ends with
// " recovery=N", how often that was. Ends that differ have nothing to do with each
// other, except on join: the answer is "DUET/1 RECOVERED N\n", and close.
//
// The lines are text so that a node of another version, or a person with a TCP
// client, is told in words what is wrong. Neither end reads beyond the line break,
// and the dialer sends nothing more before it has the answer.
//
// # Channels
//
//	raft, forward, beat, control   data nodes and witnesses
//	peer, exit                     data nodes
//	join                           holders of a join token, and these nothing else
//
// # Bounds
//
// A stranger costs little: a line has at most maxLineBytes, an introduction takes
// at most Config.HandshakeTimeout, at most Config.MaxHandshakes are under way,
// and at most Config.Backlog introduced connections wait per channel. When all
// handshakes are taken, the oldest one of the host that has the most gives way,
// so that one host can't keep the others out.
//
// # Goroutines
//
// One accepts; each handshake under way has one. Close ends and joins them all.
// Connections that were handed over belong to who accepted them.
package mux
