package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
	"duet/internal/node"
	"duet/replication"
)

func (p *program) splitCommand() *cli.Command {
	return &cli.Command{
		Name: "split", Usage: "what the sides of a split brain hold, and which one is kept", UsageText: "duet split show | resolve | undo RESOURCE",
		Description: `A split begins when "duet primary --force" makes a node Primary that lacks acknowledged writes, and the node that has them
returns. Nothing of either side is overwritten until it is decided which one is kept.`,
		Subcommands: []*cli.Command{p.splitShowCommand(), p.splitResolveCommand(), p.splitUndoCommand()},
	}
}

func (p *program) splitShowCommand() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "how the sides differ", UsageText: "duet split show RESOURCE [--ranges] [--json]",
		Description: `Both sides, since when there are two, and what each has changed that the other lacks, as far as the nodes answer. It is
counted in blocks of 4 KiB; what was being written when a node crashed counts as 4 MiB.`,
		Flags: []cli.Flag{boolFlag("ranges", "list the ranges of bytes"), jsonFlag()},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			most := 0
			if c.Bool("ranges") {
				most = control.MaxSplitRanges
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				report, err := client.SplitShow(ctx, names[0], most)
				if err != nil {
					return err
				}
				return p.printEither(c, report, func() string { return renderSplit(report) })
			})
		},
	}
}

func (p *program) splitResolveCommand() *cli.Command {
	return &cli.Command{
		Name: "resolve", Usage: "keep one side", UsageText: "duet split resolve RESOURCE --keep NODE [--dry-run] [--undo-file PATH] [--json]",
		Description: `The other side becomes a copy of the one that is kept. Before a block of it is overwritten, it is saved in an undo file on
that node, in the node's directory or at PATH; "duet split undo" makes an image of it.

To keep the side that is not in sync, the Primary has to give its role up first; afterwards "duet primary" on the node
that is kept.

   duet split resolve r0 --keep n2 --dry-run    says what would happen
   duet split resolve r0 --keep n2`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "keep", Usage: "keep the data of `NODE`, and of those that are the same"},
			&cli.StringFlag{Name: "undo-file", Usage: "save what is overwritten at `PATH` on the losing node"},
			boolFlag("dry-run", "say what would happen, and do nothing"),
			jsonFlag(),
		},
		Action: p.splitResolve,
	}
}

func (p *program) splitResolve(c *cli.Context) error {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return err
	}
	request := &control.SplitResolveRequest{Keep: c.String("keep"), Undo: c.String("undo-file"), DryRun: c.Bool("dry-run")}
	if request.Keep == "" {
		return usage(c, "--keep is missing: which side is to stay?")
	}
	if err := request.Validate(); err != nil {
		return err
	}
	return p.ask(c, func(ctx context.Context, client *control.Client) error {
		resolution, err := client.SplitResolve(ctx, names[0], request)
		if err != nil {
			return err
		}
		return p.printEither(c, resolution, func() string { return renderResolution(resolution) })
	})
}

func (p *program) splitUndoCommand() *cli.Command {
	return &cli.Command{
		Name: "undo", Usage: "make an image of what the losing side held", UsageText: "duet split undo RESOURCE --undo-file PATH --to IMAGE [--json]",
		Description: `To be said on the losing node. The image is the former disk: the disk as it is now, with every saved block put back. Neither
the disk nor the resource is touched, and it does not matter who is Primary. Mount the image, or copy what was lost from
it; to go back to it altogether, copy it to the device like any other data.

Blocks that both sides had in common, and that were written after the resolution had ended, are as they are now: make the
image before the device is used on, or copy the disk now and use it as --disk later.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "undo-file", Usage: "the undo file at `PATH`"},
			&cli.StringFlag{Name: "to", Usage: "write the image to `IMAGE`, which must not exist"},
			&cli.StringFlag{Name: "disk", Usage: "take what was not saved from `PATH`", DefaultText: "this node's disk"},
			jsonFlag(),
		},
		Action: p.splitUndo,
	}
}

func (p *program) splitUndo(c *cli.Context) error {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return err
	}
	former := node.FormerDisk{Undo: c.String("undo-file"), To: c.String("to"), Disk: c.String("disk")}
	if former.Undo == "" || former.To == "" {
		return usage(c, "--undo-file and --to are needed")
	}
	record, err := p.recordFor(c, names[0])
	if err != nil {
		return err
	}
	content, err := former.Restore(func(id replication.UndoIdentity) error {
		if record != nil && fmt.Sprintf("%x", id.ResourceID) != record.ID {
			return control.Errorf(control.CodeRefused, "%s is the undo file of another resource, %s", former.Undo, id.Resource)
		}
		return useDisk(&former, record, id.Node)
	})
	if err != nil {
		return control.Errorf(control.CodeRefused, "no image was made: %v", err)
	}
	result := restored{Image: former.To, Disk: former.Disk, Resource: content.Resource, Node: content.Node, ForkGeneration: content.ForkAt,
		GivenUp: content.DiscardAt, Saved: content.Created, Blocks: content.Blocks}
	return p.printEither(c, result, func() string { return renderRestored(&result) })
}

// recordFor asks the daemon for the record; with --disk nothing depends on it, and it may be absent.
func (p *program) recordFor(c *cli.Context, resource string) (record *control.ResourceRecord, err error) {
	err = p.ask(c, func(ctx context.Context, client *control.Client) error {
		record, err = client.ResourceShow(ctx, resource)
		return err
	})
	if err != nil && c.String("disk") != "" && control.AsError(err).Code == control.CodeUnreachable {
		return nil, nil
	}
	return record, err
}

// useDisk finds the disk that the undo file belongs to.
func useDisk(former *node.FormerDisk, record *control.ResourceRecord, owner string) error {
	if former.Disk == "" {
		for _, replica := range record.Replicas {
			if replica.Node == owner {
				former.Disk = replica.Path
			}
		}
	}
	if former.Disk == "" {
		return control.Errorf(control.CodeRefused, "the undo file is of %s, which has no replica any more: name its disk with --disk", owner)
	}
	disk, err := filepath.Abs(former.Disk)
	former.Disk = disk
	return err
}

// restored is what `duet split undo` prints.
type restored struct {
	Image          string `json:"image"`
	Disk           string `json:"disk"`
	Resource       string `json:"resource"`
	Node           string `json:"node"`
	ForkGeneration uint64 `json:"fork-generation"`
	GivenUp        uint64 `json:"given-up"`
	Saved          string `json:"saved"`
	Blocks         uint64 `json:"blocks"`
}
