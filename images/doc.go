// Package images turns the name of a container image into a root file system.
//
// It pulls images from registries and mirrors, loads archives and layouts,
// keeps their blobs as an OCI image layout and their layers unpacked and shared,
// mounts them for containers, and frees the disk of what nobody uses.
//
// It does not decide when to pull or when to try again after a failure, and it
// knows no pods: callers say which images are in use and which names they want.
//
// The state is on disk, below [Config].Root, and belongs to the package:
//
//	images/oci-layout, images/index.json     an OCI image layout; one index entry per name,
//	images/blobs/sha256/<hex>                holding this machine's platform only
//	images/used/<hex of the image's id>      its modification time is when the image was last used
//	images/downloads/<hex>                   a blob under way, continued by the next attempt
//	layers/<number>/                         an unpacked layer, as overlayfs wants it; never changed
//	layers/layers.json                       which layer has which number; a directory not named here is rubbish
//	layers/tmp/<random>/                     layers being unpacked, and layers being deleted
//	images.lock                              taken around each change of index.json and layers.json
//
// Any number of processes may use it at once: files are replaced atomically,
// readers take no lock, slow work (download, unpack) happens outside of the lock
// in places of its own, and [Open] removes what processes that died left behind.
//
// Layers come from strangers. They are unpacked by a short-lived process
// ([UnpackMain]) whose root is the layer's directory, without network and with
// no more capabilities than making files takes, so no entry can leave its layer.
//
// Read [Store], [Image] and [Store.Ensure] first.
package images
