package manifest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// examine asserts what holds for every input: no panic, an answer in time,
// places inside the file, and that what is accepted means something definite.
func examine(t testing.TB, data []byte) Result {
	t.Helper()
	// CPU time of this thread: the machine may be busy with other things.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := cpuTime(t)
	r := Parse("input.yaml", data)
	if took := cpuTime(t) - start; took > time.Second {
		t.Fatalf("took %v for\n%q", took, data)
	}
	lines := 1 + bytes.Count(data, []byte("\n"))
	for _, p := range r.Problems {
		if p.Line < 0 || p.Line > lines || p.Column < 0 || p.Message == "" || printable(p.String()) != p.String() {
			t.Fatalf("problem %+v in %d lines of\n%q", p, lines, data)
		}
	}
	if len(r.Desired)+len(r.Sources) == 0 && errorsIn(r.Problems) == 0 {
		t.Fatalf("neither an object nor a problem in\n%q", data)
	}
	isRepeatable(t, r)
	return r
}

func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_THREAD, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// mutate changes one thing of a manifest, as typing errors, lost bytes and bad
// merges do.
func mutate(r *rand.Rand, data []byte, tokens [][]byte) []byte {
	lines := bytes.SplitAfter(slices.Clone(data), []byte("\n"))
	at := r.IntN(len(lines))
	switch r.IntN(10) {
	case 0: // a byte becomes another
		flipped := slices.Clone(data)
		flipped[r.IntN(len(flipped))] ^= 1 << r.IntN(8)
		return flipped
	case 1: // a byte is lost
		i := r.IntN(len(data))
		return slices.Delete(slices.Clone(data), i, i+1)
	case 2: // a byte is added
		const typed = "{}[]:,#&*!|>'\"%@`-? \t\n\\0aA~<=."
		return slices.Insert(slices.Clone(data), r.IntN(len(data)), typed[r.IntN(len(typed))])
	case 3:
		lines = slices.Delete(lines, at, at+1)
	case 4:
		lines = slices.Insert(lines, at, lines[at])
	case 5: // a line moves
		line := lines[at]
		lines = slices.Delete(lines, at, at+1)
		lines = slices.Insert(lines, r.IntN(len(lines)+1), line)
	case 6: // deeper
		lines[at] = append(bytes.Repeat([]byte(" "), 1+r.IntN(4)), lines[at]...)
	case 7: // less deep
		lines[at] = bytes.TrimPrefix(bytes.TrimPrefix(lines[at], []byte(" ")), []byte(" "))
	case 8: // a word becomes another one
		old, other := tokens[r.IntN(len(tokens))], tokens[r.IntN(len(tokens))]
		return bytes.Replace(slices.Clone(data), old, other, 1+r.IntN(3))
	case 9: // the end is missing
		return slices.Clone(data[:r.IntN(len(data))])
	}
	return bytes.Join(lines, nil)
}

func TestMutatedManifestsNeitherHangNorPanicAndAgreeWithKubernetes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var seeds, tokens [][]byte
	for _, file := range inputs(t, "good") {
		data, err := os.ReadFile(file)
		must(t, err)
		seeds = append(seeds, data)
		tokens = append(tokens, bytes.FieldsFunc(data, func(r rune) bool { return bytes.ContainsRune([]byte(" \r\n\t{}[],"), r) })...)
	}
	for _, odd := range []string{"yes", "~", "null", "0x1F", "1e999", "-1", "2147483648", "99999999999999999999", ".inf", "!!binary", "*base", "&base", "<<", "[]", "{}", "---", "..."} {
		tokens = append(tokens, []byte(odd), []byte(odd))
	}
	accepted := 0
	const mutations = 10_000
	for i := range mutations {
		data := seeds[i%len(seeds)]
		for range 1 + r.IntN(3) {
			if len(data) > 1 {
				data = mutate(r, data, tokens)
			}
		}
		result := examine(t, data)
		agreesWithKubernetes(t, data, result)
		if len(result.Desired) > 0 {
			accepted++
		}
	}
	if accepted < mutations/20 || accepted > mutations*19/20 {
		t.Errorf("%d of %d mutations accepted: they change too much or too little", accepted, mutations)
	}
	t.Logf("%d of %d mutations accepted", accepted, mutations)
}

func FuzzParse(f *testing.F) {
	for _, dir := range []string{"good", "bad"} {
		for _, file := range inputs(f, dir) {
			data, err := os.ReadFile(file)
			must(f, err)
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		agreesWithKubernetes(t, data, examine(t, data))
	})
}
