package node

import (
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/quorum"
)

// LostQuorum is the directory of a stopped node whose cluster has lost its majority for good. No daemon starts there until Close.
type LostQuorum struct {
	control.QuorumLoss
	dir    config.Dir
	config *config.Node
	lock   *config.Lock
}

// OpenLostQuorum looks at what the node knows, and changes nothing.
func OpenLostQuorum(dir config.Dir) (*LostQuorum, error) {
	cfg, err := dir.LoadNode()
	switch {
	case err != nil:
		return nil, control.Errorf(control.CodeRefused, "%v", err)
	case cfg.Kind == config.KindWitness:
		return nil, control.Errorf(control.CodeRefused, "%s is a witness: it has no data, and can admit nobody", cfg.Name).
			WithHint("recover on a data node")
	}
	member, err := dir.Member()
	if err != nil || !member {
		return nil, errors.Join(err, control.Errorf(control.CodeRefused, "%s was never a member of its cluster", cfg.Name))
	}
	lock, err := dir.Lock()
	if err != nil {
		return nil, control.Errorf(control.CodeRefused, "%v", err).
			WithHint("if the others are gone for good: stop it, then say this again")
	}
	l := &LostQuorum{dir: dir, config: cfg, lock: lock}
	if err := l.survey(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return l, nil
}

func (l *LostQuorum) survey() error {
	found, err := quorum.SurveyOffline(l.dir.Raft())
	if errors.Is(err, fs.ErrNotExist) { // an earlier attempt may have been interrupted, which Rebuild finishes
		found, err = quorum.SurveyOffline(quorum.UnfinishedRecovery(l.dir.Raft()))
	}
	if err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	if len(found.Others(l.config.Name)) == 0 {
		return control.Errorf(control.CodeRefused, "%s is the only voter already: there is nobody to give up", l.config.Name).WithHint("duet run")
	}
	l.QuorumLoss = control.QuorumLoss{Cluster: l.config.Cluster, Node: l.config.Name, Index: found.Index, Term: found.Term,
		GivenUp: found.Others(l.config.Name), Resources: resourcesOf(l.dir, l.config, found.State)}
	return nil
}

// resourcesOf is what the record and the metadata of the replicas here say. A replica that has promised a newer generation than the
// record's proves that the record lacks something: the Primary had told it.
func resourcesOf(dir config.Dir, cfg *config.Node, state *quorum.State) []control.LossOfResource {
	var all []control.LossOfResource
	for _, name := range sortedNames(state.Resources) {
		r := state.Resources[name]
		loss := control.LossOfResource{Name: name, Generation: r.Generation, Primary: r.Primary, InSync: r.InSync,
			IsInSync: slices.Contains(r.InSync, cfg.Name)}
		var replica quorum.Replica
		if replica, loss.Holds = r.Replica(cfg.Name); loss.Holds {
			found, err := (&inspection{dir: dir, node: cfg, record: r, replica: replica}).run()
			switch {
			case err != nil:
				loss.Problem = err.Error()
			case found.Superblock == nil:
				loss.Problem = "its metadata can't be used: duet md check " + name
			case found.Superblock.Promised > r.Generation:
				loss.Promised = found.Superblock.Promised
			}
		}
		all = append(all, loss)
	}
	return all
}

// Rebuild makes this node the only voter.
func (l *LostQuorum) Rebuild(logger *slog.Logger) error {
	_, err := quorum.Recover(quorum.RecoverConfig{Dir: l.dir.Raft(), Node: l.config.Name, Address: l.config.Advertise,
		Now: time.Now().Unix(), Logger: logger})
	if err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	return nil
}

// Close lets daemons start there again.
func (l *LostQuorum) Close() error { return l.lock.Close() }
