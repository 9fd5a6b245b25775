package main

import (
	"context"
	"strings"
	"testing"

	"duet/internal/control"
)

// verifyOf is the state of the verify that the fake node began.
func verifyOf(state control.VerifyState, peers ...control.VerifyPeer) control.VerifyStatus {
	if len(peers) == 0 {
		peers = []control.VerifyPeer{{Name: "n2", Exact: true, Ranges: []control.ByteRange{}}}
	}
	return control.VerifyStatus{Resource: "r0", Run: 3, State: state, DoneKiB: 512, TotalKiB: 1024, Peers: peers}
}

// The exit code of a verify says whether the replicas are the same at its end, and the output what differed.
func TestVerifyResults(t *testing.T) {
	different := control.VerifyPeer{Name: "n2", DifferentKiB: 12, Exact: true, MoreRanges: 2,
		Ranges: []control.ByteRange{{Offset: 1 << 20, Length: 8192}, {Offset: 4096, Length: 4096}}}
	repaired := different
	repaired.Repaired = true
	failed := verifyOf(control.VerifyFailed)
	failed.Reason = "the session with n2 ended"
	another := verifyOf(control.VerifyDone)
	another.Run = 4
	for _, tt := range []struct {
		name           string
		states         []control.VerifyStatus
		code           int
		stdout, stderr string
	}{
		{"the same", []control.VerifyStatus{verifyOf(control.VerifyRunning), verifyOf(control.VerifyDone)}, 0,
			"n2: identical, 1.0 MiB compared\n", ""},
		{"different", []control.VerifyStatus{verifyOf(control.VerifyDone, different)}, 1,
			"n2: 12 KiB different\n  8KiB at 1MiB\n  4KiB at 4KiB\n  and 2 more ranges\n",
			"duet: the replicas of r0 differ\nduet: if this node holds the right data: duet verify r0 --repair\n"},
		{"repaired", []control.VerifyStatus{verifyOf(control.VerifyRepairing, different), verifyOf(control.VerifyDone, repaired)}, 0,
			"n2: 12 KiB were different and are repaired\n", ""},
		{"ended early", []control.VerifyStatus{failed}, 1, "n2: no difference in 512 KiB of 1.0 MiB\n",
			"duet: the verify of r0 ended early: the session with n2 ended\n"},
		{"another one", []control.VerifyStatus{another}, 1, "", "another verify of r0 has begun"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := &fakeNode{verified: tt.states}
			got := duet(t.Context(), serve(t, node), "verify", "r0", "--repair", "--rate", "50MiB")
			if got.code != tt.code || !strings.HasPrefix(got.stdout, tt.stdout) || !strings.Contains(got.stderr, tt.stderr) ||
				tt.stderr == "" && got.stderr != "" {
				t.Errorf("exit code %d, %q, stderr %q", got.code, got.stdout, got.stderr)
			}
			if want := (control.VerifyRequest{Repair: true, BytesPerSecond: 50 << 20}); *node.verifying != want || node.cancelled != nil {
				t.Errorf("asked for %+v, cancelled %v", node.verifying, node.cancelled)
			}
		})
	}
}

// Who interrupts the command ends the verify, and gets an exit code that is not that of success.
func TestVerifyInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	node := &fakeNode{verified: []control.VerifyStatus{verifyOf(control.VerifyRunning)}}
	out := &interruptible{enough: 1, cancel: cancel} // by the first line of progress
	errors := new(strings.Builder)
	p := &program{stdout: out, stderr: errors}
	code := p.run(ctx, []string{"duet", "--dir", serve(t, node), "verify", "r0"})
	if code != control.ExitFailed || !strings.Contains(errors.String(), "cancelled by the operator") {
		t.Errorf("exit code %d, %q", code, errors.String())
	}
	if node.cancelled == nil || node.cancelled.Run != 3 {
		t.Errorf("cancelled %+v", node.cancelled)
	}
	if !strings.HasPrefix(out.text.String(), "verify [") {
		t.Errorf("printed %q", out.text.String())
	}
}

func TestRenderVerify(t *testing.T) {
	seconds := int64(70)
	status := verifyOf(control.VerifyRunning, control.VerifyPeer{Name: "n2", DifferentKiB: 4}, control.VerifyPeer{Name: "n3", DifferentKiB: 8, Repaired: true})
	status.RateKiBs, status.ETA = 2048, &seconds
	want := "verify [############............]  50.0%  512 KiB of 1.0 MiB, 2.0 MiB/s, 1m10s left, n2: 4.0 KiB different, n3: 8.0 KiB repaired\n"
	if got := renderVerify(&status); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
