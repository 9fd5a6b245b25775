package control

import (
	"slices"
	"strings"
)

// Standing says what a node's replica is good for, to somebody who chooses the next Primary. It is advice: whether a node may be
// promoted is decided by the record when it is tried.
type Standing string

// The standings, best first.
const (
	StandingCurrent Standing = "current" // it has every acknowledged write
	StandingUnknown Standing = "unknown" // it had when it last heard of the others, and hears no majority now
	StandingBehind  Standing = "behind"  // it lacks acknowledged writes, or may
	StandingNone    Standing = "none"    // there is no disk to serve from
)

// RoleReport is what outside managers ask of a node: what it is for a resource right now, by itself, and what it could be.
type RoleReport struct {
	Resource  string    `json:"resource"`
	Role      Role      `json:"role"`
	DiskState DiskState `json:"disk-state"`
	Standing  Standing  `json:"standing"`
	// Serves is whether this node is the Primary that is committed and has data to serve, its own or an in-sync peer's.
	Serves      bool      `json:"serves"`
	SuspendedBy string    `json:"suspended-by"` // as in ResourceStatus
	Quorum      bool      `json:"quorum"`
	Promotion   Promotion `json:"promotion"` // the policy
	Primary     string    `json:"primary"`   // the committed Primary; empty for none
	InSync      []string  `json:"in-sync"`
}

// RoleNone is only said in a RoleReport: the node has no replica of the resource, or does not know of it yet.
const RoleNone Role = "none"

// NoRoleReport is the report of a node without a replica.
func NoRoleReport(resource string) *RoleReport {
	return &RoleReport{Resource: resource, Role: RoleNone, DiskState: DiskDiskless, Standing: StandingNone, SuspendedBy: SuspendedByNobody, InSync: []string{}}
}

// NewRoleReport reads it from what a node says of itself and from its copy of the record.
func NewRoleReport(node string, r *ResourceStatus, record *ResourceRecord) *RoleReport {
	report := &RoleReport{Resource: r.Name, Role: r.Role, DiskState: DiskDiskless, SuspendedBy: r.SuspendedBy, Promotion: record.Promotion,
		Primary: r.Primary, InSync: orEmpty(r.InSync)}
	if len(r.Devices) > 0 {
		report.DiskState, report.Quorum = r.Devices[0].DiskState, r.Devices[0].Quorum
	}
	report.Standing = standing(report, slices.Contains(r.InSync, node))
	report.Serves = r.Role == RolePrimary && r.Primary == node && (report.DiskState == DiskUpToDate || hasSource(r))
	return report
}

func standing(report *RoleReport, inSync bool) Standing {
	switch report.DiskState {
	case DiskUpToDate, DiskConsistent:
	case DiskOutdated, DiskInconsistent:
		return StandingBehind
	default:
		return StandingNone
	}
	switch {
	case report.Role == RolePrimary && inSync, report.Quorum && inSync && report.DiskState == DiskUpToDate:
		return StandingCurrent
	case inSync:
		return StandingUnknown
	}
	return StandingBehind
}

// hasSource is whether a peer is connected that a Primary without a good disk can read from.
func hasSource(r *ResourceStatus) bool {
	return slices.ContainsFunc(r.Connections, func(c ConnectionStatus) bool {
		return c.ConnectionState == ConnectionConnected && slices.ContainsFunc(c.PeerDevices, func(d PeerDeviceStatus) bool {
			return d.PeerDiskState == DiskUpToDate
		})
	})
}

// Lines is the report as NAME=VALUE, one a line, for shells. No value has a character that a shell treats in a special way.
func (r *RoleReport) Lines() string {
	var b strings.Builder
	for _, fact := range [][2]string{
		{"role", string(r.Role)}, {"disk-state", string(r.DiskState)}, {"standing", string(r.Standing)}, {"serves", yesNo(r.Serves)},
		{"suspended-by", r.SuspendedBy}, {"quorum", yesNo(r.Quorum)}, {"promotion", string(r.Promotion)}, {"primary", r.Primary},
		{"in-sync", strings.Join(r.InSync, ",")},
	} {
		b.WriteString(fact[0] + "=" + fact[1] + "\n")
	}
	return b.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
