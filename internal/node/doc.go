// Package node is the composition root of a duet daemon: it joins the node's one port, the quorum, the resources, the NBD
// server and the control API, and carries what one says to the others. It decides nothing about data or votes.
//
//	run.go       start and stop, in order
//	adapter.go   the committed record as replication sees it, proposals as the quorum sees them
//	resources.go the resources that have a replica here, kept in step with the record
//	exports.go   what NBD clients may open
//	create.go    making and dropping resources, on all nodes or none
//	members.go   tokens, joining, the list of nodes
//	roles.go     what the operator asks of one resource
//	status.go    one snapshot for text, JSON and health
//	events.go    the bounded journal of state changes
package node
