package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// dockerConfig is what a docker config.json says about credentials. A secret of
// the old type (.dockercfg) has the content of Auths only.
type dockerConfig struct {
	Auths       map[string]authn.AuthConfig `json:"auths"`
	CredHelpers map[string]string           `json:"credHelpers"`
	CredsStore  string                      `json:"credsStore"`
}

func defaultAuthFiles(root string) []string {
	var files []string
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	}
	return append(files, filepath.Join(root, "config.json"), "/root/.docker/config.json")
}

func parseDockerConfig(data []byte) (dockerConfig, error) {
	var c dockerConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return c, err
	}
	if c.Auths == nil && c.CredHelpers == nil && c.CredsStore == "" {
		var old map[string]authn.AuthConfig
		if json.Unmarshal(data, &old) == nil {
			c.Auths = old
		}
	}
	return c, nil
}

// credential is one way to show who we are to a registry.
type credential struct {
	auth authn.AuthConfig
	from string // for messages: where it was found; empty for none
}

// credentials returns what to show to the registry for a repository, in the
// order to try: pull secrets, then files, in each the longest match first, then
// what credential providers answer. With no match there is one empty credential.
// unanswered tells of providers that failed; the pull goes on without them.
// Source: kubelet, pkg/kubelet/images/image_manager.go for the order,
// pkg/credentialprovider for the matching.
func (s *Store) credentials(ctx context.Context, registry, repository string, secrets [][]byte) (found []credential, unanswered []error, err error) {
	for _, data := range secrets {
		c, err := parseDockerConfig(data)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read a pull secret: %w", err)
		}
		found = append(found, c.match(registry, repository, "a pull secret")...)
	}
	for _, file := range s.config.AuthFiles {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read registry credentials: %w", err)
		}
		c, err := parseDockerConfig(data)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read registry credentials in %s: %w", file, err)
		}
		found = append(found, c.match(registry, repository, file)...)
		helped, err := c.askHelper(ctx, registry)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, helped...)
	}
	provided, unanswered := s.config.Providers.credentials(ctx, registry, repository)
	found = append(found, provided...)
	for _, err := range unanswered {
		var f *failedProvider
		said := ""
		if errors.As(err, &f) {
			said = f.stderr
		}
		s.log.Error(err, "a registry is asked without a provider's credentials", "registry", registry, "said", said)
	}
	if len(found) == 0 {
		found = []credential{{}}
	}
	return found, unanswered, nil
}

func (c dockerConfig) match(registry, repository, from string) []credential {
	type hit struct {
		length int
		credential
	}
	var hits []hit
	for key, auth := range c.Auths {
		if length, ok := keyMatches(key, registry, repository); ok && auth != (authn.AuthConfig{}) {
			hits = append(hits, hit{length, credential{auth, from}})
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return b.length - a.length })
	found := make([]credential, len(hits))
	for i, h := range hits {
		found[i] = h.credential
	}
	return found
}

// keyMatches says whether a key of a docker config is for a repository, and how
// much of the name it covers. A key is a host, with or without scheme, port and
// the beginning of a path; parts of the host may be patterns (*.example.com).
func keyMatches(key, registry, repository string) (int, bool) {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	host, dir, _ := strings.Cut(strings.TrimRight(key, "/"), "/")
	if dir == "v1" || dir == "v2" {
		dir = "" // https://index.docker.io/v1/
	}
	if host == hubOldName || host == "registry-1.docker.io" {
		host = hub
	}
	if !hostMatches(host, registry) {
		return 0, false
	}
	if dir != "" && repository != dir && !strings.HasPrefix(repository, dir+"/") {
		return 0, false
	}
	return len(dir), true
}

func hostMatches(pattern, host string) bool {
	p, h := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(p) != len(h) {
		return false
	}
	for i := range p {
		if ok, err := path.Match(p[i], h[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// askHelper asks the credential helper that a docker config names for a
// registry, a program docker-credential-NAME in PATH.
func (c dockerConfig) askHelper(ctx context.Context, registry string) ([]credential, error) {
	server := registry
	if registry == hub {
		server = "https://index.docker.io/v1/"
	}
	name := c.CredsStore
	if h, ok := c.CredHelpers[registry]; ok {
		name = h
	} else if h, ok := c.CredHelpers[server]; ok {
		name = h
	}
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	program := "docker-credential-" + name
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stdout.String() + stderr.String())
		if strings.Contains(text, "credentials not found") {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot get credentials for %s from %s: %w: %s", registry, program, err, text)
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		return nil, fmt.Errorf("cannot read the answer of %s: %w", program, err)
	}
	auth := authn.AuthConfig{Username: answer.Username, Password: answer.Secret}
	if answer.Username == "<token>" {
		auth = authn.AuthConfig{IdentityToken: answer.Secret}
	}
	return []credential{{auth, program}}, nil
}
