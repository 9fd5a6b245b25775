package main

// appHelp is the text of `duet help`: first what to do, then all commands in the order in which they are needed.
const appHelp = `{{.Name}} - {{.Usage}}

{{.Description}}

Usage: {{.UsageText}}

Commands:{{range .VisibleCommands}}
   {{printf "%-11s %s" .Name .Usage}}{{end}}

   duet COMMAND --help says more.

Options of all commands:{{range .VisibleFlags}}
   {{.}}{{end}}
`
