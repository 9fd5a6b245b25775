package control

import (
	"context"
	"net/http"
)

// SwitchRequest asks for another Primary, in good order.
type SwitchRequest struct {
	To string `json:"to,omitempty"` // empty: the only node that can be, or the preferred one
	// Relayed: a node passes it on to the one that it takes for the Primary, which must not pass it on any further.
	Relayed bool `json:"relayed,omitempty"`
}

// SwitchResult is a switchover, with the time that each of its steps has taken, in milliseconds. From Drain on requests of clients
// wait; Total is all of that.
type SwitchResult struct {
	Resource   string `json:"resource"`
	From       string `json:"from"`
	To         string `json:"to"`
	Generation uint64 `json:"generation"`
	Already    bool   `json:"already,omitempty"` // To was Primary before

	DrainMS   float64 `json:"drain-ms"`   // what was under way was finished and flushed on all in-sync replicas
	CommitMS  float64 `json:"commit-ms"`  // the quorum decided
	PromoteMS float64 `json:"promote-ms"` // the new Primary got its peers and opened for clients
	TotalMS   float64 `json:"total-ms"`
}

// TakeOverRequest asks a node about its taking over of the Primary's role.
type TakeOverRequest struct {
	Resource string `json:"resource"`
	// Generation is the one in which the node is Primary: the answer comes when it serves. 0: it is only asked whether it could be.
	Generation uint64 `json:"generation,omitempty"`
}

// TakeOver is the answer.
type TakeOver struct {
	Incarnation uint64 `json:"incarnation"` // of the process that answers
}

// Validate checks the request. Its errors have CodeUsage.
func (r *SwitchRequest) Validate() error {
	if r.To == "" {
		return nil
	}
	return checkName("node", r.To)
}

// Validate checks the request. Its errors have CodeUsage.
func (r *TakeOverRequest) Validate() error { return checkResource(r.Resource) }

// Switch asks for another Primary.
func (c *Client) Switch(ctx context.Context, resource string, r *SwitchRequest) (*SwitchResult, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[SwitchResult](ctx, c, http.MethodPost, resource, "switch", r)
}

// TakeOver asks another node whether it can be Primary, or waits until it is.
func (c *Client) TakeOver(ctx context.Context, r *TakeOverRequest) (*TakeOver, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[TakeOver](ctx, c, http.MethodPost, "/v1/replicas/take-over", r)
}

// switchRoutes are the routes of a switchover. The one who is Primary carries it out, whichever node was told.
func (s *Server) switchRoutes(route func(OriginKind, string, http.HandlerFunc)) {
	n := s.node
	route(fromMembers, "POST /v1/resources/{name}/switch", post(func(r *http.Request, in *SwitchRequest) (*SwitchResult, error) {
		return n.Switch(r.Context(), r.PathValue("name"), in)
	}))
	route(OriginNode, "POST /v1/replicas/take-over", post(func(r *http.Request, in *TakeOverRequest) (*TakeOver, error) {
		return n.TakeOver(r.Context(), in)
	}))
}
