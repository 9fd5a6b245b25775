package device

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newLoop makes a loop device over a fresh file.
func newLoop(t *testing.T, sizeBytes int64) (path, backing string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("block devices need root")
	}
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		t.Skip("losetup is not installed")
	}
	backing = filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(backing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(backing, sizeBytes); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", backing).CombinedOutput()
	if err != nil {
		t.Skipf("this machine has no free loop device: %s", out)
	}
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", path, err, out)
		}
	})
	return path, backing
}

func TestBlockDevice(t *testing.T) {
	const sizeBytes = 1<<20 + 512
	path, _ := newLoop(t, sizeBytes)
	created, d, err := Create(path, sizeBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, d)
	if created || !d.IsBlock() || d.SizeBytes() != sizeBytes {
		t.Errorf("created %v, block %v, size %d", created, d.IsBlock(), d.SizeBytes())
	}
	_, err = Open(path)
	wantError(t, err, ErrInUse, path, "mounted")
	_, err = d.Tag()
	wantError(t, err, ErrNoTag, path, "block device")
	wantError(t, d.SetTag(1), ErrNoTag)
	if runs := extentsOf(t, d, 512, 8192); len(runs) != 1 || runs[0] != (run{8192, false}) {
		t.Errorf("extents %v", runs)
	}
	if n, err := d.WriteDurableAt([]byte("durable"), 1000); n != 7 || err != nil {
		t.Errorf("durable write: %d, %v", n, err)
	}
	if err := d.Sync(); err != nil {
		t.Error(err)
	}
}

func TestBlockDeviceTooSmall(t *testing.T) {
	path, _ := newLoop(t, 1<<20)
	_, _, err := Create(path, 2<<20)
	wantError(t, err, ErrTooSmall, path)
}

func TestBlockZeroingIsExact(t *testing.T) {
	missing := map[string]func(d *Device){
		"everything there":    func(*Device) {},
		"no punch":            func(d *Device) { d.noPunch.Store(true) },
		"only writing zeroes": func(d *Device) { d.noPunch.Store(true); d.noZeroOut.Store(true) },
	}
	for name, lose := range missing {
		t.Run(name, func(t *testing.T) {
			path, _ := newLoop(t, 256<<10+512)
			d, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer closeIt(t, d)
			lose(d)
			checkZeroing(t, d, d.Punch)
			checkZeroing(t, d, d.Zero)
		})
	}
}

func TestBlockPunchReachesTheBacking(t *testing.T) {
	path, backing := newLoop(t, 1<<20)
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, d)
	want := bytes.Repeat([]byte{9}, 1<<20)
	if _, err := d.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Punch(1000, 500_000); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	clear(want[1000:501_000])
	if got, err := os.ReadFile(backing); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the backing file differs, %v", err)
	}
}
