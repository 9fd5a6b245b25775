package main

import (
	"context"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) attachCommand() *cli.Command {
	return &cli.Command{
		Name: "attach", Usage: "use this node's disk of a resource again, after duet detach or a failure",
		UsageText: "duet attach RESOURCE [--disk PATH [--metadata WHERE] [--force]]",
		Description: `The disk gets what changed meanwhile, or everything if it had failed or is not the one that it was; duet status shows
how far that is. A Primary serves its clients all the time. What was asked of the disk before has to have returned first.

With --disk another disk takes the place of the one that the resource has on this node: it is made a replica that was
never in sync, and gets everything. A file is created where it is absent.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "disk", Usage: "another disk: the `PATH` of a file or block device on this node"},
			&cli.StringFlag{Name: "metadata", Usage: "`WHERE` its metadata are: internal, or the path of a file; as those of the former disk otherwise"},
			boolFlag("force", "also a disk that holds a filesystem or another resource; what it holds is lost"),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			request := &control.AttachRequest{Path: c.String("disk"), Metadata: c.String("metadata"), Force: c.Bool("force")}
			for _, path := range []string{request.Path, request.Metadata} {
				if path != "" && path != control.MetadataInternal && !filepath.IsAbs(path) {
					return usage(c, "%s: the path must be absolute", path)
				}
			}
			if err := request.Validate(); err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error { return client.Attach(ctx, names[0], request) })
		},
	}
}
