package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// identical checks that the disks of all data nodes hold the same bytes, up to the size of the resource.
func (s *scenario) identical(resource string) {
	s.t.Helper()
	first := s.DataNodes()[0]
	for _, other := range s.DataNodes()[1:] {
		if err := sameBytes(s.Disk(first.Name, resource), s.Disk(other.Name, resource)); err != nil {
			s.t.Fatalf("%s and %s differ: %v", first.Name, other.Name, err)
		}
	}
}

// sameBytes compares two files by their data: what is a hole in both costs nothing, so terabytes can be compared.
func sameBytes(left, right string) error {
	a, err := os.Open(left)
	if err != nil {
		return err
	}
	b, err := os.Open(right)
	if err != nil {
		return errors.Join(err, a.Close())
	}
	// What is data in one only must be zeroes in it, so both have to be walked.
	err = errors.Join(sameWhereData(a, b), sameWhereData(b, a))
	return errors.Join(err, a.Close(), b.Close())
}

// sameWhereData compares the two files wherever a has data.
func sameWhereData(a, b *os.File) error {
	const chunk = 1 << 20
	left, right := make([]byte, chunk), make([]byte, chunk)
	for offset := int64(0); ; {
		begin, end, err := nextData(a, offset)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for offset = begin; offset < end; {
			n := int(min(chunk, end-offset))
			if err := readBoth(a, b, left[:n], right[:n], offset); err != nil {
				return err
			}
			if i := firstDifference(left[:n], right[:n]); i >= 0 {
				return fmt.Errorf("byte %d: %#x and %#x", offset+int64(i), left[i], right[i])
			}
			offset += int64(n)
		}
	}
}

// differentBytes is how much of two files differs, in whole blocks of 4 KiB, wherever the second has data.
func differentBytes(left, right string) (different int64, err error) {
	const block = 4096
	a, err := os.Open(right)
	if err != nil {
		return 0, err
	}
	b, err := os.Open(left)
	if err != nil {
		return 0, errors.Join(err, a.Close())
	}
	p, q := make([]byte, block), make([]byte, block)
	begin, end := int64(0), int64(0)
	for {
		if begin, end, err = nextData(a, end); err != nil {
			break
		}
		for offset := begin / block * block; offset < end; offset += block {
			if err := readBoth(a, b, p, q, offset); err != nil {
				return 0, errors.Join(err, a.Close(), b.Close())
			}
			if firstDifference(p, q) >= 0 {
				different += block
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return different, errors.Join(err, a.Close(), b.Close())
}

// nextData finds the next range with data at or after offset; io.EOF when there is none.
func nextData(f *os.File, offset int64) (begin, end int64, err error) {
	begin, err = f.Seek(offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(begin, unix.SEEK_HOLE)
	return begin, end, err
}

func readBoth(a, b *os.File, left, right []byte, offset int64) error {
	if _, err := a.ReadAt(left, offset); err != nil {
		return err
	}
	// A shorter file reads as zeroes: then the difference is said by the bytes.
	n, err := b.ReadAt(right, offset)
	clear(right[n:])
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func TestSameBytesSeesDifferences(t *testing.T) {
	const size = 64 << 20
	write := func(offset int64, data string) string {
		f, err := os.CreateTemp(t.TempDir(), "disk")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(data), offset); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	base := write(40<<20, "data")
	tests := []struct {
		name  string
		other string
		same  bool
	}{
		{"the same", write(40<<20, "data"), true},
		{"another byte", write(40<<20, "dat!"), false},
		{"another place", write(20<<20, "data"), false},
		{"nothing", write(0, ""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, err := range []error{sameBytes(base, tt.other), sameBytes(tt.other, base)} {
				if (err == nil) != tt.same {
					t.Errorf("same: %v, want %v (%v)", err == nil, tt.same, err)
				}
			}
		})
	}
	// Written zeroes and a hole are the same bytes.
	if err := sameBytes(write(0, ""), write(1<<20, string(make([]byte, 5000)))); err != nil {
		t.Error(err)
	}
}
