package stream

import (
	"io"
	"sync"
)

// maxUnread is how much input is kept for a command that does not read it. Behind
// it in the connection are the sizes of a terminal, and the pings of a client that
// gives up when they are not answered.
const maxUnread = 1 << 20

// queue is a pipe that keeps up to maxUnread bytes.
type queue struct {
	mu    sync.Mutex
	moved *sync.Cond // on mu: any of what follows has changed
	data  []byte
	ended bool // nothing more is written
	gone  bool // nothing more is read
}

func newQueue() *queue {
	q := &queue{}
	q.moved = sync.NewCond(&q.mu)
	return q
}

// Write waits until there is room for all of p, or nobody reads any more.
func (q *queue) Write(p []byte) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(p) > 0 {
		for len(q.data) == maxUnread && !q.gone {
			q.moved.Wait()
		}
		if q.gone || q.ended {
			return n, io.ErrClosedPipe
		}
		part := p[:min(len(p), maxUnread-len(q.data))]
		q.data = append(q.data, part...)
		n += len(part)
		p = p[len(part):]
		q.moved.Broadcast()
	}
	return n, nil
}

func (q *queue) Read(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.data) == 0 && !q.ended && !q.gone {
		q.moved.Wait()
	}
	if len(q.data) == 0 || q.gone {
		return 0, io.EOF
	}
	n := copy(p, q.data)
	if q.data = q.data[n:]; len(q.data) == 0 {
		q.data = nil // most input is typed: nothing is kept for what was pasted once
	}
	q.moved.Broadcast()
	return n, nil
}

// end lets the reader come to the end of what was written.
func (q *queue) end() { q.change(&q.ended) }

// leave ends reading; what was written is dropped.
func (q *queue) leave() { q.change(&q.gone) }

func (q *queue) change(what *bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	*what = true
	if q.gone {
		q.data = nil
	}
	q.moved.Broadcast()
}
