package main

import (
	"fmt"
	"strings"

	"duet/internal/control"
)

// renderSplit shows both sides of each split.
func renderSplit(r *control.SplitReport) string {
	if len(r.Forks) == 0 {
		return fmt.Sprintf("%s: no split; in sync: %s\n", r.Resource, strings.Join(r.InSync, ", "))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  generation %d  Primary %s  in sync %s\n", r.Resource, r.Generation, orDash(r.Primary), strings.Join(r.InSync, ", "))
	for i := range r.Forks {
		b.WriteString("\n" + renderFork(r.Resource, &r.Forks[i]))
	}
	return b.String()
}

func renderFork(resource string, f *control.SplitFork) string {
	var b strings.Builder
	how := fmt.Sprintf("%s was in sync when another replica was forced to be Primary in generation %d%s", f.Name, f.Generation, at(f.Time))
	if f.Forced {
		how = fmt.Sprintf("%s was forced to be Primary in generation %d%s, and is given up for %s", f.Name, f.Generation, at(f.Time), f.Other)
	}
	fmt.Fprintf(&b, "%s\n", how)
	if f.Base > 0 {
		fmt.Fprintf(&b, "  both sides are the same up to generation %d\n", f.Base)
	}
	rows := []string{
		fmt.Sprintf("only on %s\t%s", f.Name, known(f.HasKiB, f.Answers, f.Name)),
		fmt.Sprintf("only on %s\t%s", f.Other, known(f.LacksKiB, f.OtherAnswers, f.Other)),
	}
	if f.DifferKiB != nil {
		rows = append(rows, "together\t"+kib(*f.DifferKiB))
	}
	b.WriteString(table("  ", rows))
	if f.Answers && f.OtherAnswers && !f.Covered {
		b.WriteString("  the bitmaps do not reach back far enough: more may differ, and a resolution compares every block\n")
	}
	b.WriteString(renderRanges("only on "+f.Name, f.HasRanges))
	b.WriteString(renderRanges("only on "+f.Other, f.LacksRanges))
	if f.MoreRanges && (len(f.HasRanges) > 0 || len(f.LacksRanges) > 0) {
		b.WriteString("  more ranges are left out\n")
	}
	switch {
	case f.GivenUp == 0:
		fmt.Fprintf(&b, "  next: duet split resolve %s --keep %s or %s (--dry-run says what that does)\n", resource, f.Other, f.Name)
	case f.Reason != "":
		fmt.Fprintf(&b, "  %s is given up since generation %d, but %s\n", f.Name, f.GivenUp, oneLine(f.Reason))
	default:
		fmt.Fprintf(&b, "  %s is given up since generation %d, and becomes a copy of %s\n", f.Name, f.GivenUp, f.Other)
	}
	return b.String()
}

func known(amount *uint64, answers bool, node string) string {
	switch {
	case amount != nil:
		return kib(*amount)
	case !answers:
		return "unknown: " + node + " can't be reached"
	}
	return "unknown"
}

func renderRanges(what string, ranges []control.ByteRange) string {
	if len(ranges) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n", what)
	for _, r := range ranges {
		fmt.Fprintf(&b, "    %d to %d\n", r.Offset, r.Offset+r.Length)
	}
	return b.String()
}

// renderResolution says what a decision does.
func renderResolution(r *control.SplitResolution) string {
	var b strings.Builder
	verb := "is kept"
	if r.DryRun {
		verb = "would be kept"
	}
	fmt.Fprintf(&b, "%s: %s %s", r.Resource, r.Keep, verb)
	if !r.DryRun {
		fmt.Fprintf(&b, ", generation %d", r.Generation)
	}
	b.WriteString("\n")
	for _, l := range r.Losers {
		b.WriteString("  " + renderLoser(&l) + "\n")
		if l.Problem != "" {
			fmt.Fprintf(&b, "  BUT: %s\n", oneLine(l.Problem))
		}
	}
	if r.Forced {
		fmt.Fprintf(&b, "  what was acknowledged since the force is given up; then: duet primary %s, on %s\n", r.Resource, r.Keep)
	}
	return b.String()
}

func renderLoser(l *control.SplitLoser) string {
	if !l.Answers {
		return fmt.Sprintf("%s can't be reached: when it returns, what it holds is saved, then overwritten", l.Name)
	}
	amount := "every block is compared; what differs is copied, and saved before"
	if l.CopyKiB != nil {
		amount = fmt.Sprintf("up to %s are copied, and saved before", kib(*l.CopyKiB))
	}
	free := ""
	if l.FreeKiB != nil {
		free = fmt.Sprintf(" (%s free)", kib(*l.FreeKiB))
	}
	return fmt.Sprintf("%s becomes a copy: %s in %s%s", l.Name, amount, l.UndoFile, free)
}

func renderRestored(r *restored) string {
	return fmt.Sprintf("%s: what %s held of %s until generation %d, with %d blocks from the undo file\n"+
		"note: blocks that both sides had in common and that were written since are as they are on %s now\n",
		r.Image, r.Node, r.Resource, r.GivenUp, r.Blocks, r.Disk)
}
