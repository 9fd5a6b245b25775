package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Time bounds beside those of the events.
const (
	// forcedLimit is what before-demote has when the role is lost already: what it wants to keep in order is cut off.
	forcedLimit = 5 * time.Second
	// haste is what a notice under way has left once a change of role waits for it.
	haste = time.Second
	// reap is how long the end of a killed process is waited for. One that the kernel does not let go is left behind.
	reap = 2 * time.Second
)

// maxQueued bounds what waits for one resource. A notice that finds no room is dropped, and said so.
const maxQueued = 64

// Why a handler was ended, or did not run.
var (
	errLimit    = errors.New("its time was up")
	errOvertook = errors.New("a change of role does not wait longer for it")
	errRoleLost = errors.New("the role is lost")
	errClosed   = errors.New("the daemon stops")
	errFull     = fmt.Errorf("%d handlers wait for this resource already", maxQueued)
)

// Config is what an Engine needs.
type Config struct {
	Dir     string                  // of the executables
	Node    string                  // this node
	Limits  map[Event]time.Duration // instead of the defaults
	Logger  *slog.Logger
	Ended   func(Outcome) // is told of each event that had a handler; must not block. May be nil.
	NodeDir string
	Program string // the path of duet
	// NBD and NBDSocket are where the devices are served.
	NBD, NBDSocket string
}

// Outcome is how the handlers of an event ended.
type Outcome struct {
	Event Event
	Facts Facts
	None  bool   // there was no handler
	Err   error  // why it counts as failed
	Code  int    // exit status of the one that decided; -1: none
	Said  string // the beginning of its output
	Took  time.Duration
}

// Failed says what failed, in one line, with what the handler had to say; nil if nothing did.
func (o *Outcome) Failed() error {
	if o.Err == nil {
		return nil
	}
	if said := lastLine(o.Said); said != "" {
		return fmt.Errorf("handler %s: %w: %s", o.Event, o.Err, said)
	}
	return fmt.Errorf("handler %s: %w", o.Event, o.Err)
}

// Engine runs handlers.
type Engine struct {
	cfg    Config
	kinds  map[Event]kind
	ctx    context.Context
	cancel context.CancelCauseFunc
	loops  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	lanes  map[string]*lane
}

// lane is what runs and waits for one resource, or for one node that is to be fenced. It exists while there is something.
type lane struct {
	queue   []*task
	current *task
}

// task is an event that has its turn, or waits for it.
type task struct {
	event  Event
	facts  Facts
	limit  time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan Outcome // holds one
}

// New makes an engine. Nothing runs before an event.
func New(cfg Config) *Engine {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Ended == nil {
		cfg.Ended = func(Outcome) {}
	}
	e := &Engine{cfg: cfg, kinds: kinds(), lanes: map[string]*lane{}}
	for event, limit := range cfg.Limits {
		k := e.kinds[event]
		k.limit = limit
		e.kinds[event] = k
	}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	return e
}

// Notify queues the handlers of an event and returns.
func (e *Engine) Notify(event Event, facts Facts) { e.enqueue(e.ctx, event, facts) }

// Run queues the handlers of an event and waits for their end. The end of ctx ends them.
func (e *Engine) Run(ctx context.Context, event Event, facts Facts) Outcome {
	t := e.enqueue(ctx, event, facts)
	if t == nil {
		return Outcome{Event: event, Facts: facts, None: true}
	}
	select {
	case o := <-t.done:
		return o
	case <-ctx.Done(): // it may wait in the queue for another's end
		t.cancel(context.Cause(ctx))
		return Outcome{Event: event, Facts: facts, Err: context.Cause(ctx), Code: -1}
	}
}

// enqueue gives the event its place. It returns nil if there is no handler.
func (e *Engine) enqueue(ctx context.Context, event Event, facts Facts) *task {
	if !e.Has(event) && event != AfterDemote { // which also ends what Left tells of
		return nil
	}
	limit := e.kinds[event].limit
	if facts.Forced && event == BeforeDemote {
		limit = min(limit, forcedLimit)
	}
	t := &task{event: event, facts: facts, limit: limit, done: make(chan Outcome, 1)}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addLocked(t)
	return t
}

// laneOf keeps apart what need not wait for each other: a node is fenced for all resources at once.
func laneOf(t *task) string {
	if t.event == FencePeer {
		return "peer " + t.facts.Peer
	}
	return "resource " + t.facts.Resource
}

// addLocked puts a change of role before notices that have not begun, and everything else last.
func (e *Engine) addLocked(t *task) {
	name := laneOf(t)
	l := e.lanes[name]
	notice := e.kinds[t.event].notice
	switch {
	case e.closed:
		e.endLocked(t, errClosed)
		return
	case l != nil && notice && len(l.queue) >= maxQueued:
		e.endLocked(t, errFull)
		return
	case l == nil:
		l = &lane{}
		e.lanes[name] = l
		e.loops.Go(func() { e.laneLoop(name, l) })
	}
	at := len(l.queue)
	if !notice {
		at = 0
		for at < len(l.queue) && !e.kinds[l.queue[at].event].notice {
			at++
		}
		if l.current != nil && e.kinds[l.current.event].notice {
			hurried := l.current
			time.AfterFunc(haste, func() { hurried.cancel(errOvertook) })
		}
	}
	l.queue = slices.Insert(l.queue, at, t)
}

// endLocked ends a task that has not begun.
func (e *Engine) endLocked(t *task, why error) {
	t.cancel(why)
	t.done <- Outcome{Event: t.event, Facts: t.facts, Err: why, Code: -1}
	e.cfg.Logger.Warn("handler not run", "event", t.event, "resource", t.facts.Resource, "reason", why)
}

// laneLoop runs what a lane has, one after the other; it owns the lane's processes and ends with the last of its tasks.
func (e *Engine) laneLoop(name string, l *lane) {
	for {
		e.mu.Lock()
		if len(l.queue) == 0 {
			delete(e.lanes, name)
			e.mu.Unlock()
			return
		}
		t := l.queue[0]
		l.queue, l.current = l.queue[1:], t
		e.mu.Unlock()
		o := e.perform(t)
		e.mu.Lock()
		l.current = nil
		e.mu.Unlock()
		t.cancel(nil)
		if !o.None {
			e.cfg.Ended(o)
		}
		t.done <- o
	}
}

// perform runs the handlers of an event, and notes for the next start what they may leave behind.
func (e *Engine) perform(t *task) Outcome {
	if t.event == AfterPromote {
		e.mark(t.facts.Resource)
	}
	stop := context.AfterFunc(e.ctx, func() { t.cancel(context.Cause(e.ctx)) })
	defer stop()
	o := e.runAll(t)
	if t.event == AfterDemote {
		e.unmark(t.facts.Resource)
	}
	return o
}

// RoleLost runs before-demote, with a short limit, and after-demote, for a role that is lost already. What a promotion or
// demotion has under way for the resource is ended: it acts on a device that is cut off.
func (e *Engine) RoleLost(facts Facts) {
	facts.Forced = true
	e.mu.Lock()
	if l := e.lanes["resource "+facts.Resource]; l != nil {
		l.queue = slices.DeleteFunc(l.queue, func(t *task) bool {
			void := t.event == AfterPromote || t.event == BeforeDemote && !t.facts.Forced
			if void {
				e.endLocked(t, errRoleLost)
			}
			return void
		})
		if t := l.current; t != nil && (t.event == AfterPromote || t.event == BeforeDemote && !t.facts.Forced) {
			t.cancel(errRoleLost)
		}
	}
	e.mu.Unlock()
	e.Notify(BeforeDemote, facts)
	e.Notify(AfterDemote, facts)
}

// Close takes no further events, waits for those that there are until ctx ends, and ends what is left.
func (e *Engine) Close(ctx context.Context) {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	idle := make(chan struct{})
	go func() { // ends with the lanes, whose every step is bounded
		e.loops.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	e.cancel(errClosed)
	<-idle
}
