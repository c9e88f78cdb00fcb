package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	"podd/internal/atomicfile"
)

// clusterName is what the files we write call this node.
const clusterName = "podd"

// kubeconfig is the part of kubectl's configuration file that we write.
// Source: Kubernetes docs, "Organizing Cluster Access Using kubeconfig Files".
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	CurrentContext string         `json:"current-context"`
	Clusters       []namedCluster `json:"clusters"`
	Contexts       []namedContext `json:"contexts"`
	Users          []namedUser    `json:"users"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server string `json:"server"`
		CA     []byte `json:"certificate-authority-data"`
	} `json:"cluster"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster   string `json:"cluster"`
		User      string `json:"user"`
		Namespace string `json:"namespace,omitempty"`
	} `json:"context"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		Certificate []byte `json:"client-certificate-data"`
		Key         []byte `json:"client-key-data"`
	} `json:"user"`
}

// Kubeconfig makes the file by which kubectl reaches a server as a user, with a
// new certificate in it.
func (p *PKI) Kubeconfig(server, user string, role Role, lifetime time.Duration) ([]byte, error) {
	cert, key, err := p.Issue(user, role, lifetime)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate for %s: %w", user, err)
	}
	k := kubeconfig{
		APIVersion: "v1", Kind: "Config", CurrentContext: clusterName,
		Clusters: make([]namedCluster, 1), Contexts: make([]namedContext, 1), Users: make([]namedUser, 1),
	}
	k.Clusters[0].Name = clusterName
	k.Clusters[0].Cluster.Server, k.Clusters[0].Cluster.CA = server, p.Certificate()
	k.Contexts[0].Name = clusterName
	k.Contexts[0].Context.Cluster, k.Contexts[0].Context.User = clusterName, user
	k.Users[0].Name = user
	k.Users[0].User.Certificate, k.Users[0].User.Key = cert, key
	return yaml.Marshal(k)
}

// KeepKubeconfig sees to it that path holds a kubeconfig by which root is admin
// of this server: one that is missing, that is of another authority or server,
// or that nears its end is written. A file that we did not write is left alone
// and reported as an error.
func (p *PKI) KeepKubeconfig(path, server, user string) (written bool, err error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, fmt.Errorf("cannot look at the kubeconfig: %w", err)
	default:
		var k kubeconfig
		if err := yaml.Unmarshal(data, &k); err != nil || len(k.Clusters) != 1 || len(k.Users) != 1 || k.Clusters[0].Name != clusterName {
			return false, fmt.Errorf("%s is not the kubeconfig that podd writes, so it is left as it is; move it away to have one written", path)
		}
		if k.Clusters[0].Cluster.Server == server && bytes.Equal(k.Clusters[0].Cluster.CA, p.Certificate()) && p.lasts(k.Users[0].User.Certificate) {
			return false, nil
		}
	}
	if data, err = p.Kubeconfig(server, user, Admin, UserLifetime); err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("cannot write the kubeconfig: %w", err)
	}
	return true, atomicfile.Write(path, data, 0o600)
}

// lasts says whether a user's certificate is of this authority and good for a while.
func (p *PKI) lasts(certificate []byte) bool {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err == nil && c.CheckSignatureFrom(p.ca) == nil && time.Until(c.NotAfter) > renewBefore
}
