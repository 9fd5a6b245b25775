// Package control is how a duet daemon is spoken to: HTTP with JSON bodies on a unix socket in the node's directory,
// and, for the few things nodes ask of each other, on the "control" and "join" channels of the cluster port.
//
// The package holds the types of every request and answer, a server that turns a Node into routes, and a client. It
// decides nothing: what a request means is up to the Node behind it.
//
//	duet COMMAND ──> Client ──unix socket──> Server ──> Node   (every route)
//	another node ──> Client ──"control"────> Server ──> Node   (status, prepare and drop of a replica, health)
//	duet join    ──> Client ──"join"───────> Server ──> Node   (join alone)
//
// Who is at the other end is a property of the connection, called its Origin, never of the request: Server.Serve is
// told for each listener how to find it. A route that the origin may not use is answered with CodeForbidden before
// its body is read.
//
// Every body is bounded and decoded strictly, so that a mistyped key is an error that names the key rather than a
// setting that silently has no effect. Answers are decoded leniently, so that a client may be older than its daemon.
package control
