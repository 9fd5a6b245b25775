package control

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// complete fills in what a node may leave out: lists are empty rather than null, and every resource has a verdict.
func (s *Status) complete() {
	s.Quorum.Voters = orEmpty(s.Quorum.Voters)
	s.Resources = orEmpty(s.Resources)
	for i := range s.Resources {
		r := &s.Resources[i]
		r.Devices, r.Connections, r.InSync = orEmpty(r.Devices), orEmpty(r.Connections), orEmpty(r.InSync)
		if r.SuspendedBy == "" {
			r.SuspendedBy = SuspendedByNobody
		}
		for j := range r.Connections {
			r.Connections[j].PeerDevices = orEmpty(r.Connections[j].PeerDevices)
		}
		if r.Verdict == "" {
			r.Verdict, r.NextStep = Assess(s.Node, r)
		}
	}
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// Assess says in one line how a resource is, seen from a node, and in another what the operator may do about it; the
// second is empty when there is nothing to do but wait or be glad. The worst finding wins.
func Assess(node string, r *ResourceStatus) (verdict, nextStep string) {
	for _, find := range []func(string, *ResourceStatus) (string, string){
		assessSuspended, assessQuorum, assessDisk, assessSplit, assessNoPrimary, assessResync, assessOutOfDate, assessPeers, assessVerify,
	} {
		if verdict, nextStep = find(node, r); verdict != "" {
			return verdict, nextStep
		}
	}
	if len(r.InSync) < 2 {
		return "only one replica: an acknowledged write does not survive the loss of its disk",
			"add a replica on another node: duet resource add-replica " + r.Name + " --on NODE=PATH"
	}
	return fmt.Sprintf("protected: %s hold every acknowledged write", join(r.InSync)), ""
}

func assessSuspended(_ string, r *ResourceStatus) (string, string) {
	if !r.Suspended {
		return "", ""
	}
	if r.SuspendedBy == SuspendedByUser {
		end := "until `duet resume-io " + r.Name + "`"
		if r.SuspendedUntil != nil {
			end = "until " + r.SuspendedUntil.UTC().Format(time.DateTime) + " UTC at the latest"
		}
		return "the operator has suspended I/O " + end, "`duet resume-io " + r.Name + "`"
	}
	return "I/O waits" + because(r.Reason), "bring back the nodes that are missing (`duet node list`); I/O goes on by itself"
}

// assessQuorum is about a node that does no harm by itself: no role and no in-sync set can change.
func assessQuorum(node string, r *ResourceStatus) (string, string) {
	for _, d := range r.Devices {
		if !d.Quorum {
			return fmt.Sprintf("%s reaches no majority of the cluster: nothing can change", node),
				"bring back the nodes that are missing (`duet node list`)"
		}
	}
	return "", ""
}

func assessDisk(node string, r *ResourceStatus) (string, string) {
	for _, d := range r.Devices {
		if d.Client {
			continue
		}
		switch d.DiskState {
		case DiskFailed, DiskDiskless:
			return fmt.Sprintf("the disk of %s can't be used%s", node, because(r.Reason)),
				fmt.Sprintf("check the disk, then `duet attach %s` on %s, or with --disk PATH for another one", r.Name, node)
		}
	}
	return "", ""
}

func assessNoPrimary(_ string, r *ResourceStatus) (string, string) {
	if r.Primary != "" {
		return "", ""
	}
	if r.Takeover != "" {
		return "no node is Primary: " + r.Takeover, fmt.Sprintf("nothing, or `duet primary %s` on %s", r.Name, either(r.InSync))
	}
	return "no node is Primary: the device can't be used", fmt.Sprintf("`duet primary %s` on %s", r.Name, either(r.InSync))
}

func assessResync(_ string, r *ResourceStatus) (string, string) {
	if r.Resync == nil || r.Resync.State == ResyncNone {
		return "", ""
	}
	protected := fmt.Sprintf("only %s has every acknowledged write", either(r.InSync))
	if len(r.InSync) > 1 {
		protected = fmt.Sprintf("%s hold every acknowledged write", join(r.InSync))
	}
	if r.Resync.State == ResyncPaused {
		return fmt.Sprintf("the resync of %s is paused by %s: %s", r.Resync.Target, join(r.Resync.PausedBy), protected),
			fmt.Sprintf("`duet resync resume %s` on %s", r.Name, join(r.Resync.PausedBy))
	}
	return fmt.Sprintf("%s is being resynced from %s: until then %s", r.Resync.Target, r.Resync.Source, protected), ""
}

// assessOutOfDate is about this node's own replica. The reason for a missing connection is the better answer when
// there is one.
func assessOutOfDate(node string, r *ResourceStatus) (string, string) {
	if len(r.Devices) == 0 || r.Devices[0].Client || slices.Contains(r.InSync, node) {
		return "", ""
	}
	verdict := fmt.Sprintf("the data of %s are out of date; %s has every acknowledged write", node, either(r.InSync))
	if peer := firstDisconnected(r, func(c *ConnectionStatus) bool { return slices.Contains(r.InSync, c.Name) }); peer != nil {
		return verdict + because(peer.Reason), reconnect(r, peer)
	}
	return verdict + because(r.Reason), "wait for the resync to begin"
}

func assessPeers(node string, r *ResourceStatus) (string, string) {
	if peer := firstDisconnected(r, func(*ConnectionStatus) bool { return true }); peer != nil {
		left := fmt.Sprintf("%s is not connected", peer.Name)
		if len(r.InSync) == 1 {
			left += fmt.Sprintf(": only %s has every acknowledged write", r.InSync[0])
		}
		return left + because(peer.Reason), reconnect(r, peer)
	}
	for _, c := range r.Connections {
		if !slices.Contains(r.InSync, c.Name) && !isClient(c) {
			return fmt.Sprintf("the data of %s are out of date; %s has every acknowledged write", c.Name, either(r.InSync)) +
				because(c.Reason), "wait for the resync to begin"
		}
	}
	return "", ""
}

// assessVerify is about what the newest verify found: a difference that nobody repaired.
func assessVerify(node string, r *ResourceStatus) (string, string) {
	if r.Verify == nil || !r.Verify.Different() || r.Verify.State == VerifyRepairing {
		return "", ""
	}
	var names []string
	for _, p := range r.Verify.Peers {
		if p.DifferentKiB > 0 && !p.Repaired {
			names = append(names, p.Name)
		}
	}
	return fmt.Sprintf("a verify found that %s and %s hold different data", join(names), node),
		fmt.Sprintf("if %s holds the right data: `duet verify %s --repair`", node, r.Name)
}

func firstDisconnected(r *ResourceStatus, matters func(*ConnectionStatus) bool) *ConnectionStatus {
	for i := range r.Connections {
		if c := &r.Connections[i]; c.ConnectionState != ConnectionConnected && matters(c) {
			return c
		}
	}
	return nil
}

func isClient(c ConnectionStatus) bool {
	return len(c.PeerDevices) > 0 && c.PeerDevices[0].PeerClient
}

func reconnect(r *ResourceStatus, c *ConnectionStatus) string {
	if c.ConnectionState == ConnectionStandAlone {
		return fmt.Sprintf("`duet connect %s %s`", r.Name, c.Name)
	}
	return fmt.Sprintf("check that `duet run` runs on %s and that the network reaches it", c.Name)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func join(names []string) string { return enumerate(names, "and") }

func either(names []string) string { return enumerate(names, "or") }

// enumerate writes "a", "a and b", "a, b and c".
func enumerate(names []string, last string) string {
	switch n := len(names); n {
	case 0:
		return "no node"
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " " + last + " " + names[n-1]
	}
}
