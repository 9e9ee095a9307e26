// Package fidelity holds tests only: what the kernel shows of a pack is what it shows of the pack's input.
//
// The pack is made by the command, the image in it is mounted by the kernel: from the web through
// `bootprof mount`, or extracted into a file on a loop device. The input is shown by the kernel, too: a
// directory as it is, a tar as GNU tar extracts it, a squashfs as it is mounted. Two such directories are
// compared by this package's own walk, which knows nothing of package tree.
//
// Sources lie on tmpfs, which holds what few file systems hold together: attributes of 64 KiB, seconds of 64
// bits, any number of hard links, holes.
//
// Traps: the tests run in a mount namespace of their own with an empty /run, so that no other process comes
// to hold their mounts.
package fidelity
