// Package managers tries the agents for outside cluster managers against real daemons: with Debian's ocf-tester, as
// Pacemaker and Heartbeat call them, and with a real Heartbeat and a real Pacemaker on machines in namespaces.
package managers
