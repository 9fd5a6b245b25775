package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
)

// Status asks for the node's status.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return fetch[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Version asks what program the daemon runs.
func (c *Client) Version(ctx context.Context) (*VersionInfo, error) {
	return fetch[VersionInfo](ctx, c, http.MethodGet, "/v1/version", nil)
}

// Ready returns nil when the node takes its part, else an Error that says why not.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil)
}

// NodeList asks for the members of the cluster.
func (c *Client) NodeList(ctx context.Context) ([]NodeInfo, error) {
	return fetchList[NodeInfo](ctx, c, "/v1/nodes")
}

// Token asks for a new join token.
func (c *Client) Token(ctx context.Context, r *TokenRequest) (*Token, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[Token](ctx, c, http.MethodPost, "/v1/tokens", r)
}

// Join asks to become a member, over a connection made with a token.
func (c *Client) Join(ctx context.Context, r *JoinRequest) (*JoinReply, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[JoinReply](ctx, c, http.MethodPost, "/v1/join", r)
}

// ResourceCreate asks for a new resource.
func (c *Client) ResourceCreate(ctx context.Context, r *ResourceCreateRequest) (*ResourceRecord, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[ResourceRecord](ctx, c, http.MethodPost, "/v1/resources", r)
}

// ResourceDelete asks for the end of a resource.
func (c *Client) ResourceDelete(ctx context.Context, resource string, r *ResourceDeleteRequest) error {
	if err := checkResource(resource); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, resourcePath(resource, "delete"), r, nil)
}

// ResourceList asks for the committed records of all resources.
func (c *Client) ResourceList(ctx context.Context) ([]ResourceRecord, error) {
	return fetchList[ResourceRecord](ctx, c, "/v1/resources")
}

// ResourceShow asks for the committed record of one resource.
func (c *Client) ResourceShow(ctx context.Context, resource string) (*ResourceRecord, error) {
	return aboutResource[ResourceRecord](ctx, c, http.MethodGet, resource, "", nil)
}

// Primary asks the node to become Primary.
func (c *Client) Primary(ctx context.Context, resource string, r *PrimaryRequest) (*RoleChange, error) {
	return aboutResource[RoleChange](ctx, c, http.MethodPost, resource, "primary", r)
}

// ForceReport asks what a forced promotion of the node may lose.
func (c *Client) ForceReport(ctx context.Context, resource string) (*ForceReport, error) {
	return aboutResource[ForceReport](ctx, c, http.MethodGet, resource, "force", nil)
}

// Secondary asks the node to become Secondary.
func (c *Client) Secondary(ctx context.Context, resource string) (*RoleChange, error) {
	return aboutResource[RoleChange](ctx, c, http.MethodPost, resource, "secondary", nil)
}

// Connect lets the node connect to a peer, or to all, again.
func (c *Client) Connect(ctx context.Context, resource string, r *PeerRequest) error {
	return c.aboutPeer(ctx, resource, "connect", r)
}

// Disconnect ends the connection with a peer, or with all, until Connect.
func (c *Client) Disconnect(ctx context.Context, resource string, r *PeerRequest) error {
	return c.aboutPeer(ctx, resource, "disconnect", r)
}

// Detach asks the node to stop using its disk of a resource.
func (c *Client) Detach(ctx context.Context, resource string) error {
	if err := checkResource(resource); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, resourcePath(resource, "detach"), nil, nil)
}

// Attach asks the node to use its disk of a resource again, or another one.
func (c *Client) Attach(ctx context.Context, resource string, r *AttachRequest) error {
	if err := checkResource(resource); err != nil {
		return err
	}
	if err := r.Validate(); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, resourcePath(resource, "attach"), r, nil)
}

// ResyncStatus asks for the progress of a resource's resync.
func (c *Client) ResyncStatus(ctx context.Context, resource string) (*ResyncStatus, error) {
	return aboutResource[ResyncStatus](ctx, c, http.MethodGet, resource, "resync", nil)
}

// Explain asks why the peers of a resource are treated as they are.
func (c *Client) Explain(ctx context.Context, resource string) (*Explanation, error) {
	return aboutResource[Explanation](ctx, c, http.MethodGet, resource, "explain", nil)
}

// SplitShow asks how the sides of a split differ.
func (c *Client) SplitShow(ctx context.Context, resource string, maxRanges int) (*SplitReport, error) {
	return aboutResource[SplitReport](ctx, c, http.MethodPost, resource, "split", &SplitSideRequest{MaxRanges: maxRanges})
}

// SplitSide asks another node for its part of that.
func (c *Client) SplitSide(ctx context.Context, resource string, r *SplitSideRequest) (*SplitSide, error) {
	return aboutResource[SplitSide](ctx, c, http.MethodPost, resource, "split/side", r)
}

// SplitResolve decides which side of a split is kept.
func (c *Client) SplitResolve(ctx context.Context, resource string, r *SplitResolveRequest) (*SplitResolution, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[SplitResolution](ctx, c, http.MethodPost, resource, "split/resolve", r)
}

// ChangeResync asks the node to pause, resume, limit or otherwise change its resyncs.
func (c *Client) ChangeResync(ctx context.Context, resource string, r *ResyncRequest) error {
	if err := checkResource(resource); err != nil {
		return err
	}
	if err := r.Validate(); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, resourcePath(resource, "resync"), r, nil)
}

// Verify begins to compare the replicas of a resource.
func (c *Client) Verify(ctx context.Context, resource string, r *VerifyRequest) (*VerifyStatus, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[VerifyStatus](ctx, c, http.MethodPost, resource, "verify", r)
}

// VerifyStatus asks for the progress or the result of the newest verify.
func (c *Client) VerifyStatus(ctx context.Context, resource string) (*VerifyStatus, error) {
	return aboutResource[VerifyStatus](ctx, c, http.MethodGet, resource, "verify", nil)
}

// VerifyCancel ends a verify.
func (c *Client) VerifyCancel(ctx context.Context, resource string, r *VerifyCancelRequest) error {
	if err := checkResource(resource); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, resourcePath(resource, "verify/cancel"), r, nil)
}

// Resize asks for a larger size.
func (c *Client) Resize(ctx context.Context, resource string, r *ResizeRequest) (*ResourceRecord, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[ResourceRecord](ctx, c, http.MethodPost, resource, "resize", r)
}

// SuspendIO asks a Primary to let requests wait.
func (c *Client) SuspendIO(ctx context.Context, resource string, r *SuspendRequest) (*Suspension, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return aboutResource[Suspension](ctx, c, http.MethodPost, resource, "suspend-io", r)
}

// ResumeIO lets requests go on.
func (c *Client) ResumeIO(ctx context.Context, resource string) error {
	if err := checkResource(resource); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, resourcePath(resource, "resume-io"), nil, nil)
}

// PrepareReplica asks another node to make or check the disk of a replica.
func (c *Client) PrepareReplica(ctx context.Context, r *PrepareReplicaRequest) (*PreparedReplica, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[PreparedReplica](ctx, c, http.MethodPost, "/v1/replicas/prepare", r)
}

// DropReplica asks another node to undo PrepareReplica.
func (c *Client) DropReplica(ctx context.Context, r *DropReplicaRequest) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, "/v1/replicas/drop", r, nil)
}

// MakeRoom asks another node for room on its replica.
func (c *Client) MakeRoom(ctx context.Context, r *MakeRoomRequest) (*Room, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fetch[Room](ctx, c, http.MethodPost, "/v1/replicas/make-room", r)
}

// Events calls emit for each event, in order, until there are no more, ctx ends or emit fails. It returns nil only in
// the first case.
func (c *Client) Events(ctx context.Context, r EventsRequest, emit func(Event) error) (err error) {
	query := url.Values{"resource": {r.Resource}, "follow": {strconv.FormatBool(r.Follow)}}
	response, err := c.send(ctx, http.MethodGet, "/v1/events?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEventBytes)
	for lines.Scan() {
		var event Event
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return Errorf(CodeInternal, "an event is not understood: %v", err)
		}
		if err := emit(event); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return c.explain(ctx, err)
	}
	return nil
}

func (c *Client) aboutPeer(ctx context.Context, resource, verb string, r *PeerRequest) error {
	if err := checkResource(resource); err != nil {
		return err
	}
	if err := r.Validate(); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, resourcePath(resource, verb), r, nil)
}

func aboutResource[Out any](ctx context.Context, c *Client, method, resource, verb string, in any) (*Out, error) {
	if err := checkResource(resource); err != nil {
		return nil, err
	}
	return fetch[Out](ctx, c, method, resourcePath(resource, verb), in)
}

func fetchList[Element any](ctx context.Context, c *Client, path string) ([]Element, error) {
	list, err := fetch[[]Element](ctx, c, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return *list, nil
}
