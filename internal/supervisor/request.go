package supervisor

import (
	"fmt"
	"io"

	"duet/internal/config"
)

// Peer is another node of the cluster.
type Peer struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// maxPeers bounds how many other nodes a cluster has.
const maxPeers = 64

// greeting is what the supervisor says first, to each who connects.
type greeting struct {
	Version   int    `json:"v"`
	PID       int    `json:"pid"`
	Program   string `json:"program"` // the version of the program that it runs
	Challenge string `json:"challenge"`
}

// verb is what a daemon wants.
type verb string

const (
	verbRun     verb = "run"     // watch me
	verbPeers   verb = "peers"   // these are the other nodes now
	verbOrderly verb = "orderly" // my end, which comes next, is in good order
	verbEnd     verb = "end"     // end: I start one of another version, or nobody wants you any more
)

// request is what a daemon says.
type request struct {
	Version     int    `json:"v"`
	Kind        verb   `json:"kind"`
	Node        string `json:"node,omitempty"`
	Incarnation uint64 `json:"incarnation,omitempty"`
	Recovery    uint64 `json:"recovery,omitempty"` // how often the quorum of the cluster was rebuilt: other nodes ask for it
	Challenge   string `json:"challenge,omitempty"`
	Peers       []Peer `json:"peers,omitempty"`
}

// answer is what the supervisor answers to a request.
type answer struct {
	Kind   answerKind `json:"kind"`
	Reason string     `json:"reason,omitempty"`
}

type answerKind string

const (
	answerWatching answerKind = "watching"
	answerNoted    answerKind = "noted"
	answerRefused  answerKind = "refused"
)

// readRequest reads a request and checks what its receiver relies on.
func readRequest(r io.Reader) (request, error) {
	var q request
	if err := readFrame(r, &q, maxRequestBytes); err != nil {
		return request{}, err
	}
	switch {
	case q.Version != protocolVersion:
		return request{}, fmt.Errorf("%w: version %d, this supervisor knows %d", ErrFrame, q.Version, protocolVersion)
	case q.Kind == verbRun && q.Incarnation == 0:
		return request{}, fmt.Errorf("%w: no incarnation", ErrFrame)
	case len(q.Peers) > maxPeers:
		return request{}, fmt.Errorf("%w: %d peers", ErrFrame, len(q.Peers))
	}
	for _, peer := range q.Peers {
		if err := config.ValidateName("node", peer.Name); err != nil {
			return request{}, fmt.Errorf("%w: %w", ErrFrame, err)
		}
		if err := config.ValidateDial(peer.Address); err != nil {
			return request{}, fmt.Errorf("%w: %w", ErrFrame, err)
		}
	}
	return q, nil
}
