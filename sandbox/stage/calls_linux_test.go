package stage

import (
	"strconv"
	"testing"

	"podd/sandbox/wire"
)

// An error says which capability could not be dropped.
func TestDroppedCapabilitiesAreNamed(t *testing.T) {
	var b block
	defer b.free()
	steps := map[string]bool{}
	calls := identity(&b, &wire.Process{})
	for i := range calls {
		steps[calls[i].step()] = true
	}
	want := []string{"set the user"}
	for c := range 64 {
		if boundingSet()&(1<<c) != 0 {
			want = append(want, "drop capability "+strconv.Itoa(c))
		}
	}
	for _, step := range want {
		if !steps[step] {
			t.Errorf("no call is to %s; they are %v", step, steps)
		}
	}
}
