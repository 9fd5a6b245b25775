package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst reorders a command line so that flags stand before the other arguments of their command, as the cli
// library wants it: people write `duet status r0 --json` as well as `duet status --json r0`. Flags of duet itself
// (--dir) may stand anywhere. What follows a lone `--` stays as it is.
func flagsFirst(app *cli.App, line []string) []string {
	if len(line) == 0 {
		return line
	}
	s := &sorter{own: app.Flags, names: []string{line[0]}}
	commands := app.Commands
	for rest := line[1:]; len(rest) > 0; {
		word := rest[0]
		if word == "--" {
			s.positional = append(s.positional, rest...)
			break
		}
		if strings.HasPrefix(word, "-") && word != "-" {
			rest = s.flag(rest)
			continue
		}
		if command := find(commands, word); command != nil {
			s.names, s.command, commands = append(s.names, word), command, command.Subcommands
		} else {
			s.positional = append(s.positional, word)
			commands = nil
		}
		rest = rest[1:]
	}
	return slices.Concat(s.names[:1], s.global, s.names[1:], s.local, s.positional)
}

// sorter collects the parts of a command line.
type sorter struct {
	own     []cli.Flag   // the flags of duet itself
	command *cli.Command // the innermost command so far

	names, global, local, positional []string
}

// flag takes a flag, with its value where that is an argument of its own, and returns the rest of the line. A flag that
// nobody knows stays with the command, which will complain.
func (s *sorter) flag(line []string) []string {
	name, _, valueInside := strings.Cut(strings.TrimLeft(line[0], "-"), "=")
	known, place := lookup(s.own, name), &s.global
	if s.command != nil {
		if local := lookup(s.command.Flags, name); local != nil || known == nil {
			known, place = local, &s.local
		}
	}
	taken := 1
	if takes, ok := known.(cli.DocGenerationFlag); ok && takes.TakesValue() && !valueInside && len(line) > 1 {
		taken = 2
	}
	*place = append(*place, line[:taken]...)
	return line[taken:]
}

func lookup(flags []cli.Flag, name string) cli.Flag {
	for _, flag := range flags {
		if slices.Contains(flag.Names(), name) {
			return flag
		}
	}
	return nil
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, command := range commands {
		if command.HasName(name) {
			return command
		}
	}
	return nil
}
