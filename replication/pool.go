package replication

import "sync"

// job is work for a workerPool; a request is one, so that handing it over allocates nothing.
type job interface{ run() }

// workerPool runs jobs that may block on a disk on a fixed number of goroutines. Its queue needs no bound of its own:
// every job belongs to a request that some window already bounds.
type workerPool struct {
	mu      sync.Mutex
	wake    sync.Cond
	queue   []job
	head    int
	closed  bool
	running int // loops that have not ended
	stuck   int // of these, in a job that may never return; others run in their place
	surplus int // loops that are to end, since those whose place they took are back
}

func newWorkerPool(workers int) *workerPool {
	p := &workerPool{running: workers}
	p.wake.L = &p.mu
	for range workers {
		go p.loop()
	}
	return p
}

// submit queues j.
func (p *workerPool) submit(j job) {
	p.mu.Lock()
	p.queue = append(p.queue, j)
	closed := p.closed
	p.mu.Unlock()
	if closed {
		p.wake.Broadcast() // close waits there, too
		return
	}
	p.wake.Signal()
}

// relieve replaces workers that are stuck in their jobs. Nobody waits for these any more.
func (p *workerPool) relieve(workers int) {
	p.mu.Lock()
	p.running += workers
	p.stuck += workers
	p.mu.Unlock()
	p.wake.Broadcast()
	for range workers {
		go p.loop()
	}
}

// returned is told of a job that came back although its worker had been replaced. b is that of the goroutine; a worker
// has none.
func (p *workerPool) returned(b Batch) {
	if _, reader := b.(relieved); reader {
		return
	}
	p.mu.Lock()
	p.stuck--
	p.surplus++
	p.mu.Unlock()
	p.wake.Signal()
}

// loop owns nothing but the job it runs; submit wakes it; close ends it once the queue is empty.
func (p *workerPool) loop() {
	for {
		j, ok := p.next()
		if !ok {
			return
		}
		j.run()
	}
}

func (p *workerPool) next() (job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.head == len(p.queue) {
		if p.closed || p.surplus > 0 {
			p.surplus = max(p.surplus-1, 0)
			p.running--
			p.wake.Broadcast()
			return nil, false
		}
		p.wake.Wait()
	}
	j := p.queue[p.head]
	p.queue[p.head] = nil
	p.head++
	if p.head == len(p.queue) {
		p.queue, p.head = p.queue[:0], 0
	}
	return j, true
}

// close waits until every queued job has run, but for those that are stuck.
func (p *workerPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.wake.Broadcast()
	for p.running > p.stuck {
		p.wake.Wait()
	}
}
