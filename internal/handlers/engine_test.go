package handlers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// site is a directory of handlers and an engine for it.
type site struct {
	t      *testing.T
	dir    string
	engine *Engine
	ended  chan Outcome
}

func newSite(t *testing.T, limits map[Event]time.Duration) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), ended: make(chan Outcome, 100)}
	s.engine = New(Config{Dir: s.dir, Node: "n1", Limits: limits, Ended: func(o Outcome) { s.ended <- o }, NodeDir: "/srv/duet",
		Program: "/bin/duet", NBD: "127.0.0.1:10809", NBDSocket: "/srv/duet/nbd.sock"})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.engine.Close(ctx)
	})
	return s
}

// handler writes an executable; %s in the script is the directory.
func (s *site) handler(name, script string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+strings.ReplaceAll(script, "%s", s.dir)+"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// log is what the handlers have appended to the file log.
func (s *site) log() []string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// until waits for a condition that nothing announces.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func (s *site) wants(want ...string) {
	s.t.Helper()
	until(s.t, fmt.Sprint(want), func() bool { return len(s.log()) >= len(want) })
	if got := s.log(); !slices.Equal(got, want) {
		s.t.Errorf("the handlers said %v, want %v", got, want)
	}
}

var r0 = Facts{Resource: "r0"}

// A handler knows what happened, and nothing of what the daemon was told by DUET_ variables of its own.
func TestHandlerIsToldTheFacts(t *testing.T) {
	t.Setenv("DUET_BOOT_ID", "secret")
	s := newSite(t, nil)
	s.handler("after-promote", `env | grep ^DUET_ | sort; exit 0`)
	o := s.engine.Run(t.Context(), AfterPromote, Facts{Resource: "r0", Role: "Primary", Peer: "n2", PeerAddress: "h:7600", Generation: 7, Reason: "a b",
		Device: "/dev/x", Error: "EIO"})
	want := `DUET_DEVICE=/dev/x
DUET_DIR=/srv/duet
DUET_ERROR=EIO
DUET_EVENT=after-promote
DUET_FORCED=
DUET_GENERATION=7
DUET_LIMIT=60
DUET_NBD=127.0.0.1:10809
DUET_NBD_SOCKET=/srv/duet/nbd.sock
DUET_NODE=n1
DUET_PEER=n2
DUET_PEER_ADDRESS=h:7600
DUET_PROGRAM=/bin/duet
DUET_REASON=a b
DUET_RESOURCE=r0
DUET_ROLE=Primary
`
	if o.Failed() != nil || o.Said != want {
		t.Errorf("%v: it was told\n%s", o.Err, o.Said)
	}
}

// Handlers of one resource run one at a time and in order, whoever waits for them; those of another don't wait.
func TestOneAtATimeAndInOrder(t *testing.T) {
	s := newSite(t, nil)
	if err := syscall.Mkfifo(filepath.Join(s.dir, "go"), 0o600); err != nil {
		t.Fatal(err)
	}
	record := `mkdir %s/busy.$DUET_RESOURCE || echo OVERLAP >> %s/log
[ "$DUET_RESOURCE.$DUET_EVENT" != r0.after-promote ] || read line < %s/go
echo $DUET_RESOURCE.$DUET_EVENT >> %s/log; rmdir %s/busy.$DUET_RESOURCE`
	for _, event := range []Event{AfterPromote, BeforeDemote, AfterDemote, BeforePromote} {
		s.handler(string(event), record)
	}
	s.engine.Notify(AfterPromote, r0) // until it is let go
	s.engine.Notify(BeforeDemote, r0)
	s.engine.Notify(AfterDemote, r0)
	if o := s.engine.Run(t.Context(), AfterPromote, Facts{Resource: "r1"}); o.Err != nil {
		t.Fatal(o.Err)
	}
	promoted := make(chan Outcome, 1)
	go func() { promoted <- s.engine.Run(t.Context(), BeforePromote, r0) }()
	if err := os.WriteFile(filepath.Join(s.dir, "go"), []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if o := <-promoted; o.Err != nil {
		t.Fatal(o.Err)
	}
	s.wants("r1.after-promote", "r0.after-promote", "r0.before-demote", "r0.after-demote", "r0.before-promote")
}

// A change of role does not wait for handlers that only tell: what has not begun comes later, what has is cut short.
func TestRolesOvertakeNotices(t *testing.T) {
	s := newSite(t, nil)
	s.handler("peer-lost", `echo lost >> %s/log; sleep 600`)
	s.handler("resync-start", `echo resync >> %s/log`)
	s.handler("before-promote", `echo promote >> %s/log`)
	s.engine.Notify(PeerLost, r0)
	s.wants("lost")
	s.engine.Notify(ResyncStart, r0)
	if o := s.engine.Run(t.Context(), BeforePromote, r0); o.Err != nil {
		t.Fatal(o.Err)
	}
	s.wants("lost", "promote", "resync")
	if o := <-s.ended; o.Event != PeerLost || !errors.Is(o.Err, errOvertook) {
		t.Errorf("%s ended with %v", o.Event, o.Err)
	}
}

// Of a directory, everything that is executable runs by name, up to the first that fails; where nothing can be refused, all do.
func TestDirectories(t *testing.T) {
	s := newSite(t, nil)
	for _, event := range []Event{BeforePromote, AfterDemote} {
		d := string(event) + ".d/"
		s.handler(string(event), `echo 0 >> %s/log`)
		s.handler(d+"20-b", `echo 2 >> %s/log; echo because; exit 3`)
		s.handler(d+"10-a", `echo 1 >> %s/log`)
		s.handler(d+"30-c", `echo 3 >> %s/log`)
		s.handler(d+"15-off", `echo OFF >> %s/log`)
		s.handler(d+".hidden", `echo HIDDEN >> %s/log`)
		if err := os.Chmod(filepath.Join(s.dir, d+"15-off"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := s.engine.Run(t.Context(), BeforePromote, r0)
	if err := o.Failed(); err == nil || o.Code != 3 || err.Error() != "handler before-promote: exit status 3: because" {
		t.Errorf("%v, code %d", err, o.Code)
	}
	s.wants("0", "1", "2")
	if o := s.engine.Run(t.Context(), AfterDemote, r0); o.Code != 3 {
		t.Errorf("%v, code %d", o.Err, o.Code)
	}
	s.wants("0", "1", "2", "0", "1", "2", "3")
	if err := os.Symlink("nowhere", filepath.Join(s.dir, "resync-done")); err != nil {
		t.Fatal(err)
	}
	if o := s.engine.Run(t.Context(), ResyncDone, r0); !errors.Is(o.Err, os.ErrNotExist) {
		t.Errorf("a link that leads nowhere: %v", o.Err)
	}
	if o := s.engine.Run(t.Context(), QuorumLost, r0); !o.None || o.Err != nil {
		t.Errorf("no handler: %+v", o)
	}
}

// Any way to confirm is enough; without one, the first failure counts.
func TestFencersInTurn(t *testing.T) {
	s := newSite(t, nil)
	s.handler("fence-peer.d/1", `exit 1`)
	s.handler("fence-peer.d/2", `exit 0`)
	s.handler("fence-peer.d/3", `echo LATE >> %s/log`)
	if o := s.engine.Run(t.Context(), FencePeer, Facts{Peer: "n2"}); o.Err != nil || o.Code != 0 {
		t.Errorf("%v, code %d", o.Err, o.Code)
	}
	s.handler("fence-peer.d/2", `exit 2`)
	s.handler("fence-peer.d/3", `exit 2`)
	if o := s.engine.Run(t.Context(), FencePeer, Facts{Peer: "n2"}); o.Err == nil || o.Code != 1 {
		t.Errorf("%v, code %d", o.Err, o.Code)
	}
	if got := s.log(); len(got) > 0 {
		t.Error(got)
	}
}

// gone tells whether the process whose number the file has is no more.
func (s *site) gone(file string) bool {
	text, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// A handler that hangs is killed at its limit with what it has started, and the next has its turn; the output is bounded.
func TestLimit(t *testing.T) {
	s := newSite(t, map[Event]time.Duration{BeforePromote: 300 * time.Millisecond})
	s.handler("before-promote", `yes | head -c 100000; sleep 600 & echo $! > %s/child; wait`)
	s.handler("before-demote", `echo next >> %s/log`)
	o := s.engine.Run(t.Context(), BeforePromote, r0)
	if !errors.Is(o.Err, errLimit) || len(o.Said) != outputBytes {
		t.Errorf("%v, %d bytes", o.Err, len(o.Said))
	}
	until(t, "the end of the child", func() bool { return s.gone("child") })
	if o := s.engine.Run(t.Context(), BeforeDemote, r0); o.Err != nil {
		t.Error(o.Err)
	}
	s.wants("next")
}

// Whoever asked may go away; the handler does not outlive that.
func TestCallerGoes(t *testing.T) {
	s := newSite(t, nil)
	s.handler("before-promote", `echo $$ > %s/child; echo up >> %s/log; sleep 600`)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan Outcome, 1)
	go func() { result <- s.engine.Run(ctx, BeforePromote, r0) }()
	s.wants("up")
	cancel()
	if o := <-result; !errors.Is(o.Err, context.Canceled) {
		t.Error(o.Err)
	}
	until(t, "the end of the handler", func() bool { return s.gone("child") })
}

// When the role is lost, what a promotion has under way is ended, and cleared up after with a short limit, that nothing stops.
func TestRoleLost(t *testing.T) {
	s := newSite(t, nil)
	s.handler("after-promote", `echo promote >> %s/log; sleep 600`)
	s.handler("before-demote.d/1", `echo demote$DUET_FORCED$DUET_LIMIT >> %s/log; exit 1`)
	s.handler("before-demote.d/2", `echo further >> %s/log`)
	s.handler("after-demote", `echo demoted >> %s/log`)
	s.engine.Notify(AfterPromote, r0)
	s.wants("promote")
	s.engine.Notify(AfterPromote, r0)
	s.engine.RoleLost(r0)
	s.wants("promote", "demote15", "further", "demoted")
	if o := <-s.ended; o.Event != AfterPromote || !errors.Is(o.Err, errRoleLost) {
		t.Errorf("%s ended with %v", o.Event, o.Err)
	}
}

// The engine ends within the time that it is given, whatever its handlers do, and takes nothing afterwards.
func TestClose(t *testing.T) {
	s := newSite(t, nil)
	s.handler("after-promote", `echo $$ > %s/child; echo up >> %s/log; sleep 600`)
	s.handler("after-demote", `echo down >> %s/log`)
	s.engine.Notify(AfterPromote, r0)
	s.wants("up")
	s.engine.Notify(AfterDemote, r0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.engine.Close(ctx)
	if !s.gone("child") {
		t.Error("the handler outlives the engine")
	}
	for range 2 {
		if o := <-s.ended; !errors.Is(o.Err, errClosed) {
			t.Errorf("%s ended with %v", o.Event, o.Err)
		}
	}
	if o := s.engine.Run(t.Context(), AfterPromote, r0); !errors.Is(o.Err, errClosed) {
		t.Error(o.Err)
	}
	s.wants("up")
}

// What a killed daemon leaves is known at the next start; what ended in order is not.
func TestLeft(t *testing.T) {
	s := newSite(t, nil)
	s.handler("after-promote", `exit 0`)
	s.engine.Run(t.Context(), AfterPromote, r0)
	s.engine.Run(t.Context(), AfterPromote, Facts{Resource: "r1"})
	s.engine.Run(t.Context(), AfterDemote, r0) // there is no handler for it
	next := New(Config{Dir: s.dir})
	if left, err := next.Left(); err != nil || !slices.Equal(left, []string{"r1"}) {
		t.Errorf("%v, %v", left, err)
	}
}

// Notices do not pile up without end.
func TestNoticesAreBounded(t *testing.T) {
	s := newSite(t, nil)
	s.handler("peer-lost", `echo lost >> %s/log; sleep 600`)
	s.engine.Notify(PeerLost, r0)
	s.wants("lost")
	for range maxQueued {
		s.engine.Notify(PeerLost, r0)
	}
	if o := s.engine.Run(t.Context(), PeerLost, r0); !errors.Is(o.Err, errFull) {
		t.Error(o.Err)
	}
}
