//go:build !race

package images

import "testing"

func fastExit(*testing.T, *Config) {}
