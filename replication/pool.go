package replication

import "sync"

// job is work for a workerPool; a request is one, so that handing it over allocates nothing.
type job interface{ run() }

// workerPool runs jobs that may block on a disk on a fixed number of goroutines. Its queue needs no bound of its own:
// every job belongs to a request that some window already bounds.
type workerPool struct {
	mu     sync.Mutex
	wake   sync.Cond
	queue  []job
	head   int
	closed bool
	done   sync.WaitGroup
}

func newWorkerPool(workers int) *workerPool {
	p := &workerPool{}
	p.wake.L = &p.mu
	for range workers {
		p.done.Go(p.loop)
	}
	return p
}

// submit queues j.
func (p *workerPool) submit(j job) {
	p.mu.Lock()
	p.queue = append(p.queue, j)
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
		if p.closed {
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

// close waits until every queued job has run.
func (p *workerPool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wake.Broadcast()
	p.done.Wait()
}
