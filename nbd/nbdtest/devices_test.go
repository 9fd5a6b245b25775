package nbdtest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

const testBytes = 1 << 20

type device interface {
	Read(p []byte, offset uint64, b batch, c completion)
	Write(p []byte, offset uint64, fua bool, b batch, c completion)
	Flush(b batch, c completion)
	Trim(offset, length uint64, fua bool, b batch, c completion)
	Zero(offset, length uint64, fua, noHole, fast bool, b batch, c completion)
	Cache(offset, length uint64, b batch, c completion)
	Extents(ctx context.Context, offset, length uint64, emit func(length uint64, hole, zero bool) error) error
	SizeBytes() uint64
}

// once expects to be completed once without an error.
type once struct {
	t    *testing.T
	done int
}

func (o *once) Complete(_ interface {
	Defer(f interface{ Flush() })
	More() bool
}, err error) {
	if o.done++; err != nil || o.done > 1 {
		o.t.Errorf("completion %d: %v", o.done, err)
	}
}

func devices(t *testing.T) map[string]device {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, testBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return map[string]device{"memory": NewMemory(testBytes), "file": file}
}

// Random operations on each device against a slice of bytes.
func TestDevicesAgainstModel(t *testing.T) {
	for name, d := range devices(t) {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			model := make([]byte, d.SizeBytes())
			for range 2000 {
				offset := random.Uint64N(testBytes)
				length := 1 + random.Uint64N(min(testBytes-offset, 64<<10))
				c := &once{t: t}
				fua := random.IntN(50) == 0
				switch random.IntN(4) {
				case 0:
					p := bytes.Repeat([]byte{byte(random.Uint32())}, int(length))
					copy(model[offset:], p)
					d.Write(p, offset, fua, nil, c)
				case 1:
					clear(model[offset : offset+length])
					d.Trim(offset, length, fua, nil, c)
				case 2:
					clear(model[offset : offset+length])
					d.Zero(offset, length, fua, random.IntN(2) == 0, false, nil, c)
				case 3:
					p := make([]byte, length)
					d.Read(p, offset, nil, c)
					if !bytes.Equal(p, model[offset:offset+length]) {
						t.Fatalf("%d bytes at %d differ", length, offset)
					}
				}
				if c.done != 1 {
					t.Fatalf("completed %d times", c.done)
				}
			}
			d.Flush(nil, &once{t: t})
			d.Cache(0, testBytes, nil, &once{t: t})
			checkExtents(t, d, model)
		})
	}
}

// checkExtents checks that the extents cover the device and that what is called zero is.
func checkExtents(t *testing.T, d device, model []byte) {
	t.Helper()
	var at uint64
	err := d.Extents(t.Context(), 0, testBytes, func(length uint64, _, zero bool) error {
		if zero && len(bytes.Trim(model[at:at+length], "\x00")) != 0 {
			t.Errorf("%d bytes at %d are not zero", length, at)
		}
		at += length
		return nil
	})
	if err != nil || at != testBytes {
		t.Errorf("extents end at %d: %v", at, err)
	}
}
