package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const imageName = "localhost/bench:1"

// applets are the commands of busybox that the measured pods use.
var applets = []string{"sh", "sleep", "true", "httpd", "cat", "echo"}

// rootDirs must exist in a root file system for what is mounted onto them.
var rootDirs = []string{"bin", "etc", "proc", "sys", "dev", "tmp", "bench"}

// busybox finds the workload of everything measured here.
func busybox() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", errors.New("cannot find busybox (Debian package busybox-static)")
	}
	return path, nil
}

// writeImage writes a docker archive with busybox in it.
func writeImage(path string) error {
	source, err := busybox()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	t := tar.NewWriter(&layer)
	for _, d := range rootDirs {
		err = errors.Join(err, t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}))
	}
	err = errors.Join(err, add(t, "bin/busybox", 0o755, program))
	for _, a := range applets {
		err = errors.Join(err, t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}))
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{imageName}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	t = tar.NewWriter(&archive)
	if err := errors.Join(
		add(t, "config.json", 0o644, config), add(t, "layer.tar", 0o644, layer.Bytes()), add(t, "manifest.json", 0o644, manifest),
		t.Close(),
	); err != nil {
		return err
	}
	return os.WriteFile(path, archive.Bytes(), 0o644)
}

func add(t *tar.Writer, name string, mode int64, data []byte) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := t.Write(data)
	return err
}

// writeRoot makes the same root file system as a directory, for the floor.
func writeRoot(dir string) error {
	source, err := busybox()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	for _, d := range rootDirs {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	err = os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755)
	for _, a := range applets {
		err = errors.Join(err, os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	return err
}
