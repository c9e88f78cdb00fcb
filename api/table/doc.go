// Package table makes the columns of `kubectl get`: for each kind those that a
// cluster shows, with the same words and formats.
//
// It is pure. Columns with priority 1 are for `kubectl get -o wide`.
//
// Read first: [For].
package table
