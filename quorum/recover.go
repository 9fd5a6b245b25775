package quorum

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// Recovery is the note in the record that the quorum was rebuilt on one node because a majority of the voters was gone for good.
type Recovery struct {
	Number  uint64   `json:"number"` // 1 is the first
	Node    string   `json:"node"`
	GivenUp []string `json:"given_up"` // the voters that were left behind
	Time    int64    `json:"time"`     // Unix seconds by the clock of the node
}

const (
	// maxRecoveries is how many are remembered; one alone is a bad year.
	maxRecoveries = 16
	// recoveryStep: generations after a recovery begin at the next multiple, so that none of those that were lost comes again.
	recoveryStep = 1_000_000
)

// recovered is the record after a recovery. What the lost voters committed alone is not in it, so nothing that it says of replicas
// being equal is believed any more, nobody is Primary, and nobody becomes it without being asked to.
func (s *State) recovered(note Recovery) *State {
	next := s.clone()
	next.Recovery++
	next.Version++
	note.Number = next.Recovery
	next.Recoveries = append(slices.Clone(s.Recoveries), note)
	next.Recoveries = next.Recoveries[max(0, len(next.Recoveries)-maxRecoveries):]
	for name, shared := range s.Resources {
		r := shared.clone()
		r.Generation = (r.Generation/recoveryStep+1)*recoveryStep - 1
		r.Primary, r.PrimaryIncarnation = "", 0
		r.Clean, r.Hold = false, true
		r.force("recover", fmt.Sprintf("the quorum was rebuilt on %s without %v", note.Node, note.GivenUp))
		r.stamp(note.Time)
		next.Resources[name] = r
	}
	return next
}

// recovering is the state machine as Raft's recovery uses it: its snapshot is the record after the recovery.
type recovering struct {
	*fsm
	note Recovery
}

// Snapshot implements raft.FSM.
func (f recovering) Snapshot() (raft.FSMSnapshot, error) {
	state, index := f.view()
	return frozen{state: state.recovered(f.note), index: index}, nil
}

// RecoverConfig says which store is to be rebuilt, and for whom.
type RecoverConfig struct {
	Dir     string // of the Raft files; no Node may run there
	Node    string
	Address string // where the others will reach it
	Now     int64  // Unix seconds
	Logger  *slog.Logger
}

// Recover makes Node the only voter of a cluster that has lost its majority for good. It goes by what the store has, the newest
// commands included although they may never have been committed, and lacks what the others committed without this node. The new
// store is made beside the old one and takes its place in one step: an interruption leaves either of them. The old one is kept.
func Recover(cfg RecoverConfig) (*State, error) {
	state, err := recoverStore(osFiles{}, cfg)
	if err != nil {
		return nil, fmt.Errorf("quorum: rebuild the store in %s: %w", cfg.Dir, err)
	}
	return state, nil
}

// UnfinishedRecovery is where the new store for dir is made.
func UnfinishedRecovery(dir string) string { return dir + ".recovering" }

func recoverStore(on files, cfg RecoverConfig) (*State, error) {
	unfinished := UnfinishedRecovery(cfg.Dir)
	if err := finishRecovery(on, cfg.Dir); err != nil {
		return nil, err
	}
	offline, err := SurveyOffline(cfg.Dir)
	if err != nil {
		return nil, err
	}
	note := Recovery{Node: cfg.Node, GivenUp: offline.Others(cfg.Node), Time: cfg.Now}
	switch {
	case !offline.State.hasNode(cfg.Node):
		return nil, fmt.Errorf("the record does not know %s", cfg.Node)
	case len(note.GivenUp) == 0:
		return nil, fmt.Errorf("%s is the only voter already: there is nobody to give up", cfg.Node)
	}
	if err := os.RemoveAll(unfinished); err != nil {
		return nil, err
	}
	if err := copyStore(on, cfg.Dir, unfinished); err != nil {
		return nil, err
	}
	if err := rebuild(on, unfinished, cfg, note); err != nil {
		return nil, err
	}
	made, err := SurveyOffline(unfinished)
	if err != nil {
		return nil, err
	}
	former := fmt.Sprintf("%s.before-%d", cfg.Dir, made.State.Recovery)
	return made.State, takePlace(on, cfg.Dir, former)
}

// finishRecovery puts a new store in its place whose predecessor had been moved away already, where that takes two steps.
func finishRecovery(on files, dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := on.Rename(UnfinishedRecovery(dir), dir); err != nil {
		return err
	}
	return on.SyncDirectory(filepath.Dir(dir))
}

// takePlace exchanges the old store for the new one, and keeps the old one.
func takePlace(on files, dir, former string) error {
	unfinished, parent := UnfinishedRecovery(dir), filepath.Dir(dir)
	if err := on.SyncDirectory(parent); err != nil {
		return err
	}
	err := on.Exchange(unfinished, dir)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // this file system can't; finishRecovery knows what is between
		if err := on.Rename(dir, former); err != nil {
			return err
		}
		if err := on.Rename(unfinished, dir); err != nil {
			return err
		}
		return on.SyncDirectory(parent)
	}
	if err != nil {
		return err
	}
	if err := on.SyncDirectory(parent); err != nil {
		return err
	}
	if err := on.Rename(unfinished, former); err != nil {
		return err
	}
	return on.SyncDirectory(parent)
}

// rebuild has Raft make a store with one voter and one snapshot out of the copy.
func rebuild(on files, dir string, cfg RecoverConfig, note Recovery) (err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	storage, err := openStorage(on, dir, raftLogger(cfg.Logger))
	if err != nil {
		return err
	}
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(cfg.Node), Address: raft.ServerAddress(cfg.Address)}}}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Address))
	conf := Config{Node: cfg.Node, Logger: cfg.Logger}.withDefaults().raftConfig()
	machine := recovering{fsm: newFSM(&broadcast{}), note: note}
	err = raft.RecoverCluster(conf, machine, storage.Log, storage.Stable, storage.Snapshots, transport, alone)
	if err = errors.Join(err, transport.Close(), storage.close()); err != nil {
		return err
	}
	return keepNewest(on, filepath.Join(dir, snapshotsDir))
}

// keepNewest removes the snapshots from before: they lead to the log that is gone.
func keepNewest(on files, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	newest, recovery := "", uint64(0)
	for _, entry := range entries {
		state, _, err := readSnapshot(filepath.Join(dir, entry.Name(), "state.bin"))
		if err == nil && state.Recovery > recovery {
			newest, recovery = entry.Name(), state.Recovery
		}
	}
	if newest == "" {
		return errors.New("the recovery has left no snapshot that can be read")
	}
	for _, entry := range entries {
		if entry.Name() != newest {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return on.SyncDirectory(dir)
}

// copyStore copies a directory with all that is in it, durably.
func copyStore(on files, from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		source, target := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		if entry.IsDir() {
			err = copyStore(on, source, target)
		} else {
			err = copyFile(on, source, target)
		}
		if err != nil {
			return err
		}
	}
	return on.SyncDirectory(to)
}

func copyFile(on files, from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	if err == nil {
		err = on.SyncFile(target)
	}
	return errors.Join(err, target.Close())
}

// StoredRecovery is the number of the newest recovery that the snapshots in dir know of. What is behind them in the log can't know
// of another: a recovery is a snapshot.
func StoredRecovery(dir string) (uint64, error) {
	f := newFSM(&broadcast{})
	if err := restoreNewest(f, filepath.Join(dir, snapshotsDir)); err != nil {
		return 0, fmt.Errorf("quorum: look for recoveries in %s: %w", dir, err)
	}
	state, _ := f.view()
	return state.Recovery, nil
}

// Others is the voters beside node, by name.
func (o *Offline) Others(node string) []string {
	names := slices.Sorted(maps.Keys(o.Voters))
	return slices.DeleteFunc(names, func(name string) bool { return name == node })
}
