package device

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// patch is a text at an offset; negative offsets count from the end.
type patch struct {
	off  int64
	text string
}

const probeSizeBytes = 8 << 20

func writePatched(t *testing.T, sizeBytes int64, patches ...patch) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, file)
	if err := file.Truncate(sizeBytes); err != nil {
		t.Fatal(err)
	}
	for _, p := range patches {
		off := p.off
		if off < 0 {
			off += sizeBytes
		}
		if _, err := file.WriteAt([]byte(p.text), off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func extFeatures(compatible, incompatible, readOnly uint32) string {
	var words [12]byte
	binary.LittleEndian.PutUint32(words[0:], compatible)
	binary.LittleEndian.PutUint32(words[4:], incompatible)
	binary.LittleEndian.PutUint32(words[8:], readOnly)
	return string(words[:])
}

func TestProbeSignatures(t *testing.T) {
	const boot = "\x55\xaa"
	partition := "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00"
	cases := []struct {
		want    string
		patches []patch
	}{
		{"", nil},
		{"data", []patch{{0, "x"}}},
		{"data", []patch{{1<<20 - 1, "x"}}},
		{"data", []patch{{-1, "x"}}},
		{"data", []patch{{-1 << 20, "x"}}},
		{"duet metadata", []patch{{0, "DUETSB01"}}},
		{"duet metadata", []patch{{4096, "DUETSB01"}}},
		{"duet metadata", []patch{{-2 << 20, "DUETSB01"}}},
		{"duet metadata", []patch{{-(3<<20 + 4096), "DUETSB01"}}},
		{"LUKS-encrypted data", []patch{{0, "LUKS\xba\xbe\x00\x02"}}},
		{"LUKS-encrypted data", []patch{{16 << 10, "SKUL\xba\xbe\x00\x02"}}},
		{"an LVM2 physical volume", []patch{{512, "LABELONE"}, {512 + 24, "LVM2 001"}}},
		{"data", []patch{{512, "LABELONE"}}},
		{"an md RAID member", []patch{{4096, "\xfc\x4e\x2b\xa9\x01"}}},
		{"an md RAID member", []patch{{0, "\xfc\x4e\x2b\xa9\x01"}}},
		{"an md RAID member", []patch{{-8192, "\xfc\x4e\x2b\xa9\x01"}}},
		{"an md RAID member", []patch{{-64 << 10, "\xfc\x4e\x2b\xa9"}}},
		{"DRBD metadata", []patch{{-4096 + 60, "\x83\x74\x02\x6d"}}},
		{"DRBD metadata", []patch{{-4096 + 60, "\x83\x74\x02\x6b"}}},
		{"an ext2 filesystem", []patch{{1080, "\x53\xef"}}},
		{"an ext3 filesystem", []patch{{1080, "\x53\xef"}, {1116, extFeatures(4, 2, 1)}}},
		{"an ext4 filesystem", []patch{{1080, "\x53\xef"}, {1116, extFeatures(4, 0x40, 1)}}},
		{"an ext4 filesystem", []patch{{1080, "\x53\xef"}, {510, boot}, {1116, extFeatures(4, 2, 8)}}},
		{"an XFS filesystem", []patch{{0, "XFSB\x00"}}},
		{"a btrfs filesystem", []patch{{64<<10 + 64, "_BHRfS_M"}}},
		{"swap space", []patch{{4086, "SWAPSPACE2"}}},
		{"swap space", []patch{{64<<10 - 10, "SWAPSPACE2"}}},
		{"an NTFS filesystem", []patch{{3, "NTFS    "}, {510, boot}}},
		{"an exFAT filesystem", []patch{{3, "EXFAT   "}, {510, boot}}},
		{"a FAT filesystem", []patch{{82, "FAT32   "}, {510, boot}}},
		{"a FAT filesystem", []patch{{54, "FAT16   "}, {510, boot}}},
		{"data", []patch{{54, "FAT16   "}}},
		{"a ZFS member", []patch{{128<<10 + 5*1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00"}}},
		{"a ZFS member", []patch{{384 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"}}},
		{"an ISO 9660 filesystem", []patch{{32769, "CD001"}}},
		{"a qcow2 image", []patch{{0, "QFI\xfb"}}},
		{"a GPT partition table", []patch{{512, "EFI PART"}, {446, partition}, {510, boot}}},
		{"a GPT partition table", []patch{{-512, "EFI PART"}}},
		{"a partition table", []patch{{446, partition}, {510, boot}}},
		{"data", []patch{{446, "\x33"}, {510, boot}}},
		{"data", []patch{{510, boot}}},
	}
	for _, c := range cases {
		t.Run(c.want, func(t *testing.T) {
			path := writePatched(t, probeSizeBytes, c.patches...)
			if got, err := Probe(path, nil); err != nil || got != c.want {
				t.Errorf("%+v: got %q, %v", c.patches, got, err)
			}
		})
	}
}

// TestProbeStarts is about metadata in the middle of a disk, which only who knows
// its layout can find; what the clients stored at the beginning does not hide it.
func TestProbeStarts(t *testing.T) {
	const magic, filesystem = "DUETSB01", "XFSB"
	at := func(starts ...int64) Starts {
		return func(diskBytes int64) []int64 {
			if diskBytes != probeSizeBytes {
				t.Errorf("asked for a disk of %d bytes", diskBytes)
			}
			return starts
		}
	}
	cases := []struct {
		want    string
		starts  Starts
		patches []patch
	}{
		{DuetMetadata, at(4 << 20), []patch{{4 << 20, magic}}},
		{DuetMetadata, at(1<<20, 4<<20), []patch{{0, filesystem}, {4 << 20, magic}}},
		{DuetMetadata, at(4 << 20), []patch{{0, filesystem}, {4<<20 + 4096, magic}}},
		{DuetMetadata, at(probeSizeBytes - 8), []patch{{0, filesystem}, {-8, magic}}},
		{DuetMetadata, at(0), []patch{{0, magic}}},
		{"an XFS filesystem", at(4 << 20), []patch{{0, filesystem}, {4<<20 + 8192, magic}}},
		{"an XFS filesystem", at(), []patch{{0, filesystem}, {4 << 20, magic}}},
		{"an XFS filesystem", nil, []patch{{0, filesystem}, {4 << 20, magic}}},
		{"an XFS filesystem", at(-1, -1<<62, probeSizeBytes-7, probeSizeBytes, 1<<62), []patch{{0, filesystem}}},
		{"", at(4 << 20), nil},
	}
	for i, c := range cases {
		path := writePatched(t, probeSizeBytes, c.patches...)
		if got, err := Probe(path, c.starts); err != nil || got != c.want {
			t.Errorf("case %d: got %q, %v, want %q", i, got, err, c.want)
		}
	}
}

// TestProbeSmall is about disks shorter than what signatures look at.
func TestProbeSmall(t *testing.T) {
	for _, sizeBytes := range []int64{0, 1, 8, 511, 512, 4095, 4096, 4097, 70_000} {
		if got, err := Probe(writePatched(t, sizeBytes), nil); err != nil || got != "" {
			t.Errorf("%d zero bytes: %q, %v", sizeBytes, got, err)
		}
		if sizeBytes == 0 {
			continue
		}
		if got, err := Probe(writePatched(t, sizeBytes, patch{-1, "x"}), nil); err != nil || got != "data" {
			t.Errorf("%d bytes: %q, %v", sizeBytes, got, err)
		}
	}
}

func TestProbeOther(t *testing.T) {
	directory := t.TempDir()
	if got, err := Probe(filepath.Join(directory, "absent"), nil); err != nil || got != "" {
		t.Errorf("absent: %q, %v", got, err)
	}
	_, err := Probe(directory, nil)
	wantError(t, err, nil, "is a directory")
}

// TestProbeReal checks the table against what the real tools write.
func TestProbeReal(t *testing.T) {
	cases := []struct {
		tool []string
		want string
	}{
		{[]string{"mkfs.ext2", "-q", "-F"}, "an ext2 filesystem"},
		{[]string{"mkfs.ext3", "-q", "-F"}, "an ext3 filesystem"},
		{[]string{"mkfs.ext4", "-q", "-F"}, "an ext4 filesystem"},
		{[]string{"mkfs.xfs", "-q"}, "an XFS filesystem"},
		{[]string{"mkfs.btrfs", "-q"}, "a btrfs filesystem"},
		{[]string{"mkfs.vfat"}, "a FAT filesystem"},
		{[]string{"mkswap"}, "swap space"},
	}
	for _, c := range cases {
		t.Run(c.tool[0], func(t *testing.T) {
			tool, err := exec.LookPath(c.tool[0])
			if err != nil {
				t.Skipf("%s is not installed", c.tool[0])
			}
			path := writePatched(t, 320<<20)
			if out, err := exec.Command(tool, append(c.tool[1:], path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got, err := Probe(path, nil); err != nil || got != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// FuzzSignatures feeds the table with anything: it must not panic.
func FuzzSignatures(f *testing.F) {
	f.Add([]byte("XFSB"), int64(4))
	f.Add(make([]byte, 4096), int64(4096))
	f.Fuzz(func(t *testing.T, content []byte, moreBytes int64) {
		const most = 1 << 40
		sizeBytes := int64(len(content)) + (moreBytes&(most-1))*int64(len(content)&1)
		e := &ends{sizeBytes: sizeBytes, head: content[:min(len(content), headBytes)]}
		e.tail = content[len(content)-min(len(content), tailBytes):]
		for _, s := range signatures() {
			s.matches(e)
		}
	})
}
