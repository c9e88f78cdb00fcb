package main

import (
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var runs []time.Duration
	for i := 200; i >= 1; i-- {
		runs = append(runs, time.Duration(i))
	}
	for _, c := range []struct {
		q    float64
		runs []time.Duration
		want time.Duration
	}{
		{0.5, runs, 100},
		{0.99, runs, 198},
		{1, runs, 200},
		{0.99, runs[:1], 200},
		{0.5, []time.Duration{3, 1, 2}, 2},
		{0.5, nil, 0},
	} {
		if got := quantile(c.runs, c.q); got != c.want {
			t.Errorf("quantile(%d runs, %g) = %d, want %d", len(c.runs), c.q, got, c.want)
		}
	}
	if runs[0] != 200 {
		t.Error("quantile changed its argument")
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Figure
		want string
	}{
		{"a figure without a budget has no verdict", Figure{Median: 5}, ""},
		{"a time at its budget is ok", Figure{Median: 5, Budget: number(5)}, "ok"},
		{"a time above its budget is over", Figure{Median: 5.1, Budget: number(5)}, "OVER"},
		{"a throughput above its budget is ok", Figure{Median: 5.1, Budget: number(5), AtLeast: true}, "ok"},
		{"a throughput below its budget is over", Figure{Median: 4.9, Budget: number(5), AtLeast: true}, "OVER"},
	} {
		if got := c.f.verdict(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	r := Results{Kernel: "6.18", CPUs: 2, Load: [2]string{"0.10", "0.20"}, Figures: []Figure{
		{What: "start", Unit: "ms", Runs: 200, Median: 9.876, P99: number(20.5), Floor: number(4.938), Budget: number(10)},
		{What: "log copy", Unit: "MB/s", Runs: 5, Median: 123.4, Budget: number(300), AtLeast: true},
	}}
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	want := `Linux 6.18, 2 CPUs, load average 0.10 before, 0.20 after

WHAT      MEDIAN  P99   FLOOR  × FLOOR  BUDGET        UNIT  RUNS  NOTE
start     9.88    20.5  4.94   2.00     ≤ 10.0  ok    ms    200   
log copy  123                           ≥ 300   OVER  MB/s  5     
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
