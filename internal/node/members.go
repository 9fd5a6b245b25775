package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/pki"
	"duet/quorum"
)

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Token implements control.Node.
func (n *Node) Token(ctx context.Context, r *control.TokenRequest) (*control.Token, error) {
	if n.authority == nil {
		return nil, control.Errorf(control.CodeRefused, "%s is a witness: it can't admit others", n.config.Name).
			WithHint("run `duet token` on a data node")
	}
	addresses := []string{n.config.Advertise}
	for _, name := range sortedNames(n.quorum.State().Nodes) {
		if member := n.quorum.State().Nodes[name]; name != n.config.Name && member.Kind == quorum.Data {
			addresses = append(addresses, member.Address)
		}
	}
	token, err := pki.NewToken(n.authority, pki.TokenConfig{Addresses: addresses[:min(len(addresses), tokenAddresses)],
		Life: time.Duration(r.TTL), Insecure: n.config.Insecure})
	if err != nil {
		return nil, err
	}
	text, err := token.Text()
	if err != nil {
		return nil, err
	}
	command := quorum.AddToken{ID: token.ID, Expires: token.Expires.Unix(), Now: time.Now().Unix()}
	if _, err := n.quorum.Propose(ctx, command); err != nil {
		return nil, proposeError("make a token", err)
	}
	return &control.Token{Token: text, Expires: token.Expires}, nil
}

// tokenAddresses bounds how many members a token names.
const tokenAddresses = 4

// Join implements control.Node: the token is used up and the node recorded in one commit; then it gets its certificate.
func (n *Node) Join(ctx context.Context, token string, r *control.JoinRequest) (*control.JoinReply, error) {
	if err := n.checkJoin(r); err != nil {
		return nil, err
	}
	reply := &control.JoinReply{ClusterID: n.config.Cluster, Recovery: n.recovery,
		Incarnation: n.quorum.State().Nodes[r.Name].Incarnation}
	if err := n.certify(r, reply); err != nil {
		return nil, err
	}
	command := quorum.JoinNode{Token: token, Now: time.Now().Unix(), Node: r.Name, Address: r.Address,
		NBDAddress: r.NBDAddress, Kind: quorum.Kind(r.Kind)}
	if _, err := n.quorum.Propose(ctx, command); err != nil {
		return nil, proposeError("join as "+r.Name, err)
	}
	for name, member := range n.quorum.State().Nodes {
		if name != r.Name {
			reply.Peers = append(reply.Peers, control.Member{Name: name, Address: member.Address})
		}
	}
	slices.SortFunc(reply.Peers, func(a, b control.Member) int { return cmp.Compare(a.Name, b.Name) })
	n.log.Info("node admitted", "peer", r.Name, "kind", r.Kind, "address", r.Address)
	n.journal.add(control.Event{Peer: r.Name, Kind: "member", New: string(r.Kind), Message: r.Name + " may join; it is at " + r.Address})
	return reply, nil
}

func (n *Node) checkJoin(r *control.JoinRequest) error {
	if n.authority == nil {
		return control.Errorf(control.CodeRefused, "%s is a witness: it can't admit others", n.config.Name)
	}
	if err := config.ValidateName("node", r.Name); err != nil {
		return control.Errorf(control.CodeUsage, "%v", err)
	}
	if err := config.ValidateDial(r.Address); err != nil {
		return control.Errorf(control.CodeUsage, "the address of %s: %v", r.Name, err)
	}
	return nil
}

// certify puts into the reply what the new member proves itself with.
func (n *Node) certify(r *control.JoinRequest, reply *control.JoinReply) error {
	kind := pki.KindData
	if r.Kind == control.KindWitness {
		kind = pki.KindWitness
	}
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return control.Errorf(control.CodeUsage, "the address of %s: %v", r.Name, err)
	}
	certificate, err := n.authority.IssueNode(r.CSR, pki.NodeRequest{Name: r.Name, Kind: kind, Hosts: []string{host}})
	if err != nil {
		return control.Errorf(control.CodeUsage, "the certificate request of %s: %v", r.Name, err)
	}
	reply.Certificate, reply.CA = certificate, n.authority.CertificatePEM()
	if kind == pki.KindData {
		reply.CAKey, err = n.authority.KeyPEM()
	}
	return err
}

// NodeList implements control.Node. Whether a node is reachable is tried, all at the same time.
func (n *Node) NodeList(ctx context.Context) ([]control.NodeInfo, error) {
	state, status := n.quorum.State(), n.quorum.Status()
	names := sortedNames(state.Nodes)
	list := make([]control.NodeInfo, len(names))
	var tries sync.WaitGroup
	for i, name := range names {
		member := state.Nodes[name]
		list[i] = control.NodeInfo{Name: name, Kind: control.NodeKind(member.Kind), Address: member.Address, NBDAddress: member.NBDAddress,
			Incarnation: member.Incarnation, Pending: member.Pending, Self: name == n.config.Name, Leader: name == status.Leader,
			Voter: slices.ContainsFunc(status.Voters, func(v quorum.Voter) bool { return v.Node == name && v.Votes })}
		tries.Go(func() { list[i].Reachable = n.answers(ctx, name) == nil })
	}
	tries.Wait()
	return list, nil
}

// alone says that this node has heard nothing of the rest of its cluster, in words.
func alone(s *quorum.Status) string {
	missing := []string{}
	for _, v := range s.Voters {
		if v.Node != s.Node {
			missing = append(missing, v.Node)
		}
	}
	return fmt.Sprintf("waiting for a majority of the voters: this node needs some of %v", missing)
}
