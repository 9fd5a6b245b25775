package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"duet/tests/cluster"
)

// qemu is what QEMU offers for the same work: a quorum node, which writes to all its children, over a local file and
// an NBD export of a second storage daemon. Like duet with one peer it writes two copies, one of them over TCP, and
// reads one (read-pattern=fifo; the default is to read and compare both). Unlike duet it keeps no record of what differs
// after a crash.
type qemu struct {
	dir       string
	front     string // address clients use
	back      string // address of the second daemon
	sizeBytes int64
	processes []*cluster.Process
}

func (q *qemu) name() string { return "qemu" }
func (q *qemu) uri() string  { return "nbd://" + q.front + "/mirror" }

func (q *qemu) start(ctx context.Context) error {
	local, remote := filepath.Join(q.dir, "local.img"), filepath.Join(q.dir, "remote.img")
	if err := errors.Join(fill(local, q.sizeBytes, 1), fill(remote, q.sizeBytes, 1)); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(q.back)
	if err != nil {
		return err
	}
	err = q.run("remote", q.back,
		"--blockdev", "driver=file,node-name=copy,filename="+remote,
		"--export", "type=nbd,id=e,node-name=copy,name=copy,writable=on")
	if err != nil {
		return err
	}
	if err := waitAnswering(ctx, "nbd://"+q.back+"/copy"); err != nil {
		return err
	}
	err = q.run("mirror", q.front,
		"--blockdev", "driver=file,node-name=local,filename="+local,
		"--blockdev", fmt.Sprintf("driver=nbd,node-name=remote,server.type=inet,server.host=%s,server.port=%s,export=copy", host, port),
		"--blockdev", "driver=quorum,node-name=mirror,vote-threshold=2,read-pattern=fifo,children.0=local,children.1=remote",
		"--export", "type=nbd,id=e,node-name=mirror,name=mirror,writable=on")
	if err != nil {
		return err
	}
	return waitAnswering(ctx, q.uri())
}

// run starts one storage daemon with an NBD server at address.
func (q *qemu) run(name, address string, arguments ...string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	argv := append([]string{
		"qemu-storage-daemon", "--nbd-server", fmt.Sprintf("addr.type=inet,addr.host=%s,addr.port=%s", host, port),
	}, arguments...)
	process, err := cluster.StartProcess("qemu "+name, filepath.Join(q.dir, name+".log"), argv...)
	if err != nil {
		return err
	}
	q.processes = append(q.processes, process)
	return nil
}

func (q *qemu) stop() error {
	var failures []error
	for _, process := range q.processes {
		failures = append(failures, kill(process))
	}
	return errors.Join(failures...)
}
