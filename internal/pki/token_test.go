package pki

import (
	"encoding/base64"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func textOf(t testing.TB, token *Token) string {
	t.Helper()
	text, err := token.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokenRoundTrip(t *testing.T) {
	ca := newCA(t)
	want, err := NewToken(ca, TokenConfig{Addresses: []string{"a:1", "[::1]:2"}, Life: time.Hour, Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	text := textOf(t, want)
	if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || len(text) > 1000 {
		t.Errorf("a shell may not like %d characters: %s", len(text), text)
	}
	pasted := []string{text, " " + text + "\n", `"` + text + `"`, "'" + text + "'\r\n", text[:100] + "\n    " + text[100:300] + "\r\n" + text[300:]}
	for _, paste := range pasted {
		got, err := ParseToken(paste)
		if err != nil {
			t.Errorf("%q: %v", paste, err)
			continue
		}
		if got.ID != want.ID || !reflect.DeepEqual(got.Addresses, want.Addresses) || got.Fingerprint != want.Fingerprint ||
			!got.Expires.Equal(want.Expires) || !got.Insecure {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if textOf(t, got) != text {
			t.Error("parsed and printed again it differs")
		}
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// TestTokenGolden pins the encoding: tokens printed by an older duet must be
// understood, or said to be those of another version.
func TestTokenGolden(t *testing.T) {
	const file = "testdata/token.golden"
	if *update {
		token := newCA(t).token(t, time.Hour)
		if err := os.WriteFile(file, []byte(textOf(t, token)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ParseToken(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(token.Addresses, []string{"10.0.0.1:7600", "db2.example.org:7600"}) || len(token.ID) != 2*tokenIDBytes || token.Insecure {
		t.Errorf("%+v", token)
	}
	if textOf(t, token)+"\n" != string(text) {
		t.Error("printed again it differs")
	}
	if head := "duet1-A"; !strings.HasPrefix(string(text), head) {
		t.Errorf("it does not begin with %q", head)
	}
}

// TestTokenMistyped changes, swaps, drops and doubles characters: none may pass.
func TestTokenMistyped(t *testing.T) {
	text := textOf(t, newCA(t).token(t, time.Hour))
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	random := rand.New(rand.NewPCG(3, 4))
	for i := len(tokenPrefix); i < len(text); i++ {
		other := alphabet[random.IntN(len(alphabet))]
		for _, mistyped := range []string{
			text[:i] + string(other) + text[i+1:], text[:i] + "!" + text[i+1:], text[:i] + text[i+1:],
			text[:i] + text[i:i+1] + text[i:], text[:i],
		} {
			if mistyped == text {
				continue
			}
			if _, err := ParseToken(mistyped); err == nil {
				t.Fatalf("passes with position %d changed", i)
			}
		}
	}
	_, err := ParseToken(text[:len(text)-5])
	wantError(t, err, ErrMistyped, "copy it again")
}

func TestNotAToken(t *testing.T) {
	for _, text := range []string{"", "hello", "duet2-AAAA", "duet1", strings.Repeat("x", maxTokenText+1), "https://example.org/"} {
		_, err := ParseToken(text)
		wantError(t, err, ErrNoToken, "token", "duet1-")
	}
}

func TestTokenExpires(t *testing.T) {
	token, err := ParseToken(textOf(t, newCA(t).token(t, 2*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Expired(time.Now()); err != nil {
		t.Error(err)
	}
	wantError(t, token.Expired(time.Now().Add(2*time.Hour)), ErrTokenExpired, "duet token", "good until "+time.Now().UTC().Format("2006"))
}

func TestNewTokenRefuses(t *testing.T) {
	ca := newCA(t)
	for want, config := range map[string]TokenConfig{
		"not 0":         {Life: time.Hour},
		"not 17":        {Life: time.Hour, Addresses: make([]string, 17)},
		"255 bytes":     {Life: time.Hour, Addresses: []string{strings.Repeat("a", 256)}},
		"above zero":    {Addresses: []string{"a:1"}},
		"not 1000h0m0s": {Addresses: []string{"a:1"}, Life: 1000 * time.Hour},
	} {
		_, err := NewToken(ca, config)
		wantError(t, err, nil, want)
	}
}

// sealed gives a token's content the checksum it needs to be looked at.
func sealed(content []byte) string {
	content = binary.LittleEndian.AppendUint32(content, tokenChecksum(content))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(content)
}

// TestTokenContent is about texts that pass the checksum and make no sense.
func TestTokenContent(t *testing.T) {
	ca := newCA(t)
	token := ca.token(t, time.Hour)
	body, err := base64.RawURLEncoding.DecodeString(textOf(t, token)[len(tokenPrefix):])
	if err != nil {
		t.Fatal(err)
	}
	body = body[:len(body)-4]
	changed := func(at int, to byte) []byte {
		other := append([]byte(nil), body...)
		other[at] = to
		return other
	}
	const count = 1 + len(Fingerprint{})
	for name, content := range map[string][]byte{
		"empty": {}, "unknown flag": changed(0, 2), "no address": changed(count, 0), "many addresses": changed(count, 17),
		"one address more": changed(count, 3), "empty address": changed(count+1, 0), "long address": changed(count+1, 255),
		"only the head": body[:count+1], "no certificate": body[:len(body)-len(token.certificate.Leaf.Raw)], "cut certificate": body[:len(body)-1],
		"longer certificate": append(append([]byte(nil), body...), make([]byte, maxTokenCertificate)...),
		"key of another":     changed(len(body)-len(token.certificate.Leaf.Raw)-1, ^body[len(body)-len(token.certificate.Leaf.Raw)-1]),
	} {
		if got, err := ParseToken(sealed(content)); got != nil || err == nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}

	// The certificate of a node must not pass for that of a token.
	a := ca.node(t, "a", KindData)
	token.certificate = a.certificate
	got, err := ParseToken(textOf(t, token))
	if got != nil || err == nil {
		t.Errorf("a node's certificate: %+v, %v", got, err)
	}
}

func FuzzParseToken(f *testing.F) {
	text := textOf(f, newCA(f).token(f, time.Hour))
	f.Add([]byte(text), false)
	body, err := base64.RawURLEncoding.DecodeString(text[len(tokenPrefix):])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body[:len(body)-4], true)
	f.Fuzz(func(t *testing.T, input []byte, seal bool) {
		if seal { // get past the checksum, to what an adversary can reach
			input = []byte(sealed(input))
		}
		token, err := ParseToken(string(input))
		if (token == nil) == (err == nil) {
			t.Fatalf("%v and %v", token, err)
		}
		if err != nil {
			return
		}
		again, err := ParseToken(textOf(t, token))
		if err != nil || again.ID != token.ID || !reflect.DeepEqual(again.Addresses, token.Addresses) {
			t.Errorf("printed and parsed again: %+v, %v", again, err)
		}
	})
}
