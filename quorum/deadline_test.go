package quorum

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// scriptedStore lets a test decide how long a write takes and how it ends, and counts what reaches the disk.
type scriptedStore struct {
	*raft.InmemStore
	takes  time.Duration
	fails  error
	writes atomic.Int32
}

func (s *scriptedStore) write() error {
	s.writes.Add(1)
	time.Sleep(s.takes)
	return s.fails
}

func (s *scriptedStore) StoreLogs([]*raft.Log) error      { return s.write() }
func (s *scriptedStore) Set([]byte, []byte) error         { return s.write() }
func (s *scriptedStore) SetUint64([]byte, uint64) error   { return s.write() }
func (s *scriptedStore) DeleteRange(uint64, uint64) error { return s.write() }

func TestWriteDeadline(t *testing.T) {
	tests := []struct {
		name  string
		takes time.Duration
		fails error
		why   string // "" = the write is good
	}{
		{"quick", time.Millisecond, nil, ""},
		{"just in time", 299 * time.Millisecond, nil, ""},
		{"too slow", 301 * time.Millisecond, nil, "took more than"},
		{"failing", time.Millisecond, errors.New("disk full"), "disk full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := &scriptedStore{InmemStore: raft.NewInmemStore(), takes: tt.takes, fails: tt.fails}
				s := newDeadlineStore(inner, inner, 300*time.Millisecond)
				for what, write := range map[string]func() error{
					"append":   func() error { return s.StoreLog(&raft.Log{Index: 1}) },
					"truncate": func() error { return s.DeleteRange(1, 1) },
					"vote":     func() error { return s.Set([]byte("k"), nil) },
				} {
					err := write()
					if tt.why == "" && err != nil {
						t.Errorf("%s: %v", what, err)
					}
					if tt.why != "" && (!errors.Is(err, ErrStore) || !strings.Contains(err.Error(), tt.why)) {
						t.Errorf("%s: got %v, want %q", what, err, tt.why)
					}
				}
				if tt.why != "" && inner.writes.Load() != 1 {
					t.Errorf("%d writes reached a store that had failed", inner.writes.Load()-1)
				}
				if _, err := s.LastIndex(); err != nil {
					t.Errorf("a read after it: %v", err)
				}
				if err := s.close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		})
	}
}

// A term that can't be stored ends the goroutine that needs it, with its deferred calls done, and does not return.
func TestTermThatCannotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &scriptedStore{InmemStore: raft.NewInmemStore(), fails: errors.New("disk full")}
		s := newDeadlineStore(inner, inner, time.Second)
		ended, returned := make(chan struct{}), false
		go func() {
			defer close(ended)
			err := s.SetUint64([]byte("CurrentTerm"), 7)
			returned = true
			runtime.KeepAlive(err)
		}()
		<-ended
		if returned {
			t.Error("it returned")
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &hangingStore{InmemStore: raft.NewInmemStore(), hang: make(chan struct{})}
		s := newDeadlineStore(inner, inner, 300*time.Millisecond)
		if err := s.StoreLogs(nil); !errors.Is(err, ErrStore) {
			t.Errorf("write: %v", err)
		}
		if err := s.close(); !errors.Is(err, ErrStore) {
			t.Errorf("close: %v", err)
		}
		close(inner.hang)
		<-s.ended
	})
}

// A store that fails during the start is an error of Start, and not the end of whoever called it.
func TestStartOnAFailingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, false)
		disk := memoryStorage()
		disk.Stable = &scriptedStore{InmemStore: raft.NewInmemStore(), fails: errors.New("disk full")}
		returned := make(chan error, 1)
		go func() {
			defer close(returned)
			n, err := Start(t.Context(), Config{Node: "a", Incarnation: 1, BootID: "boot", Advertise: "a", Storage: disk,
				Accept: func(c Channel) net.Listener { return b.net.listen("a", c) },
				Dial: func(ctx context.Context, address, _ string, c Channel) (net.Conn, error) {
					return b.net.dial(ctx, "a", address, c)
				}})
			if n != nil {
				err = errors.Join(n.Close(), errors.New("it started"))
			}
			returned <- err
		}()
		if err := <-returned; !errors.Is(err, ErrStore) {
			t.Errorf("start: %v", err)
		}
	})
}
