package control

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// ReplicaAddRequest asks for one more replica of a resource.
type ReplicaAddRequest struct {
	Replica
	// Metadata is empty for a file in the node's directory, MetadataInternal, or a path.
	Metadata string `json:"metadata,omitempty"`
	// Force allows a disk that holds something else.
	Force bool `json:"force,omitempty"`
}

// ReplicaRemoveRequest asks for the end of a replica.
type ReplicaRemoveRequest struct {
	Node string `json:"node"`
	// Force allows one that is a side of a split that nobody has decided about.
	Force bool `json:"force,omitempty"`
}

// ResourceEditRequest changes policies of a resource; nil leaves one as it is.
type ResourceEditRequest struct {
	Promotion   *Promotion `json:"promotion,omitempty"`
	Preferred   *string    `json:"preferred,omitempty"` // "": nobody
	OnIOError   *OnIOError `json:"on-io-error,omitempty"`
	DiskTimeout *Duration  `json:"disk-timeout,omitempty"` // 0: the default, negative: for ever
}

// NodeRemoveRequest asks for the end of a membership.
type NodeRemoveRequest struct {
	Node string `json:"node"`
	// WithReplicas takes its replicas out as well.
	WithReplicas bool `json:"with-replicas,omitempty"`
	// Force allows, with replicas, that one of them is a side of a split that nobody has decided about.
	Force bool `json:"force,omitempty"`
}

// NodeRemoval is what is left after one.
type NodeRemoval struct {
	Node     string   `json:"node"`
	Voters   []string `json:"voters"`
	Replicas []string `json:"replicas"` // the resources that it had a replica of
	Warnings []string `json:"warnings,omitempty"`
}

// Validate checks the request. Its errors have CodeUsage.
func (r *ReplicaAddRequest) Validate() error {
	if err := checkName("node", r.Node); err != nil {
		return err
	}
	if len(r.Metadata) > maxPathBytes {
		return Errorf(CodeUsage, "the metadata path is longer than %d bytes", maxPathBytes)
	}
	return checkPath(r.Path)
}

// Validate checks the request. Its errors have CodeUsage.
func (r *ReplicaRemoveRequest) Validate() error { return checkName("node", r.Node) }

// Validate checks the request. Its errors have CodeUsage.
func (r *NodeRemoveRequest) Validate() error { return checkName("node", r.Node) }

// Validate checks the request. Its errors have CodeUsage.
func (r *ResourceEditRequest) Validate() error {
	if *r == (ResourceEditRequest{}) {
		return Errorf(CodeUsage, "nothing is to be changed")
	}
	if r.Promotion != nil && !slices.Contains([]Promotion{PromotionAuto, PromotionManual}, *r.Promotion) {
		return Errorf(CodeUsage, "promotion is %.40q: auto or manual are possible", *r.Promotion)
	}
	if r.Preferred != nil && *r.Preferred != "" {
		if err := checkName("node", *r.Preferred); err != nil {
			return err
		}
	}
	if r.OnIOError != nil && !slices.Contains([]OnIOError{OnIOErrorDetach, OnIOErrorPassOn, OnIOErrorHandler}, *r.OnIOError) {
		return Errorf(CodeUsage, "on-io-error is %.40q: detach, pass-on or handler are possible", *r.OnIOError)
	}
	if r.DiskTimeout == nil {
		return nil
	}
	return checkDiskTimeout(time.Duration(*r.DiskTimeout))
}

func checkDiskTimeout(limit time.Duration) error {
	if limit > 0 && (limit < MinDiskTimeout || limit > MaxDiskTimeout) {
		return Errorf(CodeUsage, "a disk timeout of %v is not possible: %v to %v are, or off", limit, MinDiskTimeout, MaxDiskTimeout)
	}
	return nil
}

// memberRoutes are the routes that change who takes part.
func (s *Server) memberRoutes(route func(OriginKind, string, http.HandlerFunc)) {
	n := s.node
	route(fromLocal, "POST /v1/nodes/remove", post(func(r *http.Request, in *NodeRemoveRequest) (*NodeRemoval, error) {
		return n.NodeRemove(r.Context(), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/replicas/add", post(func(r *http.Request, in *ReplicaAddRequest) (*ResourceRecord, error) {
		return n.ReplicaAdd(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/replicas/remove", post(func(r *http.Request, in *ReplicaRemoveRequest) (*ResourceRecord, error) {
		return n.ReplicaRemove(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/edit", post(func(r *http.Request, in *ResourceEditRequest) (*ResourceRecord, error) {
		return n.ResourceEdit(r.Context(), r.PathValue("name"), in)
	}))
}

// NodeRemove takes a node out of the cluster.
func (c *Client) NodeRemove(ctx context.Context, r *NodeRemoveRequest) (*NodeRemoval, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[NodeRemoval](ctx, c, http.MethodPost, "/v1/nodes/remove", r)
}

// ReplicaAdd gives a resource one more replica.
func (c *Client) ReplicaAdd(ctx context.Context, resource string, r *ReplicaAddRequest) (*ResourceRecord, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[ResourceRecord](ctx, c, http.MethodPost, resource, "replicas/add", r)
}

// ReplicaRemove takes a replica out of a resource.
func (c *Client) ReplicaRemove(ctx context.Context, resource string, r *ReplicaRemoveRequest) (*ResourceRecord, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[ResourceRecord](ctx, c, http.MethodPost, resource, "replicas/remove", r)
}

// ResourceEdit changes policies of a resource.
func (c *Client) ResourceEdit(ctx context.Context, resource string, r *ResourceEditRequest) (*ResourceRecord, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[ResourceRecord](ctx, c, http.MethodPost, resource, "edit", r)
}

// QuorumLoss is what a stopped node knows of a cluster that has lost its majority for good.
type QuorumLoss struct {
	Cluster   string           `json:"cluster"`
	Node      string           `json:"node"`
	GivenUp   []string         `json:"given-up"` // the other voters
	Index     uint64           `json:"index"`    // of the newest entry of the log here
	Term      uint64           `json:"term"`
	Resources []LossOfResource `json:"resources"`
}

// LossOfResource is a resource as that node knows it.
type LossOfResource struct {
	Name       string   `json:"name"`
	Generation uint64   `json:"generation"`
	Primary    string   `json:"primary"`
	InSync     []string `json:"in-sync"`
	Holds      bool     `json:"holds"` // the node has a replica
	IsInSync   bool     `json:"is-in-sync"`
	// Promised is the generation that the replica has promised, if that is one which the record here lacks.
	Promised uint64 `json:"promised,omitempty"`
	Problem  string `json:"problem,omitempty"` // why the replica can't be used
}
