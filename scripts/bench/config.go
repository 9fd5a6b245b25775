package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// baseline is the server all others are compared with. It writes one copy, and nothing else.
const baseline = "nbdkit"

// allPeers are the servers that can be measured, in the order of the columns.
var allPeers = []string{baseline, "qemu", "duet", "duet-tls"}

// config is what the command line asks for.
type config struct {
	rounds    int
	seconds   int
	rows      []row
	peers     []string
	sizeBytes int64
	dir       string
	jsonPath  string
	resync    bool
	during    bool
	binary    string // of duet; built when empty
}

func parseConfig(arguments []string) (*config, error) {
	c := new(config)
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&c.rounds, "rounds", 5, "measurements of every row on every server")
	flags.IntVar(&c.seconds, "seconds", 3, "length of one measurement, after one second that does not count")
	rows := flags.String("rows", names(allRows, func(r row) string { return r.name }), "rows, separated by commas")
	peers := flags.String("peers", strings.Join(allPeers, ","), "servers, separated by commas; "+baseline+" is always measured")
	sizeMiB := flags.Int64("size", 1024, "size of the device, MiB; every server keeps its copies in the page cache")
	flags.StringVar(&c.dir, "dir", os.TempDir(), "directory for the files; on a real disk")
	flags.StringVar(&c.jsonPath, "json", "", "file that gets every single measurement")
	flags.BoolVar(&c.resync, "resync", true, "measure a full resync beside nbdcopy (needs duet among the servers)")
	flags.BoolVar(&c.during, "during", false, "measure small writes during a resync beside idle ones (needs duet among the servers)")
	flags.StringVar(&c.binary, "duet", "", "the duet program (built from this tree when empty)")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	c.sizeBytes = *sizeMiB << 20
	c.peers = strings.Split(*peers, ",")
	if !slices.Contains(c.peers, baseline) {
		c.peers = append([]string{baseline}, c.peers...)
	}
	var err error
	if c.rows, err = findRows(strings.Split(*rows, ",")); err != nil {
		return nil, err
	}
	return c, c.validate()
}

func (c *config) validate() error {
	for _, peer := range c.peers {
		if !slices.Contains(allPeers, peer) {
			return fmt.Errorf("no server %q: there are %s", peer, strings.Join(allPeers, ", "))
		}
	}
	if c.rounds < 1 || c.seconds < 1 || c.sizeBytes < 64<<20 {
		return errors.New("at least one round of one second on 64 MiB is needed")
	}
	c.resync = c.resync && slices.Contains(c.peers, "duet")
	c.during = c.during && slices.Contains(c.peers, "duet")
	return nil
}
