package main

import (
	"context"

	"duet/internal/control"
)

func (f *fakeNode) QuorumReport(context.Context) (*control.QuorumReport, error) {
	return &control.QuorumReport{HasQuorum: true, Leader: "w1", Majority: 2, CanLose: 1}, f.failure
}

func (f *fakeNode) Transfer(_ context.Context, r *control.TransferRequest) (*control.Transfer, error) {
	return &control.Transfer{From: "w1", To: r.To}, f.failure
}
