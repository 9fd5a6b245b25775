package main

import (
	"context"
	"slices"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) invalidateCommand() *cli.Command {
	return &cli.Command{
		Name: "invalidate", Usage: "copy everything to this node's disk of a resource anew",
		UsageText: "duet invalidate RESOURCE",
		Description: `For a disk whose content is not to be believed, whatever its metadata say. It leaves the in-sync set, becomes a
replica that was never in sync, and gets everything from those that are; a Primary serves its clients all the time.
The last replica that is in sync is refused. It is duet detach, and duet attach with the same disk in its own place.`,
		Action: func(c *cli.Context) error {
			names, err := arguments(c, "RESOURCE")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error { return invalidate(ctx, client, names[0]) })
		},
	}
}

func invalidate(ctx context.Context, client *control.Client, resource string) error {
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	record, err := client.ResourceShow(ctx, resource)
	if err != nil {
		return err
	}
	for _, replica := range record.Replicas {
		if replica.Node != status.Node {
			continue
		}
		if inUse(status, resource) {
			if err := client.Detach(ctx, resource); err != nil {
				return err
			}
		}
		return client.Attach(ctx, resource, &control.AttachRequest{Path: replica.Path, Force: true})
	}
	return control.Errorf(control.CodeRefused, "%s has no replica of %s", status.Node, resource)
}

// inUse reports whether the node has its disk of a resource attached.
func inUse(status *control.Status, resource string) bool {
	return slices.ContainsFunc(status.Resources, func(r control.ResourceStatus) bool {
		return r.Name == resource && slices.ContainsFunc(r.Devices, func(d control.DeviceStatus) bool {
			return d.DiskState != control.DiskDiskless && d.DiskState != control.DiskFailed
		})
	})
}
