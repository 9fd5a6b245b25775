// Package tests holds the scenarios: real duet daemons as separate processes, and the programs of others as clients.
// Every file is named after what it shows. docs/TESTING.md says how to run them and what they need.
//
// What the scenarios have in common:
//
//   - harness_test.go: the program, clusters, waiting, commands that must succeed or be refused
//   - recorder_test.go: a load that knows which of its writes were acknowledged
//   - compare_test.go: whether replicas are identical
//
// The program under test is built once, on first use. Environment: DUET_TEST_RACE=1 builds it with the race detector,
// DUET_TEST_REPEAT=N repeats the loss of the Primary N times, CI=true turns skips for missing tools into failures.
package tests
