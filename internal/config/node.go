package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

const (
	// DefaultListen is where a node listens for the others.
	DefaultListen = ":7600"
	// DefaultNBD is where a data node serves its devices.
	DefaultNBD = "127.0.0.1:10809"

	// maxNodeFileBytes is far more than a node.yaml with every key needs.
	maxNodeFileBytes = 64 << 10
	// maxPeers bounds the list of other nodes.
	maxPeers = 64
	// minTiming and maxTiming are the limits of every time in node.yaml.
	minTiming = time.Millisecond
	maxTiming = time.Hour
)

// Kind is what a node is for.
type Kind string

const (
	// KindData is a node that holds replicas.
	KindData Kind = "data"
	// KindWitness is a node that votes and holds no data.
	KindWitness Kind = "witness"
)

// Peer is another node as it was known when this one joined. The committed
// record of the cluster is what counts later.
type Peer struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"`
}

// Node is the content of node.yaml.
type Node struct {
	Name      string `yaml:"name"`
	Kind      Kind   `yaml:"kind"`
	Cluster   string `yaml:"cluster"`            // the cluster's id
	Listen    string `yaml:"listen"`             // where this node listens for the others
	Advertise string `yaml:"advertise"`          // where the others reach it
	NBD       string `yaml:"nbd,omitempty"`      // where it serves devices; a witness serves none
	Insecure  bool   `yaml:"insecure,omitempty"` // no TLS; loopback addresses only
	Peers     []Peer `yaml:"peers,omitempty"`

	// What follows replaces defaults of the daemon; zero means the default.

	PeerTimeout   time.Duration `yaml:"peer-timeout,omitempty"`   // a peer silent for so long is lost
	Suspect       time.Duration `yaml:"suspect,omitempty"`        // a node of which nothing is heard for so long is suspected
	PingInterval  time.Duration `yaml:"ping-interval,omitempty"`  // how often an idle peer is asked
	RaftHeartbeat time.Duration `yaml:"raft-heartbeat,omitempty"` // a follower that hears nothing for so long looks around
	RaftElection  time.Duration `yaml:"raft-election,omitempty"`  // length of one attempt to become leader
	RaftLease     time.Duration `yaml:"raft-lease,omitempty"`     // a leader without a majority for so long steps down

	HandlerLimits map[string]time.Duration `yaml:"handler-limits,omitempty"` // by event: how long its handlers may take
	Fencing       string                   `yaml:"fencing,omitempty"`        // require or try: whether fence-peer has to confirm
}

// LoadNode reads and checks DIR/node.yaml.
func (d Dir) LoadNode() (*Node, error) {
	content, err := readBounded(d.NodeFile(), maxNodeFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("directory %s: %w; `duet init` or `duet join` makes one", d, ErrNoNode)
	}
	if err != nil {
		return nil, fmt.Errorf("node.yaml: %w", err)
	}
	return ParseNode(d.NodeFile(), content)
}

// SaveNode checks n and writes it, durably.
func (d Dir) SaveNode(n *Node) error { return d.saveNode(osFiles{}, n) }

func (d Dir) saveNode(on files, n *Node) error {
	if err := n.Validate(); err != nil {
		return fmt.Errorf("%s: %w", d.NodeFile(), err)
	}
	content, err := yaml.Marshal(n)
	if err != nil {
		return fmt.Errorf("%s: %w", d.NodeFile(), err)
	}
	return writeFile(on, d.NodeFile(), content, 0o600)
}

// ParseNode reads the content of a node.yaml. file is for messages only: errors
// begin with it and, where one line is to blame, that line.
func ParseNode(file string, content []byte) (*Node, error) {
	n := &Node{}
	decoder := yaml.NewDecoder(bytes.NewReader(content), yaml.Strict())
	if err := decoder.Decode(n); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.New(locate(file, err))
	}
	if err := decoder.Decode(&Node{}); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one document", file)
	}
	if err := n.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// locate turns the parser's picture of the mistake, several lines long, into one
// line with the place in front.
func locate(file string, err error) string {
	var located yaml.Error
	if !errors.As(err, &located) {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return file + ": " + text
	}
	message, _, _ := strings.Cut(located.GetMessage(), "\n")
	var mismatch *yaml.TypeError
	if errors.As(err, &mismatch) {
		message = expectation(mismatch)
	}
	if token := located.GetToken(); token != nil && token.Position != nil {
		file += ":" + strconv.Itoa(token.Position.Line)
	}
	return file + ": " + message
}

// expectation says in the operator's words what a key takes.
func expectation(mismatch *yaml.TypeError) string {
	value := ""
	if mismatch.Token != nil {
		value = mismatch.Token.Value
	}
	switch {
	case mismatch.DstType == reflect.TypeFor[time.Duration]():
		return fmt.Sprintf("%q is no time: a number with its unit is expected, such as 500ms", value)
	case mismatch.DstType != nil && mismatch.DstType.Kind() == reflect.Bool:
		return fmt.Sprintf("%q is neither true nor false", value)
	default:
		return fmt.Sprintf("%q is not what is expected here", value)
	}
}

// Validate checks everything that can be checked without the network.
func (n *Node) Validate() error {
	if err := ValidateName("node", n.Name); err != nil {
		return keyError("name", err)
	}
	if n.Kind != KindData && n.Kind != KindWitness {
		return keyError("kind", fmt.Errorf("%q is neither %s nor %s", n.Kind, KindData, KindWitness))
	}
	if n.Cluster == "" || len(n.Cluster) > maxNameBytes {
		return keyError("cluster", fmt.Errorf("the cluster's id is missing or longer than %d characters", maxNameBytes))
	}
	if err := n.validateAddresses(); err != nil {
		return err
	}
	if err := n.validatePeers(); err != nil {
		return keyError("peers", err)
	}
	return n.validateTiming()
}

func keyError(key string, err error) error { return fmt.Errorf("%s: %w", key, err) }

func (n *Node) validateAddresses() error {
	if err := ValidateListen(n.Listen); err != nil {
		return keyError("listen", err)
	}
	if err := ValidateDial(n.Advertise); err != nil {
		return keyError("advertise", err)
	}
	switch {
	case n.Kind == KindWitness && n.NBD != "":
		return keyError("nbd", errors.New("a witness serves no devices"))
	case n.NBD != "":
		if err := ValidateListen(n.NBD); err != nil {
			return keyError("nbd", err)
		}
	}
	if !n.Insecure {
		return nil
	}
	addresses := map[string]string{"listen": n.Listen, "advertise": n.Advertise, "nbd": n.NBD}
	for _, key := range []string{"listen", "advertise", "nbd"} {
		if address := addresses[key]; address != "" && !IsLoopback(address) {
			return keyError(key, fmt.Errorf("insecure is allowed on loopback addresses only, not on %q", address))
		}
	}
	return nil
}

// IsLoopback tells whether an address HOST:PORT is surely one of this machine
// alone. Of names only localhost counts.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func (n *Node) validatePeers() error {
	if len(n.Peers) > maxPeers {
		return fmt.Errorf("%d are listed; at most %d are allowed", len(n.Peers), maxPeers)
	}
	for _, p := range n.Peers {
		if err := ValidateName("node", p.Name); err != nil {
			return err
		}
		if err := ValidateDial(p.Address); err != nil {
			return err
		}
		if p.Name == n.Name {
			return fmt.Errorf("%q is this node itself", p.Name)
		}
	}
	byName := func(a, b Peer) int { return strings.Compare(a.Name, b.Name) }
	sorted := slices.SortedFunc(slices.Values(n.Peers), byName)
	for i := 1; i < len(sorted); i++ {
		if sorted[i].Name == sorted[i-1].Name {
			return fmt.Errorf("%q is listed twice", sorted[i].Name)
		}
	}
	return nil
}

func (n *Node) validateTiming() error {
	for _, t := range []struct {
		key   string
		value time.Duration
	}{
		{"peer-timeout", n.PeerTimeout}, {"suspect", n.Suspect}, {"ping-interval", n.PingInterval}, {"raft-heartbeat", n.RaftHeartbeat},
		{"raft-election", n.RaftElection}, {"raft-lease", n.RaftLease},
	} {
		if t.value != 0 && (t.value < minTiming || t.value > maxTiming) {
			return keyError(t.key, fmt.Errorf("%s is not between %s and %s", t.value, minTiming, maxTiming))
		}
	}
	for event, limit := range n.HandlerLimits {
		if limit < minTiming || limit > maxTiming {
			return keyError("handler-limits: "+event, fmt.Errorf("%s is not between %s and %s", limit, minTiming, maxTiming))
		}
	}
	if n.Fencing != "" && n.Fencing != "require" && n.Fencing != "try" {
		return keyError("fencing", fmt.Errorf("%q is neither require nor try", n.Fencing))
	}
	if n.PeerTimeout != 0 && n.PingInterval >= n.PeerTimeout {
		return keyError("ping-interval", fmt.Errorf("%s is not below peer-timeout, %s", n.PingInterval, n.PeerTimeout))
	}
	return nil
}
