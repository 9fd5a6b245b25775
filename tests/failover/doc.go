// Package failover plays faults against real daemons, each on a network host of its own, under a load that records every
// acknowledged write and every read, and judges what it saw: no write lost, no stale read, never two nodes that acknowledge.
// It also measures how long the service is away. docs/TESTING.md says how to run it.
package failover
