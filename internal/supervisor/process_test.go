package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"duet/internal/config"
	"duet/internal/mux"
)

// within bounds every wait for what must happen.
const within = 20 * time.Second

// envDaemon makes the test program play a daemon, "DIR INCARNATION PEER=ADDRESS...", or one who only looks in, "visit DIR".
const envDaemon = "DUET_TEST_DAEMON"

func TestMain(m *testing.M) {
	if text := os.Getenv(envDaemon); text != "" {
		playDaemon(strings.Fields(text))
		return
	}
	os.Exit(m.Run())
}

// playDaemon is watched by the supervisor that there is. It does what is said on its standard input, and ends with that.
func playDaemon(words []string) {
	if words[0] == "visit" {
		if err := talksTo(config.Dir(words[1])); err != nil {
			panic(err)
		}
		return
	}
	incarnation, err := strconv.ParseUint(words[1], 10, 64)
	if err != nil {
		panic(err)
	}
	var peers []Peer
	for _, word := range words[2:] {
		name, address, _ := strings.Cut(word, "=")
		peers = append(peers, Peer{Name: name, Address: address})
	}
	keeper := Keep(KeeperConfig{
		Dir: config.Dir(words[0]), Node: "n1", Incarnation: incarnation, Program: "test",
		Peers:  func() ([]Peer, <-chan struct{}) { return peers, nil },
		Start:  func(context.Context) error { return errors.New("there is to be one") },
		Logger: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "orderly":
			keeper.Close(true)
			return
		case "failed":
			keeper.Close(false)
			return
		}
	}
}

// daemon is a process that plays one.
type daemon struct {
	command *exec.Cmd
	input   io.WriteCloser
}

// startDaemon starts one, and returns when a supervisor watches it.
func startDaemon(t *testing.T, dir config.Dir, incarnation uint64, peers ...string) *daemon {
	t.Helper()
	for {
		latest, err := dir.Incarnation()
		if err != nil {
			t.Fatal(err)
		}
		if latest >= incarnation {
			break
		}
		if _, err := dir.BumpIncarnation(); err != nil {
			t.Fatal(err)
		}
	}
	d := &daemon{command: exec.Command(os.Args[0])}
	d.command.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", envDaemon, dir, incarnation, strings.Join(peers, " ")))
	output, err := d.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if d.input, err = d.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := d.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.kill(t) })
	late := time.AfterFunc(within, func() { d.kill(t) })
	defer late.Stop()
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if strings.Contains(lines.Text(), "a supervisor watches this process") {
			return d
		}
		t.Log(lines.Text())
	}
	t.Fatal("the daemon ended")
	return nil
}

func (d *daemon) say(t *testing.T, word string) {
	t.Helper()
	if _, err := io.WriteString(d.input, word+"\n"); err != nil {
		t.Fatal(err)
	}
}

// kill ends the process, if it has not ended.
func (d *daemon) kill(t *testing.T) {
	t.Helper()
	if err := d.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := d.command.Wait(); err != nil && !errors.As(err, &exit) && d.command.ProcessState == nil {
		t.Error(err)
	}
}

// listener is another node, which takes reports.
type listener struct {
	address string
	reports chan Report
}

func listen(t *testing.T, name string) *listener {
	t.Helper()
	m, err := mux.Listen(t.Context(), mux.Config{Node: name, Address: "127.0.0.1:0", Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	channel, err := m.Channel(mux.ChannelExit)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{address: m.Addr().String(), reports: make(chan Report, 100)}
	conns := make(chan net.Conn, 10)
	go func() { // ends with the port
		defer close(conns)
		for {
			conn, err := channel.Accept()
			if err != nil {
				return
			}
			conns <- conn
			identity, _ := mux.PeerOf(conn)
			go func() { // ends with the connection
				err := Receive(conn, identity.Name, func(r Report) error {
					l.reports <- r
					return nil
				})
				t.Logf("the connection from %s: %v", identity, err)
			}()
		}
	}()
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		for conn := range conns {
			if err := ignoreClosed(conn.Close()); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// expect waits for a report; others of the kind watch may come before.
func (l *listener) expect(t *testing.T, kind Kind, incarnation uint64) {
	t.Helper()
	deadline := time.After(within)
	for {
		select {
		case r := <-l.reports:
			if r == (Report{protocolVersion, kind, "n1", incarnation}) {
				return
			}
			if r.Kind == KindExit {
				t.Fatalf("%+v came, while %s %d was waited for", r, kind, incarnation)
			}
		case <-deadline:
			t.Fatalf("no report %s %d", kind, incarnation)
		}
	}
}

// makeDir makes the directory of n1, without TLS.
func makeDir(t *testing.T) config.Dir {
	t.Helper()
	path, err := os.MkdirTemp("", "duet-sup-") // short: it has sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	})
	dir := config.Dir(path)
	node := &config.Node{Name: "n1", Kind: config.KindData, Cluster: "c", Listen: "127.0.0.1:1", Advertise: "127.0.0.1:1", Insecure: true}
	if err := dir.SaveNode(node); err != nil {
		t.Fatal(err)
	}
	return dir
}

// running is a supervisor in this process.
type running struct {
	stop context.CancelFunc // as SIGTERM does
	done chan struct{}
	err  error // valid when done is closed
}

// startSupervisor starts one, and returns when it serves.
func startSupervisor(t *testing.T, dir config.Dir) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop, done: make(chan struct{})}
	ready := make(chan struct{})
	go func() {
		defer close(r.done)
		r.err = Run(ctx, Config{Dir: dir, Program: "test", Ready: func() { close(ready) }})
	}()
	t.Cleanup(func() {
		stop()
		if err := End(context.Background(), dir); err != nil {
			t.Error(err)
		}
		r.wait(t)
	})
	select {
	case <-ready:
	case <-r.done:
		t.Fatal(r.err)
	}
	return r
}

// wait waits for its end.
func (r *running) wait(t *testing.T) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(within):
		t.Fatal("the supervisor does not end")
	}
	if r.err != nil {
		t.Error(r.err)
	}
}
