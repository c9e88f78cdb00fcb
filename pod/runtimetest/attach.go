package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	v1 "k8s.io/api/core/v1"

	"podd/pod"
)

// clientQueue is how many writes of its container a client may be behind. It
// misses later ones: the container waits for no client.
const clientQueue = 100

// client is attached to a container, which ended says.
type client struct {
	output chan []byte
	ended  <-chan struct{}
}

// Say makes a running container write text to its clients.
func (f *Fake) Say(container, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		for _, c := range p.containers {
			if c.Container == container && c.Exit == nil {
				c.say([]byte(text))
				return nil
			}
		}
	}
	return fmt.Errorf("container %s does not run", container)
}

// say gives every client what the container writes. The fake's lock is held.
func (c *fakeContainer) say(text []byte) {
	for _, cl := range c.clients {
		select {
		case cl.output <- text:
		default:
		}
	}
}

// Attach implements [pod.Runtime]. A container shows what [Fake.Say] makes it write;
// one whose command is cat also what it is given, and exits at the end of that.
func (f *Fake) Attach(ctx context.Context, t pod.Target, r pod.AttachRequest) error {
	f.mu.Lock()
	p := f.pod(t.UID)
	i := slices.IndexFunc(p.containers, func(c *fakeContainer) bool { return c.ID == r.ID && c.Exit == nil })
	if i < 0 {
		f.mu.Unlock()
		return errors.New("the container does not run")
	}
	c := p.containers[i]
	spec := specOf(t.Pod, c.Container)
	takes := r.Stdin != nil && spec.Stdin && !c.inputTaken
	once := takes && spec.StdinOnce && !spec.TTY
	c.inputTaken = c.inputTaken || once
	cl := &client{output: make(chan []byte, clientQueue), ended: c.gone}
	c.clients = append(c.clients, cl)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		c.clients = slices.DeleteFunc(c.clients, func(o *client) bool { return o == cl })
		if once {
			p.endInput(c, spec)
		}
	}()
	inputOver := make(chan struct{})
	if takes {
		// Ends with the input or, at its next bytes, with the container.
		go func() {
			f.input(c, spec, r.Stdin)
			if !once {
				close(inputOver)
				return
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			p.endInput(c, spec)
		}()
	}
	return cl.copyOutput(ctx, r.Stdout, inputOver)
}

// input is what a container reads of a client.
func (f *Fake) input(c *fakeContainer, spec *v1.Container, from io.Reader) {
	buf := make([]byte, 1<<10)
	for {
		n, err := from.Read(buf)
		f.mu.Lock()
		if c.Exit == nil && n > 0 && isCat(spec) {
			c.say(slices.Clone(buf[:n]))
		}
		over := c.Exit != nil || err != nil
		f.mu.Unlock()
		if over {
			return
		}
	}
}

// endInput is the end of a container's input. The fake's lock is held.
func (p *fakePod) endInput(c *fakeContainer, spec *v1.Container) {
	if c.Exit == nil && isCat(spec) {
		p.exit(c, 0, false)
	}
}

func isCat(spec *v1.Container) bool { return slices.Equal(spec.Command, []string{"cat"}) }

// copyOutput ends with the container, the input or ctx. What was written before is
// not missing.
func (cl *client) copyOutput(ctx context.Context, to io.Writer, inputOver <-chan struct{}) error {
	if to == nil {
		to = io.Discard
	}
	var err error
	for over := false; !over; {
		select {
		case text := <-cl.output:
			to.Write(text) // a client that went away has its own error
			continue
		case <-inputOver:
		case <-cl.ended:
		case <-ctx.Done():
			err = ctx.Err()
		}
		over = true
	}
	for len(cl.output) > 0 {
		to.Write(<-cl.output)
	}
	return err
}
