package main

import (
	"fmt"
	"strings"

	"duet/internal/control"
)

// renderQuorum shows who decides, and what can still be lost.
func renderQuorum(q *control.QuorumReport) string {
	rows := []string{"VOTER\tKIND\tADDRESS\tSTATE\tLAG\tHEARD"}
	voters, reached := 0, 0
	for i := range q.Voters {
		v := &q.Voters[i]
		if v.Votes {
			voters++
			if v.Reachable {
				reached++
			}
		}
		rows = append(rows, strings.Join([]string{v.Name, string(v.Kind), v.Address, voterState(v), optional(v.LagEntries, "%d"), optional(v.LeaderHeardMS, "%d ms")}, "\t"))
	}
	line := "has quorum"
	if !q.HasQuorum {
		line = "NO QUORUM"
	}
	return fmt.Sprintf("%s: %d of %d voters answer, %d are a majority; leader %s, term %d\n", line, reached, voters, q.Majority, orDash(q.Leader), q.Term) +
		canLose(q) + table("", rows)
}

// canLose says what the loss of one more means.
func canLose(q *control.QuorumReport) string {
	switch {
	case !q.HasQuorum:
		return "nothing can be decided until a majority answers\n"
	case q.CanLose == 0:
		return "none of them can be lost: without one more nothing could be decided\n"
	case q.CanLose == 1:
		return "one more can be lost\n"
	}
	return fmt.Sprintf("%d more can be lost\n", q.CanLose)
}

func voterState(v *control.VoterReport) string {
	state := "not reachable"
	if v.Reachable {
		state = v.State
	}
	if !v.Votes {
		state += ", no vote yet"
	}
	if v.Problem != "" {
		state += ": " + oneLine(v.Problem)
	}
	return state
}

// optional writes a number, or a dash for none.
func optional[N uint64 | int64](number *N, format string) string {
	if number == nil {
		return "-"
	}
	return fmt.Sprintf(format, *number)
}

// renderTransfer says who leads now.
func renderTransfer(t *control.Transfer) string {
	if t.From == t.To {
		return t.To + " leads already\n"
	}
	return fmt.Sprintf("%s leads, in place of %s\n", t.To, orDash(t.From))
}
