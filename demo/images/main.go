// Images builds the demo's container images, as OCI archives, from Debian
// packages and a Filebeat binary, without root and without running any
// package's scripts.
//
//	go run ./demo/images -out .cache/demo -filebeat .cache/demo/filebeat
//
// The images bear the names, paths and commands of the public ones, so the
// demo's manifest runs with either.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	out := flag.String("out", ".cache/demo", "directory for the archives")
	filebeat := flag.String("filebeat", "", "Filebeat binary to put into an image")
	flag.Parse()
	if err := run(*out, *filebeat); err != nil {
		fmt.Fprintln(os.Stderr, "demo images:", err)
		os.Exit(1)
	}
}

func run(out, filebeat string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := buildHTTPD(out); err != nil {
		return fmt.Errorf("cannot build httpd: %w", err)
	}
	if err := buildFilebeat(out, filebeat); err != nil {
		return fmt.Errorf("cannot build filebeat: %w", err)
	}
	return nil
}

// buildHTTPD makes Apache httpd from Debian's packages, laid out as the public
// httpd image is: programs, modules, configuration and pages below
// /usr/local/apache2.
func buildHTTPD(out string) error {
	archive := filepath.Join(out, "httpd.tar")
	if _, err := os.Stat(archive); err == nil {
		return nil
	}
	fmt.Println("fetching Debian packages for httpd")
	downloads := filepath.Join(out, "debs")
	defer os.RemoveAll(downloads)
	debs, err := fetchPackages(downloads,
		"apache2-bin", "apache2-utils", "media-types", "base-files", "libc-bin", "dash", "coreutils", "procps", "curl")
	if err != nil {
		return err
	}
	fmt.Printf("making an image of %d packages\n", len(debs))
	l := newLayer()
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		l.symlink(dir, "usr/"+dir)
	}
	for _, deb := range debs {
		if err := l.addPackage(deb); err != nil {
			return err
		}
	}
	l.symlink("usr/bin/sh", "dash")
	l.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n")
	l.file("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\n")
	l.dir("tmp", 0o1777)
	for link, target := range map[string]string{
		"bin/httpd":      "/usr/sbin/apache2",
		"bin/rotatelogs": "/usr/bin/rotatelogs",
		"bin/ab":         "/usr/bin/ab",
		"modules":        "/usr/lib/apache2/modules",
	} {
		l.symlink("usr/local/apache2/"+link, target)
	}
	l.file("usr/local/apache2/bin/httpd-foreground", 0o755, "#!/bin/sh\nset -e\nrm -f /usr/local/apache2/logs/httpd.pid\nexec httpd -DFOREGROUND -f /usr/local/apache2/conf/httpd.conf \"$@\"\n")
	l.file("usr/local/apache2/conf/httpd.conf", 0o644, httpdConf)
	l.file("usr/local/apache2/htdocs/index.html", 0o644, "<html><body><h1>It works!</h1></body></html>\n")
	l.dir("usr/local/apache2/logs", 0o755)
	return l.write(archive, "docker.io/library/httpd:2.4", v1.Config{
		Env:          []string{"PATH=/usr/local/apache2/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HTTPD_PREFIX=/usr/local/apache2"},
		WorkingDir:   "/usr/local/apache2",
		Cmd:          []string{"httpd-foreground"},
		StopSignal:   "SIGWINCH",
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
	})
}

// httpdConf has what the public image's configuration has and the demo needs:
// the same server root, document root, log formats and port.
const httpdConf = `ServerRoot "/usr/local/apache2"
Listen 80
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule dir_module modules/mod_dir.so
LoadModule mime_module modules/mod_mime.so
PidFile logs/httpd.pid
User www-data
Group www-data
ServerName localhost
DocumentRoot "/usr/local/apache2/htdocs"
DirectoryIndex index.html
TypesConfig /etc/mime.types
ErrorLog /proc/self/fd/2
LogLevel warn
LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"" combined
LogFormat "%h %l %u %t \"%r\" %>s %b" common
CustomLog /proc/self/fd/1 common
`

// buildFilebeat puts the Filebeat binary where the public image has it.
func buildFilebeat(out, binary string) error {
	archive := filepath.Join(out, "filebeat.tar")
	st, err := os.Stat(binary)
	if err != nil {
		return err
	}
	if old, err := os.Stat(archive); err == nil && old.ModTime().After(st.ModTime()) {
		return nil
	}
	fmt.Println("making an image of Filebeat")
	l := newLayer()
	if err := l.copy("usr/share/filebeat/filebeat", 0o755, binary); err != nil {
		return err
	}
	l.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/sbin/nologin\nfilebeat:x:1000:1000:filebeat:/usr/share/filebeat:/sbin/nologin\n")
	l.file("etc/group", 0o644, "root:x:0:\nfilebeat:x:1000:\n")
	l.dir("tmp", 0o1777)
	l.dir("usr/share/filebeat/data", 0o777)
	return l.write(archive, "docker.elastic.co/beats/filebeat-oss:7.17.29", v1.Config{
		Env:        []string{"PATH=/usr/share/filebeat:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		WorkingDir: "/usr/share/filebeat",
		User:       "filebeat",
		Cmd:        []string{"/usr/share/filebeat/filebeat", "-e"},
	})
}
