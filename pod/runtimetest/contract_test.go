package runtimetest

import (
	"testing"
)

func TestFakeKeepsTheContract(t *testing.T) {
	Contract(t, func(t *testing.T) Subject {
		f := NewFake()
		f.Deafen("app")
		f.Fail("image absent", "ErrImageNeverPull", "not present")
		return Subject{Runtime: f, Image: "busybox", Absent: "absent"}
	})
}
