package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
	"duet/internal/pki"
)

// clusterIDBytes makes ids that never meet by chance.
const clusterIDBytes = 8

// insecureListen replaces the default where only loopback is allowed.
const insecureListen = "127.0.0.1:7600"

func (p *program) initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "make this the first node of a new cluster", UsageText: "duet init --name NODE [OPTION...]",
		Description: `Writes the node's directory: node.yaml, which may be edited, and the keys of the new cluster. The node is there once
duet run runs.

   duet init --name n1
   duet init --name n1 --listen 10.0.0.1:7600 --nbd 10.0.0.1:10809`,
		Flags: append(nodeFlags(), boolFlag("insecure", "no TLS between the nodes; on loopback addresses only"), jsonFlag()),
		Action: func(c *cli.Context) error {
			node, err := describeNode(c)
			if err != nil {
				return err
			}
			if err := initialise(nodeDir(c), node); err != nil {
				return err
			}
			return p.printEither(c, describe(c, node), func() string { return renderInit(nodeDir(c), node) })
		},
	}
}

// nodeFlags are what init and join have in common.
func nodeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "`NAME` of this node, for ever"},
		&cli.StringFlag{Name: "listen", Usage: "`HOST:PORT` to listen on for the other nodes", Value: config.DefaultListen},
		&cli.StringFlag{Name: "advertise", Usage: "`HOST:PORT` where the others reach this node; found out from --listen otherwise"},
		&cli.StringFlag{Name: "nbd", Usage: "`HOST:PORT` to serve devices on", Value: config.DefaultNBD},
	}
}

// describeNode reads the flags into what node.yaml will say, less the cluster, which has an id when it is made or
// joined. Whatever is wrong with them is said before anything is touched.
func describeNode(c *cli.Context) (*config.Node, error) {
	if c.String("name") == "" {
		return nil, usage(c, "--name NODE is missing")
	}
	node := &config.Node{
		Name: c.String("name"), Kind: config.KindData, Listen: c.String("listen"), Advertise: c.String("advertise"),
		NBD: c.String("nbd"), Insecure: c.Bool("insecure"),
	}
	if c.Bool("witness") {
		if c.IsSet("nbd") {
			return nil, usage(c, "--nbd and --witness exclude each other: a witness serves no devices")
		}
		node.Kind, node.NBD = config.KindWitness, ""
	}
	if node.Insecure && !c.IsSet("listen") {
		node.Listen = insecureListen
	}
	if node.Advertise == "" {
		advertised, err := config.Advertised(node.Listen)
		if err != nil {
			return nil, usage(c, "%v", err)
		}
		node.Advertise = advertised
	}
	checked := *node
	checked.Cluster = "unknown yet"
	if err := checked.Validate(); err != nil {
		return nil, usage(c, "--%v", err) // it begins with the key, which is also the flag
	}
	return node, nil
}

// initialise makes the directory of a first node.
func initialise(dir config.Dir, node *config.Node) error {
	return prepareDir(dir, func() error {
		id := make([]byte, clusterIDBytes)
		if _, err := rand.Read(id); err != nil {
			return err
		}
		node.Cluster = hex.EncodeToString(id)
		ca, err := pki.NewCA(node.Cluster)
		if err != nil {
			return err
		}
		identity, err := issueOwn(ca, node)
		if err != nil {
			return err
		}
		return dir.Install(config.Membership{Node: node, Authority: ca, Identity: identity})
	})
}

// prepareDir calls fill with a directory that no other daemon, init or join works in.
func prepareDir(dir config.Dir, fill func() error) (err error) {
	if err := dir.Create(); err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	lock, err := dir.Lock()
	if err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return fill()
}

// issueOwn makes the certificate of the first node.
func issueOwn(ca *pki.CA, node *config.Node) (config.Identity, error) {
	csr, key, err := pki.NewRequest()
	if err != nil {
		return config.Identity{}, err
	}
	host, _, err := net.SplitHostPort(node.Advertise)
	if err != nil {
		return config.Identity{}, err
	}
	certificate, err := ca.IssueNode(csr, pki.NodeRequest{Name: node.Name, Kind: pki.KindData, Hosts: []string{host}})
	if err != nil {
		return config.Identity{}, err
	}
	return config.Identity{CA: ca.CertificatePEM(), Certificate: certificate, Key: key}, nil
}

// description is what init and join print as JSON.
type description struct {
	Dir       string      `json:"dir"`
	Name      string      `json:"name"`
	Kind      config.Kind `json:"kind"`
	Cluster   string      `json:"cluster"`
	Listen    string      `json:"listen"`
	Advertise string      `json:"advertise"`
	NBD       string      `json:"nbd"`
	Insecure  bool        `json:"insecure"`
}

func describe(c *cli.Context, n *config.Node) *description {
	return &description{
		Dir: string(nodeDir(c)), Name: n.Name, Kind: n.Kind, Cluster: n.Cluster,
		Listen: n.Listen, Advertise: n.Advertise, NBD: n.NBD, Insecure: n.Insecure,
	}
}

func renderInit(dir config.Dir, n *config.Node) string {
	return fmt.Sprintf("%s is the first node of cluster %s; the others will reach it at %s\n"+
		"next: `duet --dir %s run`, then `duet --dir %s token` for each further node\n", n.Name, n.Cluster, n.Advertise, dir, dir)
}
