package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"duet/internal/config"
)

func TestExitIsCertified(t *testing.T) {
	dir := makeDir(t)
	n2, n3 := listen(t, "n2"), listen(t, "n3")
	startSupervisor(t, dir)
	for incarnation := uint64(1); incarnation <= 3; incarnation++ {
		d := startDaemon(t, dir, incarnation, "n2="+n2.address, "n3="+n3.address)
		n2.expect(t, KindWatch, incarnation)
		n3.expect(t, KindWatch, incarnation)
		if incarnation == 2 { // an end that is not in good order, by itself
			d.say(t, "failed")
		} else {
			d.kill(t)
		}
		n2.expect(t, KindExit, incarnation)
		n3.expect(t, KindExit, incarnation)
	}
}

// An orderly end is not certified, and the next daemon is watched by the same supervisor.
func TestOrderlyEndIsNotCertified(t *testing.T) {
	dir := makeDir(t)
	n2 := listen(t, "n2")
	startSupervisor(t, dir)
	d := startDaemon(t, dir, 1, "n2="+n2.address)
	n2.expect(t, KindWatch, 1)
	d.say(t, "orderly")
	n2.expect(t, KindWatch, 0)
	startDaemon(t, dir, 2, "n2="+n2.address).kill(t)
	n2.expect(t, KindExit, 2)
}

// A node that could not be reached gets the certificate when it can.
func TestCertificateIsRepeated(t *testing.T) {
	dir := makeDir(t)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	startSupervisor(t, dir)
	d := startDaemon(t, dir, 1, "n2="+port.Addr().String())
	d.kill(t)
	conn, err := port.Accept() // who takes the connection and says nothing is not n2
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Close(), port.Close()); err != nil {
		t.Fatal(err)
	}
	n2 := listen(t, "n2")
	startDaemon(t, dir, 2, "n2="+n2.address) // which knows where it is now
	n2.expect(t, KindExit, 1)
}

// talk says something to the supervisor by hand, as this process, and returns what it answers.
func talkTo(t *testing.T, dir config.Dir, q request, answering bool) (answer, error) {
	t.Helper()
	conn, hello, err := visit(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	if answering {
		q.Challenge = hello.Challenge
	}
	if err := writeFrame(conn, q, maxRequestBytes); err != nil {
		t.Fatal(err)
	}
	var a answer
	return a, readFrame(conn, &a, maxRequestBytes)
}

func TestRegistrationRefused(t *testing.T) {
	dir := makeDir(t)
	startSupervisor(t, dir)
	d := startDaemon(t, dir, 5)
	tests := []struct {
		name      string
		request   request
		answering bool
		reason    string
	}{
		{"the challenge is not answered", request{Version: 1, Kind: verbRun, Node: "n1", Incarnation: 5}, false, "challenge"},
		{"another process has the number", request{Version: 1, Kind: verbRun, Node: "n1", Incarnation: 5}, true, "is process"},
		{"an older incarnation", request{Version: 1, Kind: verbRun, Node: "n1", Incarnation: 4}, true, "directory"},
		{"one that the directory has not", request{Version: 1, Kind: verbRun, Node: "n1", Incarnation: 6}, true, "directory"},
		{"another node", request{Version: 1, Kind: verbRun, Node: "n2", Incarnation: 5}, true, "directory"},
		{"another version", request{Version: 2, Kind: verbRun, Node: "n1", Incarnation: 5}, true, "version"},
		{"not watched", request{Version: 1, Kind: verbOrderly}, true, "begins"},
	}
	for _, tt := range tests {
		if a, err := talkTo(t, dir, tt.request, tt.answering); err != nil || a.Kind != answerRefused || !strings.Contains(a.Reason, tt.reason) {
			t.Errorf("%s: %+v, %v", tt.name, a, err)
		}
	}
	// None of that did any harm.
	n2 := listen(t, "n2")
	d.kill(t)
	startDaemon(t, dir, 6, "n2="+n2.address).kill(t)
	n2.expect(t, KindExit, 6)
	if a, err := talkTo(t, dir, request{Version: 1, Kind: verbRun, Node: "n1", Incarnation: 6}, true); err != nil || a.Kind != answerRefused {
		t.Errorf("who comes with the number of a process that has exited: %+v, %v", a, err)
	}
}

// Whoever connects and does not register is not watched: its end means nothing.
func TestVisitorIsNotWatched(t *testing.T) {
	dir := makeDir(t)
	startSupervisor(t, dir)
	visitor := exec.Command(os.Args[0])
	visitor.Env = append(os.Environ(), envDaemon+"=visit "+string(dir))
	if output, err := visitor.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	n2 := listen(t, "n2")
	startDaemon(t, dir, 1, "n2="+n2.address).kill(t)
	n2.expect(t, KindExit, 1)
}

func TestSupervisorEnds(t *testing.T) {
	t.Run("when it is told to and nothing runs", func(t *testing.T) {
		s := startSupervisor(t, makeDir(t))
		s.stop()
		s.wait(t)
	})
	t.Run("not when it is told to and a daemon runs", func(t *testing.T) {
		dir := makeDir(t)
		n2 := listen(t, "n2")
		s := startSupervisor(t, dir)
		d := startDaemon(t, dir, 1, "n2="+n2.address)
		n2.expect(t, KindWatch, 1)
		s.stop()
		if err := talksTo(dir); err != nil {
			t.Error(err)
		}
		d.kill(t)
		n2.expect(t, KindExit, 1)
		s.wait(t)
	})
	t.Run("when the directory is gone", func(t *testing.T) {
		dir := makeDir(t)
		s := startSupervisor(t, dir)
		startDaemon(t, dir, 1)
		if err := os.RemoveAll(string(dir)); err != nil {
			t.Fatal(err)
		}
		s.wait(t)
	})
	t.Run("when the directory is another one", func(t *testing.T) {
		dir := makeDir(t)
		s := startSupervisor(t, dir)
		if err := os.Remove(dir.WatchLock()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir.WatchLock(), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.wait(t)
	})
	t.Run("at once when somebody says so", func(t *testing.T) {
		dir := makeDir(t)
		s := startSupervisor(t, dir)
		startDaemon(t, dir, 1)
		if err := End(t.Context(), dir); err != nil {
			t.Error(err)
		}
		s.wait(t)
		if err := End(t.Context(), dir); err != nil {
			t.Errorf("where there is none: %v", err)
		}
	})
}

// talksTo tells whether a supervisor serves.
func talksTo(dir config.Dir) error {
	conn, _, err := visit(context.Background(), dir)
	if err != nil {
		return err
	}
	return conn.Close()
}

func TestOneSupervisorPerDirectory(t *testing.T) {
	dir := makeDir(t)
	startSupervisor(t, dir)
	if err := Run(t.Context(), Config{Dir: dir, Program: "test"}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second one: %v", err)
	}
	if err := talksTo(dir); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

// keep keeps a supervisor for this very process; starts gets each that is started.
func keep(t *testing.T, dir config.Dir, program string) (k *Keeper, starts chan *running) {
	t.Helper()
	if _, err := dir.BumpIncarnation(); err != nil {
		t.Fatal(err)
	}
	starts = make(chan *running, 10)
	return Keep(KeeperConfig{
		Dir: dir, Node: "n1", Incarnation: 1, Program: program,
		Peers: func() ([]Peer, <-chan struct{}) { return nil, nil },
		Start: func(context.Context) error {
			starts <- startSupervisor(t, dir)
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}), starts
}

// started waits for the next supervisor that is started.
func started(t *testing.T, starts chan *running) *running {
	t.Helper()
	select {
	case s := <-starts:
		return s
	case <-time.After(within):
		t.Fatal("no supervisor is started")
		return nil
	}
}

func TestKeeperReplacesALostSupervisor(t *testing.T) {
	dir := makeDir(t)
	k, starts := keep(t, dir, "test")
	defer k.Close(false)
	for range 3 {
		s := started(t, starts)
		if err := End(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		s.wait(t)
	}
	started(t, starts)
}

func TestKeeperReplacesAnotherVersion(t *testing.T) {
	dir := makeDir(t)
	old := startSupervisor(t, dir)
	k, starts := keep(t, dir, "newer")
	defer k.Close(false)
	started(t, starts)
	old.wait(t)
}

func TestKeeperEndsWithoutSupervisor(t *testing.T) {
	k := Keep(KeeperConfig{
		Dir: makeDir(t), Node: "n1", Incarnation: 1,
		Peers:  func() ([]Peer, <-chan struct{}) { return nil, nil },
		Start:  func(context.Context) error { return errors.New("can't") },
		Logger: slog.New(slog.DiscardHandler),
	})
	k.Close(true)
}

func TestReceiveRefusesAnotherName(t *testing.T) {
	near, far := net.Pipe()
	defer func() {
		if err := errors.Join(near.Close(), far.Close()); err != nil {
			t.Error(err)
		}
	}()
	failed := make(chan error, 1)
	go func() {
		failed <- Receive(near, "n3", func(Report) error { panic("taken") })
	}()
	if err := writeFrame(far, Report{protocolVersion, KindExit, "n1", 7}, maxReportBytes); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, ErrFrame) || !strings.Contains(err.Error(), "n1") {
		t.Errorf("%v", err)
	}
}

func TestWaitExit(t *testing.T) {
	process := exec.Command("cat")
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		abandoned, err := openProcess(process.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- waitExit(abandoned) }()
		if err := abandoned.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Error("a process that runs was said to have exited")
		}
	}
	pidfd, err := openProcess(process.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- waitExit(pidfd) }()
	if _, err := io.WriteString(input, "x"); err != nil {
		t.Error(err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil { // it has not been collected yet
		t.Errorf("%v", err)
	}
	var exit *exec.ExitError
	if err := process.Wait(); !errors.As(err, &exit) {
		t.Error(err)
	}
	if err := waitExit(pidfd); err != nil { // nor is that needed
		t.Errorf("after it was collected: %v", err)
	}
	if err := pidfd.Close(); err != nil {
		t.Error(err)
	}
	if _, err := openProcess(process.Process.Pid); err == nil {
		t.Log("the process number is in use again")
	}
}
