package manifest

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Support says what becomes of a field.
type Support string

const (
	// Honoured fields have the effect that Kubernetes documents.
	Honoured Support = "honoured"
	// Warned fields are accepted, have no meaning on one node, and are named
	// in a warning.
	Warned Support = "warning"
	// Ignored fields are what a server writes into an object it hands out.
	Ignored Support = "ignored"
	// Refused fields would change behaviour and are not supported here.
	Refused Support = "refused"
)

// Field is one line of the support table.
type Field struct {
	// Path has no indices: spec.containers[].image. What holds for
	// spec.containers[] holds for spec.initContainers[], what holds for
	// livenessProbe for the other two probes, what holds for postStart for preStop,
	// and what holds for a volume for a source of a projected one, unless they have
	// a line of their own.
	Path string
	// Support covers everything below Path too, unless it is Honoured: then
	// each field below needs its own line.
	Support Support
	// Note is the reason of a refusal or a warning, or what is special.
	Note string
}

const (
	noAPI         = "needs objects that are not read yet"
	noScheduling  = "there is one node and nothing to choose"
	noPriority    = "pods are not preempted here"
	noAccount     = "there are no service accounts here"
	serverWritten = "written by a server"
	noFileUser    = "the files belong to root; use fsGroup"
	noClaims      = "there are no resource claims here"
	noConfinement = "confinement by AppArmor or SELinux is not applied"
	noWindows     = "for Windows only"
)

// Fields is every field of a v1 Pod that the loader knows, in the order of the
// API's types. A field that is not here is refused by name. It is not changed
// at run time.
var Fields = []Field{
	{Path: "apiVersion", Support: Honoured, Note: "v1"},
	{Path: "kind", Support: Honoured, Note: "Pod; also List and PodList; ConfigMap, Secret, PersistentVolumeClaim and PersistentVolume beside them"},
	{Path: "status", Support: Ignored, Note: serverWritten},

	{Path: "metadata", Support: Honoured},
	{Path: "metadata.name", Support: Honoured},
	{Path: "metadata.generateName", Support: Ignored, Note: "names are not generated; a pod without a name is refused"},
	{Path: "metadata.namespace", Support: Honoured},
	{Path: "metadata.labels", Support: Honoured},
	{Path: "metadata.annotations", Support: Honoured},
	{Path: "metadata.selfLink", Support: Ignored, Note: serverWritten},
	{Path: "metadata.uid", Support: Ignored, Note: serverWritten},
	{Path: "metadata.resourceVersion", Support: Ignored, Note: serverWritten},
	{Path: "metadata.generation", Support: Ignored, Note: serverWritten},
	{Path: "metadata.creationTimestamp", Support: Ignored, Note: serverWritten},
	{Path: "metadata.deletionTimestamp", Support: Ignored, Note: serverWritten},
	{Path: "metadata.deletionGracePeriodSeconds", Support: Ignored, Note: serverWritten},
	{Path: "metadata.ownerReferences", Support: Ignored, Note: "its file alone owns what it declares, and it is never collected"},
	{Path: "metadata.managedFields", Support: Ignored, Note: serverWritten},
	{Path: "metadata.finalizers", Support: Warned, Note: "removing the file removes the object"},

	{Path: "spec", Support: Honoured},
	{Path: "spec.volumes[]", Support: Honoured},
	{Path: "spec.volumes[].name", Support: Honoured},
	{Path: "spec.volumes[].hostPath", Support: Honoured},
	{Path: "spec.volumes[].hostPath.path", Support: Honoured},
	{Path: "spec.volumes[].hostPath.type", Support: Honoured},
	{Path: "spec.volumes[].emptyDir", Support: Honoured},
	{Path: "spec.volumes[].emptyDir.medium", Support: Honoured, Note: `"" or Memory`},
	{Path: "spec.volumes[].emptyDir.sizeLimit", Support: Honoured},
	{Path: "spec.volumes[].emptyDir.mode", Support: Refused, Note: "the directory's mode is 0777, or 1777 in memory"},
	{Path: "spec.volumes[].gcePersistentDisk", Support: Refused},
	{Path: "spec.volumes[].awsElasticBlockStore", Support: Refused},
	{Path: "spec.volumes[].gitRepo", Support: Refused},
	{Path: "spec.volumes[].secret", Support: Honoured},
	{Path: "spec.volumes[].secret.secretName", Support: Honoured},
	{Path: "spec.volumes[].secret.items[]", Support: Honoured},
	{Path: "spec.volumes[].secret.items[].key", Support: Honoured},
	{Path: "spec.volumes[].secret.items[].path", Support: Honoured},
	{Path: "spec.volumes[].secret.items[].mode", Support: Honoured},
	{Path: "spec.volumes[].secret.items[].user", Support: Refused, Note: noFileUser},
	{Path: "spec.volumes[].secret.defaultMode", Support: Honoured},
	{Path: "spec.volumes[].secret.defaultUser", Support: Refused, Note: noFileUser},
	{Path: "spec.volumes[].secret.optional", Support: Honoured},
	{Path: "spec.volumes[].nfs", Support: Honoured, Note: "needs mount.nfs, of the package nfs-common"},
	{Path: "spec.volumes[].nfs.server", Support: Honoured},
	{Path: "spec.volumes[].nfs.path", Support: Honoured},
	{Path: "spec.volumes[].nfs.readOnly", Support: Honoured},
	{Path: "spec.volumes[].iscsi", Support: Refused},
	{Path: "spec.volumes[].glusterfs", Support: Refused},
	{Path: "spec.volumes[].persistentVolumeClaim", Support: Honoured},
	{Path: "spec.volumes[].persistentVolumeClaim.claimName", Support: Honoured},
	{Path: "spec.volumes[].persistentVolumeClaim.readOnly", Support: Honoured},
	{Path: "spec.volumes[].rbd", Support: Refused},
	{Path: "spec.volumes[].flexVolume", Support: Refused},
	{Path: "spec.volumes[].cinder", Support: Refused},
	{Path: "spec.volumes[].cephfs", Support: Refused},
	{Path: "spec.volumes[].flocker", Support: Refused},
	{Path: "spec.volumes[].downwardAPI", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[]", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].path", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].fieldRef", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].fieldRef.apiVersion", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].fieldRef.fieldPath", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].resourceFieldRef", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].resourceFieldRef.containerName", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].resourceFieldRef.resource", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].resourceFieldRef.divisor", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].mode", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.items[].user", Support: Refused, Note: noFileUser},
	{Path: "spec.volumes[].downwardAPI.defaultMode", Support: Honoured},
	{Path: "spec.volumes[].downwardAPI.defaultUser", Support: Refused, Note: noFileUser},
	{Path: "spec.volumes[].fc", Support: Refused},
	{Path: "spec.volumes[].azureFile", Support: Refused},
	{Path: "spec.volumes[].configMap", Support: Honoured},
	{Path: "spec.volumes[].configMap.name", Support: Honoured},
	{Path: "spec.volumes[].configMap.items[]", Support: Honoured},
	{Path: "spec.volumes[].configMap.items[].key", Support: Honoured},
	{Path: "spec.volumes[].configMap.items[].path", Support: Honoured},
	{Path: "spec.volumes[].configMap.items[].mode", Support: Honoured},
	{Path: "spec.volumes[].configMap.items[].user", Support: Refused, Note: noFileUser},
	{Path: "spec.volumes[].configMap.defaultMode", Support: Honoured},
	{Path: "spec.volumes[].configMap.defaultUser", Support: Refused, Note: noFileUser},
	{Path: "spec.volumes[].configMap.optional", Support: Honoured},
	{Path: "spec.volumes[].vsphereVolume", Support: Refused},
	{Path: "spec.volumes[].quobyte", Support: Refused},
	{Path: "spec.volumes[].azureDisk", Support: Refused},
	{Path: "spec.volumes[].photonPersistentDisk", Support: Refused},
	{Path: "spec.volumes[].projected", Support: Honoured, Note: "the volume kube-api-access-… that a cluster adds is left out with a warning"},
	{Path: "spec.volumes[].projected.sources[]", Support: Honoured},
	{Path: "spec.volumes[].projected.sources[].secret", Support: Honoured},
	{Path: "spec.volumes[].projected.sources[].secret.name", Support: Honoured},
	{Path: "spec.volumes[].projected.sources[].downwardAPI", Support: Honoured, Note: "fields as in spec.volumes[].downwardAPI"},
	{Path: "spec.volumes[].projected.sources[].configMap", Support: Honoured, Note: "fields as in spec.volumes[].configMap"},
	{Path: "spec.volumes[].projected.sources[].serviceAccountToken", Support: Refused, Note: noAccount},
	{Path: "spec.volumes[].projected.sources[].clusterTrustBundle", Support: Refused, Note: "there is no cluster whose certificates it could hold"},
	{Path: "spec.volumes[].projected.sources[].podCertificate", Support: Refused, Note: "nobody signs certificates for pods here"},
	{Path: "spec.volumes[].projected.defaultMode", Support: Honoured},
	{Path: "spec.volumes[].projected.defaultUser", Support: Refused, Note: noFileUser},
	{Path: "spec.volumes[].portworxVolume", Support: Refused},
	{Path: "spec.volumes[].scaleIO", Support: Refused},
	{Path: "spec.volumes[].storageos", Support: Refused},
	{Path: "spec.volumes[].csi", Support: Refused},
	{Path: "spec.volumes[].ephemeral", Support: Honoured, Note: "a directory that comes and goes with the pod"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate", Support: Honoured},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.metadata", Support: Warned, Note: "there is no claim beside the pod to bear it"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec", Support: Honoured},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.accessModes", Support: Honoured},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources", Support: Honoured},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources.requests", Support: Honoured, Note: "storage: nothing is reserved"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources.limits", Support: Refused, Note: "the directory's size is not limited"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.storageClassName", Support: Warned, Note: "there is one kind of storage here, a directory"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.volumeMode", Support: Honoured, Note: "Filesystem; Block is refused"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.selector", Support: Refused, Note: "a new directory is made, none is chosen"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.volumeName", Support: Refused, Note: "a new directory is made, none is chosen"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.dataSource", Support: Refused, Note: "the directory begins empty"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.dataSourceRef", Support: Refused, Note: "the directory begins empty"},
	{Path: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.volumeAttributesClassName", Support: Refused},
	{Path: "spec.volumes[].image", Support: Honoured},
	{Path: "spec.volumes[].image.reference", Support: Honoured},
	{Path: "spec.volumes[].image.pullPolicy", Support: Honoured},

	{Path: "spec.initContainers[]", Support: Honoured, Note: "fields as in spec.containers[]"},
	{Path: "spec.initContainers[].restartPolicy", Support: Honoured, Note: "Always makes a sidecar"},
	{Path: "spec.containers[]", Support: Honoured},
	{Path: "spec.containers[].name", Support: Honoured},
	{Path: "spec.containers[].image", Support: Honoured},
	{Path: "spec.containers[].command", Support: Honoured},
	{Path: "spec.containers[].args", Support: Honoured},
	{Path: "spec.containers[].workingDir", Support: Honoured},
	{Path: "spec.containers[].ports[]", Support: Honoured},
	{Path: "spec.containers[].ports[].name", Support: Honoured},
	{Path: "spec.containers[].ports[].hostPort", Support: Honoured},
	{Path: "spec.containers[].ports[].containerPort", Support: Honoured},
	{Path: "spec.containers[].ports[].protocol", Support: Honoured},
	{Path: "spec.containers[].ports[].hostIP", Support: Honoured},
	{Path: "spec.containers[].envFrom[]", Support: Honoured},
	{Path: "spec.containers[].envFrom[].prefix", Support: Honoured},
	{Path: "spec.containers[].envFrom[].configMapRef", Support: Honoured},
	{Path: "spec.containers[].envFrom[].configMapRef.name", Support: Honoured},
	{Path: "spec.containers[].envFrom[].configMapRef.optional", Support: Honoured},
	{Path: "spec.containers[].envFrom[].secretRef", Support: Honoured},
	{Path: "spec.containers[].envFrom[].secretRef.name", Support: Honoured},
	{Path: "spec.containers[].envFrom[].secretRef.optional", Support: Honoured},
	{Path: "spec.containers[].env[]", Support: Honoured},
	{Path: "spec.containers[].env[].name", Support: Honoured},
	{Path: "spec.containers[].env[].value", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.fieldRef", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.fieldRef.apiVersion", Support: Honoured, Note: "v1"},
	{Path: "spec.containers[].env[].valueFrom.fieldRef.fieldPath", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.resourceFieldRef", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.resourceFieldRef.containerName", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.resourceFieldRef.resource", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.resourceFieldRef.divisor", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.configMapKeyRef", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.configMapKeyRef.name", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.configMapKeyRef.key", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.configMapKeyRef.optional", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.secretKeyRef", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.secretKeyRef.name", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.secretKeyRef.key", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.secretKeyRef.optional", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.fileKeyRef", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.fileKeyRef.volumeName", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.fileKeyRef.path", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.fileKeyRef.key", Support: Honoured},
	{Path: "spec.containers[].env[].valueFrom.fileKeyRef.optional", Support: Honoured},
	{Path: "spec.containers[].resources", Support: Honoured},
	{Path: "spec.containers[].resources.limits", Support: Honoured, Note: "cpu, memory; ephemeral-storage with a warning"},
	{Path: "spec.containers[].resources.requests", Support: Honoured, Note: "cpu, memory; ephemeral-storage with a warning"},
	{Path: "spec.containers[].resources.claims", Support: Refused, Note: noClaims},
	{Path: "spec.containers[].resizePolicy[]", Support: Honoured},
	{Path: "spec.containers[].resizePolicy[].resourceName", Support: Honoured},
	{Path: "spec.containers[].resizePolicy[].restartPolicy", Support: Honoured},
	{Path: "spec.containers[].restartPolicy", Support: Honoured},
	{Path: "spec.containers[].restartPolicyRules[]", Support: Honoured},
	{Path: "spec.containers[].restartPolicyRules[].action", Support: Honoured, Note: "Restart, RestartAllContainers"},
	{Path: "spec.containers[].restartPolicyRules[].exitCodes", Support: Honoured},
	{Path: "spec.containers[].restartPolicyRules[].exitCodes.operator", Support: Honoured},
	{Path: "spec.containers[].restartPolicyRules[].exitCodes.values", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[]", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].name", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].readOnly", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].recursiveReadOnly", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].mountPath", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].subPath", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].mountPropagation", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].subPathExpr", Support: Honoured},
	{Path: "spec.containers[].volumeMounts[].bindMountOptions", Support: Refused},
	{Path: "spec.containers[].volumeDevices", Support: Refused, Note: "there are no block volumes here"},
	{Path: "spec.containers[].livenessProbe", Support: Honoured},
	{Path: "spec.containers[].readinessProbe", Support: Honoured, Note: "fields as in livenessProbe"},
	{Path: "spec.containers[].startupProbe", Support: Honoured, Note: "fields as in livenessProbe"},
	{Path: "spec.containers[].livenessProbe.exec", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.exec.command", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.path", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.port", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.host", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.scheme", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.httpHeaders[]", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.httpHeaders[].name", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.httpHeaders[].value", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.httpGet.protocol", Support: Refused, Note: "probes speak HTTP/1.1"},
	{Path: "spec.containers[].livenessProbe.tcpSocket", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.tcpSocket.port", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.tcpSocket.host", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.grpc", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.grpc.port", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.grpc.service", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.grpc.mode", Support: Refused, Note: "probes speak gRPC without TLS"},
	{Path: "spec.containers[].livenessProbe.initialDelaySeconds", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.timeoutSeconds", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.periodSeconds", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.successThreshold", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.failureThreshold", Support: Honoured},
	{Path: "spec.containers[].livenessProbe.terminationGracePeriodSeconds", Support: Honoured},
	{Path: "spec.containers[].lifecycle", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart", Support: Honoured},
	{Path: "spec.containers[].lifecycle.preStop", Support: Honoured, Note: "fields as in postStart"},
	{Path: "spec.containers[].lifecycle.postStart.exec", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.exec.command", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.path", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.port", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.host", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.scheme", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.httpHeaders[]", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.httpHeaders[].name", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.httpHeaders[].value", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.httpGet.protocol", Support: Refused, Note: "hooks speak HTTP/1.1"},
	{Path: "spec.containers[].lifecycle.postStart.tcpSocket", Support: Refused, Note: "such a hook fails in Kubernetes too; use exec, httpGet or sleep"},
	{Path: "spec.containers[].lifecycle.postStart.sleep", Support: Honoured},
	{Path: "spec.containers[].lifecycle.postStart.sleep.seconds", Support: Honoured},
	{Path: "spec.containers[].lifecycle.stopSignal", Support: Honoured, Note: "needs spec.os.name, as in Kubernetes"},
	{Path: "spec.containers[].terminationMessagePath", Support: Honoured},
	{Path: "spec.containers[].terminationMessagePolicy", Support: Honoured},
	{Path: "spec.containers[].imagePullPolicy", Support: Honoured},
	{Path: "spec.containers[].securityContext", Support: Honoured},
	{Path: "spec.containers[].securityContext.capabilities", Support: Honoured},
	{Path: "spec.containers[].securityContext.capabilities.add", Support: Honoured},
	{Path: "spec.containers[].securityContext.capabilities.drop", Support: Honoured},
	{Path: "spec.containers[].securityContext.privileged", Support: Honoured},
	{Path: "spec.containers[].securityContext.seLinuxOptions", Support: Refused, Note: noConfinement},
	{Path: "spec.containers[].securityContext.windowsOptions", Support: Refused, Note: noWindows},
	{Path: "spec.containers[].securityContext.runAsUser", Support: Honoured},
	{Path: "spec.containers[].securityContext.runAsGroup", Support: Honoured},
	{Path: "spec.containers[].securityContext.runAsNonRoot", Support: Honoured},
	{Path: "spec.containers[].securityContext.readOnlyRootFilesystem", Support: Honoured},
	{Path: "spec.containers[].securityContext.allowPrivilegeEscalation", Support: Honoured},
	{Path: "spec.containers[].securityContext.procMount", Support: Honoured, Note: "Default; Unmasked is refused"},
	{Path: "spec.containers[].securityContext.seccompProfile", Support: Honoured},
	{Path: "spec.containers[].securityContext.seccompProfile.type", Support: Honoured},
	{Path: "spec.containers[].securityContext.seccompProfile.localhostProfile", Support: Honoured},
	{Path: "spec.containers[].securityContext.appArmorProfile", Support: Refused, Note: noConfinement},
	{Path: "spec.containers[].stdin", Support: Honoured},
	{Path: "spec.containers[].stdinOnce", Support: Honoured, Note: "a terminal's input stays open"},
	{Path: "spec.containers[].tty", Support: Honoured},

	{Path: "spec.ephemeralContainers", Support: Refused, Note: "they are added to a running pod, never by a manifest"},
	{Path: "spec.restartPolicy", Support: Honoured},
	{Path: "spec.terminationGracePeriodSeconds", Support: Honoured},
	{Path: "spec.activeDeadlineSeconds", Support: Honoured},
	{Path: "spec.dnsPolicy", Support: Honoured},
	{Path: "spec.nodeSelector", Support: Warned, Note: noScheduling},
	{Path: "spec.serviceAccountName", Support: Warned, Note: noAccount},
	{Path: "spec.serviceAccount", Support: Warned, Note: noAccount},
	{Path: "spec.automountServiceAccountToken", Support: Warned, Note: noAccount},
	{Path: "spec.nodeName", Support: Warned, Note: "pods run on this node, under this node's name"},
	{Path: "spec.hostNetwork", Support: Honoured},
	{Path: "spec.hostPID", Support: Honoured},
	{Path: "spec.hostIPC", Support: Honoured},
	{Path: "spec.shareProcessNamespace", Support: Honoured},
	{Path: "spec.securityContext", Support: Honoured},
	{Path: "spec.securityContext.seLinuxOptions", Support: Refused, Note: noConfinement},
	{Path: "spec.securityContext.windowsOptions", Support: Refused, Note: noWindows},
	{Path: "spec.securityContext.runAsUser", Support: Honoured},
	{Path: "spec.securityContext.runAsGroup", Support: Honoured},
	{Path: "spec.securityContext.runAsNonRoot", Support: Honoured},
	{Path: "spec.securityContext.supplementalGroups", Support: Honoured},
	{Path: "spec.securityContext.supplementalGroupsPolicy", Support: Honoured},
	{Path: "spec.securityContext.fsGroup", Support: Honoured},
	{Path: "spec.securityContext.sysctls[]", Support: Honoured},
	{Path: "spec.securityContext.sysctls[].name", Support: Honoured},
	{Path: "spec.securityContext.sysctls[].value", Support: Honoured},
	{Path: "spec.securityContext.fsGroupChangePolicy", Support: Honoured, Note: "for claims; other volumes that get the group are new and empty"},
	{Path: "spec.securityContext.seccompProfile", Support: Honoured},
	{Path: "spec.securityContext.seccompProfile.type", Support: Honoured},
	{Path: "spec.securityContext.seccompProfile.localhostProfile", Support: Honoured},
	{Path: "spec.securityContext.appArmorProfile", Support: Refused, Note: noConfinement},
	{Path: "spec.securityContext.seLinuxChangePolicy", Support: Refused, Note: noConfinement},
	{Path: "spec.imagePullSecrets[]", Support: Honoured},
	{Path: "spec.imagePullSecrets[].name", Support: Honoured},
	{Path: "spec.hostname", Support: Honoured},
	{Path: "spec.subdomain", Support: Honoured},
	{Path: "spec.affinity", Support: Warned, Note: noScheduling},
	{Path: "spec.schedulerName", Support: Warned, Note: noScheduling},
	{Path: "spec.tolerations", Support: Warned, Note: noScheduling},
	{Path: "spec.hostAliases[]", Support: Honoured},
	{Path: "spec.hostAliases[].ip", Support: Honoured},
	{Path: "spec.hostAliases[].hostnames", Support: Honoured},
	{Path: "spec.priorityClassName", Support: Warned, Note: noPriority},
	{Path: "spec.priority", Support: Warned, Note: noPriority},
	{Path: "spec.dnsConfig", Support: Honoured},
	{Path: "spec.dnsConfig.nameservers", Support: Honoured},
	{Path: "spec.dnsConfig.searches", Support: Honoured},
	{Path: "spec.dnsConfig.options[]", Support: Honoured},
	{Path: "spec.dnsConfig.options[].name", Support: Honoured},
	{Path: "spec.dnsConfig.options[].value", Support: Honoured},
	{Path: "spec.readinessGates[]", Support: Honoured, Note: "conditions that hold are named by the annotation podd/readiness-gates"},
	{Path: "spec.readinessGates[].conditionType", Support: Honoured},
	{Path: "spec.runtimeClassName", Support: Refused, Note: "there is one runtime"},
	{Path: "spec.enableServiceLinks", Support: Honoured, Note: "but for default/kubernetes, which pods do not reach"},
	{Path: "spec.preemptionPolicy", Support: Warned, Note: noPriority},
	{Path: "spec.overhead", Support: Refused, Note: "it belongs to a runtime class"},
	{Path: "spec.topologySpreadConstraints", Support: Warned, Note: noScheduling},
	{Path: "spec.setHostnameAsFQDN", Support: Honoured},
	{Path: "spec.os", Support: Honoured},
	{Path: "spec.os.name", Support: Honoured, Note: "linux; windows is refused"},
	{Path: "spec.hostUsers", Support: Honoured, Note: "true; false is refused, there are no user namespaces yet"},
	{Path: "spec.schedulingGates", Support: Refused, Note: "a gate would keep the pod from starting, and nobody lifts it"},
	{Path: "spec.resourceClaims", Support: Refused, Note: noClaims},
	{Path: "spec.resources", Support: Refused, Note: "give resources to the containers"},
	{Path: "spec.hostnameOverride", Support: Honoured},
	{Path: "spec.schedulingGroup", Support: Refused, Note: noScheduling},
	{Path: "spec.evictionResponders", Support: Refused},
}

var fieldsByPath = sync.OnceValue(func() map[string]*Field {
	m := make(map[string]*Field, len(Fields))
	for i := range Fields {
		// A list is looked up by the name of its field.
		m[strings.TrimSuffix(Fields[i].Path, "[]")] = &Fields[i]
	}
	return m
})

// sameAs names, for a path without a line of its own, the path whose line
// holds for it.
var sameAs = strings.NewReplacer(
	"spec.initContainers[]", "spec.containers[]",
	".readinessProbe.", ".livenessProbe.",
	".startupProbe.", ".livenessProbe.",
	".lifecycle.preStop.", ".lifecycle.postStart.",
	".projected.sources[].configMap.", ".configMap.",
	".projected.sources[].secret.", ".secret.",
	".projected.sources[].downwardAPI.", ".downwardAPI.",
)

// fieldAt returns the line for a path without indices, nil when there is none.
func fieldAt(path string) *Field {
	if f := fieldsByPath()[path]; f != nil {
		return f
	}
	return fieldsByPath()[sameAs.Replace(path)]
}

// homeOf returns where a field that is unknown at path probably belongs: to
// what path is part of, to what is below path, or to what else of a pod has such
// a field. It returns "" when that cannot be told.
func homeOf(path, name string) string {
	for above := path; above != ""; {
		cut := max(strings.LastIndexByte(above, '.'), 0)
		if above = above[:cut]; above == "" {
			break
		}
		if f := fieldAt(bare(above) + "." + name); f != nil && f.Support == Honoured {
			return above
		}
	}
	var all, below []string
	for _, f := range Fields {
		home, ok := strings.CutSuffix(strings.TrimSuffix(f.Path, "[]"), "."+name)
		if !ok || f.Support != Honoured || strings.HasPrefix(home, "spec.initContainers") {
			continue
		}
		all = append(all, home)
		if strings.HasPrefix(home, sameAs.Replace(bare(path))+".") {
			below = append(below, home)
		}
	}
	if len(below) > 0 {
		all = below
	}
	// Of several the one nearest to the pod, if there is only one such, or what
	// every pod has.
	depth := func(p string) int { return strings.Count(p, ".") }
	home, alone := "", false
	for _, h := range all {
		switch {
		case home == "" || depth(h) < depth(home):
			home, alone = h, true
		case home == "spec.containers[]":
		case h == "spec.containers[]":
			home, alone = h, true
		case depth(h) == depth(home):
			alone = false
		}
	}
	if !alone {
		return ""
	}
	return home
}

// volumeKinds lists the kinds of volume that are honoured, sorted.
var volumeKinds = sync.OnceValue(func() string {
	var kinds []string
	for _, f := range Fields {
		kind, ok := strings.CutPrefix(f.Path, "spec.volumes[].")
		if ok && kind != "name" && f.Support == Honoured && !strings.Contains(kind, ".") {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return strings.Join(kinds, ", ")
})

// refusal is the message for a field that is not honoured. f may be nil.
func refusal(path string, f *Field) string {
	if kind, ok := strings.CutPrefix(path, "spec.volumes[]."); ok && !strings.Contains(kind, ".") {
		return "volume kind not supported here; supported: " + volumeKinds()
	}
	if f == nil || f.Note == "" {
		return "not supported here"
	}
	return "not supported here: " + f.Note
}

// WriteTable writes the support table as Markdown. shownBy names the tests that
// show a field's effect, by the field's path.
func WriteTable(w io.Writer, shownBy map[string][]string) error {
	var b strings.Builder
	b.WriteString("| Field | Support | Note | Shown by |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	for _, f := range Fields {
		tests := make([]string, 0, len(shownBy[f.Path]))
		for _, t := range shownBy[f.Path] {
			tests = append(tests, "`"+t+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Path, f.Support, cell.Replace(f.Note), strings.Join(tests, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
