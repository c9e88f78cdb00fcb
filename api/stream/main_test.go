package stream

import (
	"testing"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

// Nothing outlives its request.
func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard()) // the SPDY library tells of each stream that is refused
	goleak.VerifyTestMain(m)
}
