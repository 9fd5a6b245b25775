package main

import (
	"fmt"
	"strings"
	"time"

	"duet/internal/config"
	"duet/internal/control"
)

// renderVerify shows in one line how far a verify is.
func renderVerify(v *control.VerifyStatus) string {
	line := fmt.Sprintf("verify %s  %s of %s", bar(v.DoneKiB, v.TotalKiB), kib(v.DoneKiB), kib(v.TotalKiB))
	switch v.State {
	case control.VerifyNone:
		return "none\n"
	case control.VerifyRepairing:
		line = "verify: repairing"
	case control.VerifyRunning:
		line += fmt.Sprintf(", %s/s", kib(v.RateKiBs))
		if v.ETA != nil {
			line += ", " + (time.Duration(*v.ETA) * time.Second).String() + " left"
		}
	default:
		line += ", " + string(v.State)
	}
	return line + found(v) + "\n"
}

// found sums up the differences with all peers.
func found(v *control.VerifyStatus) string {
	var parts []string
	for i := range v.Peers {
		p := &v.Peers[i]
		switch {
		case p.DifferentKiB == 0:
		case p.Repaired:
			parts = append(parts, fmt.Sprintf("%s: %s repaired", p.Name, kib(p.DifferentKiB)))
		default:
			parts = append(parts, fmt.Sprintf("%s: %s different", p.Name, kib(p.DifferentKiB)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return ", " + strings.Join(parts, ", ")
}

// renderVerified shows the result of a verify, each range that differs on a line of its own.
func renderVerified(v *control.VerifyStatus) string {
	var b strings.Builder
	for i := range v.Peers {
		b.WriteString(renderVerifiedPeer(v, &v.Peers[i]))
	}
	return b.String()
}

func renderVerifiedPeer(v *control.VerifyStatus, p *control.VerifyPeer) string {
	compared := "identical, " + kib(v.TotalKiB) + " compared"
	if v.State != control.VerifyDone {
		compared = fmt.Sprintf("no difference in %s of %s", kib(v.DoneKiB), kib(v.TotalKiB))
	}
	if p.DifferentKiB == 0 {
		return fmt.Sprintf("%s: %s\n", p.Name, compared)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s %s", p.Name, kib(p.DifferentKiB), map[bool]string{false: "different", true: "were different and are repaired"}[p.Repaired])
	if !p.Exact {
		b.WriteString("; so many ranges that neighbours are shown as one")
	}
	b.WriteString("\n")
	for _, r := range p.Ranges {
		fmt.Fprintf(&b, "  %s at %s\n", config.FormatSize(r.Length), config.FormatSize(r.Offset))
	}
	if p.MoreRanges > 0 {
		fmt.Fprintf(&b, "  and %d more ranges\n", p.MoreRanges)
	}
	return b.String()
}
