// Filebeat is the log shipper of the demo: Elastic's Filebeat, the part under
// the Apache License 2.0, built from a pinned module and cut down to the one
// thing the demo shows, shipping log files to standard output.
//
// The log input is the one the public image has, so the demo's manifest runs
// with either.
package main

import (
	"os"

	"github.com/elastic/beats/v7/filebeat/cmd"
	inputs "github.com/elastic/beats/v7/filebeat/input/default-inputs"
)

func main() {
	if err := cmd.Filebeat(inputs.Init, cmd.FilebeatSettings()).Execute(); err != nil {
		os.Exit(1)
	}
}
