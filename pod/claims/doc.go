// Package claims decides which PersistentVolume a PersistentVolumeClaim is bound
// to, and what both look like to users. It is pure: documents, what was bound
// before and the node's labels in, bindings out. It reads no file and knows no
// pod; [podd/pod/store] keeps the bindings, and the directories of volumes that
// are made here belong to whoever sets volumes up.
//
// A binding lasts: it survives edits of either object and the going of one of
// them, and a claim that comes back is bound to what it had.
//
// Read [Bind], [Binding] and [Bound] first.
package claims
