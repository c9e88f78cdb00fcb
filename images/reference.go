package images

import (
	"errors"
	"regexp"
	"strings"
)

// reference is an image's name, taken apart and completed: "busybox" is
// docker.io/library/busybox:latest. With a digest, the tag says nothing and is
// left out.
type reference struct {
	registry   string // docker.io, registry.example:5000
	repository string // library/busybox
	tag        string // empty if there is a digest
	digest     string // sha256:<64 hex>, or empty
}

const (
	hub        = "docker.io"
	hubOldName = "index.docker.io"
)

var (
	repositoryPart = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	registryHost   = regexp.MustCompile(`^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?$`)
	tagText        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	sha256Digest   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// parseReference reads an image's name by the rules of docker and the kubelet:
// the part before the first slash is a registry if it has a dot or a colon or is
// localhost, docker.io is the default, and "latest" the default tag.
func parseReference(s string) (reference, error) {
	r, err := splitReference(s)
	if err != nil {
		return reference{}, &InvalidNameError{Name: s, Err: err}
	}
	return r, nil
}

func splitReference(s string) (reference, error) {
	var r reference
	if s == "" {
		return r, errors.New("it is empty")
	}
	if strings.TrimSpace(s) != s || strings.ContainsAny(s, " \t\n") {
		return r, errors.New("it has blanks in it")
	}
	if strings.Contains(s, "://") {
		return r, errors.New("an image name has no scheme such as https://")
	}
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest && !sha256Digest.MatchString(digest) {
		return r, errors.New(`what follows "@" must be sha256: and 64 lower-case hex digits`)
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		rest, r.tag = rest[:i], rest[i+1:]
		if !tagText.MatchString(r.tag) {
			return r, errors.New(`a tag is 1 to 128 letters, digits, "_", "." and "-", and begins with none of the last two`)
		}
	}
	r.registry, r.repository = hub, rest
	if first, after, ok := strings.Cut(rest, "/"); ok && (first == "localhost" || strings.ContainsAny(first, ".:") || strings.ToLower(first) != first) {
		r.registry, r.repository = first, after
		if !registryHost.MatchString(first) {
			return r, errors.New(`the registry before the first "/" must be a host name or address, with or without a port`)
		}
	}
	if r.registry == hubOldName {
		r.registry = hub
	}
	if r.registry == hub && r.repository != "" && !strings.Contains(r.repository, "/") {
		r.repository = "library/" + r.repository
	}
	if len(r.registry)+1+len(r.repository) > 255 {
		return r, errors.New("it is longer than 255 characters")
	}
	for _, part := range strings.Split(r.repository, "/") {
		switch {
		case part == "":
			return r, errors.New("a part of the repository is empty")
		case strings.ToLower(part) != part:
			return r, errors.New("the repository must be in lower case")
		case !repositoryPart.MatchString(part):
			return r, errors.New(`the repository's parts are lower-case letters and digits, with single ".", "_", "__" or "-" between them`)
		}
	}
	if hasDigest {
		r.tag, r.digest = "", digest
	} else if r.tag == "" {
		r.tag = "latest"
	}
	return r, nil
}

// name is the repository with its registry, docker.io/library/busybox.
func (r reference) name() string { return r.registry + "/" + r.repository }

// String is the complete name.
func (r reference) String() string {
	if r.digest != "" {
		return r.name() + "@" + r.digest
	}
	return r.name() + ":" + r.tag
}

// at is the same repository at a digest.
func (r reference) at(digest string) reference {
	r.tag, r.digest = "", digest
	return r
}

// familiar is the name as people write it, with tag or digest: busybox:1.36,
// registry.example/team/app@sha256:….
func (r reference) familiar() string {
	full := r.String()
	if rest, ok := strings.CutPrefix(full, hub+"/library/"); ok && !strings.Contains(rest, "/") {
		return rest
	}
	if rest, ok := strings.CutPrefix(full, hub+"/"); ok && familiarIsClear(rest) {
		return rest
	}
	return full
}

// familiarIsClear says whether a name without docker.io would be read as one of
// docker.io again.
func familiarIsClear(rest string) bool {
	first, _, ok := strings.Cut(rest, "/")
	return ok && first != "localhost" && !strings.ContainsAny(first, ".:") && first != "library"
}

// Familiar completes and shortens an image's name as statuses, [Image].Names and
// the named function of [Store.Collect] have it: "docker.io/library/busybox" is
// busybox:latest. The error is an *[InvalidNameError].
func Familiar(ref string) (string, error) {
	r, err := parseReference(ref)
	if err != nil {
		return "", err
	}
	return r.familiar(), nil
}

// familiar shortens a complete name; anything else it returns as it is.
func familiar(full string) string {
	r, err := parseReference(full)
	if err != nil {
		return full
	}
	return r.familiar()
}
