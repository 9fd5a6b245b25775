package main

import (
	"fmt"
	"slices"
	"strconv"
)

// row is one kind of work, with the ratios to the baseline that the design asks for.
type row struct {
	name      string
	pattern   string // fio's --rw
	blockSize string
	depth     int
	floor     string // what a throwaway without metadata reached
	goal      float64
}

var allRows = []row{
	{name: "randwrite-4k-1", pattern: "randwrite", blockSize: "4k", depth: 1, floor: "0.50-0.63", goal: 0.70},
	{name: "randwrite-4k-32", pattern: "randwrite", blockSize: "4k", depth: 32, floor: "0.63-1.3", goal: 1.0},
	{name: "write-1m-4", pattern: "write", blockSize: "1m", depth: 4, floor: "0.49", goal: 0.70},
	{name: "randread-4k-32", pattern: "randread", blockSize: "4k", depth: 32, floor: "1.15", goal: 1.2},
}

func findRows(wanted []string) ([]row, error) {
	var rows []row
	for _, name := range wanted {
		i := slices.IndexFunc(allRows, func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no row %q: there are %s", name, names(allRows, func(r row) string { return r.name }))
		}
		rows = append(rows, allRows[i])
	}
	return rows, nil
}

// fioArguments are the arguments of fio for this row against the server at uri.
func (r row) fioArguments(uri string, c *config) []string {
	return []string{
		"--name=" + r.name, "--ioengine=nbd", "--uri=" + uri, "--output-format=json",
		"--rw=" + r.pattern, "--bs=" + r.blockSize, "--iodepth=" + strconv.Itoa(r.depth),
		"--size=" + strconv.FormatInt(c.sizeBytes, 10), "--randrepeat=0", "--norandommap",
		"--time_based", "--ramp_time=1", "--runtime=" + strconv.Itoa(c.seconds),
	}
}
