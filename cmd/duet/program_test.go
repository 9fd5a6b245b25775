package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"duet/internal/control"
)

// Every mistake on the command line is one line on stderr with exit code 2, and nothing is asked of the daemon.
func TestUsageErrors(t *testing.T) {
	create := "resource create r0 --size 1GiB --on a=/x "
	tests := []struct{ line, words string }{
		{"frobnicate", `no command "frobnicate"`},
		{"resource frobnicate", `duet resource has no command "frobnicate"`},
		{"resync frobnicate", "duet resync"},
		{"status --frobnicate", "-frobnicate"},
		{"status a b", `"b" is one argument too many`},
		{"--timeout 0s status", "--timeout"},
		{"--timeout never status", "never"},
		{"primary", "RESOURCE is missing"},
		{"secondary", "RESOURCE is missing"},
		{"role", "RESOURCE is missing"},
		{"role r0 --facts --json", "exclude each other"},
		{"connect", "RESOURCE is missing"},
		{"disconnect", "RESOURCE is missing"},
		{"resync status", "RESOURCE is missing"},
		{"resync pause", "RESOURCE is missing"},
		{"resync resume", "RESOURCE is missing"},
		{"resync resume r0 --max-rate fast", "fast"},
		{"resync set", "RESOURCE is missing"},
		{"resync set r0", "--max-rate"},
		{"resync set r0 --max-rate 10MB", "MiB"},
		{"resync set r0 --max-rate 100", "4 KiB"},
		{"resync set r0 --compare never", "auto or always"},
		{"verify", "RESOURCE is missing"},
		{"verify r0 --rate fast", "fast"},
		{"verify r0 --rate 1KiB", "too slow"},
		{"verify r0 --cancel --repair", "--cancel begins nothing"},
		{"switch", "RESOURCE is missing"},
		{"switch r0 b", "too many"},
		{"resource show", "NAME is missing"},
		{"resource delete", "NAME is missing"},
		{"resource list x", "too many"},
		{"node list x", "too many"},
		{"quorum status x", "too many"},
		{"quorum transfer n2", "too many"},
		{"version x", "too many"},
		{"run x", "too many"},
		{"run --log-level loud", "--log-level loud"},
		{"run --log-format xml", "--log-format xml"},
		{"token --ttl soon", "soon"},
		{"token --ttl 1000h", "possible"},
		{"resource create --size 1GiB --on a=/x", "NAME is missing"},
		{"resource create r0 --on a=/x", "--size"},
		{"resource create r0 --size 12zz --on a=/x", "12zz"},
		{"resource create r0 --size 0 --on a=/x", "size"},
		{"resource create r0 --size 1000 --on a=/x", "4 KiB"},
		{"resource create r0 --size 1GiB", "--on"},
		{"resource create r0 --size 1GiB --on a", "NODE=PATH"},
		{"resource create r0 --size 1GiB --on =/x", "NODE=PATH"},
		{"resource create r0 --size 1GiB --on a=x", "absolute"},
		{create + "--on a=/y", "named twice"},
		{create + "--metadata here", "absolute"},
		{create + "--promotion maybe", "auto or manual"},
		{create + "--ack maybe", "device or durable"},
		{create + "--preferred z", "z holds no replica"},
		{"init", "--name"},
		{"init --name UPPER!", "--name"},
		{"init --name a --listen nowhere", "nowhere"},
		{"init --name a --insecure --listen :7600", "loopback"},
		{"join --name a", "TOKEN is missing"},
		{"md frobnicate", "duet md"},
		{"md check", "RESOURCE is missing"},
		{"md dump", "RESOURCE is missing"},
		{"md dump r0 r1", "too many"},
		{"demo x", "too many"},
	}
	for _, tt := range tests {
		got := duet(t.Context(), "/nonexistent", strings.Fields(tt.line)...)
		if got.code != control.ExitUsage || got.stdout != "" || !strings.Contains(got.stderr, tt.words) ||
			strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("duet %s: exit code %d, said %q and on stderr %q, want %q", tt.line, got.code, got.stdout, got.stderr, tt.words)
		}
	}
}

// Without a daemon every command that needs one says so and how to start it, with exit code 3.
func TestNoDaemon(t *testing.T) {
	for _, line := range []string{
		"status", "status r0 --json", "primary r0", "secondary r0", "switch r0", "role r0", "role r0 --facts", "connect r0", "disconnect r0 n2", "token", "node list",
		"resource list", "resource show r0", "resource delete r0", "resource create r0 --size 1GiB --on a=/x",
		"resync status r0", "resync pause r0", "resync resume r0", "resync set r0 --max-rate off", "verify r0", "verify r0 --cancel", "events", "events --follow", "quorum status", "quorum transfer", "version --daemon",
	} {
		got := duet(t.Context(), "/nonexistent", strings.Fields(line)...)
		want := "duet: the daemon is not running in /nonexistent\nduet: start it with `duet --dir /nonexistent run`\n"
		if got.code != control.ExitUnreachable || got.stderr != want || got.stdout != "" {
			t.Errorf("duet %s: exit code %d, %q", line, got.code, got.stderr)
		}
	}
}

// What the daemon refuses arrives as a line of why and one of what to do, with the exit code of its kind.
func TestRefusals(t *testing.T) {
	node := &fakeNode{}
	dir := serve(t, node)
	for code, exit := range map[control.Code]int{
		control.CodeRefused: 1, control.CodeNotFound: 1, control.CodeInternal: 1, control.CodeUnreachable: 3, control.CodeTimeout: 4,
	} {
		node.failure = control.Errorf(code, "not like this").WithHint("try again")
		got := duet(t.Context(), dir, "primary", "r0")
		if got.code != exit || got.stderr != "duet: not like this\nduet: try again\n" {
			t.Errorf("%s: exit code %d, %q", code, got.code, got.stderr)
		}
	}
	node.failure = control.Errorf(control.CodeUsage, "the node knows better")
	if got := duet(t.Context(), dir, "primary", "r0"); got.code != 2 {
		t.Errorf("usage: exit code %d, %q", got.code, got.stderr)
	}
}

func TestTimeout(t *testing.T) {
	dir := serve(t, &fakeNode{hang: true})
	if got := duet(t.Context(), dir, "--timeout", "10ms", "status"); got.code != control.ExitTimeout {
		t.Errorf("exit code %d, %q", got.code, got.stderr)
	}
}

func healthy() *fakeNode {
	return &fakeNode{verified: []control.VerifyStatus{verifyOf(control.VerifyDone)}, status: statusWith(primary(func(*control.ResourceStatus) {}))}
}

// Every command prints something for people, and the same as JSON.
func TestOutput(t *testing.T) {
	dir := serve(t, healthy())
	tests := []struct{ line, words, key string }{
		{"status", "protected: n1 and n2 hold every acknowledged write", `"disk-state": "UpToDate"`},
		{"status r0", "UpToDate", `"generation": 5`},
		{"resource list", "no resources", "[]"},
		{"resource show r0", "/srv/r0.img", `"path": "/srv/r0.img"`},
		{"resource create r0 --size 1GiB --on n1=/x --on n2=/y", "n1 is Primary", `"name": "r0"`},
		{"primary r0", "r0: Primary since generation 4\n", `"role": "Primary"`},
		{"secondary r0", "r0: Secondary since generation 5\n", `"role": "Secondary"`},
		{"switch r0", "n2 is Primary since generation 7, in place of n1\n", `"total-ms": 18.34`},
		{"role r0", "Primary\n", `"standing": "current"`},
		{"resync status r0", "none\n", `"state": "none"`},
		{"resync status r0 --watch", "none\n", `"eta-s": null`},
		{"explain r0", "n3: not connected: connection refused\n", `"question": "is its disk new?"`},
		{"split show r0", "next: duet split resolve r0 --keep n2 or n1", `"has-KiB": 12`},
		{"split resolve r0 --keep n2", "n2 is kept, generation 8", `"undo-file": "/var/lib/duet/undo/r0-0a0a0a0a-g8.undo"`},
		{"split resolve r0 --keep n2 --dry-run", "n2 would be kept", `"dry-run": true`},
		{"verify r0", "n2: identical, 1.0 MiB compared\n", `"state": "done"`},
		{"verify r0 --no-wait", "0 B of 1.0 MiB", `"state": "running"`},
		{"verify r0 --cancel", "r0: the verify ends\n", "{}"},
		{"resize r0 --size 2GiB", "NBD clients see it when they connect anew\nnote: the disks differ\n", `"size-bytes": 2147483648`},
		{"suspend-io r0 --flush", "suspended until `duet resume-io r0`; everything written is on stable media of n1, n2\n", `"in-sync": [`},
		{"events", "start  up", `"kind":"start"`},
		{"token", "duet1-abc\n", `"token": "duet1-abc"`},
		{"node list", "here", `"self": true`},
		{"quorum status", "one more can be lost", `"leader": "w1"`},
		{"quorum transfer --to n2", "n2 leads, in place of w1\n", `"to": "n2"`},
		{"version", "duet ", `"go": `},
		{"version --daemon", "duet v1.2.3 (0123456789ab), peer protocol 1, go1\n", `"version": "v1.2.3"`},
	}
	for _, tt := range tests {
		text := duet(t.Context(), dir, strings.Fields(tt.line)...)
		if text.code != 0 || text.stderr != "" || !strings.Contains(text.stdout, tt.words) {
			t.Errorf("duet %s: exit code %d, %q, stderr %q, want %q", tt.line, text.code, text.stdout, text.stderr, tt.words)
		}
		printed := duet(t.Context(), dir, append(strings.Fields(tt.line), "--json")...)
		if printed.code != 0 || !json.Valid([]byte(printed.stdout)) || !strings.Contains(printed.stdout, tt.key) {
			t.Errorf("duet %s --json: exit code %d, %q, want %q", tt.line, printed.code, printed.stdout, tt.key)
		}
	}
}

// A script can tell a resource that is not here from a daemon that can't say: the first is an answer.
func TestRoleForScripts(t *testing.T) {
	node := healthy()
	dir := serve(t, node)
	got := duet(t.Context(), dir, "role", "r0", "--facts")
	want := "role=Primary\ndisk-state=UpToDate\nstanding=current\nserves=yes\nsuspended-by=no\nquorum=yes\npromotion=auto\nprimary=n1\nin-sync=n1,n2\n"
	if got.code != 0 || got.stdout != want {
		t.Errorf("exit code %d, %q, want %q", got.code, got.stdout, want)
	}
	got = duet(t.Context(), dir, "role", "r1", "--facts")
	if got.code != 0 || !strings.HasPrefix(got.stdout, "role=none\n") || got.stderr != "" {
		t.Errorf("a resource that is not here: exit code %d, %q, %q", got.code, got.stdout, got.stderr)
	}
	if got = duet(t.Context(), dir, "role", "r1"); got.code != control.ExitFailed || !strings.Contains(got.stderr, "no resource r1") {
		t.Errorf("without --facts: exit code %d, %q", got.code, got.stderr)
	}
	node.failure = control.Errorf(control.CodeInternal, "can't say")
	if got = duet(t.Context(), dir, "role", "r0", "--facts"); got.code != control.ExitFailed || got.stdout != "" {
		t.Errorf("a daemon that can't say: exit code %d, %q", got.code, got.stdout)
	}
}

// The status in JSON is a list of resources with the keys of drbdsetup, none of them null.
func TestStatusJSON(t *testing.T) {
	node := healthy()
	node.status.Resources[0].Connections[0].PeerDevices = nil
	got := duet(t.Context(), serve(t, node), "status", "--json")
	golden(t, "status_json", got.stdout)
}

func TestStatusOfNothing(t *testing.T) {
	got := duet(t.Context(), serve(t, healthy()), "status", "nothing")
	if got.code != control.ExitFailed || !strings.Contains(got.stderr, "nothing") {
		t.Errorf("exit code %d, %q", got.code, got.stderr)
	}
}

// interruptible ends its context when enough was written: the operator who has seen what he wanted.
type interruptible struct {
	text   strings.Builder
	enough int
	cancel context.CancelFunc
}

func (i *interruptible) Write(p []byte) (int, error) {
	if i.enough--; i.enough == 0 {
		i.cancel()
	}
	return i.text.Write(p)
}

// Watching ends with success when the operator ends it, and shows a daemon that can't be reached rather than give up.
func TestWatch(t *testing.T) {
	for _, tt := range []struct {
		name, dir string
		arguments []string
		words     string
	}{
		{"status", serve(t, healthy()), []string{"status", "--watch"}, "protected"},
		{"status as JSON", serve(t, healthy()), []string{"status", "--watch", "--json"}, `[{"name":"r0"`},
		{"no daemon", "/nonexistent", []string{"status", "--watch"}, "not running"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &interruptible{enough: 1, cancel: cancel}
			p := &program{stdout: out, stderr: new(strings.Builder), terminal: true}
			code := p.run(ctx, append([]string{"duet", "--dir", tt.dir}, tt.arguments...))
			if code != 0 || !strings.Contains(out.text.String(), tt.words) {
				t.Errorf("exit code %d, %q", code, out.text.String())
			}
		})
	}
}

// A follower whose daemon ends is told so.
func TestFollowEnds(t *testing.T) {
	got := duet(t.Context(), serve(t, healthy()), "events", "--follow")
	if got.code != control.ExitUnreachable || !strings.Contains(got.stdout, "up") {
		t.Errorf("exit code %d, %q, %q", got.code, got.stdout, got.stderr)
	}
}

func TestPeerArgument(t *testing.T) {
	node := healthy()
	dir := serve(t, node)
	for _, command := range []string{"connect", "disconnect"} {
		for _, peer := range []string{"n2", ""} {
			arguments := strings.Fields(command + " r0 " + peer)
			if got := duet(t.Context(), dir, arguments...); got.code != 0 || node.peer != peer {
				t.Errorf("%v: exit code %d, peer %q", arguments, got.code, node.peer)
			}
		}
	}
}

func TestDiskCommands(t *testing.T) {
	node := healthy()
	dir := serve(t, node)
	for _, command := range []string{"attach r0", "detach r0", "attach r0 --disk /dev/sdc"} {
		if got := duet(t.Context(), dir, strings.Fields(command)...); got.code != 0 || node.disk != command {
			t.Errorf("%v: exit code %d, asked %q", command, got.code, node.disk)
		}
	}
}

func TestCreateRequest(t *testing.T) {
	node := healthy()
	line := "resource create db --size 1TiB --on n1=/dev/sdb --on n2=/dev/sdc --metadata internal --promotion manual " +
		"--preferred n2 --ack durable --on-io-error handler --disk-timeout 3s --assume-clean --force"
	if got := duet(t.Context(), serve(t, node), strings.Fields(line)...); got.code != 0 {
		t.Fatal(got.stderr)
	}
	text, err := json.Marshal(node.created)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"db","size-bytes":1099511627776,"replicas":[{"node":"n1","path":"/dev/sdb"},{"node":"n2","path":"/dev/sdc"}],` +
		`"metadata":"internal","promotion":"manual","preferred":"n2","ack":"durable","on-io-error":"handler",` +
		`"disk-timeout":"3s","assume-clean":true,"force":true}`
	if string(text) != want {
		t.Errorf("got %s\nwant %s", text, want)
	}
}

func TestHelp(t *testing.T) {
	golden(t, "help", duet(t.Context(), "/nonexistent", "help").stdout)
	for _, command := range []string{"init", "join", "run", "resource", "resource create", "status", "explain", "verify", "split resolve", "events", "md check", "demo"} {
		got := duet(t.Context(), "/nonexistent", append(strings.Fields(command), "--help")...)
		if got.code != 0 || got.stderr != "" {
			t.Errorf("duet %s --help: exit code %d, %q", command, got.code, got.stderr)
		}
		golden(t, "help_"+strings.ReplaceAll(command, " ", "_"), got.stdout)
	}
}

// Every command has a line of help, and no line of help is wider than a terminal of 130 columns.
func TestHelpIsComplete(t *testing.T) {
	for _, command := range new(program).app().Commands {
		all := append(command.Subcommands, command)
		for _, c := range all {
			if c.Usage == "" || c.UsageText == "" {
				t.Errorf("%s has no help", c.Name)
			}
			for line := range strings.Lines(c.Description) {
				if len(line) > 127 {
					t.Errorf("%s: %d characters in %q", c.Name, len(line), line)
				}
			}
		}
	}
}
