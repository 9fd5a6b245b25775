package control

import (
	"context"
	"net/http"
)

// QuorumReport is the state of the cluster's Raft group, of which every voter was asked.
type QuorumReport struct {
	HasQuorum bool   `json:"has-quorum"` // whether this node is in contact with a majority of the voters
	Leader    string `json:"leader"`     // empty when there is none or it is not known
	Term      uint64 `json:"term"`
	Majority  int    `json:"majority"` // so many voters decide
	// CanLose is how many of the voters that answer can be lost before nothing is decided any more.
	CanLose int           `json:"can-lose"`
	Voters  []VoterReport `json:"voters"`
}

// VoterReport is one member of the Raft group.
type VoterReport struct {
	Name      string   `json:"name"`
	Kind      NodeKind `json:"kind"`
	Address   string   `json:"address"`
	Votes     bool     `json:"votes"` // false: it receives the log and has no vote yet
	Reachable bool     `json:"reachable"`
	State     string   `json:"state,omitempty"` // leader, follower, candidate, failed
	// LagEntries is how many entries of the log it has not stored yet that the leader has; nil: not known.
	LagEntries *uint64 `json:"lag-entries"`
	// LeaderHeardMS is for how long it has heard nothing of the leader, in milliseconds; nil: not known, or it leads.
	LeaderHeardMS *int64 `json:"leader-heard-ms"`
	Problem       string `json:"problem,omitempty"` // why it does not answer, or votes no more
}

// VoterSelf is what a voter knows of its own part.
type VoterSelf struct {
	State         string `json:"state"`
	LastIndex     uint64 `json:"last-index"`
	LeaderHeardMS *int64 `json:"leader-heard-ms"`
	Problem       string `json:"problem,omitempty"`
}

// TransferRequest asks for another leader of the Raft group.
type TransferRequest struct {
	To string `json:"to,omitempty"` // empty: whoever suits best
}

// Transfer is what became of it.
type Transfer struct {
	From string `json:"from"` // empty when it is not known
	To   string `json:"to"`
}

// Validate checks the request. Its errors have CodeUsage.
func (r *TransferRequest) Validate() error {
	if r.To == "" {
		return nil
	}
	return checkName("node", r.To)
}

// QuorumReport asks for the state of the Raft group.
func (c *Client) QuorumReport(ctx context.Context) (*QuorumReport, error) {
	return fetch[QuorumReport](ctx, c, http.MethodGet, "/v1/quorum", nil)
}

// VoterSelf asks another node for its own part.
func (c *Client) VoterSelf(ctx context.Context) (*VoterSelf, error) {
	return fetch[VoterSelf](ctx, c, http.MethodGet, "/v1/quorum/self", nil)
}

// Transfer asks for another leader.
func (c *Client) Transfer(ctx context.Context, r *TransferRequest) (*Transfer, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[Transfer](ctx, c, http.MethodPost, "/v1/quorum/transfer", r)
}

// quorumRoutes are the routes about the Raft group.
func (s *Server) quorumRoutes(route func(OriginKind, string, http.HandlerFunc)) {
	n := s.node
	route(fromLocal, "GET /v1/quorum", get(func(r *http.Request) (*QuorumReport, error) { return n.QuorumReport(r.Context()) }))
	route(fromMembers, "GET /v1/quorum/self", get(func(r *http.Request) (*VoterSelf, error) { return n.VoterSelf(r.Context()) }))
	route(fromLocal, "POST /v1/quorum/transfer", post(func(r *http.Request, in *TransferRequest) (*Transfer, error) {
		return n.Transfer(r.Context(), in)
	}))
}
