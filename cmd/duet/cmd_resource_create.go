package main

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
)

func (p *program) resourceCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "create a resource, everywhere or nowhere",
		UsageText: "duet resource create NAME --size SIZE --on NODE=PATH [--on NODE=PATH]... [OPTION...]",
		Description: `Makes or takes the disk of each replica, commits the resource and makes one node Primary. Files are created where they
are absent, without taking space. A disk that holds something is refused without --force. Disks that were not all created just
now get a first full resync, unless --assume-clean says that they are equal.

   duet resource create r0 --size 10GiB --on n1=/srv/r0.img --on n2=/srv/r0.img
   duet resource create db --size 1TiB --on n1=/dev/sdb --on n2=/dev/sdb --metadata internal --ack durable`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "size", Usage: "`SIZE` of the device, such as 512MiB, 10GiB, 4TiB"},
			&cli.StringSliceFlag{Name: "on", Usage: "a replica: `NODE=PATH` of a file or block device"},
			&cli.StringFlag{Name: "metadata", Usage: "`WHERE`: internal, or the path of a file; a file in each node's directory otherwise"},
			&cli.StringFlag{Name: "promotion", Usage: "`WHO` replaces a Primary that died: auto or manual", Value: string(control.PromotionAuto)},
			&cli.StringFlag{Name: "preferred", Usage: "the `NODE` that is Primary first; that of the first --on otherwise"},
			&cli.StringFlag{Name: "ack", Usage: "a write is acknowledged once every in-sync `DISK` has it: device (accepted) or durable (on stable media)", Value: string(control.AckDevice)},
			&cli.StringFlag{Name: "on-io-error", Usage: "a disk that refuses an operation is given up `HOW`: detach, pass-on (reads of the Primary fail instead) or handler (and handlers/local-io-error is run)", Value: string(control.OnIOErrorDetach)},
			&cli.StringFlag{Name: "disk-timeout", Usage: "an operation on a disk that takes longer than `TIME` has failed: 10s unless said otherwise; off: never"},
			boolFlag("assume-clean", "the disks hold the same data already: no first resync"),
			boolFlag("force", "also on disks that hold a filesystem or another resource; what they hold is lost"),
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			request, err := createRequest(c)
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				record, err := client.ResourceCreate(ctx, request)
				if err != nil {
					return err
				}
				return p.printEither(c, record, func() string { return renderCreated(record) })
			})
		},
	}
}

// createRequest reads the command line. What it can't know, such as which nodes there are, is the daemon's to check.
func createRequest(c *cli.Context) (*control.ResourceCreateRequest, error) {
	names, err := arguments(c, "NAME")
	if err != nil {
		return nil, err
	}
	if c.String("size") == "" {
		return nil, usage(c, "--size SIZE is missing")
	}
	size, err := config.ParseSize(c.String("size"))
	if err != nil {
		return nil, usage(c, "%v", err)
	}
	replicas, err := parseReplicas(c)
	if err != nil {
		return nil, err
	}
	diskTimeout, err := parseDiskTimeout(c)
	if err != nil {
		return nil, err
	}
	metadata := c.String("metadata")
	if metadata != "" && metadata != control.MetadataInternal && !filepath.IsAbs(metadata) {
		return nil, usage(c, "--metadata %s: the path must be absolute", metadata)
	}
	request := &control.ResourceCreateRequest{
		Name: names[0], SizeBytes: size, Replicas: replicas, Metadata: metadata,
		Promotion: control.Promotion(c.String("promotion")), Preferred: c.String("preferred"),
		OnIOError: control.OnIOError(c.String("on-io-error")), DiskTimeout: diskTimeout,
		Ack: control.Ack(c.String("ack")), AssumeClean: c.Bool("assume-clean"), Force: c.Bool("force"),
	}
	return request, request.Validate()
}

// parseDiskTimeout reads --disk-timeout.
func parseDiskTimeout(c *cli.Context) (control.Duration, error) {
	switch text := c.String("disk-timeout"); text {
	case "":
		return 0, nil
	case "off":
		return -1, nil
	default:
		limit, err := time.ParseDuration(text)
		if err != nil || limit <= 0 {
			return 0, usage(c, "--disk-timeout %s: write a time such as 10s, or off", text)
		}
		return control.Duration(limit), nil
	}
}

// parseReplicas reads the --on flags. Paths must be absolute: each is one on another machine, where the directory this
// command was called in means nothing.
func parseReplicas(c *cli.Context) ([]control.Replica, error) {
	if len(c.StringSlice("on")) == 0 {
		return nil, usage(c, "--on NODE=PATH is missing")
	}
	var replicas []control.Replica
	for _, text := range c.StringSlice("on") {
		node, path, ok := strings.Cut(text, "=")
		if !ok || node == "" || path == "" {
			return nil, usage(c, "--on %s: write NODE=PATH", text)
		}
		if !filepath.IsAbs(path) {
			return nil, usage(c, "--on %s: the path must be absolute, since it is one on %s", text, node)
		}
		replicas = append(replicas, control.Replica{Node: node, Path: path})
	}
	return replicas, nil
}
