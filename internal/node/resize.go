package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"duet/internal/config"
	"duet/internal/control"
	"duet/quorum"
	"duet/replication"
)

// resizeAttempts is how often a growth is begun anew because the record changed meanwhile: somebody else did something.
const resizeAttempts = 5

// Resize implements control.Node: look, make room on every node, commit. Up to the commit nothing that counts has changed, and what was
// made longer does no harm, so there is nothing to undo.
func (n *Node) Resize(ctx context.Context, resource string, r *control.ResizeRequest) (*control.ResourceRecord, error) {
	for attempt := 1; ; attempt++ {
		current, err := n.newest(ctx, resource)
		if err != nil {
			return nil, err
		}
		g := &growth{node: n, record: current, sizeBytes: r.SizeBytes, prepared: map[string]uint64{}, equal: true}
		if err := g.check(); err != nil {
			return nil, err
		}
		if err := g.prepare(ctx); err != nil {
			return nil, err
		}
		committed, err := g.commit(ctx, r.AssumeClean)
		if errors.Is(err, quorum.ErrStale) && attempt < resizeAttempts {
			continue
		}
		if err != nil {
			return nil, proposeError("resize "+resource, err)
		}
		answer := record(committed)
		answer.Warnings = g.warnings(committed, n.waitGrown(ctx, committed))
		return answer, nil
	}
}

// growth is one attempt to make a resource larger.
type growth struct {
	node      *Node
	record    *quorum.Resource
	sizeBytes uint64
	prepared  map[string]uint64 // the processes that have made room
	equal     bool              // what is new reads as zeroes on all of them
}

// check refuses what the record alone tells.
func (g *growth) check() error {
	r := g.record
	if g.sizeBytes <= r.SizeBytes {
		return control.Errorf(control.CodeRefused, "%s has %s and can only grow", r.Name, config.FormatSize(r.SizeBytes)).
			WithHint("a smaller one has to be created anew, and the data copied")
	}
	for _, replica := range r.Replicas {
		switch {
		case replica.Metadata == control.MetadataInternal:
			return control.Errorf(control.CodeRefused, "the metadata of %s on %s are at the end of the disk: it can't grow", r.Name, replica.Node).
				WithHint("create it anew without --metadata internal, and copy the data")
		case !r.IsInSync(replica.Node):
			return control.Errorf(control.CodeRefused, "%s is not in sync: %s can grow only when all replicas are", replica.Node, r.Name).
				WithHint("see `duet status %s`", r.Name)
		}
	}
	return nil
}

// prepare looks at every replica first, so that nothing is made longer for nothing, and then makes room on each.
func (g *growth) prepare(ctx context.Context) error {
	for _, look := range []bool{true, false} {
		for _, replica := range g.record.Replicas {
			room, err := g.node.makeRoomOn(ctx, replica.Node, &control.MakeRoomRequest{Resource: g.record.Name, FromBytes: g.record.SizeBytes,
				SizeBytes: g.sizeBytes, Look: look})
			if err != nil {
				failure := control.AsError(err)
				return (&control.Error{Code: failure.Code, Message: fmt.Sprintf("%s can't grow on %s: %s", g.record.Name, replica.Node, failure.Message),
					Hint: failure.Hint})
			}
			if !look {
				g.prepared[replica.Node] = room.Incarnation
				g.equal = g.equal && room.Zeroes
			}
		}
	}
	return nil
}

func (g *growth) commit(ctx context.Context, assumeClean bool) (*quorum.Resource, error) {
	result, err := g.node.quorum.Propose(ctx, quorum.GrowResource{Resource: g.record.Name, Generation: g.record.Generation,
		SizeBytes: g.sizeBytes, Prepared: g.prepared, Equal: g.equal || assumeClean,
		Reason: fmt.Sprintf("from %s to %s", config.FormatSize(g.record.SizeBytes), config.FormatSize(g.sizeBytes))})
	return result.Resource, err
}

// warnings are what the operator should know of a growth that is committed.
func (g *growth) warnings(committed *quorum.Resource, waited error) []string {
	var all []string
	if committed.GrownApart {
		var others []string
		for _, replica := range committed.Replicas {
			if replica.Node != committed.Primary {
				others = append(others, replica.Node)
			}
		}
		all = append(all, fmt.Sprintf("what is new on the disks is no hole everywhere: it is copied from %s to %s now, which leave the in-sync set for that time",
			committed.Primary, strings.Join(others, ", ")))
	}
	if waited != nil {
		all = append(all, fmt.Sprintf("%s does not serve the new size yet: %v", committed.Primary, waited))
	}
	return all
}

// waitGrown waits until the Primary serves the size that is committed.
func (n *Node) waitGrown(ctx context.Context, committed *quorum.Resource) error {
	if committed.Primary == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	return n.waitFor(ctx, "the Primary to adopt it", func() bool {
		status, err := n.statusOf(ctx, committed.Primary)
		return err == nil && slices.ContainsFunc(status.Resources, func(r control.ResourceStatus) bool {
			return r.Name == committed.Name && len(r.Devices) > 0 && r.Devices[0].SizeKiB >= committed.SizeBytes/kib
		})
	})
}

// statusOf asks a node, which may be this one, for its status.
func (n *Node) statusOf(ctx context.Context, node string) (*control.Status, error) {
	if node == n.config.Name {
		return n.Status(ctx)
	}
	client := n.peer(node)
	defer client.Close()
	return client.Status(ctx)
}

// makeRoomOn asks a node, which may be this one.
func (n *Node) makeRoomOn(ctx context.Context, node string, r *control.MakeRoomRequest) (*control.Room, error) {
	if node == n.config.Name {
		return n.MakeRoom(ctx, "", r)
	}
	client := n.peer(node)
	defer client.Close()
	return client.MakeRoom(ctx, r)
}

// MakeRoom implements control.Node.
func (n *Node) MakeRoom(ctx context.Context, _ string, r *control.MakeRoomRequest) (*control.Room, error) {
	replica, err := n.replica(r.Resource)
	if err != nil {
		return nil, err
	}
	room, err := replica.MakeRoom(ctx, r.FromBytes, r.SizeBytes, r.Look)
	switch {
	case errors.Is(err, replication.ErrRefused):
		return nil, control.Errorf(control.CodeRefused, "%v", err)
	case err != nil:
		return nil, err
	}
	return &control.Room{Incarnation: room.Incarnation, Zeroes: room.Zeroes}, nil
}
