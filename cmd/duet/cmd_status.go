package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

// watchInterval is how often --watch looks: often enough to follow a resync, seldom enough to cost nothing.
const watchInterval = time.Second

// clearScreen puts the cursor into the corner and erases what is below it.
const clearScreen = "\x1b[H\x1b[J"

func (p *program) statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the state of this node's resources", UsageText: "duet status [RESOURCE] [--json] [--watch]",
		Description: `Per resource: role, disk, peers, what is out of sync, a resync with its rate and end, then a verdict in one line and, where
something can be done, the next step. --json prints the keys of drbdsetup status --json and some of duet's own.`,
		Flags: []cli.Flag{
			jsonFlag(),
			boolFlag("watch", "show it again every second"),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "[RESOURCE]")
			if err != nil {
				return err
			}
			if c.Bool("watch") {
				return p.watch(c, func() error { return p.showStatus(c, names[0]) })
			}
			return p.showStatus(c, names[0])
		},
	}
}

// showStatus prints the status once.
func (p *program) showStatus(c *cli.Context, resource string) error {
	return p.ask(c, func(ctx context.Context, client *control.Client) error {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if status.Resources, err = selectResource(status.Resources, resource); err != nil {
			return err
		}
		switch {
		case c.Bool("json") && c.Bool("watch"):
			line, err := json.Marshal(status.Resources)
			if err != nil {
				return err
			}
			return p.print(string(line) + "\n")
		case c.Bool("json"):
			return p.printJSON(status.Resources)
		default:
			return p.print(p.frame(c, renderStatus(status)))
		}
	})
}

// frame makes a text one of many that follow each other.
func (p *program) frame(c *cli.Context, text string) string {
	switch {
	case !c.Bool("watch"):
		return text
	case p.terminal:
		return clearScreen + text
	default:
		return text + "\n"
	}
}

// watch calls show every watchInterval until the operator ends it. A daemon that can't be reached may come back, so
// that is shown and waited out.
func (p *program) watch(c *cli.Context, show func() error) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		err := show()
		switch failure := control.AsError(err); {
		case c.Err() != nil:
			return nil
		case err == nil:
		case failure.Code == control.CodeUnreachable && !c.Bool("json"):
			if err := p.print(p.frame(c, failure.Message+"\n")); err != nil {
				return err
			}
		default:
			return err
		}
		select {
		case <-ticker.C:
		case <-c.Done():
			return nil
		}
	}
}

// selectResource returns all resources, or the one that is named.
func selectResource(all []control.ResourceStatus, name string) ([]control.ResourceStatus, error) {
	if name == "" {
		return all, nil
	}
	for _, r := range all {
		if r.Name == name {
			return []control.ResourceStatus{r}, nil
		}
	}
	return nil, control.Errorf(control.CodeNotFound, "there is no resource %s on this node", name).
		WithHint("see `duet resource list`")
}
