// Command bench measures duet beside what else can do its work, in one run on one machine, and prints ratios:
//
//	go run ./scripts/bench [--rounds N] [--seconds N] [--rows LIST] [--peers LIST] [--size MIB] [--dir DIR] [--json FILE]
//
// docs/BENCHMARKS.md says what is measured, how to read the table and how to repeat it. Every server stays up for the
// whole run; within a round each row is measured on every server in turn, so that whatever the machine does meanwhile
// hits all of them alike. A ratio is the median over the rounds of the ratios of neighbouring measurements.
package main
