package images

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// CredentialProviders are programs that are asked for a registry's credentials:
// the kubelet's credential provider plugins. A nil *CredentialProviders is none.
type CredentialProviders struct {
	providers []*credentialProvider // in the order of the configuration
}

// credentialProvider is one plugin with the answers it gave.
type credentialProvider struct {
	credentialProviderConfig
	program string // its path
	asking  singleflight.Group

	mu      sync.Mutex
	answers map[string]cachedAnswer // by image, registry, or everyImage
}

// credentialProvidersConfig is the file that a kubelet is given with
// --image-credential-provider-config.
// Source: Kubernetes API, CredentialProviderConfig of kubelet.config.k8s.io/v1.
type credentialProvidersConfig struct {
	APIVersion string                     `json:"apiVersion"`
	Kind       string                     `json:"kind"`
	Providers  []credentialProviderConfig `json:"providers"`
}

type credentialProviderConfig struct {
	Name                 string           `json:"name"`
	MatchImages          []string         `json:"matchImages"`
	DefaultCacheDuration *metav1.Duration `json:"defaultCacheDuration"`
	APIVersion           string           `json:"apiVersion"`
	Args                 []string         `json:"args"`
	Env                  []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"env"`
	TokenAttributes map[string]any `json:"tokenAttributes"`
}

const (
	providerConfigGroup = "kubelet.config.k8s.io/"
	providerAPIGroup    = "credentialprovider.kubelet.k8s.io/"
)

// providerVersions are those of both groups.
var providerVersions = []string{"v1", "v1beta1", "v1alpha1"}

// LoadCredentialProviders reads the kubelet's configuration of credential
// providers: a file, or a directory whose .json, .yaml and .yml files count
// together, in the order of their names. binDir holds the programs. The error
// tells all that is wrong.
// Source: kubelet, pkg/credentialprovider/plugin/config.go.
func LoadCredentialProviders(config, binDir string) (*CredentialProviders, error) {
	files, err := providerFiles(config)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration of credential providers: %w", err)
	}
	binDir, err = filepath.Abs(binDir)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(binDir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("the directory of credential providers, %s, is not there", binDir)
	}
	all := &CredentialProviders{}
	given := map[string]string{} // names, with the file
	var problems []error
	for _, file := range files {
		c, err := readProviders(file)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", file, err))
			continue
		}
		if len(c.Providers) == 0 {
			problems = append(problems, fmt.Errorf("%s: providers: expected at least one; found none", file))
		}
		for i, p := range c.Providers {
			tell := func(field, format string, args ...any) {
				problems = append(problems, fmt.Errorf("%s: providers[%d].%s: %s", file, i, field, fmt.Sprintf(format, args...)))
			}
			p.check(tell)
			if first, twice := given[p.Name]; twice && p.Name != "" {
				tell("name", "%q is given twice; first in %s", p.Name, first)
			}
			given[p.Name] = file
			program := filepath.Join(binDir, p.Name)
			if len(problems) == 0 {
				if _, err := exec.LookPath(program); err != nil {
					tell("name", "%s cannot be executed: %s", program, errors.Unwrap(err))
				}
			}
			all.providers = append(all.providers, &credentialProvider{
				credentialProviderConfig: p, program: program, answers: map[string]cachedAnswer{},
			})
		}
	}
	return all, errors.Join(problems...)
}

// providerFiles are the files of a configuration, at least one.
func providerFiles(config string) ([]string, error) {
	info, err := os.Stat(config)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{config}, nil
	}
	entries, err := os.ReadDir(config)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(e.Name())) && !e.IsDir() {
			files = append(files, filepath.Join(config, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no .json, .yaml or .yml file", config)
	}
	return files, nil
}

func readProviders(file string) (credentialProvidersConfig, error) {
	var c credentialProvidersConfig
	data, err := os.ReadFile(file)
	if err != nil {
		return c, errors.Unwrap(err)
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return c, err
	}
	version, ours := strings.CutPrefix(c.APIVersion, providerConfigGroup)
	if c.Kind != "CredentialProviderConfig" || !ours || !slices.Contains(providerVersions, version) {
		return c, fmt.Errorf("expected kind CredentialProviderConfig of %sv1, v1beta1 or v1alpha1; found kind %q of %q", providerConfigGroup, c.Kind, c.APIVersion)
	}
	return c, nil
}

// check tells what is wrong with one provider, but for names given twice.
func (p *credentialProviderConfig) check(tell func(field, format string, args ...any)) {
	switch {
	case p.Name == "":
		tell("name", "required, not given")
	case p.Name == "." || p.Name == ".." || strings.ContainsAny(p.Name, "/ "):
		tell("name", "expected the name of a program, without spaces and /; found %q", p.Name)
	}
	if len(p.MatchImages) == 0 {
		tell("matchImages", "expected at least one; found none")
	}
	for i, pattern := range p.MatchImages {
		if _, err := parseImageURL(pattern); err != nil {
			tell(fmt.Sprintf("matchImages[%d]", i), "expected a host with an optional port and path, such as *.registry.example:5000/team; found %q", pattern)
		}
	}
	switch d := p.DefaultCacheDuration; {
	case d == nil:
		tell("defaultCacheDuration", "required, not given")
	case d.Duration < 0:
		tell("defaultCacheDuration", "expected a duration from 0s; found %s", d.Duration)
	}
	version, ours := strings.CutPrefix(p.APIVersion, providerAPIGroup)
	if !ours || !slices.Contains(providerVersions, version) {
		tell("apiVersion", "expected %sv1, v1beta1 or v1alpha1; found %q", providerAPIGroup, p.APIVersion)
	}
	if p.TokenAttributes != nil {
		tell("tokenAttributes", "not supported here: there are no service accounts whose tokens a provider could be given")
	}
}

// matches says whether the provider is asked about an image.
func (p *credentialProviderConfig) matches(image string) bool {
	return slices.ContainsFunc(p.MatchImages, func(pattern string) bool { return imageMatches(pattern, image) })
}

// imageMatches says whether a pattern is for an image, both without scheme: the
// ports are the same, the hosts have equally many parts and each part of the
// pattern's, a glob, matches, and the image's path begins with the pattern's.
// Source: kubelet, pkg/credentialprovider/keyring.go.
func imageMatches(pattern, image string) bool {
	p, err := parseImageURL(pattern)
	if err != nil {
		return false
	}
	i, err := parseImageURL(image)
	if err != nil {
		return false
	}
	pHost, pPort := hostParts(p.Host)
	iHost, iPort := hostParts(i.Host)
	if pPort != iPort || len(pHost) != len(iHost) || !strings.HasPrefix(i.Path, p.Path) {
		return false
	}
	for n := range pHost {
		if ok, err := path.Match(pHost[n], iHost[n]); err != nil || !ok {
			return false
		}
	}
	return true
}

func parseImageURL(image string) (*url.URL, error) { return url.Parse("https://" + image) }

func hostParts(host string) (parts []string, port string) {
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	}
	return strings.Split(host, "."), port
}
