package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"duet/internal/control"
)

// What the demonstration works on. The load keeps to the front of the device, so that what the burst writes behind it
// is new to both activity logs; most of the device is never written, so that a resync of all of it would stand out.
const (
	demoResource    = "r0"
	demoSizeBytes   = 1 << 30
	demoBlockBytes  = 4096
	demoBlocks      = demoSizeBytes / demoBlockBytes
	demoExtentBytes = 4 << 20
	demoLoadBlocks  = 64 << 20 / demoBlockBytes
	demoUsedBytes   = 256 << 20 // nothing is written behind it
)

// demoConfig says how to run the demonstration.
type demoConfig struct {
	binary string // the program the nodes run
	dir    string // empty: a temporary directory
	keep   bool
	out    io.Writer
}

// demo is one demonstration. It ends well only if every promise was kept; a broken promise that later stages can show
// more about is noted in broken.
type demo struct {
	demoConfig
	began  time.Time
	n1, n2 *demoNode
	w1     *demoNode
	ledger *blockLedger
	load   *demoLoad // nil while there is none
	broken []error
}

// runDemo runs all stages, and whatever happens leaves no process behind that it was not asked to keep.
func runDemo(ctx context.Context, config demoConfig) (err error) {
	d := &demo{demoConfig: config, began: time.Now(), ledger: newBlockLedger(demoBlocks)}
	temporary := d.dir == ""
	if err := d.makeDir(); err != nil {
		return err
	}
	defer func() { err = d.end(err, temporary) }()
	if err := d.plan(); err != nil {
		return err
	}
	for i, stage := range d.stages() {
		d.say("%d. %s", i+1, stage.title)
		if err := stage.run(ctx); err != nil {
			return fmt.Errorf("stage %d, %s: %w", i+1, stage.title, err)
		}
	}
	return nil
}

func (d *demo) makeDir() (err error) {
	if d.dir == "" {
		d.dir, err = os.MkdirTemp("", "duet-demo-")
		return err
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.dir)
	if err == nil && len(entries) > 0 {
		return control.Errorf(control.CodeRefused, "%s is not empty", d.dir).WithHint("choose another directory with --dir")
	}
	return os.MkdirAll(d.dir, 0o700)
}

// plan names the nodes and gives each its place.
func (d *demo) plan() error {
	addresses, err := freeAddresses(5)
	if err != nil {
		return err
	}
	d.n1 = &demoNode{name: "n1", address: addresses[0], nbd: addresses[1]}
	d.n2 = &demoNode{name: "n2", address: addresses[2], nbd: addresses[3]}
	d.w1 = &demoNode{name: "w1", address: addresses[4]}
	for _, n := range d.nodes() {
		n.binary, n.outlive = d.binary, d.keep
		n.dir, n.log = filepath.Join(d.dir, n.name), filepath.Join(d.dir, n.name+".log")
		n.disk = filepath.Join(d.dir, n.name+"-"+demoResource+".img")
		n.open()
	}
	return nil
}

func (d *demo) nodes() []*demoNode { return []*demoNode{d.n1, d.n2, d.w1} }

// stage is one part of the demonstration.
type stage struct {
	title string
	run   func(context.Context) error
}

func (d *demo) stages() []stage {
	stages := []stage{
		{"Start three nodes: n1 and n2 hold data, w1 is the witness", d.startCluster},
		{"Create a device of " + kib(demoSizeBytes>>10) + " on n1 and n2", d.createResource},
		{"Write to it on n1, the Primary", d.startLoad},
		{"Kill the Secondary, n2, while writes go on", d.killSecondary},
		{"Start n2 again", d.restartSecondary},
		{"Stop n2 in its tracks, write more than reaches it, and kill the Primary, n1", d.killPrimary},
		{"n2 takes over: read back every block", d.takeOver},
		{"Start n1 again: it takes back what was never acknowledged", d.restartPrimary},
		{"Stop everything in good order and compare the disks", d.compare},
	}
	if d.keep {
		stages = append(stages, stage{"Start the cluster again, to be kept", d.startAgain})
	}
	return stages
}

// end stops what still runs, tidies up and makes the verdict. The logs stay where something went wrong.
func (d *demo) end(err error, temporary bool) error {
	keep := d.keep && err == nil && len(d.broken) == 0
	// Without its servers the load ends at once.
	cleanup := errors.Join(d.closeNodes(keep), d.load.abandon())
	failure := errors.Join(append(d.broken, err, cleanup)...)
	if failure != nil {
		return control.Errorf(control.CodeInternal, "the demonstration failed: %s", strings.ReplaceAll(failure.Error(), "\n", "; ")).
			WithHint("the nodes' logs and disks are in %s", d.dir)
	}
	if keep {
		d.explainUse()
		return nil
	}
	if temporary {
		if err := os.RemoveAll(d.dir); err != nil {
			return err
		}
	}
	d.say("Done: nothing acknowledged was lost, and both disks are identical")
	return nil
}

func (d *demo) closeNodes(keep bool) error {
	var failures error
	for _, n := range d.nodes() {
		switch {
		case n == nil:
		case keep:
			n.client.Close()
		default:
			failures = errors.Join(failures, n.kill(), n.endSupervisor())
			n.client.Close()
		}
	}
	return failures
}

// say prints a line with the time since the beginning.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "[%5.1f s] %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// note prints a line that belongs to the one before.
func (d *demo) note(format string, args ...any) {
	fmt.Fprintf(d.out, "          %s\n", fmt.Sprintf(format, args...))
}

// breach notes a broken promise and goes on, since the stages to come show what it leads to.
func (d *demo) breach(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	d.broken = append(d.broken, err)
	d.note("BROKEN PROMISE: %v", err)
}

func (d *demo) explainUse() {
	d.say("The cluster is running; its files are in %s", d.dir)
	d.note("duet --dir %s status --watch", d.n1.dir)
	d.note("nbdinfo nbd://%s/%s", d.n1.nbd, demoResource)
	d.note("kill -9 %d      the Primary; then: duet --dir %s primary %s", d.n1.pid(), d.n2.dir, demoResource)
	d.note("duet --dir %s run &      starts n1 again", d.n1.dir)
	d.note("kill %d %d %d      ends it all", d.n1.pid(), d.n2.pid(), d.w1.pid())
}
