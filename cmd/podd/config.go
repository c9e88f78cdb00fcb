package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// kubeletConfiguration is the part of a kubelet.config.k8s.io/v1beta1
// KubeletConfiguration that podd honours, under the same names.
type kubeletConfiguration struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	StaticPodPath               string           `json:"staticPodPath"`
	PodLogsDir                  string           `json:"podLogsDir"`
	FileCheckFrequency          *metav1.Duration `json:"fileCheckFrequency"`
	Address                     string           `json:"address"`
	ReadOnlyPort                *int             `json:"readOnlyPort"`
	PodPidsLimit                *int64           `json:"podPidsLimit"`
	PodCIDR                     string           `json:"podCIDR"`
	ClusterDNS                  []string         `json:"clusterDNS"`
	ClusterDomain               string           `json:"clusterDomain"`
	ResolvConf                  *string          `json:"resolvConf"`
	RegistryPullQPS             *int32           `json:"registryPullQPS"`
	RegistryBurst               int32            `json:"registryBurst"`
	SerializeImagePulls         *bool            `json:"serializeImagePulls"`
	MaxParallelImagePulls       *int32           `json:"maxParallelImagePulls"`
	ImageGCHighThresholdPercent *int32           `json:"imageGCHighThresholdPercent"`
	ImageGCLowThresholdPercent  *int32           `json:"imageGCLowThresholdPercent"`
	ImageMinimumGCAge           *metav1.Duration `json:"imageMinimumGCAge"`
	ImageMaximumGCAge           *metav1.Duration `json:"imageMaximumGCAge"`
	ContainerLogMaxSize         string           `json:"containerLogMaxSize"`
	ContainerLogMaxFiles        *int32           `json:"containerLogMaxFiles"`
	CgroupRoot                  string           `json:"cgroupRoot"`
	AllowedUnsafeSysctls        []string         `json:"allowedUnsafeSysctls"`
	Logging                     struct {
		Format    string `json:"format"`
		Verbosity *int   `json:"verbosity"`
	} `json:"logging"`
}

// honouredKeys are the JSON names above.
var honouredKeys = []string{
	"apiVersion", "kind", "staticPodPath", "podLogsDir", "fileCheckFrequency", "address", "readOnlyPort", "podPidsLimit",
	"podCIDR", "clusterDNS", "clusterDomain", "resolvConf", "registryPullQPS", "registryBurst", "serializeImagePulls",
	"maxParallelImagePulls", "imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "imageMinimumGCAge",
	"imageMaximumGCAge", "containerLogMaxSize", "containerLogMaxFiles", "cgroupRoot", "allowedUnsafeSysctls", "logging",
}

// readConfigFile reads a KubeletConfiguration into o, for every option whose
// flag was not given. It returns a warning for each key that podd does not
// honour; a file of another kind or with values of the wrong type is an error.
func readConfigFile(path string, o *runOptions, given func(flag string) bool) (warnings []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	var keys map[string]any
	if err := yaml.UnmarshalStrict(data, &keys); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var c kubeletConfiguration
	if err := yaml.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if c.APIVersion != "kubelet.config.k8s.io/v1beta1" || c.Kind != "KubeletConfiguration" {
		return nil, fmt.Errorf("%s: expected kind KubeletConfiguration of kubelet.config.k8s.io/v1beta1; found kind %q of %q", path, c.Kind, c.APIVersion)
	}
	for key := range keys {
		if !slices.Contains(honouredKeys, key) {
			warnings = append(warnings, fmt.Sprintf("%s: %s: not honoured by podd", path, key))
		}
	}
	slices.Sort(warnings)
	if err := c.apply(o, given); err != nil {
		return warnings, fmt.Errorf("%s: %w", path, err)
	}
	return warnings, nil
}

func (c *kubeletConfiguration) apply(o *runOptions, given func(flag string) bool) error {
	text := func(flag string, to *string, value string) {
		if value != "" && !given(flag) {
			*to = value
		}
	}
	text("manifests", &o.manifests, c.StaticPodPath)
	text("pod-logs-dir", &o.podLogsDir, c.PodLogsDir)
	text("address", &o.address, c.Address)
	text("pod-cidr", &o.podCIDR, c.PodCIDR)
	text("cgroup-root", &o.cgroupRoot, strings.Trim(c.CgroupRoot, "/"))
	text("logging-format", &o.logFormat, c.Logging.Format)
	if c.Logging.Verbosity != nil && !given("v") {
		o.verbosity = *c.Logging.Verbosity
	}
	if c.ReadOnlyPort != nil && !given("read-only-port") {
		o.readOnlyPort = *c.ReadOnlyPort
	}
	if c.FileCheckFrequency != nil {
		o.rescan = c.FileCheckFrequency.Duration
	}
	if c.PodPidsLimit != nil {
		o.podPidsLimit = max(0, *c.PodPidsLimit)
	}
	text("", &o.clusterDomain, c.ClusterDomain)
	for _, s := range c.ClusterDNS {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("clusterDNS: expected IP addresses; found %q", s)
		}
		o.clusterDNS = append(o.clusterDNS, ip)
	}
	if c.ResolvConf != nil {
		o.resolvConf = *c.ResolvConf
	}
	if c.RegistryPullQPS != nil {
		o.pullQPS = float64(*c.RegistryPullQPS)
	}
	if c.RegistryBurst > 0 {
		o.pullBurst = int(c.RegistryBurst)
	}
	if c.SerializeImagePulls != nil && *c.SerializeImagePulls {
		o.parallelPulls = 1
	}
	if c.MaxParallelImagePulls != nil {
		o.parallelPulls = int(*c.MaxParallelImagePulls)
	}
	if c.ImageGCHighThresholdPercent != nil {
		o.gcHigh = int(*c.ImageGCHighThresholdPercent)
	}
	if c.ImageGCLowThresholdPercent != nil {
		o.gcLow = int(*c.ImageGCLowThresholdPercent)
	}
	if o.gcLow >= o.gcHigh || o.gcHigh > 100 || o.gcLow < 0 {
		return fmt.Errorf("imageGCLowThresholdPercent: expected less than imageGCHighThresholdPercent, both 0 to 100; found %d and %d", o.gcLow, o.gcHigh)
	}
	if c.ImageMinimumGCAge != nil {
		o.gcMinAge = c.ImageMinimumGCAge.Duration
	}
	if c.ImageMaximumGCAge != nil {
		o.gcMaxAge = c.ImageMaximumGCAge.Duration
	}
	if c.ContainerLogMaxSize != "" {
		q, err := resource.ParseQuantity(c.ContainerLogMaxSize)
		if err != nil {
			return fmt.Errorf("containerLogMaxSize: expected a quantity such as 10Mi; found %q", c.ContainerLogMaxSize)
		}
		o.logMaxBytes = q.Value()
	}
	if c.ContainerLogMaxFiles != nil {
		if *c.ContainerLogMaxFiles < 2 {
			return fmt.Errorf("containerLogMaxFiles: expected at least 2; found %d", *c.ContainerLogMaxFiles)
		}
		o.logMaxFiles = int(*c.ContainerLogMaxFiles)
	}
	o.allowedSysctls = append(o.allowedSysctls, c.AllowedUnsafeSysctls...)
	return nil
}

// configuration is what the options say in the words of a KubeletConfiguration, as
// /configz shows it. Read again, it gives the same options.
func (o *runOptions) configuration() kubeletConfiguration {
	qps, serial, parallel := int32(o.pullQPS), o.parallelPulls == 1, int32(o.parallelPulls)
	high, low, files := int32(o.gcHigh), int32(o.gcLow), int32(o.logMaxFiles)
	c := kubeletConfiguration{
		APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration",
		StaticPodPath: o.manifests, PodLogsDir: o.podLogsDir, FileCheckFrequency: &metav1.Duration{Duration: o.rescan},
		Address: o.address, ReadOnlyPort: &o.readOnlyPort, PodPidsLimit: &o.podPidsLimit, PodCIDR: o.podCIDR,
		ClusterDomain: o.clusterDomain, ResolvConf: &o.resolvConf,
		RegistryPullQPS: &qps, RegistryBurst: int32(o.pullBurst), SerializeImagePulls: &serial, MaxParallelImagePulls: &parallel,
		ImageGCHighThresholdPercent: &high, ImageGCLowThresholdPercent: &low,
		ImageMinimumGCAge: &metav1.Duration{Duration: o.gcMinAge}, ImageMaximumGCAge: &metav1.Duration{Duration: o.gcMaxAge},
		ContainerLogMaxSize: resource.NewQuantity(o.logMaxBytes, resource.BinarySI).String(), ContainerLogMaxFiles: &files,
		CgroupRoot: o.cgroupRoot, AllowedUnsafeSysctls: o.allowedSysctls,
	}
	for _, ip := range o.clusterDNS {
		c.ClusterDNS = append(c.ClusterDNS, ip.String())
	}
	c.Logging.Format, c.Logging.Verbosity = o.logFormat, &o.verbosity
	return c
}
