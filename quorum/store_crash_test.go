package quorum

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"duet/internal/crash"
)

// raftState is all that Raft keeps in the store.
type raftState struct {
	Term, VoteTerm uint64
	Vote           string
	Entries        string // index and data of each
	Snapshot       uint64 // index of the newest that can be read
}

// The keys that Raft uses.
var keyTerm, keyVoteTerm, keyVote = []byte("CurrentTerm"), []byte("LastVoteTerm"), []byte("LastVoteCand")

// readState reads a store as Raft does when it starts.
func readState(s *Storage) (state raftState, err error) {
	for key, into := range map[string]*uint64{string(keyTerm): &state.Term, string(keyVoteTerm): &state.VoteTerm} {
		if *into, err = s.Stable.GetUint64([]byte(key)); err != nil && err.Error() != "not found" {
			return state, err
		}
	}
	vote, err := s.Stable.Get(keyVote)
	if err != nil && err.Error() != "not found" {
		return state, err
	}
	state.Vote = string(vote)
	first, err := s.Log.FirstIndex()
	if err != nil {
		return state, err
	}
	last, err := s.Log.LastIndex()
	if err != nil {
		return state, err
	}
	var entries strings.Builder
	for index := first; index <= last && index > 0; index++ {
		var entry raft.Log
		if err := s.Log.GetLog(index, &entry); err != nil {
			return state, fmt.Errorf("entry %d: %w", index, err)
		}
		fmt.Fprintf(&entries, "%d:%d:%x ", entry.Index, entry.Term, entry.Data)
	}
	state.Entries = entries.String()
	state.Snapshot, err = newestSnapshot(s.Snapshots)
	return state, err
}

// newestSnapshot finds the snapshot that Raft would start from. Like Raft it fails if there are some and none is good.
func newestSnapshot(s raft.SnapshotStore) (uint64, error) {
	all, err := s.List()
	if err != nil {
		return 0, err
	}
	for _, meta := range all {
		_, reader, err := s.Open(meta.ID)
		if err != nil {
			continue
		}
		content, err := io.ReadAll(reader)
		if err = errors.Join(err, reader.Close()); err == nil && string(content) == snapshotText(meta.Index) {
			return meta.Index, nil
		}
	}
	if len(all) > 0 {
		return 0, errors.New("there are snapshots, and none can be read")
	}
	return 0, nil
}

func snapshotText(index uint64) string { return strings.Repeat(strconv.FormatUint(index, 10), 300) }

// storeRun uses a store and remembers what it held after each step.
type storeRun struct {
	*libraryFiles
	storage *Storage
	known   []raftState
	killed  *storeRun // the process before this one, if it was killed
}

// open opens the store, as a process does that starts.
func (r *storeRun) open(t *testing.T) {
	t.Helper()
	var err error
	if r.storage, err = openStorage(r.libraryFiles, r.dir, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.storage.close(); err != nil {
			t.Error(err)
		}
	})
	r.known = nil
	r.step(t, func(*Storage) error { return nil })
}

// life names the process.
func (r *storeRun) life() string {
	if r.killed != nil {
		return "again"
	}
	return "step"
}

// step does something that is acknowledged when it returns.
func (r *storeRun) step(t *testing.T, do func(s *Storage) error) {
	t.Helper()
	err := errors.Join(do(r.storage), r.catchUp())
	if err != nil {
		t.Fatal(err)
	}
	state, err := readState(r.storage)
	if err != nil {
		t.Fatal(err)
	}
	r.Mark("%s %d", r.life(), len(r.known))
	r.known = append(r.known, state)
}

// use votes and appends, as often as there are terms.
func (r *storeRun) use(t *testing.T, terms int) {
	t.Helper()
	last, err := r.storage.Log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	term := r.known[len(r.known)-1].Term
	for range terms {
		term++
		r.step(t, func(s *Storage) error { return s.Stable.SetUint64(keyTerm, term) })
		r.step(t, func(s *Storage) error { return s.Stable.SetUint64(keyVoteTerm, term) })
		r.step(t, func(s *Storage) error { return s.Stable.Set(keyVote, fmt.Appendf(nil, "node-%d", term%3)) })
		var batch []*raft.Log
		for range 3 {
			last++
			batch = append(batch, &raft.Log{Index: last, Term: term, Data: fmt.Appendf(nil, "entry %d", last)})
		}
		r.step(t, func(s *Storage) error { return s.Log.StoreLogs(batch) })
	}
	// A follower whose newest entry is replaced by a leader.
	r.step(t, func(s *Storage) error { return s.Log.DeleteRange(last, last) })
}

// snapshot takes a snapshot at an index and cuts the log behind it.
func (r *storeRun) snapshot(t *testing.T, index uint64) {
	t.Helper()
	first, err := r.storage.Log.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	_, transport := raft.NewInmemTransport("a")
	peers := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}
	r.step(t, func(s *Storage) error {
		sink, err := s.Snapshots.Create(1, index, 1, peers, 1, transport)
		if err != nil {
			return err
		}
		_, err = io.WriteString(sink, snapshotText(index))
		return errors.Join(err, sink.Close())
	})
	r.step(t, func(s *Storage) error { return s.Log.DeleteRange(first, index) })
}

// check opens what a crash left, and wants the state of the newest step or that of the one that was under way.
func (r *storeRun) check(s *crash.State) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // bbolt follows pages of a broken file out of its mapping
	defer func() {
		if broken := recover(); broken != nil {
			err = fmt.Errorf("opening it panics: %v", broken)
		}
	}()
	dir, err := os.MkdirTemp(scratchDir(), "crash-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := s.Image.WriteTo(dir); err != nil {
		return err
	}
	storage, err := openStorage(osFiles{}, dir, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	got, err := readState(storage)
	if err != nil {
		return errors.Join(err, storage.close())
	}
	return errors.Join(r.compare(s, got), storage.Stable.SetUint64(keyTerm, got.Term+1), storage.close())
}

func (r *storeRun) compare(s *crash.State, got raftState) error {
	at := -1
	for _, mark := range s.Marks {
		var step int
		if n, err := fmt.Sscanf(mark, r.life()+" %d", &step); n == 1 && err == nil {
			at = step
		}
	}
	switch {
	case at < 0 && r.killed != nil:
		return r.killed.compare(s, got)
	case at < 0:
		return nil // Nobody has read or written anything yet.
	}
	if slices.Contains(r.known[at:min(at+2, len(r.known))], got) {
		return nil
	}
	return fmt.Errorf("after step %d there is %+v, want %+v or what follows", at, got, r.known[at])
}

// scratchDir is a directory in memory if there is one: bbolt syncs whatever is opened.
func scratchDir() string {
	const memory = "/dev/shm"
	if info, err := os.Stat(memory); err == nil && info.IsDir() {
		return memory
	}
	return os.TempDir()
}

// TestCrashOfRaftStore loses power anywhere from the making of the store to a cut log, also after a kill and another start.
func TestCrashOfRaftStore(t *testing.T) {
	run := &storeRun{libraryFiles: newLibraryFiles(t)}
	run.open(t)
	run.use(t, 2)
	run.snapshot(t, 2)
	run.snapshot(t, 3)
	run.use(t, 1)
	run.snapshot(t, 6) // the first one is removed
	total, err := run.Explore(crash.Budget{Exhaustive: 5, Random: 12, Seed: 5}, run.check)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(run.Ops()); n += 3 {
		again := &storeRun{libraryFiles: run.libraryFiles.killed(t, n), killed: run}
		again.open(t)
		again.use(t, 1)
		report, err := again.Explore(crash.Budget{Exhaustive: 2, Random: 2, Seed: uint64(n), From: n + 1}, again.check)
		if err != nil {
			t.Fatalf("killed after %d operations, then: %v", n, err)
		}
		total.Add(report)
	}
	t.Logf("explored %s", total)
}

// TestCrashExplorationOfRaftStoreNoticesMissingSyncs leaves out one kind of sync at a time.
func TestCrashExplorationOfRaftStoreNoticesMissingSyncs(t *testing.T) {
	run := &storeRun{libraryFiles: newLibraryFiles(t)}
	run.open(t)
	run.use(t, 1)
	run.snapshot(t, 2)
	is := func(path string) func(crash.Op) bool {
		return func(op crash.Op) bool { return op.Path == path }
	}
	for name, of := range map[string]func(op crash.Op) bool{
		"of the log":             is(filepath.Join(run.dir, logFile)),
		"of the new log":         is(filepath.Join(run.dir, logFile+".new")),
		"of the directory":       is(run.dir),
		"of the snapshots":       is(filepath.Join(run.dir, snapshotsDir)),
		"of a snapshot's names":  func(op crash.Op) bool { return strings.HasSuffix(op.Path, unfinishedSnapshot) },
		"of a snapshot's state":  func(op crash.Op) bool { return strings.HasSuffix(op.Path, "state.bin") },
		"of a snapshot's record": func(op crash.Op) bool { return strings.HasSuffix(op.Path, "meta.json") },
	} {
		t.Run(name, func(t *testing.T) {
			forgotten := 0
			ops := crash.Forget(run.Ops(), func(op crash.Op) bool {
				if op.Kind != crash.Sync || !of(op) {
					return false
				}
				forgotten++
				return true
			})
			report, err := crash.Explore(run.Initial(), ops, crash.Budget{Exhaustive: 5, Random: 12, Seed: 6}, run.check)
			if err == nil || forgotten == 0 {
				t.Errorf("%d syncs forgotten, and nothing noticed in %s", forgotten, report)
			}
		})
	}
}

// TestCrashExplorationOfRaftStoreNoticesAnOpeningWithoutSync kills a process in the middle of a commit: the next one would
// go on from pages that are not durable.
func TestCrashExplorationOfRaftStoreNoticesAnOpeningWithoutSync(t *testing.T) {
	run := &storeRun{libraryFiles: newLibraryFiles(t)}
	run.open(t)
	run.use(t, 1)
	var total crash.Report
	for n := range run.Ops() {
		again := &storeRun{libraryFiles: run.libraryFiles.killed(t, n), killed: run}
		again.forgetful = true
		again.open(t)
		report, err := again.Explore(crash.Budget{Exhaustive: 4, Random: 4, Seed: uint64(n), From: n + 1}, again.check)
		if total.Add(report); err != nil {
			return
		}
	}
	t.Errorf("nothing noticed in %s", total)
}
