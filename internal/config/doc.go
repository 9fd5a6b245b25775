// Package config is a node's directory: what is where in it, what node.yaml
// may say, and the small files that must survive a crash whole.
//
//	DIR/node.yaml     who this node is and where it listens; edited by people
//	DIR/incarnation   how often the daemon was started here; never goes back
//	DIR/member        there once the node became a member of its cluster; never goes
//	DIR/recovery      how often the cluster's quorum had been rebuilt when this node joined; absent: never
//	DIR/lock          held by the running daemon
//	DIR/tls/          certificates and keys
//	DIR/raft/         the Raft log and snapshots
//	DIR/meta/         metadata of replicas, unless it is on their disks
//	DIR/handlers/     executables that are run on events
//	DIR/control.sock  the control interface of the running daemon
//	DIR/nbd.sock      the running daemon's NBD server for this machine
//	DIR/watch.*       lock, socket and log of the supervisor, docs/SUPERVISOR.md
//
// # Invariants
//
//   - A file written by WriteFile is, after a crash at any moment, either as it
//     was or as it was to be.
//   - An incarnation returned by BumpIncarnation was never returned before by
//     this directory, and is on stable storage already.
//   - Two daemons never hold one directory.
//   - What node.yaml says is known, complete and valid, or the daemon doesn't
//     start: a mistyped key is an error that names file and line.
package config
