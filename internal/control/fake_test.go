package control

import (
	"context"
	"sync"
	"time"
)

// fakeNode answers everything with fixed values and remembers what it was asked. With failure set it answers that.
type fakeNode struct {
	mu      sync.Mutex
	asked   []any
	failure error
	ready   Health
	entered chan struct{} // not nil: Status announces itself here, then waits for its context
	slow    time.Duration // what Token takes
	follow  chan Event    // what Events emits after its fixed event when it is to follow
}

// ask remembers a request: its name, then what came with it.
func (f *fakeNode) ask(what ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = what
	return f.failure
}

func (f *fakeNode) lastAsked() []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *fakeNode) Status(ctx context.Context) (*Status, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return fakeStatus(), f.ask("Status")
}

func fakeStatus() *Status {
	return &Status{Node: "a", Kind: KindData, Cluster: "c1", Resources: []ResourceStatus{{Name: "r0", Role: RoleSecondary}}}
}

func (f *fakeNode) Version(context.Context) (*VersionInfo, error) {
	return fakeVersion(), f.ask("Version")
}

func fakeVersion() *VersionInfo { return &VersionInfo{Version: "1.2", Go: "go1.26", Protocol: 1} }

func (f *fakeNode) NodeRemove(_ context.Context, r *NodeRemoveRequest) (*NodeRemoval, error) {
	return &NodeRemoval{Node: r.Node, Voters: []string{"a"}}, f.ask("NodeRemove", *r)
}

func (f *fakeNode) ReplicaAdd(_ context.Context, resource string, r *ReplicaAddRequest) (*ResourceRecord, error) {
	return fakeRecord(), f.ask("ReplicaAdd", resource, *r)
}

func (f *fakeNode) ReplicaRemove(_ context.Context, resource string, r *ReplicaRemoveRequest) (*ResourceRecord, error) {
	return fakeRecord(), f.ask("ReplicaRemove", resource, *r)
}

func (f *fakeNode) ResourceEdit(_ context.Context, resource string, r *ResourceEditRequest) (*ResourceRecord, error) {
	return fakeRecord(), f.ask("ResourceEdit", resource, *r)
}

func (f *fakeNode) Health(context.Context) Health { return f.ready }

func (f *fakeNode) ResourceCreate(_ context.Context, r *ResourceCreateRequest) (*ResourceRecord, error) {
	return fakeRecord(), f.ask("ResourceCreate", *r)
}

func fakeRecord() *ResourceRecord {
	return &ResourceRecord{Name: "r0", SizeBytes: 1 << 20, InSync: []string{"a", "b"}, Promotion: PromotionAuto}
}

func (f *fakeNode) ResourceDelete(_ context.Context, resource string, r *ResourceDeleteRequest) error {
	return f.ask("ResourceDelete", resource, *r)
}

func (f *fakeNode) ResourceList(context.Context) ([]ResourceRecord, error) {
	return []ResourceRecord{*fakeRecord()}, f.ask("ResourceList")
}

func (f *fakeNode) ResourceShow(_ context.Context, resource string) (*ResourceRecord, error) {
	return fakeRecord(), f.ask("ResourceShow", resource)
}

func (f *fakeNode) ForceReport(_ context.Context, resource string) (*ForceReport, error) {
	return &ForceReport{Resource: resource, Generation: 7}, f.ask("ForceReport", resource)
}

func (f *fakeNode) SplitShow(_ context.Context, resource string, maxRanges int) (*SplitReport, error) {
	return &SplitReport{Resource: resource, Generation: 7}, f.ask("SplitShow", resource, maxRanges)
}

func (f *fakeNode) SplitSide(_ context.Context, resource string, r *SplitSideRequest) (*SplitSide, error) {
	return &SplitSide{Node: "b"}, f.ask("SplitSide", resource, *r)
}

func (f *fakeNode) SplitResolve(_ context.Context, resource string, r *SplitResolveRequest) (*SplitResolution, error) {
	return &SplitResolution{Resource: resource, Keep: r.Keep}, f.ask("SplitResolve", resource, *r)
}

func (f *fakeNode) Primary(_ context.Context, resource string, r *PrimaryRequest) (*RoleChange, error) {
	return &RoleChange{Role: RolePrimary, Generation: 7}, f.ask("Primary", resource, *r)
}

func (f *fakeNode) Secondary(_ context.Context, resource string) (*RoleChange, error) {
	return &RoleChange{Role: RoleSecondary, Generation: 8}, f.ask("Secondary", resource)
}

func (f *fakeNode) Switch(_ context.Context, resource string, r *SwitchRequest) (*SwitchResult, error) {
	return &SwitchResult{Resource: resource, To: r.To, Generation: 8, TotalMS: 1.5}, f.ask("Switch", resource, *r)
}

func (f *fakeNode) TakeOver(_ context.Context, r *TakeOverRequest) (*TakeOver, error) {
	return &TakeOver{Incarnation: 7}, f.ask("TakeOver", *r)
}

func (f *fakeNode) QuorumReport(context.Context) (*QuorumReport, error) {
	return &QuorumReport{Leader: "a", Majority: 2}, f.ask("QuorumReport")
}

func (f *fakeNode) VoterSelf(context.Context) (*VoterSelf, error) {
	return &VoterSelf{State: "follower", LastIndex: 9}, f.ask("VoterSelf")
}

func (f *fakeNode) Transfer(_ context.Context, r *TransferRequest) (*Transfer, error) {
	return &Transfer{From: "a", To: r.To}, f.ask("Transfer", *r)
}

func (f *fakeNode) Connect(_ context.Context, resource string, r *PeerRequest) error {
	return f.ask("Connect", resource, *r)
}

func (f *fakeNode) Disconnect(_ context.Context, resource string, r *PeerRequest) error {
	return f.ask("Disconnect", resource, *r)
}

func (f *fakeNode) ResyncStatus(_ context.Context, resource string) (*ResyncStatus, error) {
	return fakeResync(), f.ask("ResyncStatus", resource)
}

func (f *fakeNode) ChangeResync(_ context.Context, resource string, r *ResyncRequest) error {
	return f.ask("ChangeResync", resource, *r)
}

func fakeResync() *ResyncStatus {
	seconds := int64(3)
	return &ResyncStatus{Resource: "r0", State: ResyncRunning, DoneKiB: 5, TotalKiB: 10, ETA: &seconds}
}

func (f *fakeNode) Explain(_ context.Context, resource string) (*Explanation, error) {
	return fakeExplanation(), f.ask("Explain", resource)
}

func fakeExplanation() *Explanation {
	return &Explanation{Resource: "r0", Node: "a", Role: RolePrimary, Generation: 7, InSync: []string{"a"}, Peers: []PeerExplanation{{
		Name: "b", Generation: 6, Facts: []Fact{{"peer", "disk", "Outdated"}}, Rules: []TriedRule{{"is its disk new?", true}}, Result: "full resync"}}}
}

func (f *fakeNode) Verify(_ context.Context, resource string, r *VerifyRequest) (*VerifyStatus, error) {
	return fakeVerify(), f.ask("Verify", resource, *r)
}

func (f *fakeNode) VerifyStatus(_ context.Context, resource string) (*VerifyStatus, error) {
	return fakeVerify(), f.ask("VerifyStatus", resource)
}

func (f *fakeNode) VerifyCancel(_ context.Context, resource string, r *VerifyCancelRequest) error {
	return f.ask("VerifyCancel", resource, *r)
}

func fakeVerify() *VerifyStatus {
	return &VerifyStatus{Resource: "r0", Run: 3, State: VerifyDone, Peers: []VerifyPeer{{Name: "b", Ranges: []ByteRange{{4096, 8192}}}}}
}

func (f *fakeNode) Resize(_ context.Context, resource string, r *ResizeRequest) (*ResourceRecord, error) {
	return fakeRecord(), f.ask("Resize", resource, *r)
}

func (f *fakeNode) MakeRoom(_ context.Context, from string, r *MakeRoomRequest) (*Room, error) {
	return &Room{Incarnation: 7, Zeroes: true}, f.ask("MakeRoom", from, *r)
}

func (f *fakeNode) Detach(_ context.Context, resource string) error { return f.ask("Detach", resource) }
func (f *fakeNode) Attach(_ context.Context, resource string, r *AttachRequest) error {
	return f.ask("Attach", resource, *r)
}

func (f *fakeNode) SuspendIO(_ context.Context, resource string, r *SuspendRequest) (*Suspension, error) {
	return fakeSuspension(), f.ask("SuspendIO", resource, *r)
}

func fakeSuspension() *Suspension { return &Suspension{InSync: []string{"a", "b"}, Flush: true} }

func (f *fakeNode) ResumeIO(_ context.Context, resource string) error {
	return f.ask("ResumeIO", resource)
}

func (f *fakeNode) Events(ctx context.Context, r EventsRequest, emit func(Event) error) error {
	if err := f.ask("Events", r); err != nil {
		return err
	}
	if err := emit(fakeEvent(1)); err != nil || !r.Follow {
		return err
	}
	for {
		select {
		case event := <-f.follow:
			if err := emit(event); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func fakeEvent(sequence uint64) Event {
	return Event{Sequence: sequence, Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Node: "a", Resource: "r0", Kind: "role"}
}

func (f *fakeNode) Token(ctx context.Context, r *TokenRequest) (*Token, error) {
	select {
	case <-time.After(f.slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &Token{Token: "duet1-x"}, f.ask("Token", *r)
}

func (f *fakeNode) NodeList(context.Context) ([]NodeInfo, error) {
	return []NodeInfo{{Name: "a", Kind: KindData, Self: true}}, f.ask("NodeList")
}

func (f *fakeNode) Join(_ context.Context, token string, r *JoinRequest) (*JoinReply, error) {
	return &JoinReply{ClusterID: "c1", CA: []byte("pem")}, f.ask("Join", token, *r)
}

func (f *fakeNode) PrepareReplica(_ context.Context, from string, r *PrepareReplicaRequest) (*PreparedReplica, error) {
	return &PreparedReplica{Created: true, Path: "/d"}, f.ask("PrepareReplica", from, *r)
}

func (f *fakeNode) DropReplica(_ context.Context, from string, r *DropReplicaRequest) error {
	return f.ask("DropReplica", from, *r)
}
