package supervisor

import (
	"fmt"
	"io"

	"duet/internal/config"
)

// Kind is what a report says.
type Kind string

const (
	// KindWatch says that the process of the incarnation is watched; incarnation 0: none is. It keeps a connection warm.
	KindWatch Kind = "watch"
	// KindExit is the certificate: the process of the incarnation has exited.
	KindExit Kind = "exit"
)

// reportTaken answers a report.
const reportTaken = 1

// Report is what a supervisor tells other nodes, on the channel "exit".
type Report struct {
	Version     int    `json:"v"`
	Kind        Kind   `json:"kind"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
}

// readReport reads a report and checks it.
func readReport(r io.Reader) (Report, error) {
	var report Report
	if err := readFrame(r, &report, maxReportBytes); err != nil {
		return Report{}, err
	}
	return report, report.check()
}

func (r Report) check() error {
	switch {
	case r.Version != protocolVersion:
		return fmt.Errorf("%w: version %d, this node knows %d", ErrFrame, r.Version, protocolVersion)
	case r.Kind != KindWatch && r.Kind != KindExit:
		return fmt.Errorf("%w: kind %.20q", ErrFrame, r.Kind)
	case r.Kind == KindExit && r.Incarnation == 0:
		return fmt.Errorf("%w: a certificate without an incarnation", ErrFrame)
	}
	if err := config.ValidateName("node", r.Node); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}
