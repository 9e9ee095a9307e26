// Package analyzer turns recorded boots into a plan and prices it: which pages to send, in which order,
// how long a boot over a given link must take at least, and how long it takes in other orders.
//
// A Plan is made by Merge from runs of one image and one mode. Its unit is the page; a page's moment is
// the median of its first touches over the runs that touched it, its probability the share of runs that
// did. Pages of every run are sure, the others are the tail. The tail stands among the sure pages by
// time, not behind them: what differs from run to run is small, and each page that was left out costs a
// round trip during which the boot stands still.
//
// The lower bound (Bound) and the simulation (Simulate) share one model. A boot is CPU time with touches
// on it. The link sends bytes at B once R + t_s have passed since the request. A touched page that has
// not arrived stops the CPU clock. Sent in time order over one stream, the simulation and the bound agree.
//
// Traps: CPU times are those of the recording machine, so a bound set by the CPU holds for such a machine
// only; times of a run under TCG (Header.TimeScaled) are good for the order and for nothing else. The link
// has no slow start and no loss, so real figures lie above. Medians are lower medians: of two runs the
// earlier moment counts, and a plan's moment is always one that was observed.
//
// The package is pure: it opens no files and reads no clock. Its functions keep no state and may be called
// from several goroutines; they read the runs they are given and never change them.
package analyzer
