package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"duet/internal/config"
	"duet/internal/control"
)

const (
	// verifyPoll is how often a verify that is waited for is looked at: a short one should not seem long.
	verifyPoll = 200 * time.Millisecond
	// verifyCancelLimit is for the last word of a command that was interrupted.
	verifyCancelLimit = 10 * time.Second
)

func (p *program) verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "compare the replicas, block by block, while the device is used",
		UsageText: "duet verify RESOURCE [--repair] [--rate SIZE] [--no-wait | --cancel] [--json]",
		Description: `To be said on the Primary. Every block of its disk is compared, by hashes, with those of the other replicas that are in sync;
what differs in two looks is reported as ranges of bytes, and the exit code is 1. Ctrl-C ends it.

--repair copies what differs from the Primary. The replica leaves the in-sync set for that time, so one copy less protects the
data, and comes back by itself. No program can tell which copy is the right one: where the Primary's disk is the bad one, make
the other node Primary first. What is read comes from the page cache where it is there.

   duet verify r0 --rate 50MiB
   duet verify r0 --repair`,
		Flags: []cli.Flag{
			boolFlag("repair", "copy what differs from the Primary"),
			&cli.StringFlag{Name: "rate", Usage: "read at most `SIZE` per second of each disk, such as 50MiB"},
			boolFlag("no-wait", "begin it, and don't wait for the result: duet status has it"),
			boolFlag("cancel", "end the one that is under way"),
			jsonFlag(),
		},
		Action: p.verify,
	}
}

func (p *program) verify(c *cli.Context) error {
	names, err := arguments(c, "RESOURCE")
	if err != nil {
		return err
	}
	request, err := verifyRequest(c)
	if err != nil {
		return err
	}
	if c.Bool("cancel") {
		return p.cancelVerify(c, names[0])
	}
	var status *control.VerifyStatus
	err = p.ask(c, func(ctx context.Context, client *control.Client) error {
		status, err = client.Verify(ctx, names[0], request)
		return err
	})
	switch {
	case err != nil:
		return err
	case c.Bool("no-wait"):
		return p.printEither(c, status, func() string { return renderVerify(status) })
	}
	if status, err = p.awaitVerify(c, status); err != nil {
		return err
	}
	return p.verified(c, status)
}

// verifyRequest reads the command line.
func verifyRequest(c *cli.Context) (*control.VerifyRequest, error) {
	request := &control.VerifyRequest{Repair: c.Bool("repair")}
	if text := c.String("rate"); text != "" {
		rate, err := config.ParseSize(text)
		if err != nil {
			return nil, usage(c, "--rate: %v", err)
		}
		request.BytesPerSecond = rate
	}
	if c.Bool("cancel") && (c.Bool("no-wait") || request.Repair || request.BytesPerSecond != 0) {
		return nil, usage(c, "--cancel begins nothing, so it goes with no other flag")
	}
	if err := request.Validate(); err != nil {
		return nil, usage(c, "%v", err)
	}
	return request, nil
}

func (p *program) cancelVerify(c *cli.Context, resource string) error {
	return p.ask(c, func(ctx context.Context, client *control.Client) error {
		if err := client.VerifyCancel(ctx, resource, &control.VerifyCancelRequest{}); err != nil {
			return err
		}
		if c.Bool("json") {
			return p.printJSON(struct{}{})
		}
		return p.print(resource + ": the verify ends\n")
	})
}

// awaitVerify shows the progress until the end. The operator's interruption ends the verify, too.
func (p *program) awaitVerify(c *cli.Context, begun *control.VerifyStatus) (*control.VerifyStatus, error) {
	ticker := time.NewTicker(verifyPoll)
	defer ticker.Stop()
	status, shown := begun, time.Now()
	for status.State == control.VerifyRunning || status.State == control.VerifyRepairing {
		if time.Since(shown) >= watchInterval && !c.Bool("json") {
			shown = time.Now()
			if err := p.print(renderVerify(status)); err != nil {
				return nil, err
			}
		}
		select {
		case <-ticker.C:
		case <-c.Done():
			return p.interruptVerify(c, begun)
		}
		next, err := p.verifyStatus(c, begun)
		if c.Err() != nil {
			return p.interruptVerify(c, begun)
		}
		if err != nil {
			return nil, err
		}
		status = next
	}
	return status, nil
}

// verifyStatus looks at the verify that this command began.
func (p *program) verifyStatus(c *cli.Context, begun *control.VerifyStatus) (status *control.VerifyStatus, err error) {
	err = p.ask(c, func(ctx context.Context, client *control.Client) error {
		status, err = client.VerifyStatus(ctx, begun.Resource)
		return err
	})
	if err == nil && status.Run != begun.Run {
		return nil, control.Errorf(control.CodeRefused, "the daemon has restarted, or another verify of %s has begun: the result is lost", begun.Resource)
	}
	return status, err
}

// interruptVerify ends the verify in place of the operator, whose context has ended. A repair goes on: the replica that is
// being repaired is better off at its end.
func (p *program) interruptVerify(c *cli.Context, begun *control.VerifyStatus) (*control.VerifyStatus, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), verifyCancelLimit)
	defer cancel()
	c.Context = ctx
	err := p.ask(c, func(ctx context.Context, client *control.Client) error {
		return client.VerifyCancel(ctx, begun.Resource, &control.VerifyCancelRequest{Run: begun.Run})
	})
	if err != nil {
		return nil, err
	}
	for {
		status, err := p.verifyStatus(c, begun)
		if err != nil || status.State != control.VerifyRunning {
			return status, err
		}
		select {
		case <-time.After(verifyPoll):
		case <-ctx.Done():
			return status, nil
		}
	}
}

// verified prints the result. What was not found equal, or made so, is a failure.
func (p *program) verified(c *cli.Context, status *control.VerifyStatus) error {
	if err := p.printEither(c, status, func() string { return renderVerified(status) }); err != nil {
		return err
	}
	switch {
	case status.State != control.VerifyDone:
		return control.Errorf(control.CodeRefused, "the verify of %s ended early: %s", status.Resource, status.Reason)
	case status.Different():
		return control.Errorf(control.CodeRefused, "the replicas of %s differ", status.Resource).
			WithHint("if this node holds the right data: duet verify %s --repair", status.Resource)
	}
	return nil
}
