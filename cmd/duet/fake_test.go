package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"duet/internal/config"
	"duet/internal/control"
)

// fakeNode is a daemon that answers what a test wants. A method that no test uses panics, by the nil Node inside.
type fakeNode struct {
	control.Node
	status    *control.Status
	failure   error
	created   *control.ResourceCreateRequest
	peer      string
	joined    *control.JoinRequest
	resync    *control.ResyncRequest
	disk      string // what was asked to be done with it
	suspended *control.SuspendRequest
	resized   *control.ResizeRequest
	edited    *control.ResourceEditRequest
	hang      bool

	force    control.ForceReport
	promoted *control.PrimaryRequest
	switched *control.SwitchRequest
	resolved *control.SplitResolveRequest

	verified  []control.VerifyStatus // what VerifyStatus answers, one after the other; the last for ever
	verifying *control.VerifyRequest
	cancelled *control.VerifyCancelRequest
}

func (f *fakeNode) Status(ctx context.Context) (*control.Status, error) {
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return f.status, f.failure
}

func (f *fakeNode) Version(context.Context) (*control.VersionInfo, error) {
	return &control.VersionInfo{Version: "v1.2.3", Revision: "0123456789abcdef", Go: "go1", Protocol: 1}, f.failure
}

func (f *fakeNode) ResourceCreate(_ context.Context, r *control.ResourceCreateRequest) (*control.ResourceRecord, error) {
	f.created = r
	record := testRecord()
	return &record, f.failure
}

func (f *fakeNode) ResourceDelete(context.Context, string, *control.ResourceDeleteRequest) error {
	return f.failure
}

func (f *fakeNode) ResourceList(context.Context) ([]control.ResourceRecord, error) {
	return nil, f.failure
}

func (f *fakeNode) ResourceShow(context.Context, string) (*control.ResourceRecord, error) {
	record := testRecord()
	return &record, f.failure
}

func (f *fakeNode) ForceReport(context.Context, string) (*control.ForceReport, error) {
	return &f.force, f.failure
}

func (f *fakeNode) SplitShow(_ context.Context, _ string, most int) (*control.SplitReport, error) {
	report := testSplit()
	if most == 0 {
		report.Forks[0].HasRanges, report.Forks[0].LacksRanges = nil, nil
	}
	return report, f.failure
}

func (f *fakeNode) SplitResolve(_ context.Context, _ string, r *control.SplitResolveRequest) (*control.SplitResolution, error) {
	f.resolved = r
	resolution := testResolution()
	resolution.DryRun = r.DryRun
	return resolution, f.failure
}

func (f *fakeNode) Primary(_ context.Context, _ string, r *control.PrimaryRequest) (*control.RoleChange, error) {
	f.promoted = r
	return &control.RoleChange{Role: control.RolePrimary, Generation: 4}, f.failure
}

func (f *fakeNode) Secondary(context.Context, string) (*control.RoleChange, error) {
	return &control.RoleChange{Role: control.RoleSecondary, Generation: 5}, f.failure
}

func (f *fakeNode) Connect(_ context.Context, _ string, r *control.PeerRequest) error {
	f.peer = r.Peer
	return f.failure
}

func (f *fakeNode) Disconnect(_ context.Context, _ string, r *control.PeerRequest) error {
	f.peer = r.Peer
	return f.failure
}

// ResyncStatus says that a resync is over once it has been asked for twice, so that watching one ends.
func (f *fakeNode) ResyncStatus(context.Context, string) (*control.ResyncStatus, error) {
	return &control.ResyncStatus{Resource: "r0", State: control.ResyncNone}, f.failure
}

func (f *fakeNode) Explain(context.Context, string) (*control.Explanation, error) {
	return testExplanation(), f.failure
}

func (f *fakeNode) ChangeResync(_ context.Context, _ string, r *control.ResyncRequest) error {
	f.resync = r
	return f.failure
}

func (f *fakeNode) Verify(_ context.Context, _ string, r *control.VerifyRequest) (*control.VerifyStatus, error) {
	f.verifying = r
	return &control.VerifyStatus{Resource: "r0", Run: 3, State: control.VerifyRunning, TotalKiB: 1024}, f.failure
}

func (f *fakeNode) VerifyStatus(context.Context, string) (*control.VerifyStatus, error) {
	status := f.verified[0]
	if f.cancelled != nil {
		status.State, status.Reason = control.VerifyCancelled, "cancelled by the operator"
	} else if len(f.verified) > 1 {
		f.verified = f.verified[1:]
	}
	return &status, f.failure
}

func (f *fakeNode) VerifyCancel(_ context.Context, _ string, r *control.VerifyCancelRequest) error {
	f.cancelled = r
	return f.failure
}

func (f *fakeNode) Resize(_ context.Context, _ string, r *control.ResizeRequest) (*control.ResourceRecord, error) {
	f.resized = r
	record := testRecord()
	record.SizeBytes, record.Warnings = r.SizeBytes, []string{"the disks differ"}
	return &record, f.failure
}

func (f *fakeNode) Detach(_ context.Context, resource string) error {
	f.disk = "detach " + resource
	return f.failure
}

func (f *fakeNode) Attach(_ context.Context, resource string, r *control.AttachRequest) error {
	f.disk = "attach " + resource
	if r.Path != "" {
		f.disk += " --disk " + r.Path
	}
	return f.failure
}

func (f *fakeNode) SuspendIO(_ context.Context, _ string, r *control.SuspendRequest) (*control.Suspension, error) {
	f.suspended = r
	return &control.Suspension{InSync: []string{"n1", "n2"}, Flush: r.Flush}, f.failure
}

func (f *fakeNode) ResumeIO(context.Context, string) error {
	f.suspended = nil
	return f.failure
}

func (f *fakeNode) Events(_ context.Context, _ control.EventsRequest, emit func(control.Event) error) error {
	return errors.Join(f.failure, emit(control.Event{Time: time.Unix(0, 0), Node: "n1", Kind: "start", Message: "up"}))
}

func (f *fakeNode) Token(context.Context, *control.TokenRequest) (*control.Token, error) {
	return &control.Token{Token: "duet1-abc"}, f.failure
}

func (f *fakeNode) NodeList(context.Context) ([]control.NodeInfo, error) {
	return []control.NodeInfo{{Name: "n1", Kind: control.KindData, Self: true, Voter: true}}, f.failure
}

// serve starts a daemon that is nothing but its control socket, and returns its directory.
func serve(t *testing.T, node control.Node) string {
	t.Helper()
	dir := shortDir(t)
	server, err := control.NewServer(control.ServerConfig{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := control.ListenLocal(config.Dir(dir).ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener, control.LocalOrigin) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// shortDir is a directory whose path leaves room for that of a socket: t.TempDir has the test's name in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "duet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// result is what a run of the command line left.
type result struct {
	stdout, stderr string
	code           int
}

// duet runs a command line in a directory.
func duet(ctx context.Context, dir string, arguments ...string) result {
	var stdout, stderr strings.Builder
	p := &program{stdout: &stdout, stderr: &stderr}
	code := p.run(ctx, append([]string{"duet", "--dir", dir}, arguments...))
	return result{stdout.String(), stderr.String(), code}
}
