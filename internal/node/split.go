package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"duet/internal/control"
	"duet/quorum"
	"duet/replication"
)

// sides are what the nodes say of their parts of a split; nil where a node does not answer.
type sides map[string]*control.SplitSide

// undoBytesPerBlock is what a block takes in an undo file.
const undoBytesPerBlock = 4128

// SplitShow implements control.Node.
func (n *Node) SplitShow(ctx context.Context, resource string, maxRanges int) (*control.SplitReport, error) {
	r, err := n.newestWithHistory(ctx, resource)
	if err != nil {
		return nil, err
	}
	return splitReport(r, n.askSides(ctx, r, &control.SplitSideRequest{MaxRanges: maxRanges})), nil
}

// newestWithHistory is the newest record, once it is known here.
func (n *Node) newestWithHistory(ctx context.Context, resource string) (*quorum.Resource, error) {
	newest, err := n.newest(ctx, resource)
	if err != nil {
		return nil, err
	}
	var r *quorum.Resource
	err = n.waitFor(ctx, "the newest record", func() bool {
		r = n.quorum.State().Resources[resource]
		return r != nil && r.Generation >= newest.Generation
	})
	return r, err
}

// askSides asks all nodes with a replica, at once.
func (n *Node) askSides(ctx context.Context, r *quorum.Resource, request *control.SplitSideRequest) sides {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	answers := make([]*control.SplitSide, len(r.Replicas))
	var asked sync.WaitGroup
	for i, p := range r.Replicas {
		asked.Go(func() {
			if side, err := n.askSide(ctx, p.Node, r.Name, request); err == nil {
				answers[i] = side
			} else {
				n.log.Debug("split", "peer", p.Node, "error", err)
			}
		})
	}
	asked.Wait()
	all := sides{}
	for i, p := range r.Replicas {
		all[p.Node] = answers[i]
	}
	return all
}

func (n *Node) askSide(ctx context.Context, node, resource string, request *control.SplitSideRequest) (*control.SplitSide, error) {
	if node == n.config.Name {
		return n.SplitSide(ctx, resource, request)
	}
	client := n.peer(node)
	defer client.Close()
	return client.SplitSide(ctx, resource, request)
}

// SplitSide implements control.Node.
func (n *Node) SplitSide(ctx context.Context, resource string, request *control.SplitSideRequest) (*control.SplitSide, error) {
	replica, err := n.replica(resource)
	if err != nil {
		return nil, err
	}
	side, err := replica.SplitSide(ctx, request.MaxRanges)
	if err != nil {
		return nil, err
	}
	out := &control.SplitSide{Node: side.Node, Role: control.Role(side.Role), DiskState: control.DiskState(side.DiskState), Reason: side.NotTarget}
	for _, p := range side.Peers {
		view := control.SplitView{Name: p.Node, CompleteSince: p.CompleteSince, KiB: p.Blocks * 4, MoreRanges: p.MoreRanges, Ranges: []control.ByteRange{}}
		for _, at := range p.Ranges {
			view.Ranges = append(view.Ranges, control.ByteRange(at))
		}
		out.Views = append(out.Views, view)
	}
	if request.CheckUndo {
		n.checkUndo(resource, request, out)
	}
	return out, nil
}

// checkUndo says where an undo file would be, what room there is, and why it could not be made.
func (n *Node) checkUndo(resource string, request *control.SplitSideRequest, out *control.SplitSide) {
	r := n.quorum.State().Resources[resource]
	if r == nil {
		return
	}
	out.UndoFile = n.undoPath(request.Undo, resource, r.ID.String(), request.Decision)
	directory := filepath.Dir(out.UndoFile)
	if request.Undo == "" {
		directory = string(n.dir)
	}
	info, err := os.Stat(directory)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", directory)
	}
	var free uint64
	if err == nil {
		free, err = freeBytes(directory)
	}
	if err == nil {
		if _, statErr := os.Lstat(out.UndoFile); statErr == nil {
			err = fmt.Errorf("there is something at %s already", out.UndoFile)
		}
	}
	out.UndoFreeKiB = free / kib
	if err != nil {
		out.UndoProblem = err.Error()
	}
}

// splitReport puts the sides together.
func splitReport(r *quorum.Resource, all sides) *control.SplitReport {
	report := &control.SplitReport{Resource: r.Name, Generation: r.Generation, Primary: r.Primary, InSync: r.InSync, Forks: []control.SplitFork{}}
	for _, p := range r.Forks() {
		report.Forks = append(report.Forks, splitFork(r, &p, all))
	}
	return report
}

func splitFork(r *quorum.Resource, p *quorum.Replica, all sides) control.SplitFork {
	f := control.SplitFork{Name: p.Node, Generation: p.Fork.At, Time: timeOf(r, p.Fork.At), Base: p.Fork.Base, Other: otherSide(r, p, all),
		Forced: p.Fork.Forced, GivenUp: p.Discard.At, Undo: p.Discard.Undo}
	var has, lacks *control.SplitView
	if side := all[p.Node]; side != nil {
		f.Answers, f.DiskState, f.Reason = true, side.DiskState, side.Reason
		has = side.View(f.Other)
	}
	if other := all[f.Other]; other != nil {
		f.OtherAnswers = true
		lacks = other.View(p.Node)
	}
	if has != nil {
		f.HasKiB, f.HasRanges, f.MoreRanges = &has.KiB, has.Ranges, has.MoreRanges
	}
	if lacks != nil {
		f.LacksKiB, f.LacksRanges, f.MoreRanges = &lacks.KiB, lacks.Ranges, f.MoreRanges || lacks.MoreRanges
	}
	if has != nil && lacks != nil {
		f.Covered = f.Other == p.Fork.Peer && replication.Fork(p.Fork).Covered(has.CompleteSince, lacks.CompleteSince)
		f.DifferKiB = new(min(has.KiB+lacks.KiB, r.SizeBytes/kib))
		if !has.MoreRanges && !lacks.MoreRanges {
			f.DifferKiB = new(unionBytes(has.Ranges, lacks.Ranges) / kib)
		}
	}
	return f
}

// otherSide is the in-sync replica that a fork is compared with: the one that was, if it can be.
func otherSide(r *quorum.Resource, p *quorum.Replica, all sides) string {
	choice := slices.Concat([]string{p.Fork.Peer, r.Primary}, r.InSync)
	for _, node := range choice {
		if r.IsInSync(node) && all[node] != nil {
			return node
		}
	}
	return r.InSync[0]
}

// unionBytes is how much of a device is in either list.
func unionBytes(a, b []control.ByteRange) uint64 {
	all := slices.SortedFunc(slices.Values(slices.Concat(a, b)), func(x, y control.ByteRange) int {
		return cmp.Compare(x.Offset, y.Offset)
	})
	var sum, end uint64
	for _, at := range all {
		last := at.Offset + at.Length
		sum += last - min(max(at.Offset, end), last)
		end = max(end, last)
	}
	return sum
}

// SplitResolve implements control.Node.
func (n *Node) SplitResolve(ctx context.Context, resource string, request *control.SplitResolveRequest) (*control.SplitResolution, error) {
	r, err := n.newestWithHistory(ctx, resource)
	if err != nil {
		return nil, err
	}
	all := n.askSides(ctx, r, &control.SplitSideRequest{MaxRanges: control.MaxSplitRanges, CheckUndo: true, Undo: request.Undo, Decision: r.Generation + 1})
	resolution, err := n.planResolution(ctx, r, request, all)
	if err != nil || request.DryRun {
		return resolution, err
	}
	for _, loser := range resolution.Losers {
		if loser.Problem != "" {
			return nil, control.Errorf(control.CodeRefused, "what %s holds can't be saved: %s", loser.Name, loser.Problem).
				WithHint("make room there, or name a place on %s by --undo-file", loser.Name)
		}
	}
	result, err := n.quorum.Propose(ctx, quorum.ResolveSplit{Resource: resource, Generation: r.Generation, Keep: request.Keep, Undo: request.Undo,
		Fence: resolution.Forced && r.Primary != "", Now: time.Now().Unix(), Reason: "by the operator on " + n.config.Name})
	if err != nil {
		if errors.Is(err, quorum.ErrRefused) {
			return nil, control.Errorf(control.CodeRefused, "%s", quorum.Reason(err))
		}
		return nil, proposeError("resolve the split of "+resource, err)
	}
	resolution.Generation = result.Resource.Generation
	return resolution, nil
}

// planResolution says what keeping a side would do, or why it can't be kept.
func (n *Node) planResolution(ctx context.Context, r *quorum.Resource, request *control.SplitResolveRequest, all sides) (*control.SplitResolution, error) {
	resolution := &control.SplitResolution{Resource: r.Name, Keep: request.Keep, DryRun: request.DryRun, Generation: r.Generation, Losers: []control.SplitLoser{}}
	kept, found := r.Replica(request.Keep)
	report := splitReport(r, all)
	switch {
	case !found:
		return nil, control.Errorf(control.CodeNotFound, "%s has no replica of %s", request.Keep, r.Name).WithHint("duet split show %s", r.Name)
	case len(report.Forks) == 0:
		return nil, control.Errorf(control.CodeRefused, "there is no split of %s", r.Name)
	case r.IsInSync(request.Keep):
		for _, f := range report.Forks {
			resolution.Losers = append(resolution.Losers, loserOf(f.Name, &f, all[f.Name]))
		}
		return resolution, nil
	}
	if err := n.mayKeepFork(ctx, r, &kept, all[request.Keep]); err != nil {
		return nil, err
	}
	resolution.Forced = true
	for _, f := range report.Forks {
		for _, node := range r.InSync {
			if f.Name != request.Keep {
				continue
			}
			if node != f.Other {
				f.Covered = false
			}
			resolution.Losers = append(resolution.Losers, loserOf(node, &f, all[node]))
		}
	}
	return resolution, nil
}

// mayKeepFork says why the present in-sync set can't be given up for a replica.
func (n *Node) mayKeepFork(ctx context.Context, r *quorum.Resource, kept *quorum.Replica, side *control.SplitSide) error {
	serves := r.Primary == n.config.Name && r.PrimaryIncarnation == n.incarnation
	switch {
	case kept.Fork.At == 0:
		return control.Errorf(control.CodeRefused, "%s is neither in sync nor a side of the split", kept.Node).WithHint("duet split show %s", r.Name)
	case serves || n.primaryLives(ctx, r):
		return control.Errorf(control.CodeRefused, "%s is Primary of %s, and its side would be given up", r.Primary, r.Name).
			WithHint("run `duet secondary %s` on %s first", r.Name, r.Primary)
	case side == nil:
		return control.Errorf(control.CodeRefused, "%s can't be reached: nobody knows whether its data can be used", kept.Node).
			WithHint("check that `duet run` runs on %s", kept.Node)
	case side.DiskState != control.DiskOutdated && side.DiskState != control.DiskConsistent:
		return control.Errorf(control.CodeRefused, "the disk of %s is %s: it can't be kept", kept.Node, side.DiskState)
	}
	return nil
}

// loserOf is what happens to a replica that is given up, by how it differs.
func loserOf(node string, f *control.SplitFork, side *control.SplitSide) control.SplitLoser {
	l := control.SplitLoser{Name: node}
	if f.Covered {
		l.CopyKiB = f.DifferKiB
		l.SaveKiB = new((*f.DifferKiB/4*undoBytesPerBlock + kib - 1) / kib)
	}
	if side == nil {
		return l
	}
	l.Answers, l.UndoFile, l.FreeKiB, l.Problem = true, side.UndoFile, &side.UndoFreeKiB, side.UndoProblem
	if need := l.SaveKiB; need != nil && l.Problem == "" && *need > side.UndoFreeKiB {
		l.Problem = fmt.Sprintf("its undo file %s needs up to %d MiB, and %d MiB are free there", side.UndoFile, *need/kib+1, side.UndoFreeKiB/kib)
	}
	return l
}
