package config

import (
	"math"
	"testing"
)

func TestParseSize(t *testing.T) {
	good := map[string]uint64{
		"1": 1, "4096": 4096, "4096B": 4096, "1KiB": 1 << 10, "64MiB": 64 << 20, "10GiB": 10 << 30, "4TiB": 4 << 40, "2PiB": 2 << 50,
		"10g": 10 << 30, "1K": 1 << 10, "3tib": 3 << 40, "9223372036854775807": math.MaxInt64, "8191PiB": 8191 << 50,
	}
	for text, want := range good {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	bad := map[string]string{
		"": "whole number", "GiB": "whole number", "-1": "whole number", "+1": "whole number", "1.5GiB": "whole number", "1 GiB": "whole number",
		"0x10": "whole number", "12zz": "12zz", "1e3": "whole number", "0": "size 0", "0GiB": "size 0", "10GB": "GB is ambiguous, write GiB",
		"10kb": "write KiB", "1EiB": "unknown unit", "1Gi": "unknown unit", "1MM": "unknown unit", "8192PiB": "too large",
		"9223372036854775808": "whole number", "99999999999999999999TiB": "whole number",
	}
	for text, want := range bad {
		_, err := ParseSize(text)
		wantError(t, err, nil, want)
	}
}

func TestFormatSize(t *testing.T) {
	for bytes, want := range map[uint64]string{
		0: "0", 1: "1", 1023: "1023", 1024: "1KiB", 1536 << 20: "1536MiB", 10 << 30: "10GiB", 1_000_000_000: "1000000000", 4 << 40: "4TiB",
		math.MaxUint64: "18446744073709551615",
	} {
		if got := FormatSize(bytes); got != want {
			t.Errorf("%d: %q", bytes, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"10GiB", "1", "8191PiB", "5GB", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		bytes, err := ParseSize(text)
		if err != nil {
			return
		}
		if bytes == 0 || bytes > math.MaxInt64 {
			t.Errorf("%q is %d", text, bytes)
		}
		if again, err := ParseSize(FormatSize(bytes)); err != nil || again != bytes {
			t.Errorf("%q is %d, formatted and read again %d, %v", text, bytes, again, err)
		}
	})
}
