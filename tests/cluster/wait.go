package cluster

import (
	"context"
	"fmt"
	"time"
)

// pollInterval is how often a condition is looked at: often enough not to blur what is measured in tens of
// milliseconds, seldom enough to leave the processors to the daemons.
const pollInterval = 20 * time.Millisecond

// WaitFor returns when condition does, without an error. It gives up when ctx ends, and then says what it waited for
// and the condition's last error, which is what was still missing.
func WaitFor(ctx context.Context, what string, condition func() error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	begin := time.Now()
	for {
		missing := condition()
		if missing == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s: %w", time.Since(begin).Round(time.Millisecond), what, missing)
		case <-ticker.C:
		}
	}
}
