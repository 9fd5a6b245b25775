package main

import (
	"os"
	"os/exec"
	"syscall"

	"github.com/urfave/cli/v2"

	"duet/internal/control"
	"duet/internal/vip"
)

// vipCommand is what scripts/handlers/vip stands on. It talks to the kernel only, and needs no daemon.
func (p *program) vipCommand() *cli.Command {
	one := func(name, usage string, do func(vip.Address) error) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage, UsageText: "duet vip " + name + " ADDRESS/PREFIX dev INTERFACE",
			Action: func(c *cli.Context) error {
				address, err := vipAddress(c)
				if err != nil {
					return err
				}
				if err := do(address); err != nil {
					return control.Errorf(control.CodeRefused, "%v", err)
				}
				return nil
			},
		}
	}
	announce := one("announce", "announce it again for some seconds, as long as it is there", nil)
	announce.Action = func(c *cli.Context) error {
		address, err := vipAddress(c)
		if err != nil {
			return err
		}
		return vip.AnnounceLater(c.Context, address, vip.LaterAnnouncements())
	}
	return &cli.Command{
		Name: "vip", Usage: "take or drop an address that follows the Primary", UsageText: "duet vip COMMAND", Hidden: true,
		Description: "For handlers: docs/HANDLERS.md.",
		Subcommands: []*cli.Command{
			one("take", "add it, announce it, and go on announcing it for some seconds", takeVIP),
			one("drop", "remove it", vip.Drop),
			one("status", "end with 0 if it is there, with 1 if not", vipIsHere),
			announce,
		},
	}
}

func vipAddress(c *cli.Context) (vip.Address, error) {
	given, err := arguments(c, "ADDRESS/PREFIX", "dev", "INTERFACE")
	if err != nil {
		return vip.Address{}, err
	}
	if given[1] != "dev" {
		return vip.Address{}, usage(c, "dev is expected where %q is", given[1])
	}
	address, err := vip.Parse(given[0], given[2])
	if err != nil {
		return vip.Address{}, usage(c, "%v", err)
	}
	return address, nil
}

// takeVIP leaves a process behind that announces again: a handler has to end, and must not wait for that.
func takeVIP(a vip.Address) error {
	if err := vip.Take(a); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	later := exec.Command(self, "vip", "announce", a.Prefix.String(), "dev", a.Interface)
	later.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // whoever ends the handler's group leaves it alone
	if err := later.Start(); err != nil {
		return err
	}
	return later.Process.Release()
}

func vipIsHere(a vip.Address) error {
	here, err := vip.Has(a)
	if err == nil && !here {
		err = control.Errorf(control.CodeRefused, "%s is not on %s", a.Prefix.Addr(), a.Interface)
	}
	return err
}
