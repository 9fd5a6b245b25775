// Package crash explores what a loss of power can leave on stable media. A run of the code under test is recorded, as
// writes, syncs and marks; Explore then goes through every prefix of it, builds what may be on the medium, and has each
// of these states recovered and checked. Only tests import it.
//
// The fault model:
//
//   - Nothing is durable until a sync of the very file or directory that it belongs to has returned. What is not may be
//     there or not, in any subset, whatever the order in which it was done.
//   - A write is torn at sectors of 512 bytes: each may be the old or the new one.
//   - A write that makes a file longer, and a truncation, change the size, which is lost or kept apart from the content.
//     What is inside the size and was not kept reads as zeroes.
//   - A directory's entries (create, mkdir, rename, remove) are durable after a sync of that directory alone; a sync of
//     the file does not help. A rename is kept or lost as a whole. Renames between directories are not modelled.
//   - A mode and a file's attribute are durable after a sync of the file.
//   - A process that is merely killed loses nothing: Recorder.Resume goes on from there.
//
// Pending changes of up to Budget.Exhaustive units (a sector, a size, an entry) are tried in all subsets. Above that
// they are sampled: none, all, all but each one, each one alone, and seeded random subsets.
//
// It does not model media that decay, sectors that are torn themselves, disks that lie about a sync, or a sync that
// fails; Content.Tear adds garbage sectors for those who want them.
package crash
