package native

import (
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

func TestSignalsHaveKubernetesNames(t *testing.T) {
	for sig := unix.Signal(1); sig <= rtmax; sig++ {
		name := signalName(sig)
		if sig != 32 && sig != 33 && signalByName(string(name)) != sig { // those two are the C library's
			t.Errorf("signal %d is %q, which is %d", sig, name, signalByName(string(name)))
		}
	}
	for sig, want := range map[unix.Signal]v1.Signal{
		0: "", unix.SIGQUIT: v1.SIGQUIT, unix.SIGWINCH: v1.SIGWINCH, 34: v1.SIGRTMIN, 37: v1.SIGRTMINPLUS3,
		49: v1.SIGRTMINPLUS15, 50: v1.SIGRTMAXMINUS14, 63: v1.SIGRTMAXMINUS1, 64: v1.SIGRTMAX,
	} {
		if got := signalName(sig); got != want {
			t.Errorf("signal %d is %q; want %q", sig, got, want)
		}
	}
}
