// Package handlers runs the operator's executables on events: a filesystem that is to be mounted, an address that is to be
// taken, a node that has to be shot. docs/HANDLERS.md says when which is run, with what, and what it means if one fails.
//
// Handlers of one resource run one after the other, in the order of the events. Whoever tells of an event waits only if it
// asks for the outcome (Run); everything else is queued (Notify).
package handlers
