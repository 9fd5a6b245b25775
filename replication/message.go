package replication

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"duet/bitmap"
)

// The rare messages travel as one JSON object in the payload of their frame. Unknown members are ignored, so that a later
// version can say more; a member that is missing has its zero value. Every decoded message was checked by its validate.

// errMessage is wrapped by every error of decoding a payload.
var errMessage = errors.New("bad message")

// connectionKind names the connections of a session.
type connectionKind string

// Bulk data and signs of life travel apart, so that a full pipe never delays a heartbeat.
const (
	dataConnection connectionKind = "data" // requests and resync data, both directions
	ackConnection  connectionKind = "ack"  // acknowledgements, pings and what else must not wait behind data
)

const (
	maxNameBytes    = 63  // of every name in duet
	maxReasonBytes  = 512 // of a text that is shown to people
	maxFeatureCount = 64
)

// hexID is 16 bytes that appear as 32 hexadecimal digits in JSON.
type hexID [16]byte

// MarshalText returns the digits.
func (id hexID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads them.
func (id *hexID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("%w: an id of %d digits, want %d", errMessage, len(text), hex.EncodedLen(len(id)))
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// String returns the digits.
func (id hexID) String() string { return hex.EncodeToString(id[:]) }

// hello is the payload of Hello, the first frame on each connection of a session, and the larger part of HelloReply.
// On the ack connection only identity and session matter; the rest repeats what the data connection said.
type hello struct {
	Version  int      `json:"version"`
	Features []string `json:"features,omitempty"` // those that the sender can use; a session uses what both can

	ClusterID  string         `json:"cluster-id"`
	Resource   string         `json:"resource"`
	ResourceID hexID          `json:"resource-id"`
	From       string         `json:"from"`
	To         string         `json:"to"`
	SessionID  hexID          `json:"session-id"` // chosen by the end that dials, the same on both connections
	Kind       connectionKind `json:"kind"`

	Incarnation uint64 `json:"incarnation"` // of the sender's process
	BootID      string `json:"boot-id"`     // of its machine

	Role      string `json:"role"`
	DiskState string `json:"disk-state"`
	SizeBytes uint64 `json:"size-bytes"`
	Volumes   int    `json:"volumes"`

	Promised       uint64 `json:"promised"`
	DataGeneration uint64 `json:"data-generation"`
	LastInSync     uint64 `json:"last-in-sync"`
	PrimarySince   uint64 `json:"primary-since,omitempty"` // 0 unless the sender is Primary
	// CompleteSince is the generation since which the sender's bitmap has every block that the receiver may lack. 0: never.
	CompleteSince uint64 `json:"complete-since,omitempty"`
	// NotTarget is why nothing can be copied to the sender for now; "" if it can.
	NotTarget    string `json:"not-target,omitempty"`
	Inconsistent bool   `json:"inconsistent,omitempty"`
	JustCreated  bool   `json:"just-created,omitempty"`
	// Recovered: many of the bits for the receiver stem from an activity log that a crash left.
	Recovered bool `json:"recovered,omitempty"`
	// DirtyBlocks is how many blocks the sender's bitmap has for the receiver.
	DirtyBlocks uint64 `json:"dirty-blocks"`
}

// unusable reports whether the sender's disk can't be part of an acknowledgement, whatever the record says.
func (h *hello) unusable() bool {
	return h.DiskState == "Failed" || h.DiskState == "Diskless" || h.DiskState == "Inconsistent"
}

// helloReply is the payload of HelloReply. A refused Hello is followed by the end of the connection.
type helloReply struct {
	Refused string `json:"refused,omitempty"` // why, for people; "" means accepted
	hello
}

// configurationMessage is the payload of Configuration: a committed configuration as the record has it. This layer
// carries it and does not look inside.
type configurationMessage struct {
	Configuration json.RawMessage `json:"configuration"`
}

// rejectMessage is the payload of Reject.
type rejectMessage struct {
	Promised uint64 `json:"promised"` // the generation below which the sender takes nothing
	Reason   string `json:"reason"`
}

// resyncMessage is the payload of BitmapDone, ResyncStart, ResyncReady and ResyncDone.
type resyncMessage struct {
	DirtyBlocks uint64 `json:"dirty-blocks"`       // BitmapDone, ResyncStart: to be copied; ResyncDone: left, always 0
	Promised    uint64 `json:"promised,omitempty"` // ResyncReady, ResyncDone: what the target has promised
	Compare     bool   `json:"compare,omitempty"`  // ResyncStart: the target is to send hashes
}

// verifyMessage is the payload of VerifyDone.
type verifyMessage struct {
	DifferentBlocks uint64 `json:"different-blocks"`
	Repair          bool   `json:"repair,omitempty"` // the receiver marks the blocks of VerifyDiffers and is resynced
	Reason          string `json:"reason,omitempty"` // why the verify ended early
}

// message is a payload in JSON.
type message interface {
	// validate says what a peer must not send.
	validate() error
}

// encodeMessage returns m's payload, which a frame of type t can carry.
func encodeMessage(t FrameType, m message) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	if rule := ruleOf(t); len(payload) > int(rule.maxPayload) {
		return nil, fmt.Errorf("%s: %w: %d bytes, at most %d", t, errFrameTooLong, len(payload), rule.maxPayload)
	}
	return payload, nil
}

// decodeMessage reads the payload of a frame of type t into m.
func decodeMessage(t FrameType, payload []byte, m message) error {
	if rule := ruleOf(t); len(payload) > int(rule.maxPayload) {
		return fmt.Errorf("%s: %w: %d bytes, at most %d", t, errFrameTooLong, len(payload), rule.maxPayload)
	}
	if !bytes.HasPrefix(payload, []byte("{")) {
		return fmt.Errorf("%s: %w: not a JSON object", t, errMessage)
	}
	if err := json.Unmarshal(payload, m); err != nil {
		return fmt.Errorf("%s: %w: %w", t, errMessage, err)
	}
	if err := m.validate(); err != nil {
		return fmt.Errorf("%s: %w", t, err)
	}
	return nil
}

var (
	wireRoles      = []string{"Primary", "Secondary"}
	wireDiskStates = []string{"Diskless", "Failed", "Inconsistent", "Outdated", "Consistent", "UpToDate"}
)

// A version other than this one is for the handshake to refuse in words, not for the decoder: the two ends have to be
// able to tell each other what they speak.
func (m *hello) validate() error {
	names := []struct{ what, text string }{
		{"cluster id", m.ClusterID}, {"resource", m.Resource}, {"sender", m.From}, {"receiver", m.To},
	}
	for _, name := range names {
		if !plainName(name.text) {
			return fmt.Errorf("%w: %s %.80q is no name", errMessage, name.what, name.text)
		}
	}
	switch {
	case m.Version < 1:
		return fmt.Errorf("%w: version %d", errMessage, m.Version)
	case m.Kind != dataConnection && m.Kind != ackConnection:
		return fmt.Errorf("%w: connection of kind %.80q", errMessage, m.Kind)
	case m.Incarnation == 0:
		return fmt.Errorf("%w: no incarnation", errMessage)
	case m.BootID != "" && !plainName(m.BootID):
		return fmt.Errorf("%w: boot id %.80q", errMessage, m.BootID)
	case !slices.Contains(wireRoles, m.Role):
		return fmt.Errorf("%w: role %.80q", errMessage, m.Role)
	case !slices.Contains(wireDiskStates, m.DiskState):
		return fmt.Errorf("%w: disk state %.80q", errMessage, m.DiskState)
	case m.SizeBytes > bitmap.MaxDeviceBytes:
		return fmt.Errorf("%w: size of %d bytes", errMessage, m.SizeBytes)
	case m.Volumes < 0 || m.Volumes > 1<<16:
		return fmt.Errorf("%w: %d volumes", errMessage, m.Volumes)
	case m.DirtyBlocks > bitmap.MaxDeviceBytes/bitmap.BlockBytes:
		return fmt.Errorf("%w: %d dirty blocks", errMessage, m.DirtyBlocks)
	case len(m.NotTarget) > maxReasonBytes:
		return fmt.Errorf("%w: a reason of %d bytes, at most %d", errMessage, len(m.NotTarget), maxReasonBytes)
	}
	return m.validateFeatures()
}

func (m *hello) validateFeatures() error {
	if len(m.Features) > maxFeatureCount {
		return fmt.Errorf("%w: %d features", errMessage, len(m.Features))
	}
	for _, feature := range m.Features {
		if !plainName(feature) {
			return fmt.Errorf("%w: feature %.80q", errMessage, feature)
		}
	}
	return nil
}

// A refusal may come from an end that knows nothing of the resource, so it needs to hold nothing else.
func (m *helloReply) validate() error {
	if m.Refused != "" {
		return validateReason(m.Refused)
	}
	return m.hello.validate()
}

func (m *configurationMessage) validate() error {
	if !bytes.HasPrefix(m.Configuration, []byte("{")) {
		return fmt.Errorf("%w: no configuration", errMessage)
	}
	return nil
}

func (m *rejectMessage) validate() error { return validateReason(m.Reason) }

func (m *resyncMessage) validate() error {
	if m.DirtyBlocks > bitmap.MaxDeviceBytes/bitmap.BlockBytes {
		return fmt.Errorf("%w: %d dirty blocks", errMessage, m.DirtyBlocks)
	}
	return nil
}

func (m *verifyMessage) validate() error {
	if m.DifferentBlocks > bitmap.MaxDeviceBytes/bitmap.BlockBytes {
		return fmt.Errorf("%w: %d different blocks", errMessage, m.DifferentBlocks)
	}
	return validateReason(m.Reason)
}

func validateReason(reason string) error {
	if len(reason) > maxReasonBytes {
		return fmt.Errorf("%w: a reason of %d bytes, at most %d", errMessage, len(reason), maxReasonBytes)
	}
	return nil
}

// plainName reports whether s is 1 to 63 visible ASCII characters without quotes: names of nodes and resources are
// checked more strictly where they are made, here it matters that a name can't do harm in a log or on a terminal.
func plainName(s string) bool {
	if s == "" || len(s) > maxNameBytes {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= unicode.MaxASCII || r == '"' || r == '\\' })
}

// reasonText makes s fit for a reason or an error text: of bounded length, valid, without control characters. Both ends
// use it: who sends, to stay within the bounds, and who receives, because the text ends up on a terminal.
func reasonText(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s[:min(len(s), 4*maxReasonBytes)])
	for len(s) > maxReasonBytes {
		_, last := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-last]
	}
	return s
}
