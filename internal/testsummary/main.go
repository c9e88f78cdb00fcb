// Testsummary reads the output of go test -json, prints a line per package and
// all output of what failed, and ends with the counts. A skipped test is
// printed too, and fails the run: a test that did not run proves nothing.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"
)

type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

func main() {
	begin := time.Now()
	output := map[string][]string{} // by package and test
	counts := map[string]map[string]int{}
	var passed, failed, skipped, badPackages int
	var skips []string
	in := bufio.NewReader(os.Stdin)
	for dec := json.NewDecoder(in); ; {
		var e event
		if err := dec.Decode(&e); err != nil {
			break
		}
		key := e.Package + " " + e.Test
		if counts[e.Package] == nil {
			counts[e.Package] = map[string]int{}
		}
		switch e.Action {
		case "output":
			output[key] = append(output[key], e.Output)
		case "build-output":
			fmt.Print(e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" {
				counts[e.Package][e.Action]++
			}
			switch {
			case e.Test == "" && e.Action == "fail":
				badPackages++
				fmt.Printf("FAIL  %-34s %5.1f s\n%s", e.Package, e.Elapsed, strings.Join(output[key], ""))
			case e.Test == "":
				c := counts[e.Package]
				if n := c["pass"] + c["fail"] + c["skip"]; n > 0 {
					fmt.Printf("ok    %-34s %5.1f s  %d tests\n", e.Package, e.Elapsed, n)
				}
			case e.Action == "pass":
				passed++
				delete(output, key)
			case e.Action == "skip":
				skipped++
				skips = append(skips, e.Package+" "+e.Test+": "+strings.TrimSpace(strings.Join(output[key], " ")))
			default:
				failed++
				fmt.Print(strings.Join(output[key], ""))
			}
		}
	}
	sort.Strings(skips)
	for _, s := range skips {
		fmt.Println("SKIP ", s)
	}
	fmt.Printf("%.0f s\n", time.Since(begin).Seconds())
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed > 0 || badPackages > 0 || skipped > 0 || passed == 0 {
		os.Exit(1)
	}
}
