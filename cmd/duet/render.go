package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"duet/internal/control"
)

// kib writes a count of KiB with the unit that suits it.
func kib(count uint64) string { return humanize.IBytes(count << 10) }

// table aligns rows of cells that are separated by tabs.
func table(prefix string, rows []string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(w, "%s\n", row)
	}
	if err := w.Flush(); err != nil {
		panic(err) // a strings.Builder takes everything
	}
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString(prefix + strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// renderStatus shows a node and its resources, with an empty line between resources.
func renderStatus(s *control.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s of cluster %s: %s\n", s.Node, orDash(s.Cluster), quorumLine(&s.Quorum))
	if len(s.Resources) == 0 {
		b.WriteString("no resources here" + map[bool]string{true: " (a witness holds none)"}[s.Kind == control.KindWitness] + "\n")
	}
	for i := range s.Resources {
		b.WriteString("\n" + renderResource(s.Node, &s.Resources[i]))
	}
	return b.String()
}

func quorumLine(q *control.QuorumStatus) string {
	reached := 0
	for _, v := range q.Voters {
		if v.Reachable {
			reached++
		}
	}
	line := "has quorum"
	if !q.HasQuorum {
		line = "NO QUORUM"
	}
	return fmt.Sprintf("%s (%d of %d voters reached), leader %s, term %d", line, reached, len(q.Voters), orDash(q.Leader), q.Term)
}

// renderResource shows one resource: a line for this node, one for each peer, then resyncs, verdict and next step.
func renderResource(node string, r *control.ResourceStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s%s  generation %d\n", r.Name, r.Role, suspended(r), r.Generation)
	rows := []string{ownRow(node, r)}
	for i := range r.Connections {
		rows = append(rows, peerRow(&r.Connections[i]))
	}
	b.WriteString(table("  ", rows))
	for _, resync := range resyncsOf(r) {
		fmt.Fprintf(&b, "  resync %s\n", renderResync(resync))
	}
	if r.Verify != nil && (r.Verify.State == control.VerifyRunning || r.Verify.State == control.VerifyRepairing) {
		b.WriteString("  " + renderVerify(r.Verify))
	}
	fmt.Fprintf(&b, "  %s\n", r.Verdict)
	if r.NextStep != "" {
		fmt.Fprintf(&b, "  next: %s\n", r.NextStep)
	}
	return b.String()
}

func suspended(r *control.ResourceStatus) string {
	switch {
	case !r.Suspended:
		return ""
	case r.SuspendedBy == control.SuspendedByUser:
		return "  suspended: user"
	}
	return "  SUSPENDED"
}

// renderSuspension says what is suspended, until when, and which disks are equal meanwhile.
func renderSuspension(resource string, s *control.Suspension) string {
	end := "until `duet resume-io " + resource + "`"
	if s.Until != nil {
		end = "until " + s.Until.UTC().Format(time.DateTime) + " UTC at the latest"
	}
	state := "nothing is under way on"
	if s.Flush {
		state = "everything written is on stable media of"
	}
	return fmt.Sprintf("%s: suspended %s; %s %s\n", resource, end, state, strings.Join(s.InSync, ", "))
}

// ownRow is the line of this node: its disk where a peer's line has the peer's.
func ownRow(node string, r *control.ResourceStatus) string {
	if len(r.Devices) == 0 {
		return fmt.Sprintf("%s (here)\t\t%s\tno disk", node, r.Role)
	}
	d := &r.Devices[0]
	row := fmt.Sprintf("%s (here)\t\t%s\t%s\t\t%s", node, r.Role, d.DiskState, kib(d.SizeKiB))
	if d.Client {
		row += ", diskless on purpose"
	}
	return row
}

func peerRow(c *control.ConnectionStatus) string {
	disk, replication, notes := control.DiskUnknown, control.ReplicationOff, []string(nil)
	if len(c.PeerDevices) > 0 {
		d := &c.PeerDevices[0]
		disk, replication = d.PeerDiskState, d.ReplicationState
		if d.OutOfSyncKiB > 0 {
			notes = append(notes, kib(d.OutOfSyncKiB)+" out of sync")
		}
	}
	if c.Congested {
		notes = append(notes, "congested")
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", c.Name, c.ConnectionState, c.PeerRole, disk, replication, strings.Join(notes, ", "))
}

// resyncsOf returns the resyncs with each peer, or the resource's own where the connections say nothing.
func resyncsOf(r *control.ResourceStatus) []*control.ResyncStatus {
	var found []*control.ResyncStatus
	for i := range r.Connections {
		for j := range r.Connections[i].PeerDevices {
			if resync := r.Connections[i].PeerDevices[j].Resync; resync != nil && resync.State != control.ResyncNone {
				found = append(found, resync)
			}
		}
	}
	if len(found) == 0 && r.Resync != nil && r.Resync.State != control.ResyncNone {
		found = append(found, r.Resync)
	}
	return found
}

// barWidth is the number of characters of a full bar.
const barWidth = 24

// renderResync shows a resync in one line, without its end.
func renderResync(r *control.ResyncStatus) string {
	if r.State == control.ResyncNone || r.State == "" {
		return "none"
	}
	line := fmt.Sprintf("%s -> %s  %s  %s of %s", r.Source, r.Target, bar(r.DoneKiB, r.TotalKiB), kib(r.DoneKiB), kib(r.TotalKiB))
	switch r.State {
	case control.ResyncPaused:
		return line + ", paused by " + orDash(strings.Join(r.PausedBy, ", "))
	case control.ResyncWaiting:
		return line + ", waiting"
	}
	line += fmt.Sprintf(", %s/s", kib(r.RateKiBs))
	if r.MaxRateKiBs > 0 {
		line += fmt.Sprintf(" (at most %s/s)", kib(r.MaxRateKiBs))
	}
	if r.ETA == nil {
		return line
	}
	return line + ", " + (time.Duration(*r.ETA) * time.Second).String() + " left"
}

// bar draws a share of a whole. It is full only when everything is done.
func bar(done, total uint64) string {
	share := 1.0
	if total > 0 {
		share = min(1, float64(done)/float64(total))
	}
	filled := int(share * barWidth)
	percent := share * 100
	if share < 1 {
		percent = min(percent, 99.9)
	}
	return fmt.Sprintf("[%s%s] %5.1f%%", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), percent)
}

// renderEvent shows an event in one line.
func renderEvent(e control.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s", e.Time.UTC().Format("2006-01-02 15:04:05.000"), e.Node)
	if e.Resource != "" {
		fmt.Fprintf(&b, "  %s", e.Resource)
	}
	fmt.Fprintf(&b, "  %s", e.Kind)
	if e.Peer != "" {
		fmt.Fprintf(&b, " of %s", e.Peer)
	}
	if e.Old != "" || e.New != "" {
		fmt.Fprintf(&b, "  %s -> %s", orDash(e.Old), orDash(e.New))
	}
	if e.Generation != 0 {
		fmt.Fprintf(&b, "  generation %d", e.Generation)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, "  %s", oneLine(e.Message))
	}
	return b.String() + "\n"
}
