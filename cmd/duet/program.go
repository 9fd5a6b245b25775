package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
)

const (
	// defaultDir is where a node keeps everything unless it is told otherwise.
	defaultDir = "/var/lib/duet"
	// defaultTimeout is how long a command waits for the daemon. Nothing an operator asks for takes that long in a
	// cluster that is well.
	defaultTimeout = 30 * time.Second
)

// program is one run of the command line: where it prints, and whether people look at it.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool // stdout is a terminal
	asks           bool // stdin is a terminal: somebody can answer
}

// run runs the command line and returns its exit code. The reason of a failure goes to stderr, with what to do.
func (p *program) run(ctx context.Context, arguments []string) int {
	app := p.app()
	err := app.RunContext(ctx, flagsFirst(app, arguments))
	if err == nil {
		return control.ExitDone
	}
	p.printFailure(control.AsError(err))
	return control.ExitCode(err)
}

// printFailure says what and why on one line, and what to do on another; wrong usage is one line in all.
func (p *program) printFailure(failure *control.Error) {
	between := "\nduet: "
	if failure.Code == control.CodeUsage {
		between = "; "
	}
	text := "duet: " + oneLine(failure.Message)
	if failure.Hint != "" {
		text += between + oneLine(failure.Hint)
	}
	fmt.Fprintln(p.stderr, text)
}

// oneLine keeps a message that came from elsewhere from filling the screen or steering the terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
}

const appDescription = `A device that two or more nodes keep identical. The Primary serves it over NBD; a write is acknowledged when every
in-sync node has it. When the Primary dies another node goes on.

The first steps, on three machines:

   n1# duet init --name n1 && duet run &
   n1# duet token
   n2# duet join --name n2 TOKEN && duet run &
   w1# duet join --name w1 --witness TOKEN && duet run &
   n1# duet resource create r0 --size 10GiB --on n1=/srv/r0.img --on n2=/srv/r0.img
   n1# duet status

Or see it work on this machine alone: duet demo

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not reachable, 4 waited too long.`

func (p *program) app() *cli.App {
	app := &cli.App{
		Name: "duet", Usage: "network RAID-1", UsageText: "duet [--dir DIR] COMMAND [ARGUMENT...]",
		Description: appDescription,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "`DIR` that holds all of this node", Value: defaultDir, EnvVars: []string{"DUET_DIR"}},
			&cli.DurationFlag{Name: "timeout", Usage: "wait so `LONG` for the daemon's answer", Value: defaultTimeout},
		},
		Commands: []*cli.Command{
			p.initCommand(), p.tokenCommand(), p.joinCommand(), p.runCommand(),
			p.resourceCommand(), p.primaryCommand(), p.secondaryCommand(), p.roleCommand(), p.switchCommand(), p.connectCommand(), p.disconnectCommand(), p.attachCommand(), p.detachCommand(), p.invalidateCommand(),
			p.statusCommand(), p.explainCommand(), p.resyncCommand(), p.verifyCommand(), p.splitCommand(), p.resizeCommand(), p.suspendIOCommand(), p.resumeIOCommand(), p.eventsCommand(), p.nodeCommand(), p.quorumCommand(), p.mdCommand(),
			p.demoCommand(), p.versionCommand(), p.superviseCommand(), p.vipCommand(),
		},
		Writer: p.stdout, ErrWriter: p.stderr,
		HideVersion: true, CustomAppHelpTemplate: appHelp,
		// Errors are printed by run, in one place.
		ExitErrHandler: func(*cli.Context, error) {},
		Action:         unknownCommand,
		OnUsageError:   badFlags,
	}
	for _, command := range app.Commands {
		setUsageErrors(command)
	}
	return app
}

// setUsageErrors gives a command, and those below it, the house's way to report wrong usage.
func setUsageErrors(command *cli.Command) {
	command.OnUsageError = badFlags
	for _, sub := range command.Subcommands {
		setUsageErrors(sub)
	}
	if len(command.Subcommands) > 0 {
		command.Action = unknownCommand
		command.HideHelpCommand = true
	}
}

// unknownCommand is what happens where the name of a command should be: help if there is none, else an error.
func unknownCommand(c *cli.Context) error {
	place := "duet"
	if c.Command != nil && c.Command.HelpName != "" && len(c.Command.Subcommands) > 0 {
		place = c.Command.HelpName
	}
	if !c.Args().Present() {
		if place == "duet" {
			return cli.ShowAppHelp(c)
		}
		return cli.ShowSubcommandHelp(c)
	}
	return control.Errorf(control.CodeUsage, "%s has no command %q", place, c.Args().First()).WithHint("see `%s --help`", place)
}

func badFlags(c *cli.Context, err error, _ bool) error {
	return usage(c, "%v", err)
}

// usage is an error of the one who typed.
func usage(c *cli.Context, format string, args ...any) error {
	name := "duet"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return control.Errorf(control.CodeUsage, format, args...).WithHint("see `%s --help`", name)
}

// arguments returns the arguments of a command by position. A name in brackets is optional and "" when it's missing.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	given := c.Args().Slice()
	if len(given) > len(names) {
		return nil, usage(c, "%q is one argument too many", given[len(names)])
	}
	values := make([]string, len(names))
	copy(values, given)
	for i, name := range names {
		if optional := strings.HasPrefix(name, "["); values[i] == "" && (!optional || i < len(given)) {
			return nil, usage(c, "%s is missing", strings.Trim(name, "[]"))
		}
	}
	return values, nil
}

func nodeDir(c *cli.Context) config.Dir { return config.Dir(c.String("dir")) }

// ask calls the daemon, within --timeout.
func (p *program) ask(c *cli.Context, call func(context.Context, *control.Client) error) error {
	timeout := c.Duration("timeout")
	if timeout <= 0 {
		return usage(c, "a --timeout of %v makes no sense", timeout)
	}
	ctx, cancel := context.WithTimeout(c.Context, timeout)
	defer cancel()
	return withClient(c, func(client *control.Client) error { return call(ctx, client) })
}

func withClient(c *cli.Context, use func(*control.Client) error) error {
	dir := nodeDir(c)
	client := control.NewLocalClient(string(dir), dir.ControlSocket())
	defer client.Close()
	return use(client)
}

// print writes what a command has to say. Output that can't be written is a failure: somebody relies on it.
func (p *program) print(text string) error {
	if _, err := io.WriteString(p.stdout, text); err != nil {
		return fmt.Errorf("can't print: %w", err)
	}
	return nil
}

// printJSON writes a value for programs and people alike.
func (p *program) printJSON(value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return p.print(string(text) + "\n")
}

// printEither writes a value as JSON where --json asks for it, else as text.
func (p *program) printEither(c *cli.Context, value any, text func() string) error {
	if c.Bool("json") {
		return p.printJSON(value)
	}
	return p.print(text())
}

func jsonFlag() cli.Flag { return boolFlag("json", "print JSON") }

// boolFlag is off unless given, which needs no mention in the help.
func boolFlag(name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Usage: usage, DisableDefaultText: true}
}

// endedByOperator turns the end of a command that runs until it is told to stop into success.
func endedByOperator(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return nil
	}
	return err
}
