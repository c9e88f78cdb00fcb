package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The conversation with a credential provider: one request on its standard
// input, one response on its standard output, and it ends.
// Source: Kubernetes API, credentialprovider.kubelet.k8s.io/v1.

type providerRequest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Image      string `json:"image"` // without tag and digest
}

type providerResponse struct {
	APIVersion    string           `json:"apiVersion"`
	Kind          string           `json:"kind"`
	CacheKeyType  string           `json:"cacheKeyType"`  // Image, Registry or Global
	CacheDuration *metav1.Duration `json:"cacheDuration"` // nil: as configured; 0: not kept
	// Auth has keys like docker's configuration: hosts with an optional path,
	// parts of the host may be globs.
	Auth map[string]struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"auth"`
}

// cachedAnswer is what a provider answered, while it holds.
type cachedAnswer struct {
	auths map[string]authn.AuthConfig
	until time.Time
}

// everyImage is the key of an answer of the type Global.
const everyImage = ""

const (
	providerTimeout = time.Minute
	// providerPipes is how long descendants of a provider that ended may keep
	// its output open.
	providerPipes = time.Second
)

// credentials asks the providers about a repository, those that do not hold an
// answer yet. failed tells which gave none; the others count, as in the kubelet.
func (ps *CredentialProviders) credentials(ctx context.Context, registry, repository string) (found []credential, failed []error) {
	if ps == nil {
		return nil, nil
	}
	image := registry + "/" + repository
	for _, p := range ps.providers {
		if !p.matches(image) {
			continue
		}
		auths, err := p.answer(ctx, image)
		if err != nil {
			failed = append(failed, fmt.Errorf("credential provider %s gave no answer: %w", p.Name, err))
			continue
		}
		// The kubelet's order: the last in the alphabet is tried first, and with
		// it the longest path.
		for _, key := range slices.Backward(slices.Sorted(maps.Keys(auths))) {
			if answerMatches(key, registry, image) && auths[key] != (authn.AuthConfig{}) {
				found = append(found, credential{auths[key], "credential provider " + p.Name})
			}
		}
	}
	return found, failed
}

// answerMatches says whether a key of an answer is for an image. A key may have a
// scheme, and the version that docker writes: https://index.docker.io/v1/.
func answerMatches(key, registry, image string) bool {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	host, dir, _ := strings.Cut(strings.TrimSuffix(key, "/"), "/")
	if version, rest, _ := strings.Cut(dir, "/"); version == "v1" || version == "v2" {
		dir = rest
	}
	if registry == hub && host == hubOldName {
		host = hub
	}
	if dir != "" {
		host += "/" + dir
	}
	return imageMatches(host, image)
}

// answer is what the provider says about an image, now or some time ago.
func (p *credentialProvider) answer(ctx context.Context, image string) (map[string]authn.AuthConfig, error) {
	if auths, held := p.held(image, time.Now()); held {
		return auths, nil
	}
	// One question at a time about one image. Who asked first may leave: the
	// question has a deadline of its own.
	answered := p.asking.DoChan(image, func() (any, error) {
		response, err := p.ask(context.WithoutCancel(ctx), image)
		if err != nil {
			return nil, err
		}
		return p.keep(image, response, time.Now())
	})
	select {
	case r := <-answered:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(map[string]authn.AuthConfig), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// held looks for an answer that was given about the image, its registry, or all.
func (p *credentialProvider) held(image string, now time.Time) (map[string]authn.AuthConfig, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	registry, _, _ := strings.Cut(image, "/")
	for _, key := range []string{image, registry, everyImage} {
		if a, given := p.answers[key]; given && now.Before(a.until) {
			return a.auths, true
		}
	}
	return nil, false
}

// keep holds an answer for as long as it says, and returns what is in it.
func (p *credentialProvider) keep(image string, r providerResponse, now time.Time) (map[string]authn.AuthConfig, error) {
	var key string
	switch r.CacheKeyType {
	case "Image":
		key = image
	case "Registry":
		key, _, _ = strings.Cut(image, "/")
	case "Global":
		key = everyImage
	default:
		return nil, fmt.Errorf("credential provider plugin did not return a valid cacheKeyType: %q", r.CacheKeyType)
	}
	auths := make(map[string]authn.AuthConfig, len(r.Auth))
	for match, a := range r.Auth {
		auths[match] = authn.AuthConfig{Username: a.Username, Password: a.Password}
	}
	keep := p.DefaultCacheDuration.Duration
	if r.CacheDuration != nil {
		keep = r.CacheDuration.Duration
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, a := range p.answers {
		if !now.Before(a.until) {
			delete(p.answers, k)
		}
	}
	if keep > 0 {
		p.answers[key] = cachedAnswer{auths, now.Add(keep)}
	}
	return auths, nil
}

// ask runs the program. Its errors have the kubelet's words.
// Source: kubelet, pkg/credentialprovider/plugin/plugin.go.
func (p *credentialProvider) ask(ctx context.Context, image string) (providerResponse, error) {
	var response providerResponse
	request, err := json.Marshal(providerRequest{p.APIVersion, "CredentialProviderRequest", image})
	if err != nil {
		return response, err
	}
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.program, p.Args...)
	cmd.Env = os.Environ()
	for _, e := range p.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value) // the last of a name counts
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), &stdout, &stderr
	defer func() { clear(stdout.Bytes()) }()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = providerPipes
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return response, &failedProvider{
			fmt.Errorf("error execing credential provider plugin %s for image %s: %w", p.Name, image, err), strings.TrimSpace(stderr.String()),
		}
	}
	// What cannot be read is not told: it may hold credentials.
	if json.Unmarshal(stdout.Bytes(), &response) != nil {
		return response, errors.New("error decoding credential provider plugin response from stdout")
	}
	if response.APIVersion != p.APIVersion {
		return response, fmt.Errorf("apiVersion from credential plugin response did not match expected apiVersion:%s, actual apiVersion:%s", p.APIVersion, response.APIVersion)
	}
	if response.Kind != "CredentialProviderResponse" {
		return response, fmt.Errorf("credential provider plugin answered with kind %q; expected CredentialProviderResponse", response.Kind)
	}
	return response, nil
}

// failedProvider is the failure of a program. Its text leaves out what the
// program wrote about it: that is for the log, not for whoever may see a pod.
type failedProvider struct {
	error
	stderr string
}

func (e *failedProvider) Unwrap() error { return e.error }
