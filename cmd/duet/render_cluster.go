package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"duet/internal/config"
	"duet/internal/control"
)

// renderNodes lists the members.
func renderNodes(nodes []control.NodeInfo) string {
	rows := []string{"NODE\tKIND\tADDRESS\tNBD\tSTATE"}
	for i := range nodes {
		n := &nodes[i]
		rows = append(rows, strings.Join([]string{n.Name, string(n.Kind), n.Address, orDash(n.NBDAddress), nodeState(n)}, "\t"))
	}
	return table("", rows)
}

func nodeState(n *control.NodeInfo) string {
	state := "not reachable"
	switch {
	case n.Self:
		state = "here"
	case n.Pending:
		state = "joined, not seen running yet"
	case n.Reachable:
		state = "reachable"
	}
	if n.Leader {
		state += ", leader"
	}
	if !n.Voter && !n.Pending {
		state += ", no voter"
	}
	return state
}

// renderRecords lists the resources of the cluster.
func renderRecords(records []control.ResourceRecord) string {
	if len(records) == 0 {
		return "no resources; create one with `duet resource create`\n"
	}
	rows := []string{"RESOURCE\tSIZE\tPRIMARY\tIN SYNC\tREPLICAS"}
	for i := range records {
		r := &records[i]
		var nodes []string
		for _, replica := range r.Replicas {
			nodes = append(nodes, replica.Node)
		}
		rows = append(rows, strings.Join([]string{r.Name, config.FormatSize(r.SizeBytes), orDash(r.Primary),
			orDash(strings.Join(r.InSync, ", ")), strings.Join(nodes, ", ")}, "\t"))
	}
	return table("", rows)
}

// renderRecord shows one resource as committed.
func renderRecord(r *control.ResourceRecord) string {
	var b strings.Builder
	primary := orDash(r.Primary)
	if r.Primary == "" && r.Clean {
		primary = "- (left in good order)"
	}
	if r.Hold {
		primary += ", no automatic promotion until `duet primary`"
	}
	b.WriteString(table("", []string{
		"resource\t" + r.Name,
		"id\t" + r.ID,
		"size\t" + config.FormatSize(r.SizeBytes),
		"generation\t" + strconv.FormatUint(r.Generation, 10),
		"primary\t" + primary,
		"in sync\t" + orDash(strings.Join(r.InSync, ", ")),
		"promotion\t" + string(r.Promotion) + ", preferred " + orDash(r.Preferred),
		"ack\t" + string(r.Ack),
		"on I/O error\t" + string(r.OnIOError) + ", disk timeout " + diskTimeout(r),
	}))
	rows := []string{"REPLICA\tSLOT\tDISK\tMETADATA"}
	for _, replica := range r.Replicas {
		rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s", replica.Node, replica.Slot, replica.Path, orDash(replica.Metadata)))
	}
	b.WriteString("\n" + table("", rows))
	if len(r.History) > 0 {
		b.WriteString("\n" + table("", historyRows(r.History)))
	}
	return b.String()
}

func diskTimeout(r *control.ResourceRecord) string {
	if r.DiskTimeout < 0 {
		return "off"
	}
	return time.Duration(r.DiskTimeout).String()
}

func historyRows(history []control.GenerationNote) []string {
	rows := []string{"GENERATION\tWHAT\tPRIMARY\tIN SYNC\tREASON"}
	for _, note := range history {
		kind := note.Kind
		if note.Forced {
			kind += " (forced)"
		}
		rows = append(rows, fmt.Sprintf("%d\t%s\t%s\t%s\t%s", note.Generation, kind, orDash(note.Primary),
			orDash(strings.Join(note.InSync, ", ")), oneLine(note.Reason)))
	}
	return rows
}

// renderCreated says what was made, what the operator should know of it, and how it is used.
func renderCreated(r *control.ResourceRecord) string {
	var b strings.Builder
	var nodes []string
	for _, replica := range r.Replicas {
		nodes = append(nodes, replica.Node)
	}
	fmt.Fprintf(&b, "%s: %s on %s; ", r.Name, config.FormatSize(r.SizeBytes), strings.Join(nodes, ", "))
	if r.Primary == "" {
		b.WriteString("no node is Primary\n")
	} else {
		fmt.Fprintf(&b, "%s is Primary and serves it as NBD export %q\n", r.Primary, r.Name)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "note: %s\n", oneLine(warning))
	}
	return b.String()
}

// renderRoleChange says what a node is now.
func renderRoleChange(resource string, change *control.RoleChange) string {
	text := fmt.Sprintf("%s: %s since generation %d\n", resource, change.Role, change.Generation)
	if change.Message != "" {
		text += "note: " + oneLine(change.Message) + "\n"
	}
	return text
}
