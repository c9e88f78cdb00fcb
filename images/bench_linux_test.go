package images

import (
	"testing"

	"podd/internal/testimage"
)

// BenchmarkRootfs is what mounting adds to a container's start.
func BenchmarkRootfs(b *testing.B) {
	s, err := Open(Config{Root: b.TempDir(), AuthFiles: []string{}, CertDirs: []string{}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Load(b.Context(), testimage.Archive(b, testimage.Busybox(b), "app:1"), LoadOptions{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		img, err := s.Find("app:1")
		if err != nil {
			b.Fatal(err)
		}
		mount, err := s.Rootfs(b.Context(), img, b.TempDir(), false)
		if err != nil {
			b.Fatal(err)
		}
		mount.Close()
	}
}
