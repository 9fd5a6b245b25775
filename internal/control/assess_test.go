package control

import "testing"

func TestAssess(t *testing.T) {
	connected := ConnectionStatus{Name: "b", ConnectionState: ConnectionConnected}
	base := func(changes ...func(*ResourceStatus)) *ResourceStatus {
		r := &ResourceStatus{Name: "r0", Primary: "a", InSync: []string{"a", "b"},
			Devices: []DeviceStatus{{DiskState: DiskUpToDate, Quorum: true}}, Connections: []ConnectionStatus{connected}}
		for _, change := range changes {
			change(r)
		}
		return r
	}
	inSync := func(names ...string) func(*ResourceStatus) { return func(r *ResourceStatus) { r.InSync = names } }
	link := func(state ConnectionState, reason string) func(*ResourceStatus) {
		return func(r *ResourceStatus) {
			r.Connections = []ConnectionStatus{{Name: "b", ConnectionState: state, Reason: reason}}
		}
	}
	resync := func(state ResyncState) func(*ResourceStatus) {
		return func(r *ResourceStatus) {
			r.Resync = &ResyncStatus{State: state, Source: "a", Target: "b", PausedBy: []string{"a"}}
		}
	}
	verified := func(peers ...VerifyPeer) func(*ResourceStatus) {
		return func(r *ResourceStatus) { r.Verify = &VerifyStatus{State: VerifyDone, Peers: peers} }
	}
	disk := func(state DiskState) func(*ResourceStatus) {
		return func(r *ResourceStatus) { r.Devices[0].DiskState, r.Reason = state, "EIO" }
	}
	tests := []struct {
		name, node    string
		r             *ResourceStatus
		verdict, next string
	}{
		{"all is well", "a", base(), "protected: a and b hold every acknowledged write", ""},
		{"three", "a", base(inSync("a", "b", "c")), "protected: a, b and c hold every acknowledged write", ""},
		{"suspended", "a", base(func(r *ResourceStatus) { r.Suspended, r.Reason = true, "no quorum" }),
			"I/O waits (no quorum)", "bring back the nodes that are missing (`duet node list`); I/O goes on by itself"},
		{"no majority", "a", base(func(r *ResourceStatus) { r.Devices[0].Quorum = false }),
			"a reaches no majority of the cluster: nothing can change", "bring back the nodes that are missing (`duet node list`)"},
		{"a failed disk", "a", base(disk(DiskFailed)), "the disk of a can't be used (EIO)", "check the disk, then `duet attach r0` on a, or with --disk PATH for another one"},
		{"diskless on purpose", "a", base(disk(DiskDiskless), func(r *ResourceStatus) { r.Devices[0].Client = true }),
			"protected: a and b hold every acknowledged write", ""},
		{"no primary", "a", base(func(r *ResourceStatus) { r.Primary = "" }),
			"no node is Primary: the device can't be used", "`duet primary r0` on a or b"},
		{"resync", "a", base(inSync("a"), resync(ResyncRunning)),
			"b is being resynced from a: until then only a has every acknowledged write", ""},
		{"resync among three", "a", base(inSync("a", "c"), resync(ResyncRunning)),
			"b is being resynced from a: until then a and c hold every acknowledged write", ""},
		{"paused resync", "a", base(inSync("a"), resync(ResyncPaused)),
			"the resync of b is paused by a: only a has every acknowledged write", "`duet resync resume r0` on a"},
		{"the peer is gone", "a", base(inSync("a"), link(ConnectionConnecting, "connection refused")),
			"b is not connected: only a has every acknowledged write (connection refused)",
			"check that `duet run` runs on b and that the network reaches it"},
		{"the peer is gone and still in the set", "a", base(link(ConnectionConnecting, "")), "b is not connected",
			"check that `duet run` runs on b and that the network reaches it"},
		{"the operator disconnected", "a", base(inSync("a"), link(ConnectionStandAlone, "")),
			"b is not connected: only a has every acknowledged write", "`duet connect r0 b`"},
		{"verified", "a", base(verified(VerifyPeer{Name: "b"}, VerifyPeer{Name: "c", DifferentKiB: 4, Repaired: true})),
			"protected: a and b hold every acknowledged write", ""},
		{"different", "a", base(verified(VerifyPeer{Name: "b", DifferentKiB: 4}, VerifyPeer{Name: "c"})),
			"a verify found that b and a hold different data", "if a holds the right data: `duet verify r0 --repair`"},
		{"out of date and alone", "b", base(inSync("a"), func(r *ResourceStatus) {
			r.Connections = []ConnectionStatus{{Name: "a", ConnectionState: ConnectionConnecting, Reason: "timeout"}}
		}), "the data of b are out of date; a has every acknowledged write (timeout)",
			"check that `duet run` runs on a and that the network reaches it"},
		{"out of date and waiting", "b", base(inSync("a")), "the data of b are out of date; a has every acknowledged write",
			"wait for the resync to begin"},
		{"the peer is out of date", "a", base(inSync("a")), "the data of b are out of date; a has every acknowledged write",
			"wait for the resync to begin"},
		{"a split", "b", base(inSync("b"), link(ConnectionSplitBrain, ""), func(r *ResourceStatus) {
			r.Split = []SplitReplica{{Name: "a", Generation: 5}, {Name: "c", Generation: 3, GivenUp: true}}
		}), "split brain since generation 5: a may have acknowledged writes that b lacks, and the other way round; nothing is copied",
			"`duet split show r0`"},
		{"a split that was decided", "b", base(inSync("b"), func(r *ResourceStatus) {
			r.Split = []SplitReplica{{Name: "a", Generation: 5, GivenUp: true}}
			r.Resync = &ResyncStatus{State: ResyncRunning, Source: "b", Target: "a"}
		}), "a is being resynced from b: until then only b has every acknowledged write", ""},
		{"one replica", "a", base(inSync("a"), func(r *ResourceStatus) { r.Connections = nil }),
			"only one replica: an acknowledged write does not survive the loss of its disk",
			"add a replica on another node: duet resource add-replica r0 --on NODE=PATH"},
	}
	for _, tt := range tests {
		if verdict, next := Assess(tt.node, tt.r); verdict != tt.verdict || next != tt.next {
			t.Errorf("%s: %q, %q\nwant %q, %q", tt.name, verdict, next, tt.verdict, tt.next)
		}
	}
}
