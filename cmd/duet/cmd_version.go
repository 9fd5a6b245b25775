package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
)

func (p *program) versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version of this program", UsageText: "duet version [--daemon] [--json]",
		Flags: []cli.Flag{
			boolFlag("daemon", "that of the running daemon instead"),
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if !c.Bool("daemon") {
				return p.printVersion(c, ownVersion())
			}
			return p.ask(c, func(ctx context.Context, client *control.Client) error {
				version, err := client.Version(ctx)
				if err != nil {
					return err
				}
				return p.printVersion(c, version)
			})
		},
	}
}

func (p *program) printVersion(c *cli.Context, v *control.VersionInfo) error {
	return p.printEither(c, v, func() string { return renderVersion(v) })
}

// ownVersion is what the Go linker noted in this program.
func ownVersion() *control.VersionInfo {
	v := &control.VersionInfo{Version: "(devel)", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			v.Revision = setting.Value
		}
	}
	return v
}

func renderVersion(v *control.VersionInfo) string {
	text := "duet " + v.Version
	if v.Revision != "" {
		text += fmt.Sprintf(" (%.12s)", v.Revision)
	}
	if v.Protocol != 0 {
		text += fmt.Sprintf(", peer protocol %d", v.Protocol)
	}
	return text + ", " + v.Go + "\n"
}
