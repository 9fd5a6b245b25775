// Package namespaces makes a network for tests: hosts in network namespaces of their own, on one switch that is a bridge in
// a further one, and links between them that can be cut in each direction. Nothing outside of these namespaces is touched.
//
// A namespace's name has the process that made it in it. What a killed run has left behind is found by that, and removed by Sweep.
package namespaces
