// Package bitmap remembers which blocks of a device may differ between replicas.
//
// It keeps two things in one region of the metadata:
//
//   - The out-of-sync bitmaps: for each of eight peer slots one bit per 4 KiB block.
//   - The activity log: the set of hot 4 MiB extents, that is, those that may be written without asking again. After a
//     crash every block of a hot extent counts as out of sync, so a write needs no bitmap update on disk.
//
// The invariant of the package, which its crash test explores: whatever was set and not cleared, and whatever was hot
// and not released, is covered by a bit after the next Open, wherever a crash happened; and little else is.
//
// How a write uses it:
//
//	TryAcquire(extents) ── true ─────────────────────────┐
//	     │ false: a cold extent, or the log is full      ▼
//	     └─> Acquire(extents, ready) ── ready(nil) ──> write the block
//	              group commit: one transaction for        │
//	              all that wait, one sync                  ▼
//	                              replicas agree: Release(extents)
//	                              they may not:   Set(slots, range), then Release(extents)
//
// The caller's duty is in the last line: bits are set before the extent is released. The package's duty is the rest: an
// extent leaves the log only when nobody holds it and its bits are on disk.
//
// # Guide to the files
//
//	geometry.go     sizes, and where everything is in the region
//	block.go        the checked head that all blocks on disk share
//	page.go         codec of a bitmap page
//	directory.go    codec and memory of the directory: which pages were written
//	ring.go         codec of the activity log, and the reconstruction of the hot set from its ring
//	slotbits.go     one slot's bitmap in memory; pure
//	activitylog.go  table of hot extents, references, queue; pure
//	store.go        Store: what is shared, failure, closing
//	commit.go       Acquire and the commit loop, the only goroutine
//	dirty.go        the bitmap methods of Store
//	persist.go      writing pages and directory
//	recover.go      Format, Open and recovery
//
// The layout on disk, what must be durable before what, and the argument why that is enough are in
// docs/ON_DISK_FORMAT.md. The package knows slots and extents by number and nothing of peers, roles or sockets.
package bitmap
