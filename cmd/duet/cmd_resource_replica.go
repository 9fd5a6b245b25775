package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) resourceAddReplicaCommand() *cli.Command {
	return &cli.Command{
		Name: "add-replica", Usage: "give a resource one more replica, while it is used",
		UsageText: "duet resource add-replica NAME --on NODE=PATH [--metadata WHERE] [--force] [--json]",
		Description: `Makes or takes the disk as at a creation and commits the replica. Then everything is copied to it from the Primary;
holes and blocks that are equal cost nothing. It is in sync when that is done (duet resync status NAME).

   duet resource add-replica r0 --on n3=/srv/r0.img`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "on", Usage: "the replica: `NODE=PATH` of a file or block device"},
			&cli.StringFlag{Name: "metadata", Usage: "`WHERE`: internal, or the path of a file; a file in the node's directory otherwise"},
			boolFlag("force", "also on a disk that holds something; that is lost"),
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			request, err := replicaRequest(c)
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				record, err := client.ReplicaAdd(ctx, names[0], request)
				if err != nil {
					return err
				}
				return p.printEither(c, record, func() string { return renderReplicas(record) })
			})
		},
	}
}

// replicaRequest reads the command line of add-replica.
func replicaRequest(c *cli.Context) (*control.ReplicaAddRequest, error) {
	replicas, err := parseReplicas(c)
	if err != nil {
		return nil, err
	}
	if len(replicas) > 1 {
		return nil, usage(c, "one replica at a time: --on is given %d times", len(replicas))
	}
	metadata := c.String("metadata")
	if metadata != "" && metadata != control.MetadataInternal && !filepath.IsAbs(metadata) {
		return nil, usage(c, "--metadata %s: the path must be absolute", metadata)
	}
	return &control.ReplicaAddRequest{Replica: replicas[0], Metadata: metadata, Force: c.Bool("force")}, nil
}

func (p *program) resourceRemoveReplicaCommand() *cli.Command {
	return &cli.Command{
		Name: "remove-replica", Usage: "take a replica out of a resource, also that of a dead node",
		UsageText: "duet resource remove-replica NAME NODE [--force] [--json]",
		Description: `Ends the replica of NODE. Its metadata are removed there when the node learns of it; what the disk holds stays.
Refused for the Primary's, and for the last one in sync.`,
		Flags: []cli.Flag{boolFlag("force", "also one that is a side of a split that nobody has decided about"), jsonFlag()},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "NAME", "NODE")
			if err != nil {
				return err
			}
			request := &control.ReplicaRemoveRequest{Node: names[1], Force: c.Bool("force")}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				record, err := client.ReplicaRemove(ctx, names[0], request)
				if err != nil {
					return err
				}
				return p.printEither(c, record, func() string { return renderReplicas(record) })
			})
		},
	}
}

func renderReplicas(r *control.ResourceRecord) string {
	var names []string
	for _, replica := range r.Replicas {
		state := ""
		if !slices.Contains(r.InSync, replica.Node) {
			state = " (not in sync)"
		}
		names = append(names, replica.Node+state)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: replicas on %s, generation %d\n", r.Name, strings.Join(names, ", "), r.Generation)
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "note: %s\n", oneLine(warning))
	}
	return b.String()
}

func (p *program) resourceEditCommand() *cli.Command {
	return &cli.Command{
		Name: "edit", Usage: "change the policies of a resource",
		UsageText: "duet resource edit NAME [--promotion WHO] [--preferred NODE] [--on-io-error HOW] [--disk-timeout TIME] [--json]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "promotion", Usage: "`WHO` replaces a Primary that died: auto or manual"},
			&cli.StringFlag{Name: "preferred", Usage: "the `NODE` that is Primary where there is a choice; none: no one"},
			&cli.StringFlag{Name: "on-io-error", Usage: "a disk that refuses an operation is given up `HOW`: detach, pass-on or handler"},
			&cli.StringFlag{Name: "disk-timeout", Usage: "an operation on a disk that takes longer than `TIME` has failed; off: never; default"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			request, err := editRequest(c)
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				record, err := client.ResourceEdit(ctx, names[0], request)
				if err != nil {
					return err
				}
				return p.printEither(c, record, func() string {
					return fmt.Sprintf("%s: changed in generation %d\n", record.Name, record.Generation)
				})
			})
		},
	}
}

// editRequest reads the flags that were given.
func editRequest(c *cli.Context) (*control.ResourceEditRequest, error) {
	r := &control.ResourceEditRequest{}
	if c.IsSet("promotion") {
		r.Promotion = new(control.Promotion(c.String("promotion")))
	}
	if c.IsSet("preferred") {
		r.Preferred = new("")
		if name := c.String("preferred"); name != "none" {
			r.Preferred = &name
		}
	}
	if c.IsSet("on-io-error") {
		r.OnIOError = new(control.OnIOError(c.String("on-io-error")))
	}
	switch c.String("disk-timeout") {
	case "":
	case "default":
		r.DiskTimeout = new(control.Duration(0))
	default:
		limit, err := parseDiskTimeout(c)
		if err != nil {
			return nil, err
		}
		r.DiskTimeout = &limit
	}
	if *r == (control.ResourceEditRequest{}) {
		return nil, usage(c, "say what is to be changed")
	}
	return r, r.Validate()
}
