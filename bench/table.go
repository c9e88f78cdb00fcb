package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// A Figure is one line of the table. Numbers that do not apply are nil.
type Figure struct {
	What   string   `json:"what"`
	Unit   string   `json:"unit"` // of all numbers
	Runs   int      `json:"runs"`
	Median float64  `json:"median"`
	P99    *float64 `json:"p99,omitempty"`
	Floor  *float64 `json:"floor,omitempty"`  // median
	Budget *float64 `json:"budget,omitempty"` // for the median
	// AtLeast says that the budget is a least value, not a greatest.
	AtLeast bool   `json:"atLeast,omitempty"`
	Note    string `json:"note,omitempty"`
}

// verdict says whether the median keeps the budget.
func (f Figure) verdict() string {
	switch {
	case f.Budget == nil:
		return ""
	case f.AtLeast && f.Median < *f.Budget, !f.AtLeast && f.Median > *f.Budget:
		return "OVER"
	}
	return "ok"
}

func number(f float64) *float64 { return &f }

// ofRuns makes a figure of durations, in milliseconds.
func ofRuns(what string, runs []time.Duration) Figure {
	f := Figure{What: what, Unit: "ms", Runs: len(runs), Median: inMS(quantile(runs, 0.5))}
	if len(runs) > 1 {
		f.P99 = number(inMS(quantile(runs, 0.99)))
	}
	return f
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile returns the smallest run that the share q of all runs does not
// exceed; 0 if there are none.
func quantile(runs []time.Duration, q float64) time.Duration {
	if len(runs) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(runs))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// Results is what results.json holds.
type Results struct {
	Time    time.Time `json:"time"`
	Kernel  string    `json:"kernel"`
	CPUs    int       `json:"cpus"`
	Load    [2]string `json:"loadAverage"` // of one minute, before and after
	Quick   bool      `json:"quick"`
	Figures []Figure  `json:"figures"`
}

// print writes the table.
func (r Results) print(w io.Writer) error {
	fmt.Fprintf(w, "Linux %s, %d CPUs, load average %s before, %s after\n\n", r.Kernel, r.CPUs, r.Load[0], r.Load[1])
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tMEDIAN\tP99\tFLOOR\t× FLOOR\tBUDGET\t\tUNIT\tRUNS\tNOTE")
	for _, f := range r.Figures {
		times, budget := "", short(f.Budget)
		if f.Floor != nil && *f.Floor > 0 {
			times = short(number(f.Median / *f.Floor))
		}
		if budget != "" && f.AtLeast {
			budget = "≥ " + budget
		} else if budget != "" {
			budget = "≤ " + budget
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", f.What,
			short(&f.Median), short(f.P99), short(f.Floor), times, budget, f.verdict(), f.Unit, f.Runs, f.Note)
	}
	return t.Flush()
}

// short writes a number with about three digits, or nothing.
func short(f *float64) string {
	switch {
	case f == nil:
		return ""
	case math.Abs(*f) >= 100:
		return fmt.Sprintf("%.0f", *f)
	case math.Abs(*f) >= 10:
		return fmt.Sprintf("%.1f", *f)
	case math.Abs(*f) >= 1 || *f == 0:
		return fmt.Sprintf("%.2f", *f)
	}
	return fmt.Sprintf("%.3f", *f)
}

// save writes the results as JSON.
func (r Results) save(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
