package node

import (
	"context"
	"errors"
	"time"

	"duet/internal/control"
	"duet/replication"
)

// SuspendIO implements control.Node. Its time is up before that of the call, so that who asked learns what became of it.
func (n *Node) SuspendIO(ctx context.Context, resource string, r *control.SuspendRequest) (*control.Suspension, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.Timeout))
		defer cancel()
	}
	reached, err := replica.SuspendIO(ctx, replication.SuspendOptions{Flush: r.Flush, For: time.Duration(r.For)})
	switch {
	case errors.Is(err, replication.ErrNotPrimary):
		return nil, n.notPrimaryHere("suspend-io", resource)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, control.Errorf(control.CodeTimeout, "not everything under way for %s ended in time: nothing is suspended", resource)
	case err != nil:
		return nil, roleError("suspend "+resource, err)
	}
	return &control.Suspension{Until: timeOrNil(reached.Until), InSync: reached.InSync, Flush: r.Flush}, nil
}

// ResumeIO implements control.Node.
func (n *Node) ResumeIO(ctx context.Context, resource string) error {
	replica, err := n.replica(resource)
	if err != nil {
		return err
	}
	if err := replica.ResumeIO(ctx); err != nil {
		return roleError("resume "+resource, err)
	}
	return nil
}

// notPrimaryHere says where a command belongs that only the Primary can do.
func (n *Node) notPrimaryHere(command, resource string) error {
	refused := control.Errorf(control.CodeRefused, "%s is not Primary of %s", n.config.Name, resource)
	if r := n.quorum.State().Resources[resource]; r != nil && r.Primary != "" {
		return refused.WithHint("run `duet %s %s` on %s", command, resource, r.Primary)
	}
	return refused
}

// suspendedIO is who lets requests wait, and until when if that is known.
func suspendedIO(st *replication.Status) (by string, until *time.Time) {
	switch {
	case st.ByOperator:
		return control.SuspendedByUser, timeOrNil(st.Until)
	case st.Suspended:
		return control.SuspendedByCluster, nil
	}
	return control.SuspendedByNobody, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// suspendedHere tells whether the operator has suspended a resource on this node: its requests are not going to end.
func (n *Node) suspendedHere() bool {
	for _, h := range n.allHeld() {
		if h.resource != nil && h.resource.Status().ByOperator {
			return true
		}
	}
	return false
}
