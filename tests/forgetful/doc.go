// Package forgetful is a filesystem that loses power: what was written to it and not synced is gone, or half there,
// after PowerCut, as it is on a real machine whose page cache dies. Real processes use it through a real mount (FUSE),
// so that nothing in them has to know.
//
// An FS owns one mount and keeps everything in memory. PowerCut works on a tree that nobody uses any more: it unmounts,
// decides what survived, and mounts what is left, like a machine that starts again. The decisions are in file.go and
// directory.go and know nothing of the mount; serve.go answers the kernel.
//
// It needs Linux, root and /dev/fuse.
package forgetful
