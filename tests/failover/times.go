package failover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"duet/tests/cluster"
)

// phases of a takeover, in order: each ends with a line in the log of the new Primary.
var phases = []phase{
	{"detect", func(l line) bool { return l.Message == "takeover" && l.Promote }},
	{"lease", func(l line) bool { return l.Message == "promotion is proposed" }},
	{"commit", func(l line) bool { return l.Message == "promotion is committed" }},
	{"promise", func(l line) bool { return l.Message == "requests" && l.State == "open" }},
	{"client", func(line) bool { return false }},
}

// phase is a part of a takeover.
type phase struct {
	name string
	ends func(line) bool
}

// line is what is read of a line of a daemon's log.
type line struct {
	Time    time.Time `json:"time"`
	Message string    `json:"msg"`
	Promote bool      `json:"promote"`
	State   string    `json:"state"`
}

// sample is one measured time; parts are those of the phases, where they are known.
type sample struct {
	total time.Duration
	parts []time.Duration
}

// measurement is something whose time counts.
type measurement struct {
	name    string
	goal    string
	measure func(ctx context.Context, p *game) (sample, error)
}

// takeovers are measured from the fault to the first answered write on the new Primary.
func takeovers(how string) []measurement {
	return []measurement{{"Primary killed, " + how, goalKilled(how), func(ctx context.Context, p *game) (sample, error) {
		return p.timeTakeover(ctx, func(primary string) error { return p.kill(primary) })
	}}}
}

func goalKilled(how string) string {
	if how == withSupervisor {
		return "median 150 ms"
	}
	return "median 500 ms"
}

// The ways in which daemons run.
const (
	withSupervisor    = "with supervisor"
	withoutSupervisor = "without supervisor"
)

// otherTimes are those to which a supervisor means nothing.
func otherTimes() []measurement {
	return []measurement{
		{"host of the Primary silent", "p99 1.0 s", func(ctx context.Context, p *game) (sample, error) {
			return p.timeTakeover(ctx, func(primary string) error {
				return p.network.Cut(ctx, apart(primary, append(p.others(primary), clientHost))...)
			})
		}},
		{"switchover, write pause", "median 50 ms", func(ctx context.Context, p *game) (sample, error) {
			p.history.beginPause()
			if err := switchOver(ctx, p); err != nil {
				return sample{}, err
			}
			err := p.serves(ctx, 100)
			return sample{total: p.history.longestPause()}, err
		}},
		{"Secondary killed, write pause", "p99 300 ms", func(ctx context.Context, p *game) (sample, error) {
			return p.timeLoss(ctx, func(secondary string) error { return p.kill(secondary) })
		}},
		{"host of a Secondary silent, write pause", "p99 300 ms", func(ctx context.Context, p *game) (sample, error) {
			return p.timeLoss(ctx, func(secondary string) error {
				return p.network.Cut(ctx, apart(secondary, append(p.others(secondary), clientHost))...)
			})
		}},
	}
}

// timeTakeover measures from just before the fault is done.
func (p *game) timeTakeover(ctx context.Context, do func(primary string) error) (sample, error) {
	primary, _, _, err := p.roles(ctx)
	if err != nil {
		return sample{}, err
	}
	sizes := map[string]int64{}
	for _, n := range p.DataNodes() {
		info, err := os.Stat(n.LogPath())
		if err != nil {
			return sample{}, err
		}
		sizes[n.Name] = info.Size()
	}
	found := p.history.watch(primary)
	began, at := p.history.now(), time.Now()
	if err := do(primary); err != nil {
		return sample{}, err
	}
	select {
	case o := <-found:
		s := sample{total: o.end - began}
		s.parts, err = split(p.Node(o.server.node), sizes[o.server.node], at, at.Add(s.total))
		return s, err
	case <-time.After(settleTimeout):
		return sample{}, errors.New("no other node has answered a write")
	}
}

// split reads from the new Primary's log when each phase ended.
func split(n *cluster.Node, from int64, began, ended time.Time) (parts []time.Duration, err error) {
	f, err := os.Open(n.LogPath())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	marks := make([]time.Time, len(phases))
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		var l line
		if json.Unmarshal(scanner.Bytes(), &l) != nil || l.Time.Before(began) || l.Time.After(ended) {
			continue
		}
		for i, phase := range phases {
			if phase.ends(l) {
				marks[i] = l.Time
			}
		}
	}
	marks[len(marks)-1] = ended
	last := began
	for _, mark := range marks {
		if mark.IsZero() {
			parts = append(parts, -1)
			continue
		}
		parts = append(parts, max(0, mark.Sub(last)))
		last = mark
	}
	return parts, scanner.Err()
}

// timeLoss measures the longest time without an answered write while a Secondary is lost.
func (p *game) timeLoss(ctx context.Context, do func(secondary string) error) (sample, error) {
	_, secondary, _, err := p.roles(ctx)
	if err != nil {
		return sample{}, err
	}
	from := p.generation()
	p.history.beginPause()
	if err := do(secondary); err != nil {
		return sample{}, err
	}
	wait, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := p.removed(wait, secondary, from); err != nil {
		return sample{}, err
	}
	err = p.serves(wait, 100)
	return sample{total: p.history.longestPause()}, err
}

// take measures so many times, each judged like any other fault, and returns the row of a table.
func (p *game) take(ctx context.Context, m measurement, times int) (string, error) {
	var samples []sample
	for range times {
		f := fault{name: m.name, do: func(ctx context.Context, p *game) error {
			s, err := m.measure(ctx, p)
			samples = append(samples, s)
			return err
		}}
		if err := p.play(ctx, f); err != nil {
			return "", err
		}
	}
	return row(m, samples), nil
}

// header is the first line of the table whose others come from take.
func header() string {
	var names []string
	for _, phase := range phases {
		names = append(names, phase.name)
	}
	return "| from the fault to the first write answered | goal | runs | median | p99 | longest | " + strings.Join(names, " | ") + " |\n" +
		strings.Repeat("|---", 6+len(names)) + "|"
}

func row(m measurement, samples []sample) string {
	var totals []time.Duration
	for _, s := range samples {
		totals = append(totals, s.total)
	}
	cells := []string{m.name, m.goal, fmt.Sprint(len(samples)), show(quantile(totals, 0.5)), show(quantile(totals, 0.99)), show(quantile(totals, 1))}
	for i := range phases {
		var parts []time.Duration
		for _, s := range samples {
			if i < len(s.parts) && s.parts[i] >= 0 {
				parts = append(parts, s.parts[i])
			}
		}
		cells = append(cells, show(quantile(parts, 0.5)))
	}
	return "| " + strings.Join(cells, " | ") + " |"
}

// quantile is the smallest of the times that is not below this share of them; -1 for none.
func quantile(times []time.Duration, share float64) time.Duration {
	if len(times) == 0 {
		return -1
	}
	sorted := slices.Sorted(slices.Values(times))
	at := int(share*float64(len(sorted))+0.999999) - 1
	return sorted[max(0, min(at, len(sorted)-1))]
}

func show(d time.Duration) string {
	if d < 0 {
		return ""
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
}
