package node

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/internal/config"
	"duet/quorum"
)

// raftAlone opens the Raft store of a founder's directory, as a start does, and calls the rest of a killed one.
func raftAlone(t *testing.T, dir config.Dir, then func(*quorum.Node)) {
	t.Helper()
	cfg, err := dir.LoadNode()
	if err != nil {
		t.Fatal(err)
	}
	n, err := quorum.Start(t.Context(), quorum.Config{Node: cfg.Name, Incarnation: 1, BootID: "boot", Dir: dir.Raft(), Advertise: cfg.Advertise,
		Accept: func(quorum.Channel) net.Listener {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
		Dial: func(context.Context, string, string, quorum.Channel) (net.Conn, error) { return nil, net.ErrClosed },
	})
	if err != nil {
		t.Fatal(err)
	}
	then(n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

// A member whose Raft store is gone or empty has forgotten its votes: it neither founds the cluster again nor asks to be
// admitted.
func TestMemberWithoutItsStoreIsRefused(t *testing.T) {
	a := found(t, "a")
	b := a.join("b", config.KindData)
	b.stop()
	refuses := func(dir config.Dir) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err := Run(ctx, Options{Dir: dir, Ready: cancel})
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "is gone or empty") || strings.Contains(err.Error(), "\n") {
			t.Errorf("ended with %v", err)
		}
	}
	for _, r := range []*running{b, a} {
		r.stop()
		if err := os.RemoveAll(r.dir.Raft()); err != nil {
			t.Fatal(err)
		}
		refuses(r.dir)
		if _, err := os.Stat(filepath.Join(string(r.dir.Raft()), "log.db")); err == nil {
			t.Error("a new store was made in the place of the lost one")
		}
		raftAlone(t, r.dir, func(*quorum.Node) {})
		refuses(r.dir)
	}
}

// A founder that was killed after Raft had its first member, and before the record had it, founds the cluster still.
func TestFounderGoesOnAfterKill(t *testing.T) {
	dir := founder(t, "a")
	raftAlone(t, dir, func(n *quorum.Node) {
		if err := n.BootstrapAs(t.Context(), quorum.InitCluster{}); err == nil {
			t.Error("the record took a cluster without an id")
		}
	})
	a := run(t, dir)
	a.stop()
	run(t, dir)
}
