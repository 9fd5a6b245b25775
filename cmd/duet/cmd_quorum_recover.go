package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
	"duet/internal/node"
)

func (p *program) quorumRecoverCommand() *cli.Command {
	return &cli.Command{
		Name: "recover", Usage: "go on with this node alone when a majority of the voters is gone for good",
		UsageText: "duet quorum recover [--yes] [--json]",
		Description: `For a node whose daemon is stopped, best one with replicas in sync. Makes it the only voter. What the others committed
without it is lost, and so may be acknowledged writes: what that concerns is shown, and the id of the cluster has to be
typed. Nodes of before are refused from then on; they join again under a new directory.

After it: duet run; duet primary RESOURCE (with --force where it was not in sync); duet node remove NODE for each of the
others; then further nodes may join.`,
		Flags: []cli.Flag{boolFlag("yes", "do not ask"), jsonFlag()},
		Action: func(c *cli.Context) (err error) {
			if _, err := arguments(c); err != nil {
				return err
			}
			lost, err := node.OpenLostQuorum(nodeDir(c))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, lost.Close()) }()
			text := renderLoss(&lost.QuorumLoss)
			if c.Bool("yes") {
				fmt.Fprint(p.stderr, text)
			} else if err := p.confirmBy(text, "id of the cluster", lost.Cluster); err != nil {
				return err
			}
			if err := lost.Rebuild(slog.New(slog.DiscardHandler)); err != nil {
				return err
			}
			return p.printEither(c, &lost.QuorumLoss, func() string {
				return fmt.Sprintf("%s is the only voter of cluster %s now; next: `duet --dir %s run`, then `duet primary RESOURCE`\n", lost.Node, lost.Cluster, nodeDir(c))
			})
		},
	}
}

// renderLoss says what may be lost.
func renderLoss(l *control.QuorumLoss) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %s goes on with %s alone. Given up for ever: %s.\n", l.Cluster, l.Node, orDash(strings.Join(l.GivenUp, ", ")))
	fmt.Fprintf(&b, "What they committed without %s is LOST: who became Primary, who left an in-sync set, which resources and nodes came and\n", l.Node)
	fmt.Fprintf(&b, "went; and with it, perhaps, acknowledged writes. %s knows the record up to entry %d of term %d:\n", l.Node, l.Index, l.Term)
	rows := []string{"RESOURCE\tGENERATION\tPRIMARY\tIN SYNC\tHERE"}
	for i := range l.Resources {
		r := &l.Resources[i]
		rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s\t%s", r.Name, r.Generation, orDash(r.Primary), strings.Join(r.InSync, ", "), standingHere(r)))
	}
	if len(l.Resources) > 0 {
		b.WriteString(table("  ", rows))
	}
	b.WriteString("If those who are given up still run, or ever start again without this node, they go on by themselves, and so do their clients:\n")
	b.WriteString("make sure that they do not.\n")
	return b.String()
}

// standingHere says what the replica of the survivor is worth.
func standingHere(r *control.LossOfResource) string {
	switch {
	case !r.Holds:
		return "no replica"
	case r.Problem != "":
		return "NOT usable: " + oneLine(r.Problem)
	case !r.IsInSync:
		return "NOT in sync: it lacks acknowledged writes"
	case r.Promised > 0:
		return fmt.Sprintf("in sync then; it was told of generation %d, which is LOST: perhaps it left the set", r.Promised)
	}
	return "in sync, as far as known"
}
