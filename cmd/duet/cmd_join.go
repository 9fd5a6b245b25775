package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/mux"
	"duet/internal/pki"
)

func (p *program) joinCommand() *cli.Command {
	return &cli.Command{
		Name: "join", Usage: "make this a further node of a cluster", UsageText: "duet join --name NODE [--witness] [OPTION...] TOKEN",
		Description: `Asks a member, by the token that duet token printed there, and writes the node's directory. The node is a member once
duet run runs. A witness votes and holds no data: two nodes with data need one, so that one of them can go on alone.

   duet join --name n2 duet1-...
   duet join --name w1 --witness duet1-...`,
		Flags: append(nodeFlags(), boolFlag("witness", "vote, but hold no data"),
			boolFlag("insecure", "no TLS between the nodes, as in the cluster that is joined"), jsonFlag()),
		Action: func(c *cli.Context) error {
			token, node, err := joinArguments(c)
			if err != nil {
				return err
			}
			if err := p.joinCluster(c, token, node); err != nil {
				return err
			}
			return p.printEither(c, describe(c, node), func() string { return renderJoin(nodeDir(c), node) })
		},
	}
}

func joinArguments(c *cli.Context) (*pki.Token, *config.Node, error) {
	texts, err := arguments(c, "TOKEN")
	if err != nil {
		return nil, nil, err
	}
	exists, err := nodeDir(c).Exists()
	if err == nil && exists {
		return nil, nil, control.Errorf(control.CodeRefused, "there is a node in %s already", nodeDir(c)).
			WithHint("choose another directory with --dir")
	}
	token, err := pki.ParseToken(texts[0])
	if err == nil {
		err = token.Expired(time.Now())
	}
	if err != nil {
		return nil, nil, control.Errorf(control.CodeRefused, "%v", err)
	}
	if c.Bool("insecure") && !token.Insecure {
		return nil, nil, usage(c, "--insecure: the token is of a cluster with TLS")
	}
	if token.Insecure {
		if err := c.Set("insecure", "true"); err != nil {
			return nil, nil, err
		}
	}
	node, err := describeNode(c)
	return token, node, err
}

// joinCluster asks for membership and writes what it is granted. The directory is made first: a token should not be
// used up by a disk that is full.
func (p *program) joinCluster(c *cli.Context, token *pki.Token, node *config.Node) error {
	dir := nodeDir(c)
	return prepareDir(dir, func() error {
		csr, key, err := pki.NewRequest()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
		defer cancel()
		reply, err := askToJoin(ctx, token, &control.JoinRequest{
			Name: node.Name, Kind: control.NodeKind(node.Kind), Address: node.Advertise, NBDAddress: node.NBD, CSR: csr,
		})
		if err != nil {
			return err
		}
		return saveMembership(dir, node, reply, key)
	})
}

func askToJoin(ctx context.Context, token *pki.Token, request *control.JoinRequest) (*control.JoinReply, error) {
	dialer, err := mux.NewJoinDialer(token, 0)
	if err != nil {
		return nil, control.Errorf(control.CodeRefused, "the join token can't be used: %v", err)
	}
	client := control.NewClient(func(ctx context.Context) (net.Conn, error) { return dialAny(ctx, dialer, token.Addresses) })
	defer client.Close()
	return client.Join(ctx, request)
}

// dialAny connects to the first address where a member answers. A refusal is final: the next member would say the same.
func dialAny(ctx context.Context, dialer *mux.Dialer, addresses []string) (net.Conn, error) {
	var failures error
	for _, address := range addresses {
		conn, err := dialer.Dial(ctx, address, "", mux.ChannelJoin)
		if err == nil {
			return conn, nil
		}
		for _, refusal := range []error{mux.ErrRefused, pki.ErrRefusedByPeer, pki.ErrTokenExpired, pki.ErrOtherCluster} {
			if errors.Is(err, refusal) {
				return nil, control.Errorf(control.CodeRefused, "the join token is refused: %v", err).
					WithHint("make a new one with `duet token` on a member")
			}
		}
		failures = errors.Join(failures, err)
	}
	return nil, control.Errorf(control.CodeUnreachable, "no member can be reached with this token: %v", failures)
}

// saveMembership writes the directory of a member.
func saveMembership(dir config.Dir, node *config.Node, reply *control.JoinReply, key []byte) error {
	node.Cluster = reply.ClusterID
	for _, peer := range reply.Peers {
		node.Peers = append(node.Peers, config.Peer{Name: peer.Name, Address: peer.Address})
	}
	m := config.Membership{Node: node, Incarnation: reply.Incarnation, Recovery: reply.Recovery,
		Identity: config.Identity{CA: reply.CA, Certificate: reply.Certificate, Key: key}}
	if len(reply.CAKey) > 0 {
		ca, err := pki.ParseCA(reply.CA, reply.CAKey)
		if err != nil {
			return err
		}
		m.Authority = ca
	}
	return dir.Install(m)
}

func renderJoin(dir config.Dir, n *config.Node) string {
	return fmt.Sprintf("%s belongs to cluster %s; the others will reach it at %s\nnext: `duet --dir %s run`\n",
		n.Name, n.Cluster, n.Advertise, dir)
}
