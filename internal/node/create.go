package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/quorum"
)

// ResourceCreate implements control.Node: prepare on every node, commit, promote. What fails before the commit is
// undone everywhere.
func (n *Node) ResourceCreate(ctx context.Context, r *control.ResourceCreateRequest) (*control.ResourceRecord, error) {
	if err := n.checkCreate(r); err != nil {
		return nil, err
	}
	c := &creation{node: n, request: r, preferred: cmp.Or(r.Preferred, r.Replicas[0].Node)}
	if _, err := rand.Read(c.id[:]); err != nil {
		return nil, err
	}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.drop())
	}
	committed, err := c.commit(ctx)
	if err != nil {
		return nil, err
	}
	// The preferred node promotes itself when it has opened the resource.
	err = n.waitFor(ctx, "the promotion", func() bool {
		r := n.quorum.State().Resources[c.request.Name]
		if r != nil && r.Primary != "" {
			committed = r
		}
		return committed.Primary != ""
	})
	n.waitServing(ctx, r.Name)
	warnings := c.warnings(n.quorum.State())
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("%s is not Primary yet: %v; run `duet primary %s` there", c.preferred, err, r.Name))
	}
	answer := record(committed)
	answer.Warnings = warnings
	return answer, nil
}

// waitServing gives a Primary here the moment that it takes until its peers are connected, so that the first look at its
// status is not at that. Nothing depends on it.
func (n *Node) waitServing(ctx context.Context, resource string) {
	h := n.held(resource)
	if h == nil || h.resource == nil || !h.resource.Serving() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	if err := n.waitFor(ctx, resource+" to take requests", func() bool { return !h.resource.Status().Suspended }); err != nil {
		n.log.Debug("just created", "resource", resource, "error", err)
	}
}

// checkCreate refuses what the cluster doesn't have.
func (n *Node) checkCreate(r *control.ResourceCreateRequest) error {
	if err := config.ValidateName("resource", r.Name); err != nil {
		return control.Errorf(control.CodeUsage, "%v", err)
	}
	state := n.quorum.State()
	if state.Resources[r.Name] != nil {
		return control.Errorf(control.CodeRefused, "there is a resource %s already", r.Name).WithHint("see `duet resource show %s`", r.Name)
	}
	for _, replica := range r.Replicas {
		member, ok := state.Nodes[replica.Node]
		switch {
		case !ok:
			return control.Errorf(control.CodeNotFound, "there is no node %s in this cluster: it has %s", replica.Node,
				strings.Join(slices.Sorted(maps.Keys(state.Nodes)), ", "))
		case member.Kind == quorum.Witness:
			return control.Errorf(control.CodeRefused, "%s is a witness: it holds no data", replica.Node)
		}
	}
	return nil
}

// creation is one resource on its way into the record.
type creation struct {
	node      *Node
	request   *control.ResourceCreateRequest
	id        quorum.ResourceID
	preferred string
	replicas  []quorum.NewReplica // those that are prepared
	fresh     bool                // all disks were made just now
}

func (c *creation) prepare(ctx context.Context) error {
	c.fresh = true
	for slot, replica := range c.request.Replicas {
		ready, err := c.node.prepareOn(ctx, replica.Node, &control.PrepareReplicaRequest{
			Resource: c.request.Name, ID: c.id.String(), Slot: slot, SizeBytes: c.request.SizeBytes, Path: replica.Path,
			Metadata: c.request.Metadata, Force: c.request.Force, KeepContent: c.request.AssumeClean,
		})
		if err != nil {
			return err
		}
		c.fresh = c.fresh && ready.Created
		c.replicas = append(c.replicas, quorum.NewReplica{Node: replica.Node, Slot: slot, Path: ready.Path, Metadata: ready.Metadata})
	}
	return nil
}

// drop undoes what was prepared. It goes on without those that can't be reached: their replicas expire.
func (c *creation) drop() error {
	ctx, cancel := context.WithTimeout(c.node.ctx, askLimit)
	defer cancel()
	var failures error
	for _, replica := range c.replicas {
		err := c.node.dropOn(ctx, replica.Node, &control.DropReplicaRequest{Resource: c.request.Name, ID: c.id.String()})
		if err != nil {
			failures = errors.Join(failures, fmt.Errorf("undo on %s: %w", replica.Node, err))
		}
	}
	return failures
}

func (c *creation) commit(ctx context.Context) (*quorum.Resource, error) {
	inSync := []string{c.preferred}
	if c.fresh || c.request.AssumeClean {
		inSync = nil
		for _, replica := range c.replicas {
			inSync = append(inSync, replica.Node)
		}
	}
	result, err := c.node.quorum.Propose(ctx, quorum.CreateResource{
		Name: c.request.Name, ID: c.id, SizeBytes: c.request.SizeBytes, Replicas: c.replicas, InSync: inSync,
		JustCreated: c.fresh, AssumeClean: c.request.AssumeClean,
		Promotion: quorum.Promotion(cmp.Or(c.request.Promotion, control.PromotionAuto)), Preferred: c.preferred,
		AckDurable: c.request.Ack == control.AckDurable, DiskPolicy: diskPolicy(c.request),
	})
	switch {
	case err == nil:
		return result.Resource, nil
	case errors.Is(err, quorum.ErrUnknownOutcome), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil, proposeError("create "+c.request.Name, err)
	}
	return nil, errors.Join(proposeError("create "+c.request.Name, err), c.drop())
}

// diskPolicy is what the record keeps of the request: what is as by default stays that, should the default change.
func diskPolicy(r *control.ResourceCreateRequest) quorum.DiskPolicy {
	return quorum.DiskPolicy{OnIOError: string(r.OnIOError), DiskTimeoutMS: diskTimeoutMS(r.DiskTimeout)}
}

// warnings are what the operator should know about what was asked for.
func (c *creation) warnings(state *quorum.State) []string {
	var all []string
	if len(c.replicas) == 1 {
		all = append(all, "there is only one replica: nothing survives the loss of its disk")
	}
	if len(state.Nodes) < 3 && len(c.replicas) > 1 {
		all = append(all, fmt.Sprintf("there is no witness: the cluster needs both of %s to decide anything. When one is lost, writes on the other freeze "+
			"until it is back or the operator gives it up for good (`duet quorum recover`), and nobody takes over by itself. A witness on a third "+
			"machine prevents that: `duet token` here, `duet join --witness` there", strings.Join(sortedNames(state.Nodes), " and ")))
	}
	if !c.fresh && !c.request.AssumeClean && len(c.replicas) > 1 {
		all = append(all, fmt.Sprintf("a disk existed before: everything is copied from %s now", c.preferred))
	}
	return all
}

// prepareOn asks a node, which may be this one, to make a replica.
func (n *Node) prepareOn(ctx context.Context, node string, r *control.PrepareReplicaRequest) (*control.PreparedReplica, error) {
	if node == n.config.Name {
		return n.PrepareReplica(ctx, "", r)
	}
	client := n.peer(node)
	defer client.Close()
	return client.PrepareReplica(ctx, r)
}

func (n *Node) dropOn(ctx context.Context, node string, r *control.DropReplicaRequest) error {
	if node == n.config.Name {
		return n.DropReplica(ctx, "", r)
	}
	client := n.peer(node)
	defer client.Close()
	return client.DropReplica(ctx, r)
}

// ResourceDelete implements control.Node.
func (n *Node) ResourceDelete(ctx context.Context, resource string, r *control.ResourceDeleteRequest) error {
	current, err := n.newest(ctx, resource)
	if err != nil {
		return err
	}
	if n.quorum.State().Serves(current) {
		return control.Errorf(control.CodeRefused, "%s is Primary on %s", resource, current.Primary).
			WithHint("run `duet secondary %s` there first", resource)
	}
	for _, replica := range current.Replicas {
		if err := n.answers(ctx, replica.Node); err != nil && !r.Force {
			return control.Errorf(control.CodeRefused, "%s has a replica of %s and can't be reached: %v", replica.Node, resource, err).
				WithHint("with --force its metadata stay behind there")
		}
	}
	if _, err := n.quorum.Propose(ctx, quorum.DeleteResource{Resource: resource, Generation: current.Generation}); err != nil {
		return proposeError("delete "+resource, err)
	}
	return n.waitFor(ctx, "the end of "+resource+" on this node", func() bool { return n.held(resource) == nil })
}

// newest is the committed record of a resource, as of now.
func (n *Node) newest(ctx context.Context, resource string) (*quorum.Resource, error) {
	result, err := n.quorum.Read(ctx, resource)
	switch {
	case err != nil:
		return nil, proposeError("look up "+resource, err)
	case result.Resource == nil:
		return nil, n.unknownResource(resource)
	}
	return result.Resource, nil
}

func (n *Node) unknownResource(resource string) error {
	return control.Errorf(control.CodeNotFound, "there is no resource %s", resource).WithHint("see `duet resource list`")
}

// answers tells whether a node's daemon can be reached.
func (n *Node) answers(ctx context.Context, node string) error {
	if node == n.config.Name {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	client := n.peer(node)
	defer client.Close()
	_, err := client.Version(ctx)
	return err
}

// reachLimit is how long a node may take to answer before it counts as not reachable.
const reachLimit = 2 * time.Second
