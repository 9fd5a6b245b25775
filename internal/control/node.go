package control

import "context"

// Node is what the server needs of a daemon. Methods may be called from many goroutines at once, return as soon as
// ctx ends, and report failures as *Error; any other error is sent as CodeInternal.
type Node interface {
	Status(ctx context.Context) (*Status, error)
	Version(ctx context.Context) (*VersionInfo, error)
	// Health says whether this node takes its part: it knows a leader and has attached what it holds.
	Health(ctx context.Context) Health

	ResourceCreate(ctx context.Context, r *ResourceCreateRequest) (*ResourceRecord, error)
	ResourceDelete(ctx context.Context, resource string, r *ResourceDeleteRequest) error
	ResourceList(ctx context.Context) ([]ResourceRecord, error)
	ResourceShow(ctx context.Context, resource string) (*ResourceRecord, error)

	Primary(ctx context.Context, resource string, r *PrimaryRequest) (*RoleChange, error)
	// ForceReport says what a forced promotion of this node may lose; it changes nothing.
	ForceReport(ctx context.Context, resource string) (*ForceReport, error)
	Secondary(ctx context.Context, resource string) (*RoleChange, error)
	// Switch makes another node Primary; TakeOver is asked of that node, by the old Primary.
	Switch(ctx context.Context, resource string, r *SwitchRequest) (*SwitchResult, error)
	TakeOver(ctx context.Context, r *TakeOverRequest) (*TakeOver, error)
	Connect(ctx context.Context, resource string, r *PeerRequest) error
	Disconnect(ctx context.Context, resource string, r *PeerRequest) error
	// Detach ends the use of this node's disk, Attach begins it again, or that of another one.
	Detach(ctx context.Context, resource string) error
	Attach(ctx context.Context, resource string, r *AttachRequest) error
	ResyncStatus(ctx context.Context, resource string) (*ResyncStatus, error)
	ChangeResync(ctx context.Context, resource string, r *ResyncRequest) error
	// Explain tells the decisions about the peers, or what a Secondary knows of its replica.
	Explain(ctx context.Context, resource string) (*Explanation, error)

	// SplitShow tells how the sides of a split differ, SplitSide this node's part of that, with up to maxRanges ranges each.
	SplitShow(ctx context.Context, resource string, maxRanges int) (*SplitReport, error)
	SplitSide(ctx context.Context, resource string, r *SplitSideRequest) (*SplitSide, error)
	SplitResolve(ctx context.Context, resource string, r *SplitResolveRequest) (*SplitResolution, error)

	// Verify begins a comparison and returns at once; VerifyStatus says how far it is and, later, how it ended.
	Verify(ctx context.Context, resource string, r *VerifyRequest) (*VerifyStatus, error)
	VerifyStatus(ctx context.Context, resource string) (*VerifyStatus, error)
	VerifyCancel(ctx context.Context, resource string, r *VerifyCancelRequest) error

	// Resize gives a resource a larger size, on all replicas or on none.
	Resize(ctx context.Context, resource string, r *ResizeRequest) (*ResourceRecord, error)
	// SuspendIO lets requests wait and returns when none is under way any more; ResumeIO lets them go on.
	SuspendIO(ctx context.Context, resource string, r *SuspendRequest) (*Suspension, error)
	ResumeIO(ctx context.Context, resource string) error

	// Events calls emit for the events the node still has, oldest first, and with Follow for those that happen until
	// ctx ends. It returns the error of emit, and nil when there is nothing more to come.
	Events(ctx context.Context, r EventsRequest, emit func(Event) error) error

	// NodeRemove takes another node out of the cluster for good.
	NodeRemove(ctx context.Context, r *NodeRemoveRequest) (*NodeRemoval, error)
	// ReplicaAdd and ReplicaRemove change who has a replica of a resource, ResourceEdit its policies.
	ReplicaAdd(ctx context.Context, resource string, r *ReplicaAddRequest) (*ResourceRecord, error)
	ReplicaRemove(ctx context.Context, resource string, r *ReplicaRemoveRequest) (*ResourceRecord, error)
	ResourceEdit(ctx context.Context, resource string, r *ResourceEditRequest) (*ResourceRecord, error)

	Token(ctx context.Context, r *TokenRequest) (*Token, error)
	NodeList(ctx context.Context) ([]NodeInfo, error)

	// QuorumReport asks every voter, VoterSelf is what each of them says; Transfer makes another voter the leader.
	QuorumReport(ctx context.Context) (*QuorumReport, error)
	VoterSelf(ctx context.Context) (*VoterSelf, error)
	Transfer(ctx context.Context, r *TransferRequest) (*Transfer, error)

	// Join admits a new member. token is the id of the token the connection was made with.
	Join(ctx context.Context, token string, r *JoinRequest) (*JoinReply, error)
	// PrepareReplica and DropReplica are asked by another node, or by this one of itself (from is then empty).
	PrepareReplica(ctx context.Context, from string, r *PrepareReplicaRequest) (*PreparedReplica, error)
	DropReplica(ctx context.Context, from string, r *DropReplicaRequest) error
	// MakeRoom is asked the same way, before a resource grows.
	MakeRoom(ctx context.Context, from string, r *MakeRoomRequest) (*Room, error)
}
