// Package cluster starts real duet daemons for tests and benchmarks: one directory per node, free loopback ports, the
// program as an operator runs it. It sees duet only from outside, by its command line, its exit codes and its JSON, so
// that what it finds is what an operator would find.
//
// A Cluster owns its Nodes and a Node owns at most one running Process. Every process is started with a signal that
// kills it should the test die, and Close ends and collects all of them.
package cluster
