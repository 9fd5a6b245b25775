package main

import (
	"testing"
	"time"

	"duet/internal/control"
)

func inSeconds(s int64) *int64 { return &s }

// peer is a connection as a healthy Primary sees it, with one change.
func peer(name string, change func(*control.ConnectionStatus, *control.PeerDeviceStatus)) control.ConnectionStatus {
	c := control.ConnectionStatus{
		Name: name, ConnectionState: control.ConnectionConnected, PeerRole: control.RoleSecondary,
		PeerDevices: []control.PeerDeviceStatus{{ReplicationState: control.ReplicationEstablished, PeerDiskState: control.DiskUpToDate}},
	}
	change(&c, &c.PeerDevices[0])
	return c
}

func asItIs(*control.ConnectionStatus, *control.PeerDeviceStatus) {}

// statusWith is the status of n1 with one resource; what Assess adds at the daemon is added here.
func statusWith(r control.ResourceStatus) *control.Status {
	r.Verdict, r.NextStep = control.Assess("n1", &r)
	return &control.Status{
		Node: "n1", Kind: control.KindData, Cluster: "b1972b88d1c11103",
		Quorum: control.QuorumStatus{HasQuorum: true, Leader: "w1", Term: 3, Voters: []control.VoterStatus{
			{Name: "n1", Reachable: true}, {Name: "n2", Reachable: true}, {Name: "w1", Reachable: true}}},
		Resources: []control.ResourceStatus{r},
	}
}

func primary(change func(*control.ResourceStatus)) control.ResourceStatus {
	r := control.ResourceStatus{
		Name: "r0", Role: control.RolePrimary, Primary: "n1", Generation: 5, InSync: []string{"n1", "n2"},
		Devices:     []control.DeviceStatus{{DiskState: control.DiskUpToDate, Quorum: true, SizeKiB: 10 << 20}},
		Connections: []control.ConnectionStatus{peer("n2", asItIs)},
	}
	change(&r)
	return r
}

func TestRenderStatus(t *testing.T) {
	resync := &control.ResyncStatus{State: control.ResyncRunning, Source: "n1", Target: "n2",
		DoneKiB: 430 << 10, TotalKiB: 1 << 20, RateKiBs: 95 << 10, ETA: inSeconds(71)}
	tests := map[string]*control.Status{
		"status_in_sync": statusWith(primary(func(*control.ResourceStatus) {})),
		"status_resync": statusWith(primary(func(r *control.ResourceStatus) {
			r.InSync, r.Resync = []string{"n1"}, resync
			r.Connections[0] = peer("n2", func(_ *control.ConnectionStatus, d *control.PeerDeviceStatus) {
				d.ReplicationState, d.PeerDiskState, d.OutOfSyncKiB = control.ReplicationSyncSource, control.DiskInconsistent, 594<<10
			})
		})),
		"status_three_replicas": statusWith(primary(func(r *control.ResourceStatus) {
			r.Connections = []control.ConnectionStatus{
				peer("n2", func(_ *control.ConnectionStatus, d *control.PeerDeviceStatus) {
					d.ReplicationState, d.PeerDiskState, d.OutOfSyncKiB = control.ReplicationSyncSource, control.DiskInconsistent, 594<<10
					d.Resync = resync
				}),
				peer("n3-far", func(_ *control.ConnectionStatus, d *control.PeerDeviceStatus) {
					d.ReplicationState, d.PeerDiskState, d.OutOfSyncKiB = control.ReplicationPausedSyncS, control.DiskInconsistent, 12
					d.Resync = &control.ResyncStatus{State: control.ResyncPaused, Source: "n1", Target: "n3-far", TotalKiB: 12, PausedBy: []string{"n3-far"}}
				}),
			}
			r.InSync, r.Resync = []string{"n1"}, resync
		})),
		"status_peer_gone": statusWith(primary(func(r *control.ResourceStatus) {
			r.InSync = []string{"n1"}
			r.Connections[0] = peer("n2", func(c *control.ConnectionStatus, d *control.PeerDeviceStatus) {
				c.ConnectionState, c.PeerRole, c.Reason = control.ConnectionConnecting, control.RoleUnknown, "connection refused"
				d.ReplicationState, d.PeerDiskState, d.OutOfSyncKiB = control.ReplicationOff, control.DiskUnknown, 8212
			})
		})),
		"status_suspended_by_user": statusWith(primary(func(r *control.ResourceStatus) {
			r.Suspended, r.SuspendedBy, r.Reason = true, control.SuspendedByUser, "suspended by the operator"
		})),
		"status_suspended": statusWith(primary(func(r *control.ResourceStatus) {
			r.Suspended, r.Reason = true, "n2 has left and no majority can be asked"
			r.Connections[0].Congested = true
		})),
		"status_no_disk": statusWith(primary(func(r *control.ResourceStatus) {
			r.Devices, r.Connections[0].PeerDevices = nil, nil
		})),
	}
	lost := statusWith(primary(func(r *control.ResourceStatus) {
		r.Role, r.Primary, r.Devices[0].Quorum = control.RoleSecondary, "", false
	}))
	lost.Quorum = control.QuorumStatus{Voters: []control.VoterStatus{{Name: "n1", Reachable: true}, {Name: "n2"}, {Name: "w1"}}}
	tests["status_no_quorum"] = lost
	witness := statusWith(primary(func(*control.ResourceStatus) {}))
	witness.Node, witness.Kind, witness.Resources = "w1", control.KindWitness, nil
	tests["status_witness"] = witness
	two := statusWith(primary(func(*control.ResourceStatus) {}))
	two.Resources = append(two.Resources, two.Resources[0])
	two.Resources[1].Name = "r1"
	tests["status_two_resources"] = two
	tests["status_no_primary"] = statusWith(primary(func(r *control.ResourceStatus) { r.Role, r.Primary = control.RoleSecondary, "" }))
	for name, status := range tests {
		golden(t, name, renderStatus(status))
	}
}

func TestRenderResync(t *testing.T) {
	tests := []struct {
		r    control.ResyncStatus
		want string
	}{
		{control.ResyncStatus{}, "none"},
		{control.ResyncStatus{State: control.ResyncNone}, "none"},
		{control.ResyncStatus{State: control.ResyncRunning, Source: "a", Target: "b", TotalKiB: 100},
			"a -> b  [........................]   0.0%  0 B of 100 KiB, 0 B/s"},
		{control.ResyncStatus{State: control.ResyncRunning, Source: "a", Target: "b", DoneKiB: 999999, TotalKiB: 1000000, RateKiBs: 1024, ETA: inSeconds(0)},
			"a -> b  [#######################.]  99.9%  977 MiB of 977 MiB, 1.0 MiB/s, 0s left"},
		{control.ResyncStatus{State: control.ResyncRunning, Source: "a", Target: "b", DoneKiB: 3, TotalKiB: 2, ETA: inSeconds(3661)},
			"a -> b  [########################] 100.0%  3.0 KiB of 2.0 KiB, 0 B/s, 1h1m1s left"},
		{control.ResyncStatus{State: control.ResyncRunning, Source: "a", Target: "b", DoneKiB: 1, TotalKiB: 2, RateKiBs: 1024, MaxRateKiBs: 2048},
			"a -> b  [############............]  50.0%  1.0 KiB of 2.0 KiB, 1.0 MiB/s (at most 2.0 MiB/s)"},
		{control.ResyncStatus{State: control.ResyncWaiting, Source: "a", Target: "b", TotalKiB: 4},
			"a -> b  [........................]   0.0%  0 B of 4.0 KiB, waiting"},
		{control.ResyncStatus{State: control.ResyncPaused, Source: "a", Target: "b", DoneKiB: 2, TotalKiB: 4, PausedBy: []string{"a", "b"}},
			"a -> b  [############............]  50.0%  2.0 KiB of 4.0 KiB, paused by a, b"},
	}
	for _, tt := range tests {
		if got := renderResync(&tt.r); got != tt.want {
			t.Errorf("%+v\n got %s\nwant %s", tt.r, got, tt.want)
		}
	}
}

func TestRenderEvent(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC)
	tests := []struct {
		e    control.Event
		want string
	}{
		{control.Event{Time: at, Node: "n1", Kind: "start", Message: "up"}, "2030-01-02 03:04:05.006  n1  start  up\n"},
		{control.Event{Time: at, Node: "n1", Resource: "r0", Peer: "n2", Kind: "connection", Old: "Connecting", New: "Connected"},
			"2030-01-02 03:04:05.006  n1  r0  connection of n2  Connecting -> Connected\n"},
		{control.Event{Time: at, Node: "n1", Resource: "r0", Kind: "role", New: "Primary", Generation: 4, Message: "two\nlines\x1b[2J"},
			"2030-01-02 03:04:05.006  n1  r0  role  - -> Primary  generation 4  two lines [2J\n"},
	}
	for _, tt := range tests {
		if got := renderEvent(tt.e); got != tt.want {
			t.Errorf("got %q\nwant %q", got, tt.want)
		}
	}
}

func testRecord() control.ResourceRecord {
	return control.ResourceRecord{
		Name: "r0", ID: "00112233445566778899aabbccddeeff", SizeBytes: 10 << 30, Generation: 3, Primary: "n1", InSync: []string{"n1"},
		Replicas:  []control.ReplicaRecord{{Node: "n1", Slot: 0, Path: "/srv/r0.img"}, {Node: "n2", Slot: 1, Path: "/dev/sdb", Metadata: "internal"}},
		Promotion: control.PromotionAuto, Preferred: "n1", Ack: control.AckDevice, OnIOError: control.OnIOErrorDetach,
		DiskTimeout: control.Duration(10 * time.Second),
		History: []control.GenerationNote{
			{Generation: 1, Kind: "create", InSync: []string{"n1", "n2"}},
			{Generation: 2, Kind: "promote", Primary: "n1", InSync: []string{"n1", "n2"}},
			{Generation: 3, Kind: "remove", Primary: "n1", InSync: []string{"n1"}, Forced: true, Reason: "n2 did not answer"},
		},
	}
}

func TestRenderCluster(t *testing.T) {
	record := testRecord()
	golden(t, "record", renderRecord(&record))
	record.Primary, record.Clean, record.Hold, record.History = "", true, true, nil
	golden(t, "record_held", renderRecord(&record))
	record.Warnings = []string{"there is no witness: I/O stops when a node is lost"}
	golden(t, "created", renderCreated(&record))
	golden(t, "records", renderRecords([]control.ResourceRecord{testRecord(), record}))
	golden(t, "records_none", renderRecords(nil))
	golden(t, "nodes", renderNodes([]control.NodeInfo{
		{Name: "n1", Kind: control.KindData, Address: "10.0.0.1:7600", NBDAddress: "127.0.0.1:10809", Self: true, Voter: true},
		{Name: "n2", Kind: control.KindData, Address: "10.0.0.2:7600", NBDAddress: "127.0.0.1:10809", Reachable: true, Leader: true, Voter: true},
		{Name: "n3", Kind: control.KindData, Address: "10.0.0.3:7600", NBDAddress: "127.0.0.1:10809"},
		{Name: "w1", Kind: control.KindWitness, Address: "10.0.0.9:7600", Pending: true},
	}))
	golden(t, "quorum", renderQuorum(&control.QuorumReport{HasQuorum: true, Leader: "n1", Term: 9, Majority: 2, Voters: []control.VoterReport{
		{Name: "n1", Kind: control.KindData, Address: "10.0.0.1:7600", Votes: true, Reachable: true, State: "leader", LagEntries: new(uint64(0))},
		{Name: "n2", Kind: control.KindData, Address: "10.0.0.2:7600", Votes: true, Reachable: true, State: "follower", LagEntries: new(uint64(3)), LeaderHeardMS: new(int64(12))},
		{Name: "w1", Kind: control.KindWitness, Address: "10.0.0.9:7600", Votes: true, Problem: "can't connect: connection refused"}}}))
	golden(t, "quorum_lost", renderQuorum(&control.QuorumReport{Term: 9, Majority: 2, Voters: []control.VoterReport{
		{Name: "n1", Kind: control.KindData, Address: "10.0.0.1:7600", Votes: true, Reachable: true, State: "candidate"},
		{Name: "w1", Kind: control.KindWitness, Address: "10.0.0.9:7600", Problem: "can't connect: connection refused"}}}))
	golden(t, "role", renderRoleChange("r0", &control.RoleChange{Role: control.RolePrimary, Generation: 4, Message: "n2 is resynced"}))
}
