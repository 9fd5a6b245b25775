package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// unit is a multiple of bytes as people write it.
type unit struct {
	name  string
	bytes uint64
}

// units are ordered from the largest.
func units() []unit {
	return []unit{{"PiB", 1 << 50}, {"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}

// ParseSize reads a size: a whole number of bytes, or with one of the units KiB,
// MiB, GiB, TiB, PiB. The single letters K to P mean the same. Decimal units
// (kB, MB, GB) are refused, since half the world means the binary ones by them.
// The result is from 1 to the largest int64.
func ParseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "KMGTPEBikmgtpeb")
	suffix := text[len(digits):]
	count, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("size %.40q is not a whole number with an optional unit, such as 512MiB or 4TiB", text)
	}
	factor, err := unitBytes(suffix)
	if err != nil {
		return 0, fmt.Errorf("size %.40q: %w", text, err)
	}
	if count == 0 {
		return 0, fmt.Errorf("size %.40q: nothing has size 0", text)
	}
	if count > math.MaxInt64/factor {
		return 0, fmt.Errorf("size %.40q is too large", text)
	}
	return count * factor, nil
}

func unitBytes(suffix string) (uint64, error) {
	if suffix == "" || suffix == "B" {
		return 1, nil
	}
	for _, u := range units() {
		if strings.EqualFold(suffix, u.name) || strings.EqualFold(suffix, u.name[:1]) {
			return u.bytes, nil
		}
		if decimal := u.name[:1] + "B"; strings.EqualFold(suffix, decimal) {
			return 0, fmt.Errorf("%s is ambiguous, write %s", suffix, u.name)
		}
	}
	return 0, fmt.Errorf("unknown unit %q; KiB, MiB, GiB, TiB and PiB are known", suffix)
}

// FormatSize writes a size exactly, with the largest unit that divides it, so
// that ParseSize reads the same number back.
func FormatSize(bytes uint64) string {
	for _, u := range units() {
		if bytes > 0 && bytes%u.bytes == 0 {
			return strconv.FormatUint(bytes/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatUint(bytes, 10)
}
