package control

import "testing"

// roleCase is a node a of two, as it sees itself.
type roleCase struct {
	name     string
	role     Role
	disk     DiskState
	primary  string
	inSync   []string
	cut      bool      // no majority is heard
	peer     DiskState // of b; empty: not connected
	standing Standing
	serves   bool
}

func TestRoleReport(t *testing.T) {
	for _, c := range []roleCase{
		{"a Primary in sync", RolePrimary, DiskUpToDate, "a", []string{"a", "b"}, false, DiskUpToDate, StandingCurrent, true},
		{"a Primary alone, cut off: it is the only one in sync and knows it", RolePrimary, DiskUpToDate, "a", []string{"a"}, true, "", StandingCurrent, true},
		{"a Primary without a disk, through its peer", RolePrimary, DiskFailed, "a", []string{"b"}, false, DiskUpToDate, StandingNone, true},
		{"a Primary without a disk whose peer is gone", RolePrimary, DiskDiskless, "a", []string{"b"}, false, "", StandingNone, false},
		{"a Primary without a disk whose peer is behind", RolePrimary, DiskFailed, "a", []string{"a"}, false, DiskOutdated, StandingNone, false},
		{"a Primary that was replaced", RolePrimary, DiskUpToDate, "b", []string{"a", "b"}, false, DiskUpToDate, StandingCurrent, false},
		{"a Secondary in sync", RoleSecondary, DiskUpToDate, "b", []string{"a", "b"}, false, DiskUpToDate, StandingCurrent, false},
		{"a Secondary in sync whose Primary died", RoleSecondary, DiskUpToDate, "b", []string{"a", "b"}, false, "", StandingCurrent, false},
		{"a Secondary that is cut off", RoleSecondary, DiskUpToDate, "b", []string{"a", "b"}, true, "", StandingUnknown, false},
		{"a replica that has learned nothing yet", RoleSecondary, DiskConsistent, "b", []string{"a", "b"}, false, "", StandingUnknown, false},
		{"a replica that is out of date", RoleSecondary, DiskOutdated, "b", []string{"b"}, false, DiskUpToDate, StandingBehind, false},
		{"a replica that is out of the set", RoleSecondary, DiskUpToDate, "b", []string{"b"}, false, DiskUpToDate, StandingBehind, false},
		{"a resync's target", RoleSecondary, DiskInconsistent, "b", []string{"b"}, false, DiskUpToDate, StandingBehind, false},
		{"a replica without a disk", RoleSecondary, DiskDiskless, "b", []string{"a", "b"}, false, DiskUpToDate, StandingNone, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			status := ResourceStatus{Name: "r0", Role: c.role, Primary: c.primary, InSync: c.inSync, SuspendedBy: SuspendedByNobody,
				Devices: []DeviceStatus{{DiskState: c.disk, Quorum: !c.cut}}}
			if c.peer != "" {
				status.Connections = []ConnectionStatus{{Name: "b", ConnectionState: ConnectionConnected, PeerDevices: []PeerDeviceStatus{{PeerDiskState: c.peer}}}}
			}
			got := NewRoleReport("a", &status, &ResourceRecord{Promotion: PromotionManual})
			if got.Standing != c.standing || got.Serves != c.serves {
				t.Errorf("standing %s, serves %v; want %s, %v", got.Standing, got.Serves, c.standing, c.serves)
			}
		})
	}
}

func TestRoleReportOfAResourceWithoutADevice(t *testing.T) {
	got := NewRoleReport("a", &ResourceStatus{Name: "r0", Role: RoleSecondary, SuspendedBy: SuspendedByNobody}, &ResourceRecord{Promotion: PromotionAuto})
	want := "role=Secondary\ndisk-state=Diskless\nstanding=none\nserves=no\nsuspended-by=no\nquorum=no\npromotion=auto\nprimary=\nin-sync=\n"
	if lines := got.Lines(); lines != want {
		t.Errorf("the report is\n%s\nwant\n%s", lines, want)
	}
}
