package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
)

// clientLife is for how long a client's certificate is good unless the operator says otherwise.
const clientLife = 365 * 24 * time.Hour

// The files of a client's credentials, by the names that QEMU, libnbd and nbdkit look for.
const (
	clientCAFile          = "ca-cert.pem"
	clientCertificateFile = "client-cert.pem"
	clientKeyFile         = "client-key.pem"
)

// issueClient writes the credentials of an NBD client. It needs the cluster's authority and no daemon.
func (p *program) issueClient(c *cli.Context) error {
	name, out := c.String("client"), c.String("out")
	if out == "" {
		return usage(c, "--client NAME needs --out DIRECTORY, where the credentials go")
	}
	if err := config.ValidateName("client", name); err != nil {
		return usage(c, "%v", err)
	}
	life := clientLife
	if c.IsSet("ttl") {
		life = c.Duration("ttl")
	}
	ca, err := nodeDir(c).LoadAuthority()
	if errors.Is(err, fs.ErrNotExist) {
		return control.Errorf(control.CodeRefused, "%s has no authority of a cluster", nodeDir(c)).
			WithHint("run this on a data node, with its directory as --dir")
	}
	if err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	certificate, key, err := ca.IssueClient(name, life)
	if err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	files := clientFiles{Directory: out, Expires: time.Now().Add(life).UTC().Truncate(time.Second)}
	if err := files.write(ca.CertificatePEM(), certificate, key); err != nil {
		return control.Errorf(control.CodeRefused, "%v", err)
	}
	return p.printEither(c, files, func() string {
		return fmt.Sprintf("credentials of client %s, good until %s, are in %s\n", name, files.Expires.Format(time.DateTime), out)
	})
}

// clientFiles says where credentials are.
type clientFiles struct {
	Directory string    `json:"directory"`
	Expires   time.Time `json:"expires"`
}

// write makes the three files; the key is for this user alone.
func (f *clientFiles) write(ca, certificate, key []byte) error {
	if err := os.MkdirAll(f.Directory, 0o700); err != nil {
		return err
	}
	return errors.Join(
		config.WriteFile(filepath.Join(f.Directory, clientCAFile), ca, 0o644),
		config.WriteFile(filepath.Join(f.Directory, clientCertificateFile), certificate, 0o644),
		config.WriteFile(filepath.Join(f.Directory, clientKeyFile), key, 0o600))
}
