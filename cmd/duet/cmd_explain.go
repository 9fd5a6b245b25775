package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "say why each peer is resynced, or is not", UsageText: "duet explain RESOURCE [--json]",
		Description: `On the Primary, per peer: what was looked at when it connected, each rule that was tried with its answer, and what came of
it. On a Secondary: what the record says of its replica, and who brings it up to date. It changes nothing.`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				explanation, err := client.Explain(ctx, names[0])
				if err != nil {
					return err
				}
				return p.printEither(c, explanation, func() string { return renderExplanation(explanation) })
			})
		},
	}
}

// renderExplanation shows the decision about each peer, or what a Secondary knows of itself.
func renderExplanation(e *control.Explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s on %s  generation %d  Primary %s, in sync %s\n", e.Resource, e.Role, e.Node, e.Generation,
		orDash(e.Primary), orDash(strings.Join(e.InSync, ", ")))
	if e.Standing != "" {
		fmt.Fprintf(&b, "  this replica: %s\n  brought up to date by: %s\n", oneLine(e.Standing), oneLine(e.Source))
	}
	for i := range e.Peers {
		b.WriteString("\n" + renderPeerExplanation(&e.Peers[i]))
	}
	return b.String()
}

func renderPeerExplanation(p *control.PeerExplanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", p.Name, oneLine(p.Result))
	if p.Reason != "" {
		fmt.Fprintf(&b, ": %s", oneLine(p.Reason))
	}
	b.WriteString("\n")
	if p.Generation == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "  decided in generation %d from\n", p.Generation)
	var rows []string
	for _, fact := range p.Facts {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", oneLine(fact.Of), oneLine(fact.Name), oneLine(fact.Value)))
	}
	b.WriteString(table("    ", rows))
	b.WriteString("  by these rules, of which the first yes counts\n")
	rows = nil
	for _, rule := range p.Rules {
		rows = append(rows, fmt.Sprintf("%s\t%s", map[bool]string{true: "yes", false: "no"}[rule.Yes], oneLine(rule.Question)))
	}
	b.WriteString(table("    ", rows))
	return b.String()
}
