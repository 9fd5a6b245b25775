package supervisor

import (
	"fmt"
	"net"
	"time"
)

// silenceTime is how long a supervisor may say nothing.
const silenceTime = 10 * time.Second

// Receive takes reports from the supervisor of a node, whose name the connection has proven, until the connection fails or take
// returns an error. Each is answered when take has returned. The connection stays the caller's.
func Receive(conn net.Conn, node string, take func(Report) error) error {
	for {
		if err := conn.SetDeadline(time.Now().Add(silenceTime)); err != nil {
			return err
		}
		report, err := readReport(conn)
		if err != nil {
			return err
		}
		if report.Node != node {
			return fmt.Errorf("%w: a report of %s from %s", ErrFrame, report.Node, node)
		}
		if err := take(report); err != nil {
			return err
		}
		if _, err := conn.Write([]byte{reportTaken}); err != nil {
			return err
		}
	}
}
