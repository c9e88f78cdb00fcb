package container

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// File is a file of a volume.
type File struct {
	Data []byte
	Mode int32 // permission bits
}

// VolumeFiles returns what a volume of kind configMap, secret, downwardAPI or
// projected holds, by path below its root; of other kinds it returns nil. Of the
// input it reads what belongs to the pod and the node, not the container. Errors
// have the kubelet's words. Source: Kubernetes docs, "Volumes", those kinds.
func VolumeFiles(in Input, v v1.Volume) (map[string]File, error) {
	in.Container = &v1.Container{} // of a volume, every reference names its container
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return configMapFiles(in, s.Name, s.Items, s.DefaultMode, s.Optional)
	case v.Secret != nil:
		s := v.Secret
		return secretFiles(in, s.SecretName, s.Items, s.DefaultMode, s.Optional)
	case v.DownwardAPI != nil:
		return downwardFiles(in, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	case v.Projected != nil:
		return projectedFiles(in, v.Projected)
	}
	return nil, nil
}

// projectedFiles merges the sources in their order: a later one wins.
func projectedFiles(in Input, p *v1.ProjectedVolumeSource) (map[string]File, error) {
	all := map[string]File{}
	var errs []string
	for _, s := range p.Sources {
		var files map[string]File
		var err error
		switch {
		case s.ConfigMap != nil:
			files, err = configMapFiles(in, s.ConfigMap.Name, s.ConfigMap.Items, p.DefaultMode, s.ConfigMap.Optional)
		case s.Secret != nil:
			files, err = secretFiles(in, s.Secret.Name, s.Secret.Items, p.DefaultMode, s.Secret.Optional)
		case s.DownwardAPI != nil:
			files, err = downwardFiles(in, s.DownwardAPI.Items, p.DefaultMode)
		}
		if err != nil {
			errs = append(errs, err.Error())
		}
		maps.Copy(all, files)
	}
	switch len(errs) {
	case 0:
		return all, nil
	case 1:
		return nil, errors.New(errs[0])
	}
	return nil, fmt.Errorf("[%s]", strings.Join(errs, ", "))
}

func configMapFiles(in Input, name string, items []v1.KeyToPath, mode *int32, optional *bool) (map[string]File, error) {
	m, err := configMap(in, name, optional)
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{}
	if m != nil {
		for key, value := range m.Data {
			data[key] = []byte(value)
		}
		maps.Copy(data, m.BinaryData)
	}
	return keyFiles(data, items, mode, optional, "references non-existent config key: %s")
}

func secretFiles(in Input, name string, items []v1.KeyToPath, mode *int32, optional *bool) (map[string]File, error) {
	s, err := secret(in, name, optional)
	if err != nil {
		return nil, err
	}
	var data map[string][]byte
	if s != nil {
		data = s.Data
	}
	return keyFiles(data, items, mode, optional, "references non-existent secret key: %s")
}

// keyFiles gives each key a file, or those listed in items.
func keyFiles(data map[string][]byte, items []v1.KeyToPath, mode *int32, optional *bool, missing string) (map[string]File, error) {
	files := map[string]File{}
	if len(items) == 0 {
		for key, value := range data {
			files[key] = File{value, fileMode(nil, mode)}
		}
		return files, nil
	}
	for _, i := range items {
		value, found := data[i.Key]
		if !found && optional != nil && *optional {
			continue
		}
		if !found {
			return nil, fmt.Errorf(missing, i.Key)
		}
		files[i.Path] = File{value, fileMode(i.Mode, mode)}
	}
	return files, nil
}

// fileMode is a file's own mode, or the volume's.
func fileMode(own, volume *int32) int32 {
	switch {
	case own != nil:
		return *own
	case volume != nil:
		return *volume
	}
	return v1.ConfigMapVolumeSourceDefaultMode
}

// downwardFiles writes fields of the pod.
func downwardFiles(in Input, items []v1.DownwardAPIVolumeFile, mode *int32) (map[string]File, error) {
	files := map[string]File{}
	for _, i := range items {
		var text string
		var err error
		switch {
		case i.ResourceFieldRef != nil:
			text, err = resourceValue(in, i.ResourceFieldRef)
		case i.FieldRef == nil:
		case i.FieldRef.FieldPath == "metadata.labels":
			text = mapText(in.Pod.Labels)
		case i.FieldRef.FieldPath == "metadata.annotations":
			text = mapText(in.Pod.Annotations)
		default:
			text, err = fieldValue(in, i.FieldRef.FieldPath)
		}
		if err != nil {
			return nil, err
		}
		files[i.Path] = File{[]byte(text), fileMode(i.Mode, mode)}
	}
	return files, nil
}

// mapText is a line for each key, in their order: key="value", quoted as in Go.
func mapText(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range sortedKeys(m) {
		lines = append(lines, fmt.Sprintf("%s=%q", key, m[key]))
	}
	return strings.Join(lines, "\n")
}
