package replication

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"duet/bitmap"
)

func exampleHello() hello {
	return hello{
		Version: ProtocolVersion, Features: []string{"zstd"}, ClusterID: "c-0a1b2c3d", Resource: "orders",
		ResourceID: hexID{0xd0, 1, 15: 0xdf}, From: "alpha", To: "bravo", SessionID: hexID{0x5e, 15: 0x01}, Kind: dataConnection,
		Incarnation: 9, BootID: "6c0ffee0-0000-4000-8000-00000000b007", Role: "Primary", DiskState: "UpToDate",
		SizeBytes: 1 << 40, Volumes: 1, Promised: 41, DataGeneration: 40, LastInSync: 39, PrimarySince: 38,
		Inconsistent: true, JustCreated: true, DirtyBlocks: 12, CompleteSince: 9, NotTarget: "no room for its undo file",
	}
}

// exampleMessages has one of each kind, with the frame that carries it.
func exampleMessages() []struct {
	name string
	t    FrameType
	m    message
} {
	greeting := exampleHello()
	return []struct {
		name string
		t    FrameType
		m    message
	}{
		{"hello", FrameHello, &greeting},
		{"accepted", FrameHelloReply, &helloReply{hello: greeting}},
		{"refused", FrameHelloReply, &helloReply{Refused: "no such resource"}},
		{"configuration", FrameConfiguration, &configurationMessage{Configuration: []byte(`{"generation":41}`)}},
		{"reject", FrameReject, &rejectMessage{Promised: 42, Reason: "generation 41 is over"}},
		{"bitmap done", FrameBitmapDone, &resyncMessage{DirtyBlocks: 7}},
		{"resync ready", FrameResyncReady, &resyncMessage{DirtyBlocks: 7, Promised: 41}},
		{"verify done", FrameVerifyDone, &verifyMessage{DifferentBlocks: 3, Repair: true}},
		{"verify ended early", FrameVerifyDone, &verifyMessage{Reason: "cancelled by the operator"}},
	}
}

func TestMessageGolden(t *testing.T) {
	var out strings.Builder
	for _, example := range exampleMessages() {
		payload, err := encodeMessage(example.t, example.m)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s: %s\n%s\n\n", example.t, example.name, payload)
		decoded := reflect.New(reflect.TypeOf(example.m).Elem()).Interface().(message)
		if err := decodeMessage(example.t, payload, decoded); err != nil || !reflect.DeepEqual(decoded, example.m) {
			t.Errorf("%s: decoded %+v, %v", example.name, decoded, err)
		}
	}
	compareGolden(t, "messages.golden", []byte(out.String()))
}

func TestDecodeMessageIgnoresWhatItDoesNotKnow(t *testing.T) {
	var m rejectMessage
	if err := decodeMessage(FrameReject, []byte(`{"promised":7,"colour":"blue","more":[1]}`), &m); err != nil || m.Promised != 7 {
		t.Errorf("decoded %+v, %v", m, err)
	}
}

func TestDecodeMessageErrors(t *testing.T) {
	for name, payload := range map[string]string{
		"nothing":                  ``,
		"no object":                `[]`,
		"null":                     `null`,
		"cut off":                  `{"promised":7`,
		"two objects":              `{"promised":7}{"promised":8}`,
		"wrong type":               `{"promised":"seven"}`,
		"negative":                 `{"promised":-1}`,
		"number too large":         `{"promised":18446744073709551616}`,
		"reason too long":          `{"reason":"` + strings.Repeat("x", maxReasonBytes+1) + `"}`,
		"payload above its bounds": `{"reason":"` + strings.Repeat("x", maxSmallBytes) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			err := decodeMessage(FrameReject, []byte(payload), new(rejectMessage))
			if !errors.Is(err, errMessage) && !errors.Is(err, errFrameTooLong) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestHelloValidation(t *testing.T) {
	for name, change := range map[string]func(m *hello){
		"no version":          func(m *hello) { m.Version = 0 },
		"no cluster":          func(m *hello) { m.ClusterID = "" },
		"no resource":         func(m *hello) { m.Resource = "" },
		"name too long":       func(m *hello) { m.From = strings.Repeat("x", maxNameBytes+1) },
		"name with escapes":   func(m *hello) { m.To = "\x1b[2J" },
		"name with a space":   func(m *hello) { m.To = "a b" },
		"name not ASCII":      func(m *hello) { m.Resource = "größe" },
		"kind":                func(m *hello) { m.Kind = "bulk" },
		"no incarnation":      func(m *hello) { m.Incarnation = 0 },
		"boot id":             func(m *hello) { m.BootID = "\n" },
		"role":                func(m *hello) { m.Role = "King" },
		"disk state":          func(m *hello) { m.DiskState = "" },
		"size":                func(m *hello) { m.SizeBytes = bitmap.MaxDeviceBytes + 1 },
		"volumes":             func(m *hello) { m.Volumes = -1 },
		"dirty blocks":        func(m *hello) { m.DirtyBlocks = 1 << 60 },
		"long reason":         func(m *hello) { m.NotTarget = strings.Repeat("x", 600) },
		"too many features":   func(m *hello) { m.Features = make([]string, maxFeatureCount+1) },
		"feature is no name":  func(m *hello) { m.Features = []string{""} },
		"feature with escape": func(m *hello) { m.Features = []string{"a\tb"} },
	} {
		t.Run(name, func(t *testing.T) {
			m := exampleHello()
			change(&m)
			if _, err := encodeMessage(FrameHello, &m); !errors.Is(err, errMessage) {
				t.Errorf("error is %v", err)
			}
		})
	}
	other := exampleHello()
	other.Version = 99
	if err := other.validate(); err != nil {
		t.Errorf("another version can't say so: %v", err)
	}
}

func TestConfigurationMessageNeedsAnObject(t *testing.T) {
	for _, payload := range []string{`{}`, `{"configuration":null}`, `{"configuration":[]}`} {
		if err := decodeMessage(FrameConfiguration, []byte(payload), new(configurationMessage)); !errors.Is(err, errMessage) {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

func TestHexID(t *testing.T) {
	for _, digits := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("g", 32)} {
		if err := new(hexID).UnmarshalText([]byte(digits)); err == nil {
			t.Errorf("accepted %q", digits)
		}
	}
	if got := (hexID{0xab, 15: 1}).String(); got != "ab000000000000000000000000000001" {
		t.Errorf("id is %s", got)
	}
}

func TestReasonText(t *testing.T) {
	for text, want := range map[string]string{
		"disk failed":                  "disk failed",
		"two\nlines\x1b[31m":           "two lines [31m",
		"bad \xff byte":                "bad   byte",
		strings.Repeat("x", 1<<20):     strings.Repeat("x", maxReasonBytes),
		strings.Repeat("€", 1<<10):     strings.Repeat("€", maxReasonBytes/3),
		"x" + strings.Repeat("é", 400): "x" + strings.Repeat("é", 255),
	} {
		got := reasonText(text)
		if got != want || !utf8.ValidString(got) {
			t.Errorf("%.40q became %.40q of %d bytes", text, got, len(got))
		}
		if err := validateReason(got); err != nil {
			t.Error(err)
		}
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for _, example := range exampleMessages() {
		payload, err := encodeMessage(example.t, example.m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(example.t), payload)
	}
	f.Fuzz(func(t *testing.T, frameType uint16, payload []byte) {
		m := map[FrameType]message{
			FrameHello: new(hello), FrameHelloReply: new(helloReply), FrameConfiguration: new(configurationMessage),
			FrameReject: new(rejectMessage), FrameResyncReady: new(resyncMessage),
		}[FrameType(frameType)]
		if m == nil || decodeMessage(FrameType(frameType), payload, m) != nil {
			return
		}
		if err := m.validate(); err != nil {
			t.Fatalf("decoded what is not valid: %v", err)
		}
	})
}

func FuzzReasonText(f *testing.F) {
	f.Add("disk \xff\x1b failed")
	f.Fuzz(func(t *testing.T, text string) {
		if got := reasonText(text); len(got) > maxReasonBytes || !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\n\r\x00") {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
