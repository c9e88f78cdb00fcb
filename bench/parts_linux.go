package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run of the measurements.
type bench struct {
	*world
	floor   *floor
	results *Results
	quick   bool
}

// part measures figures that belong together. It finds an agent without pods
// and leaves one.
type part struct {
	name, what string
	measure    func(*bench, context.Context) error
}

var parts = []part{
	{"start", "starts and removals of one pod", (*bench).startAndRemove},
	{"restart", "restarts of a container that exits", (*bench).restart},
	{"many", "50 pods at once, their memory and their idle time", (*bench).many},
	{"probes", "processor time of probes", (*bench).probes},
	{"hundred", "100 probed pods, and restarts of the agent", (*bench).hundred},
	{"memory", "memory of one pod, and of 50 pods over 5 agents", (*bench).memory},
	{"kube", "what clients of the Kubernetes API cost", (*bench).kube},
	{"logs", "log copy", (*bench).logs},
	{"sizes", "sizes of programs", (*bench).sizes},
}

func (b *bench) add(f Figure) { b.results.Figures = append(b.results.Figures, f) }

// runs is how often something short is measured.
func (b *bench) runs(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// pause lets what follows a start or an end come to rest.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle tells what the agent and all pods use while nothing happens.
func (b *bench) idle(ctx context.Context, what string, window time.Duration) error {
	progress("%s for %v", what, window)
	before, err := b.cpu("")
	if err != nil {
		return err
	}
	if err := pause(ctx, window); err != nil {
		return err
	}
	after, err := b.cpu("")
	if err != nil {
		return err
	}
	b.add(Figure{
		What: what, Unit: "CPU-s/min", Runs: 1, Budget: number(0.1),
		Median: (after - before).Seconds() * float64(time.Minute) / float64(window), Note: fmt.Sprintf("of %v", window),
	})
	return nil
}

func names(prefix string, n int) (all, started []string) {
	for i := range n {
		name := prefix + strconv.Itoa(i)
		all, started = append(all, name), append(started, "started "+name)
	}
	return all, started
}

// rest is what the kernel takes to free a network namespace that is gone already.
const rest = 60 * time.Millisecond

func (b *bench) startAndRemove(ctx context.Context) error {
	var start, removal, floorStart, floorRemoval []time.Duration
	for i := range b.runs(200, 20) {
		if i%50 == 49 {
			progress("run %d", i+1)
		}
		// Turn by turn, so that what else the machine does meets both alike.
		name := "fl" + strconv.Itoa(i)
		began := time.Now()
		p, err := b.floor.start(name)
		if err != nil {
			return err
		}
		at, err := b.await(ctx, "started "+name)
		if err != nil {
			return err
		}
		floorStart = append(floorStart, at.Sub(began))
		began = time.Now()
		if err := b.floor.stop(p); err != nil {
			return err
		}
		floorRemoval = append(floorRemoval, time.Since(began))
		if err := pause(ctx, rest); err != nil {
			return err
		}

		name = "one" + strconv.Itoa(i)
		if began, err = b.drop(map[string]string{name: b.pod(name, idle(name), "")}); err != nil {
			return err
		}
		if at, err = b.await(ctx, "started "+name); err != nil {
			return err
		}
		start = append(start, at.Sub(began))
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		all := b.things()
		began = time.Now()
		if err := os.Remove(b.manifest(name)); err != nil {
			return err
		}
		if err := b.until(ctx, "the pod is gone", func() bool { return all.gone(b.world) }); err != nil {
			return fmt.Errorf("%w\nleft: %s", err, b.things())
		}
		removal = append(removal, time.Since(began))
		if err := pause(ctx, rest); err != nil {
			return err
		}
	}
	f := ofRuns("file renamed → workload's first instruction", start)
	f.Floor = number(inMS(quantile(floorStart, 0.5)))
	f.Budget = number(max(10, 2**f.Floor))
	f.Note = "budget: 2 × floor, or about 10"
	b.add(f)
	f = ofRuns("file removed → everything gone", removal)
	f.Floor, f.Budget = number(inMS(quantile(floorRemoval, 0.5))), number(30)
	b.add(f)
	return b.clear(ctx)
}

// restart measures from a container's last words to the attempt after them. The
// attempt's directory is made when the restart has been decided.
func (b *bench) restart(ctx context.Context) error {
	var decided, whole, floor []time.Duration
	for i := range b.runs(50, 10) {
		name := "crash" + strconv.Itoa(i)
		script := "echo started " + name + " >/bench/fifo; trap 'exit 0' TERM; if test ! -e /bench/" + name +
			"; then sleep 0.1; echo >/bench/" + name + "; echo exits " + name + " >/bench/fifo; exit 1; fi; sleep 1000000 & wait"
		if _, err := b.drop(map[string]string{name: b.pod(name, script, "")}); err != nil {
			return err
		}
		if _, err := b.await(ctx, "started "+name); err != nil {
			return err
		}
		watch, err := b.watchAttempts()
		if err != nil {
			return err
		}
		exits, err := b.await(ctx, "exits "+name)
		if err != nil {
			unix.Close(watch)
			return err
		}
		made, err := nextEvent(watch)
		unix.Close(watch)
		if err != nil {
			return err
		}
		decided = append(decided, made.Sub(exits))
		again, err := b.await(ctx, "started "+name)
		if err != nil {
			return err
		}
		whole = append(whole, again.Sub(exits))
		if err := b.clear(ctx); err != nil {
			return err
		}

		name = "fc" + strconv.Itoa(i)
		var p floorPod
		began := time.Now()
		onThread(func() { p.name = name; p.pid, err = b.floor.container(name) })
		if err != nil {
			return err
		}
		at, err := b.await(ctx, "started "+name)
		if err != nil {
			return err
		}
		floor = append(floor, at.Sub(began))
		if err := b.floor.stop(p); err != nil {
			return err
		}
	}
	f := ofRuns("container exit → restart decided", decided)
	f.Budget = number(5)
	b.add(f)
	f = ofRuns("container exit → next attempt's first instruction", whole)
	f.Floor = number(inMS(quantile(floor, 0.5)))
	f.Note = "floor: mounts and exec"
	b.add(f)
	return nil
}

// watchAttempts waits for directories of further attempts of the only pod.
func (b *bench) watchAttempts() (fd int, err error) {
	dirs, err := filepath.Glob(filepath.Join(b.dir, "run/pods/*/c/main"))
	if err != nil || len(dirs) != 1 {
		return -1, errors.Join(err, fmt.Errorf("expected one pod with an attempt; found %d", len(dirs)))
	}
	if fd, err = unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
		return -1, err
	}
	_, err = unix.InotifyAddWatch(fd, dirs[0], unix.IN_CREATE)
	return fd, err
}

// nextEvent waits for the inotify event that comes next.
func nextEvent(fd int) (time.Time, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := unix.Poll(poll, int(patience.Milliseconds()))
		if err != nil && err != unix.EINTR {
			return time.Time{}, err
		}
		if n > 0 {
			return time.Now(), nil
		}
	}
	return time.Time{}, fmt.Errorf("the container was not restarted within %v", patience)
}

// many starts 50 pods at once, a few times, and looks at the last 50 at rest.
func (b *bench) many(ctx context.Context) error {
	const pods = 50
	var times, floors []time.Duration
	rounds := b.runs(5, 2)
	for round := range rounds {
		progress("50 pods, round %d of %d", round+1, rounds)
		took, err := b.floors(ctx, fmt.Sprintf("fm%d-", round), pods)
		if err != nil {
			return err
		}
		floors = append(floors, took)
		all, started := names(fmt.Sprintf("many%d-", round), pods)
		texts := map[string]string{}
		for _, n := range all {
			texts[n] = b.pod(n, idle(n), "")
		}
		began, err := b.drop(texts)
		if err != nil {
			return err
		}
		at, err := b.awaitAll(ctx, started)
		if err != nil {
			return err
		}
		times = append(times, at[len(at)-1].Sub(began))
		if round < rounds-1 {
			if err := b.clear(ctx); err != nil {
				return err
			}
		}
	}
	f := ofRuns("50 pods dropped at once → all started", times)
	f.Floor, f.Budget = number(inMS(quantile(floors, 0.5))), number(1500)
	f.Note = "floor: two at a time"
	b.add(f)

	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	window := time.Duration(b.runs(30, 10)) * time.Second
	if err := b.idle(ctx, "50 idle pods without probes", window); err != nil {
		return err
	}
	if err := b.agentMemory("agent's memory with 50 pods", 30); err != nil {
		return err
	}
	if err := b.pauseMemory("pause process's memory, 50 pods of one agent start", number(0.75)); err != nil {
		return err
	}
	return b.clear(ctx)
}

// floors starts n floor pods, two at a time, ends them, and returns how long it
// took until the last had started.
func (b *bench) floors(ctx context.Context, prefix string, n int) (time.Duration, error) {
	all, started := names(prefix, n)
	type result struct {
		pod floorPod
		err error
	}
	todo, done := make(chan string), make(chan result, n)
	began := time.Now()
	for range 2 {
		go func() { // ends when todo is closed
			for name := range todo {
				p, err := b.floor.start(name)
				done <- result{p, err}
			}
		}()
	}
	for _, name := range all {
		todo <- name
	}
	close(todo)
	var pods []floorPod
	var err error
	for range all {
		r := <-done
		if err = errors.Join(err, r.err); r.err == nil {
			pods = append(pods, r.pod)
		}
	}
	var took time.Duration
	if err == nil {
		var at []time.Time
		if at, err = b.awaitAll(ctx, started); err == nil {
			took = at[len(at)-1].Sub(began)
		}
	}
	for _, p := range pods {
		err = errors.Join(err, b.floor.stop(p))
	}
	return took, err
}

const megabyte = 1e6

func (b *bench) agentMemory(what string, budget float64) error {
	bytes, err := pss(b.agent.Process.Pid)
	if err != nil {
		return err
	}
	b.add(Figure{What: what, Unit: "MB PSS", Runs: 1, Median: bytes / megabyte, Budget: number(budget)})
	return nil
}

// pauseMemory tells the mean of all pause processes.
func (b *bench) pauseMemory(what string, budget *float64) error {
	pids := b.pausePids()
	if len(pids) == 0 {
		return errors.New("cannot find any pause process")
	}
	var sum float64
	for _, pid := range pids {
		bytes, err := pss(pid)
		if err != nil {
			return err
		}
		sum += bytes
	}
	b.add(Figure{What: what, Unit: "MB PSS", Runs: len(pids), Median: sum / float64(len(pids)) / megabyte, Budget: budget, Note: "mean"})
	return nil
}

const httpRequest = "GET / HTTP/1.0\r\nHost: bench\r\nConnection: close\r\n\r\n"

// serving is the script of a pod with a web server.
func serving(name string) string {
	return "trap 'exit 0' TERM; echo ok >/tmp/index.html; echo started " + name + " >/bench/fifo; httpd -f -p 8080 -h /tmp & wait"
}

// probed starts n pods with the probe as liveness and readiness, or only as
// the latter, and waits until all are ready.
func (b *bench) probed(ctx context.Context, prefix, probe string, both bool, n int) error {
	extra := "    readinessProbe: {periodSeconds: 1, timeoutSeconds: 5, " + probe + "}\n"
	if both {
		extra += strings.Replace(extra, "readiness", "liveness", 1)
	}
	all, started := names(prefix, n)
	texts := map[string]string{}
	for _, name := range all {
		texts[name] = b.pod(name, serving(name), extra)
	}
	if _, err := b.drop(texts); err != nil {
		return err
	}
	if _, err := b.awaitAll(ctx, started); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; {
		page, err := b.get("/pods")
		if err != nil {
			return err
		}
		if strings.Count(string(page), `"ready":true`) == n {
			return pause(ctx, 2*time.Second)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not all of %d pods are ready within %v\n%s", n, patience, b.trouble())
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

var (
	probeTotal = regexp.MustCompile(`(?m)^prober_probe_total\{.*result="successful".*\} ([0-9.e+]+)$`)
	podIP      = regexp.MustCompile(`"podIP":"([0-9.]+)"`)
)

// attempts is how many probes have succeeded so far.
func (b *bench) attempts() (sum float64, err error) {
	page, err := b.get("/metrics/probes")
	if err != nil {
		return 0, err
	}
	for _, m := range probeTotal.FindAllStringSubmatch(string(page), -1) {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// perAttempt measures the processor time of the agent and of a group over many
// attempts.
func (b *bench) perAttempt(ctx context.Context, group string, window time.Duration) (each, share float64, attempts int, err error) {
	n0, err := b.attempts()
	if err != nil {
		return 0, 0, 0, err
	}
	before, err := b.cpu(group)
	if err != nil {
		return 0, 0, 0, err
	}
	began := time.Now()
	if err := pause(ctx, window); err != nil {
		return 0, 0, 0, err
	}
	after, err := b.cpu(group)
	if err != nil {
		return 0, 0, 0, err
	}
	took := time.Since(began)
	n1, err := b.attempts()
	if err != nil {
		return 0, 0, 0, err
	}
	if n1 <= n0 {
		return 0, 0, 0, fmt.Errorf("no probe succeeded in %v\n%s", window, b.trouble())
	}
	used := after - before
	return inMS(used) / (n1 - n0), 100 * used.Seconds() / took.Seconds(), int(n1 - n0), nil
}

// server returns where one of the pods serves.
func (b *bench) server() (to unix.SockaddrInet4, err error) {
	page, err := b.get("/pods")
	if err != nil {
		return to, err
	}
	m := podIP.FindStringSubmatch(string(page))
	if m == nil {
		return to, errors.New("no pod has an address")
	}
	ip, err := netip.ParseAddr(m[1])
	if err != nil {
		return to, err
	}
	return unix.SockaddrInet4{Port: 8080, Addr: ip.As4()}, nil
}

// connectFloor is the processor time of one bare connection to a pod.
func (b *bench) connectFloor(request []byte) (*float64, error) {
	to, err := b.server()
	if err != nil {
		return nil, err
	}
	var each time.Duration
	err = b.inHost(func() error {
		each, err = cpuOfHere(b.runs(200, 60), func() error {
			paced()
			return connectTo(to, request)
		})
		return err
	})
	return number(inMS(each)), err
}

func (b *bench) probes(ctx context.Context) error {
	for _, p := range []struct {
		what, probe, group string
		budget             float64
		floor              func() (*float64, error)
	}{
		{"exec probe, an attempt", "exec: {command: ['true']}", "", 1.5, b.execFloor},
		{"http probe, an attempt", "httpGet: {path: /, port: 8080}", "podd-pause", 0.3, func() (*float64, error) { return b.connectFloor([]byte(httpRequest)) }},
		{"tcp probe, an attempt", "tcpSocket: {port: 8080}", "podd-pause", 0.3, func() (*float64, error) { return b.connectFloor(nil) }},
	} {
		progress("%s", p.what)
		kind, _, _ := strings.Cut(p.what, " ")
		if err := b.probed(ctx, kind, p.probe, true, 30); err != nil {
			return err
		}
		each, _, n, err := b.perAttempt(ctx, p.group, time.Duration(b.runs(10, 4))*time.Second)
		if err != nil {
			return err
		}
		floor, err := p.floor()
		if err != nil {
			return err
		}
		b.add(Figure{What: p.what, Unit: "CPU-ms", Runs: n, Median: each, Floor: floor, Budget: number(p.budget), Note: "mean; 30 pods, 60 attempts a second"})
		if err := b.clear(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) hundred(ctx context.Context) error {
	const pods = 100
	progress("100 pods start")
	if err := b.probed(ctx, "hundred", "httpGet: {path: /, port: 8080}", false, pods); err != nil {
		return err
	}
	floor, err := b.connectFloor([]byte(httpRequest))
	if err != nil {
		return err
	}
	window := time.Duration(b.runs(20, 5)) * time.Second
	progress("100 pods, probed every second for %v", window)
	_, share, n, err := b.perAttempt(ctx, "podd-pause", window)
	if err != nil {
		return err
	}
	b.add(Figure{What: "100 pods, each probed every second by http", Unit: "% of a core", Runs: n, Median: share,
		Floor: number(*floor * pods / 10), Budget: number(5)})

	var times, floors []time.Duration
	rounds := b.runs(5, 2)
	for round := range rounds {
		progress("the agent restarts with 100 pods, round %d of %d", round+1, rounds)
		b.endAgent(unix.SIGKILL)
		began := time.Now()
		if err := b.startAgent(); err != nil {
			return err
		}
		if err := b.until(ctx, "the new agent serves 100 pods", func() bool {
			page, err := b.get("/pods")
			return err == nil && strings.Count(string(page), `"running":{`) == pods && strings.Count(string(page), `"phase":"Running"`) == pods
		}); err != nil {
			return err
		}
		times = append(times, time.Since(began))
		if err := b.nothingRestarted(pods); err != nil {
			return err
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	for range 20 {
		began := time.Now()
		if err := b.podd("version").Run(); err != nil {
			return fmt.Errorf("podd version: %w", err)
		}
		floors = append(floors, time.Since(began))
	}
	f := ofRuns("agent restart with 100 pods → all adopted and served", times)
	f.Floor, f.Budget, f.Note = number(inMS(quantile(floors, 0.5))), number(300), "floor: podd version"
	b.add(f)
	return b.clear(ctx)
}

func (b *bench) nothingRestarted(pods int) error {
	page, err := b.get("/pods")
	if err != nil {
		return err
	}
	if n := strings.Count(string(page), `"restartCount":0`); n != pods {
		return fmt.Errorf("only %d of %d containers have gone on through the agent's restart\n%s", n, pods, b.trouble())
	}
	return nil
}

func (b *bench) memory(ctx context.Context) error {
	if _, err := b.drop(map[string]string{"alone": b.pod("alone", idle("alone"), "")}); err != nil {
		return err
	}
	if _, err := b.await(ctx, "started alone"); err != nil {
		return err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	if err := b.pauseMemory("pause process's memory, one pod alone", nil); err != nil {
		return err
	}
	if err := b.clear(ctx); err != nil {
		return err
	}
	const starts, each = 5, 10
	for i := range starts {
		progress("10 pods of agent %d of %d", i+1, starts)
		b.endAgent(unix.SIGTERM)
		if err := b.running(ctx); err != nil {
			return err
		}
		all, started := names(fmt.Sprintf("mem%d-", i), each)
		texts := map[string]string{}
		for _, n := range all {
			texts[n] = b.pod(n, idle(n), "")
		}
		if _, err := b.drop(texts); err != nil {
			return err
		}
		if _, err := b.awaitAll(ctx, started); err != nil {
			return err
		}
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	if err := b.pauseMemory("pause process's memory, 50 pods over 5 agent starts", nil); err != nil {
		return err
	}
	return b.clear(ctx)
}

// logs copies lines of 100 bytes from a container to its log, rotations included.
func (b *bench) logs(ctx context.Context) error {
	const chunk, chunks = 16 << 20, 16
	lines := strings.Repeat(strings.Repeat("x", 99)+"\n", chunk/100)
	if err := os.WriteFile(filepath.Join(b.dir, "shared/lines"), []byte(lines), 0o644); err != nil {
		return err
	}
	total := float64(len(lines) * chunks)
	var rates, floors []time.Duration
	for i := range b.runs(5, 2) {
		name := "log" + strconv.Itoa(i)
		script := "trap 'exit 0' TERM; echo started " + name + " >/bench/fifo; cat" + strings.Repeat(" /bench/lines", chunks) +
			"; echo copied " + name + " >/bench/fifo; sleep 1000000 & wait"
		if _, err := b.drop(map[string]string{name: b.pod(name, script, "")}); err != nil {
			return err
		}
		began, err := b.await(ctx, "started "+name)
		if err != nil {
			return err
		}
		ended, err := b.await(ctx, "copied "+name)
		if err != nil {
			return err
		}
		rates = append(rates, ended.Sub(began))
		if err := b.clear(ctx); err != nil {
			return err
		}
		took, err := b.copyFloor(chunks)
		if err != nil {
			return err
		}
		floors = append(floors, took)
	}
	rate := func(d time.Duration) float64 { return total / megabyte / d.Seconds() }
	b.add(Figure{What: "log copy, lines of 100 bytes", Unit: "MB/s", Runs: len(rates), Median: rate(quantile(rates, 0.5)),
		Floor: number(rate(quantile(floors, 0.5))), Budget: number(300), AtLeast: true, Note: "floor: pipe to file as it is"})
	return nil
}

// copyFloor copies the same from the same program through a pipe to a file,
// without a look at it.
func (b *bench) copyFloor(chunks int) (time.Duration, error) {
	program, err := busybox()
	if err != nil {
		return 0, err
	}
	to, err := os.Create(filepath.Join(b.dir, "copy"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(to.Name())
	defer to.Close()
	args := []string{"cat"}
	for range chunks {
		args = append(args, filepath.Join(b.dir, "shared/lines"))
	}
	cat := exec.Command(program, args...)
	from, err := cat.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cat.Start(); err != nil {
		return 0, err
	}
	buf := make([]byte, 128<<10)
	size := 0
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return 0, errors.Join(werr, cat.Process.Kill(), cat.Wait())
			}
			// As much as a log and its rotated files hold.
			if size += n; size > 50<<20 {
				size = 0
				err = errors.Join(err, to.Truncate(0))
				to.Seek(0, 0)
			}
		}
		if err != nil {
			break
		}
	}
	took := time.Since(began)
	return took, cat.Wait()
}

func (b *bench) sizes(context.Context) error {
	for _, p := range []struct {
		name   string
		budget float64
	}{{"podd", 28}, {"podd-pause", 3}} {
		path := filepath.Join(b.bin, p.name)
		program, err := elf.Open(path)
		if err != nil {
			return err
		}
		stripped := program.Section(".symtab") == nil
		program.Close()
		if !stripped {
			return fmt.Errorf("%s is not stripped (try: make build)", path)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		b.add(Figure{What: "size of " + p.name, Unit: "MB", Runs: 1, Median: float64(info.Size()) / megabyte, Budget: number(p.budget), Note: "stripped"})
	}
	return nil
}
