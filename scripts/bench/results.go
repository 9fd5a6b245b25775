package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// results holds every measurement: by row, then by server, one per round.
type results struct {
	Rows   map[string]map[string][]measurement `json:"rows"`
	Copies map[string][]float64                `json:"resync-bytes-per-second,omitempty"` // by way of copying
	During []duringResync                      `json:"during-resync,omitempty"`
}

// duringResync is the same work without and with a resync.
type duringResync struct {
	Idle   measurement `json:"idle"`
	During measurement `json:"during"`
	Resync float64     `json:"resync-bytes-per-second"`
}

func (r *results) addDuring(idle, during measurement, resync float64) {
	r.During = append(r.During, duringResync{idle, during, resync})
}

// printDuring says what a resync costs the application, round by round.
func (r *results) printDuring(w io.Writer) {
	if len(r.During) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s, idle and during a resync at full speed (p99: goal is at most %.1f times the idle one)\n\n", allRows[0].name, duringGoal)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "idle IOPS\tp99\tduring IOPS\tp99\tratio of p99\tresync MB/s")
	for _, d := range r.During {
		fmt.Fprintf(t, "%.0f\t%v\t%.0f\t%v\t%.2f\t%.0f\n", d.Idle.IOPS, d.Idle.P99, d.During.IOPS, d.During.P99,
			float64(d.During.P99)/float64(d.Idle.P99), d.Resync/1e6)
	}
	flush(t)
}

func (r *results) add(row, server string, m measurement) {
	if r.Rows == nil {
		r.Rows = make(map[string]map[string][]measurement)
	}
	if r.Rows[row] == nil {
		r.Rows[row] = make(map[string][]measurement)
	}
	r.Rows[row][server] = append(r.Rows[row][server], m)
}

func (r *results) addCopy(way string, bytesPerSecond float64) {
	if r.Copies == nil {
		r.Copies = make(map[string][]float64)
	}
	r.Copies[way] = append(r.Copies[way], bytesPerSecond)
}

// ratios are those of the rounds of one server to the baseline's, sorted.
func (r *results) ratios(row, server string) []float64 {
	var all []float64
	for i, m := range r.Rows[row][server] {
		all = append(all, m.IOPS/r.Rows[row][baseline][i].IOPS)
	}
	slices.Sort(all)
	return all
}

// print writes the tables: first the figures themselves, then the ratios beside what the design asks for.
func (r *results) print(w io.Writer, c *config) {
	fmt.Fprintf(w, "\nmedians of %d rounds of %d s, %d MiB; IOPS, p50 and p99 of the latency in µs\n\n",
		c.rounds, c.seconds, c.sizeBytes>>20)
	r.printFigures(w, c)
	fmt.Fprintf(w, "\nratio to %s: median (lowest-highest of the rounds)\n\n", baseline)
	r.printRatios(w, c)
	r.printCopies(w)
	r.printDuring(w)
}

func (r *results) printFigures(w io.Writer, c *config) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "work")
	for _, peer := range c.peers {
		fmt.Fprintf(t, "\t%s", peer)
	}
	fmt.Fprintln(t)
	for _, row := range c.rows {
		fmt.Fprint(t, row.name)
		for _, peer := range c.peers {
			m := r.Rows[row.name][peer]
			fmt.Fprintf(t, "\t%.0f (%.0f, %.0f)",
				median(m, func(m measurement) float64 { return m.IOPS }),
				median(m, func(m measurement) float64 { return float64(m.Median.Microseconds()) }),
				median(m, func(m measurement) float64 { return float64(m.P99.Microseconds()) }))
		}
		fmt.Fprintln(t)
	}
	flush(t)
}

func (r *results) printRatios(w io.Writer, c *config) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "work")
	for _, peer := range c.peers {
		if peer != baseline {
			fmt.Fprintf(t, "\t%s", peer)
		}
	}
	fmt.Fprintln(t, "\tfloor\tgoal\t")
	for _, row := range c.rows {
		fmt.Fprint(t, row.name)
		for _, peer := range c.peers {
			if all := r.ratios(row.name, peer); peer != baseline {
				fmt.Fprintf(t, "\t%.2f (%.2f-%.2f)", medianOf(all), all[0], all[len(all)-1])
			}
		}
		fmt.Fprintf(t, "\t%s\t%.2f\t%s\n", row.floor, row.goal, r.verdict(row))
	}
	flush(t)
}

// verdict says whether duet reaches the goal, in the configuration the goal is set for: links in plaintext.
func (r *results) verdict(row row) string {
	all := r.ratios(row.name, "duet")
	switch {
	case len(all) == 0:
		return ""
	case medianOf(all) >= row.goal:
		return "reached"
	default:
		return "missed"
	}
}

func (r *results) printCopies(w io.Writer) {
	if len(r.Copies) == 0 {
		return
	}
	fmt.Fprintf(w, "\nfull copy, MB/s (resync: goal is %.2f of nbdcopy between the same two files)\n\n", resyncGoal)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	resync := medianOf(r.Copies[wayResync])
	for _, way := range copyWays {
		speed := medianOf(r.Copies[way])
		fmt.Fprintf(t, "%s\t%.0f", way, speed/1e6)
		if way != wayResync {
			fmt.Fprintf(t, "\tresync is %.2f of it", resync/speed)
		}
		fmt.Fprintln(t)
	}
	flush(t)
}

func (r *results) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// flush ends a table. The terminal it goes to is the only place a failure could be reported.
func flush(t *tabwriter.Writer) {
	if err := t.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: print:", err)
	}
}

// median is the median of one figure over measurements.
func median(all []measurement, figure func(measurement) float64) float64 {
	var figures []float64
	for _, m := range all {
		figures = append(figures, figure(m))
	}
	return medianOf(figures)
}

func medianOf(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	if len(sorted) == 0 {
		return 0
	}
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
