// Package objects is the store of the node's API: every object that is served,
// by resource, in memory, with one resource version over all of them.
//
// It knows no HTTP, no files and no kinds: package rest decides what may be
// stored, package declared keeps files and mirrors pods. Objects handed out are
// shared and never changed; objects handed in belong to the store from then on.
//
// A [Watch] holds no queue: it is a place in the history that all watches
// share. A reader that stops reading therefore costs nothing, and gets
// [ErrTooOld] once the history has passed it by.
//
// Read first: [Store.Update], [Store.List] and [Watch.Next].
package objects
