package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
)

func (p *program) resizeCommand() *cli.Command {
	return &cli.Command{
		Name: "resize", Usage: "make a resource larger while it is used",
		UsageText: "duet resize RESOURCE --size SIZE [--assume-clean] [--json]",
		Description: `To be said on any node. All replicas have to be in sync, and grow together or not at all. Disks that are files are made
longer, sparsely, by their nodes; block devices must be large enough already. A resource can't become smaller, and one whose
metadata are at the end of its disks can't grow.

NBD clients see the new size when they connect anew; those that are connected go on with the old one. Then it is the
filesystem's turn (resize2fs, xfs_growfs).

What is new reads as zeroes where all disks are files that hold nothing there. Elsewhere it is copied from the Primary to the
others, which leave the in-sync set for that time, unless --assume-clean says that it is the same on all disks.

   duet resize r0 --size 200GiB`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "size", Usage: "the new `SIZE`, such as 200GiB"},
			boolFlag("assume-clean", "what is new on the disks is the same on all of them"),
			jsonFlag(),
		},
		Action: p.resize,
	}
}

func (p *program) resize(c *cli.Context) error {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return err
	}
	if c.String("size") == "" {
		return usage(c, "--size SIZE is missing")
	}
	size, err := config.ParseSize(c.String("size"))
	if err != nil {
		return usage(c, "%v", err)
	}
	request := &control.ResizeRequest{SizeBytes: size, AssumeClean: c.Bool("assume-clean")}
	if err := request.Validate(); err != nil {
		return err
	}
	return p.ask(c, func(ctx context.Context, client *control.Client) error {
		record, err := client.Resize(ctx, names[0], request)
		if err != nil {
			return err
		}
		return p.printEither(c, record, func() string { return renderResized(record) })
	})
}

// renderResized says what there is now, and what the operator should know of it.
func renderResized(r *control.ResourceRecord) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s since generation %d; NBD clients see it when they connect anew\n", r.Name, config.FormatSize(r.SizeBytes), r.Generation)
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "note: %s\n", oneLine(warning))
	}
	return b.String()
}
