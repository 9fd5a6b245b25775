package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"duet/internal/control"
)

// maxAnswerBytes is more than anybody types.
const maxAnswerBytes = 256

// confirm shows what is about to happen, and goes on only when a person types the name of the resource.
func (p *program) confirm(text, name string) error {
	return p.confirmBy(text, "name of the resource", name)
}

// confirmBy is confirm by something else, which what says.
func (p *program) confirmBy(text, what, name string) error {
	if !p.asks {
		fmt.Fprint(p.stderr, text)
		return control.Errorf(control.CodeRefused, "nothing was done: there is no terminal to ask for confirmation").
			WithHint("--yes goes on without asking")
	}
	fmt.Fprintf(p.stderr, "%sType the %s to go on: ", text, what)
	line, err := bufio.NewReader(io.LimitReader(p.stdin, maxAnswerBytes)).ReadString('\n')
	if answer := strings.TrimSpace(line); answer != name {
		return control.Errorf(control.CodeRefused, "nothing was done: that is not %q", name)
	}
	if err != nil {
		return fmt.Errorf("can't read the answer: %w", err)
	}
	return nil
}

// renderForce says what a forced promotion may lose.
func renderForce(r *control.ForceReport) string {
	var b strings.Builder
	others := strings.Join(r.InSync, " and ")
	fmt.Fprintf(&b, "%s on %s, generation %d: acknowledged writes may be LOST.\n", r.Resource, r.Node, r.Generation)
	fmt.Fprintf(&b, "  every acknowledged write: on %s (the in-sync set)\n", others)
	switch {
	case r.LeftAt != 0:
		fmt.Fprintf(&b, "  this replica: %s, behind since generation %d%s\n", r.DiskState, r.LeftAt, at(r.LeftTime))
	case strings.Contains(" "+strings.Join(r.InSync, " ")+" ", " "+r.Node+" "):
		fmt.Fprintf(&b, "  this replica: in the set, but its machine restarted and may have lost what was not flushed\n")
	default:
		fmt.Fprintf(&b, "  this replica: %s, never in sync\n", r.DiskState)
	}
	var rows []string
	for _, peer := range r.Peers {
		rows = append(rows, forceRow(r, &peer))
	}
	b.WriteString(table("  ", rows))
	fmt.Fprintf(&b, "If %s still runs, cut off from the rest, its clients go on writing there: make sure that it does not.\n", others)
	fmt.Fprintf(&b, "When it returns, it is a split brain: nothing is overwritten until `duet split resolve %s`.\n", r.Resource)
	return b.String()
}

func at(t *time.Time) string {
	if t == nil {
		return ""
	}
	return " (" + t.Format(time.DateTime) + ")"
}

func forceRow(r *control.ForceReport, peer *control.ForcePeer) string {
	set, known := "not in sync", fmt.Sprintf("%s known to differ here; what it wrote since is known only there", kib(peer.HereKiB))
	if peer.InSync {
		set = "in sync"
	}
	switch {
	case peer.Answers && peer.InSync:
		set += ", ANSWERS"
	case peer.Answers:
		set += ", answers"
	default:
		set += ", can't be reached"
	}
	if peer.ThereKiB != nil {
		known = fmt.Sprintf("%s known to differ here, %s there", kib(peer.HereKiB), kib(*peer.ThereKiB))
	}
	return fmt.Sprintf("%s\t%s\t%s", peer.Name, set, known)
}
