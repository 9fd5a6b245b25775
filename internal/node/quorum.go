package node

import (
	"context"
	"slices"
	"strings"
	"sync"

	"duet/internal/control"
	"duet/quorum"
)

// VoterSelf implements control.Node.
func (n *Node) VoterSelf(context.Context) (*control.VoterSelf, error) {
	st := n.quorum.Status()
	self := &control.VoterSelf{State: st.State, LastIndex: st.LastIndex, Problem: st.StoreError}
	if st.Leader != "" && st.Leader != st.Node && st.LastContact >= 0 {
		self.LeaderHeardMS = new(st.LastContact.Milliseconds())
	}
	return self, nil
}

// QuorumReport implements control.Node: all voters are asked, at the same time.
func (n *Node) QuorumReport(ctx context.Context) (*control.QuorumReport, error) {
	st, state := n.quorum.Status(), n.quorum.State()
	answers := make([]*control.VoterSelf, len(st.Voters))
	report := &control.QuorumReport{HasQuorum: n.hasQuorum(&st), Leader: st.Leader, Term: st.Term, Voters: make([]control.VoterReport, len(st.Voters))}
	var asked sync.WaitGroup
	for i, v := range st.Voters {
		report.Voters[i] = control.VoterReport{Name: v.Node, Kind: control.NodeKind(state.Nodes[v.Node].Kind), Address: v.Address, Votes: v.Votes}
		asked.Go(func() {
			self, err := n.voterSelf(ctx, v.Node)
			if err != nil {
				report.Voters[i].Problem = control.AsError(err).Message
				return
			}
			answers[i], report.Voters[i].Reachable = self, true
		})
	}
	asked.Wait()
	judgeVoters(report, answers)
	return report, nil
}

func (n *Node) voterSelf(ctx context.Context, name string) (*control.VoterSelf, error) {
	if name == n.config.Name {
		return n.VoterSelf(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	client := n.peer(name)
	defer client.Close()
	return client.VoterSelf(ctx)
}

// judgeVoters fills in what follows from the answers; nil is the answer of one that gave none.
func judgeVoters(report *control.QuorumReport, answers []*control.VoterSelf) {
	newest, voters, well := uint64(0), 0, 0
	for i, self := range answers {
		v := &report.Voters[i]
		if self != nil {
			v.State, v.LeaderHeardMS, v.Problem = self.State, self.LeaderHeardMS, self.Problem
			if v.Name == report.Leader {
				newest = self.LastIndex
			}
		}
		if v.Votes {
			voters++
			if v.Reachable && v.Problem == "" {
				well++
			}
		}
	}
	report.Majority = voters/2 + 1
	if report.HasQuorum {
		report.CanLose = max(0, well-report.Majority)
	}
	for i, self := range answers {
		if self != nil && newest > 0 {
			report.Voters[i].LagEntries = new(newest - min(newest, self.LastIndex))
		}
	}
}

// Transfer implements control.Node.
func (n *Node) Transfer(ctx context.Context, r *control.TransferRequest) (*control.Transfer, error) {
	before := n.quorum.Status()
	to := r.To
	if to == "" {
		to = bestLeader(&before, n.quorum.State(), n.quorum.Liveness())
	}
	known := slices.ContainsFunc(before.Voters, func(v quorum.Voter) bool { return v.Node == to && v.Votes })
	switch {
	case to == "":
		return nil, control.Errorf(control.CodeRefused, "there is no other voter that could lead").WithHint("see `duet quorum status`")
	case !known:
		return nil, control.Errorf(control.CodeNotFound, "%s is no voter of this cluster", to).WithHint("see `duet quorum status`")
	case to == before.Leader:
		return &control.Transfer{From: to, To: to}, nil
	}
	if err := n.quorum.TransferLeadership(ctx, to); err != nil {
		return nil, proposeError("make "+to+" leader", err)
	}
	if err := n.waitFor(ctx, to+" to lead", func() bool { return n.quorum.Status().Leader == to }); err != nil {
		return nil, err
	}
	return &control.Transfer{From: before.Leader, To: to}, nil
}

// bestLeader is the voter to which leadership goes if nobody is named: one that answers and is Primary of nothing, a witness before
// the others; else another one that answers. "" if there is none.
func bestLeader(st *quorum.Status, state *quorum.State, live quorum.Liveness) string {
	rank := func(name string) int {
		switch {
		case slices.ContainsFunc(sortedNames(state.Resources), func(r string) bool { return state.Resources[r].Primary == name }):
			return 2
		case state.Nodes[name].Kind == quorum.Witness:
			return 0
		}
		return 1
	}
	var names []string
	for _, v := range st.Voters {
		if v.Votes && v.Node != st.Leader && (v.Node == st.Node || !live.Nodes[v.Node].Suspected) {
			names = append(names, v.Node)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.MinFunc(names, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
}
