package forgetful

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// seeds is how many power cuts the tests of the model try: enough for every fate of a handful of changes.
const seeds = 300

func whole(f *file) []byte {
	p := make([]byte, f.current.sizeBytes)
	f.current.read(p, 0)
	return p
}

func TestSyncedContentSurvives(t *testing.T) {
	for seed := range uint64(seeds) {
		random, f := rand.New(rand.NewPCG(seed, 1)), newFile()
		for range 20 {
			off, n := random.Int64N(20000), 1+random.Int64N(6000)
			switch random.IntN(4) {
			case 0:
				f.zero(off, n)
			case 1:
				f.resize(off)
			default:
				f.write(bytes.Repeat([]byte{byte(random.IntN(256))}, int(n)), off)
			}
		}
		want := whole(f)
		f.sync()
		f.forget(random, new(Loss))
		if !bytes.Equal(whole(f), want) {
			t.Fatalf("seed %d: synced content changed", seed)
		}
	}
}

// Every sector ends as one of its versions, and all of them turn up.
func TestUnsyncedWritesAreKeptLostAndTorn(t *testing.T) {
	const sizeBytes = 4 * sectorBytes
	var total Loss
	seen, lengths := make(map[byte]bool), make(map[int]bool)
	for seed := range uint64(seeds) {
		f := newFile()
		f.write(bytes.Repeat([]byte{1}, sizeBytes), 0)
		f.sync()
		f.write(bytes.Repeat([]byte{2}, sizeBytes), 0)
		f.zero(0, sizeBytes)
		f.write(bytes.Repeat([]byte{3}, sizeBytes), sectorBytes)
		f.forget(rand.New(rand.NewPCG(seed, 1)), &total)
		found := whole(f)
		lengths[len(found)] = true
		for i := 0; i < len(found); i += sectorBytes {
			sector := found[i:][:sectorBytes]
			if !bytes.Equal(sector, bytes.Repeat(sector[:1], sectorBytes)) {
				t.Fatalf("seed %d: sector %d was torn", seed, i/sectorBytes)
			}
			first, last := i == 0, i == sizeBytes
			if first && sector[0] == 3 || last && sector[0] != 3 && sector[0] != 0 {
				t.Fatalf("seed %d: sector %d has what was never written there", seed, i/sectorBytes)
			}
			seen[sector[0]] = true
		}
	}
	if len(seen) != 4 || len(lengths) != 2 {
		t.Errorf("contents %v, lengths %v turned up", seen, lengths)
	}
	if total.Writes != 3*seeds || total.WritesLost == 0 || total.WritesTorn == 0 || total.WritesLost+total.WritesTorn >= total.Writes {
		t.Errorf("the losses are %+v", total)
	}
}

func TestUnsyncedTruncationComesBack(t *testing.T) {
	lengths := make(map[int]bool)
	for seed := range uint64(seeds) {
		f := newFile()
		f.write([]byte("0123456789"), 0)
		f.sync()
		f.resize(4)
		if got := whole(f); string(got) != "0123" {
			t.Fatalf("cut to %q", got)
		}
		f.forget(rand.New(rand.NewPCG(seed, 1)), new(Loss))
		if got := whole(f); !bytes.HasPrefix([]byte("0123456789"), bytes.TrimRight(got, "\x00")) {
			t.Fatalf("seed %d: left %q", seed, got)
		}
		lengths[len(whole(f))] = true
	}
	if !lengths[4] || !lengths[10] {
		t.Errorf("lengths %v turned up", lengths)
	}
}

func TestUnsyncedNamesAreKeptOrLost(t *testing.T) {
	outcomes := make(map[string]bool)
	for seed := range uint64(seeds) {
		old, new1 := newNode(2, 0), newNode(3, 0)
		d := newDirectory()
		d.do(naming{"file", old})
		d.sync()
		d.do(naming{"file.new", new1})
		d.do(naming{name: "file.new"}, naming{"file", new1})
		d.forget(rand.New(rand.NewPCG(seed, 1)), new(Loss))
		outcome := "old"
		if d.current["file"] == new1 {
			outcome = "new"
		}
		if d.current["file.new"] != nil {
			outcome += " and temporary"
		}
		outcomes[outcome] = true
	}
	if len(outcomes) != 3 || outcomes["new and temporary"] {
		t.Errorf("after a rename: %v", outcomes)
	}
}

func TestUnsyncedNamesAreListed(t *testing.T) {
	below := newNode(2, unix.S_IFDIR)
	d := newDirectory()
	d.do(naming{"kept", newNode(3, unix.S_IFREG)})
	d.do(naming{"gone", newNode(4, unix.S_IFREG)})
	d.do(naming{"below", below})
	d.sync()
	d.do(naming{name: "gone"})
	below.directory.do(naming{"new", newNode(5, unix.S_IFREG)})
	if got := d.unsyncedNames(""); !slices.Equal(got, []string{"below/new", "gone"}) {
		t.Errorf("listed %v", got)
	}
}
