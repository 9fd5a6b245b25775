package config

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestDirCreate(t *testing.T) {
	d := Dir(t.TempDir() + "/deep/node")
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{string(d), d.TLS(), d.Raft(), d.Meta(), d.Handlers()} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if err := d.Create(); err != nil {
		t.Errorf("a second time, before there is a node: %v", err)
	}
	if err := d.SaveNode(fullNode()); err != nil {
		t.Fatal(err)
	}
	wantError(t, d.Create(), ErrNodeExists, string(d), "--dir")
	if exists, err := d.Exists(); err != nil || !exists {
		t.Errorf("%v, %v", exists, err)
	}
}

func TestDirTooDeepForSockets(t *testing.T) {
	d := Dir(t.TempDir() + "/" + strings.Repeat("d", 100))
	wantError(t, d.Create(), nil, "unix socket", "--dir")
	if _, err := os.Stat(string(d)); err == nil {
		t.Error("it was made nevertheless")
	}
}

func TestLock(t *testing.T) {
	d := Dir(t.TempDir())
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Lock()
	wantError(t, err, ErrLocked, string(d), "process "+strconv.Itoa(os.Getpid()), "stop it first")
	for range 2 {
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	}
	again, err := d.Lock()
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	_, err = Dir(string(d) + "/absent").Lock()
	wantError(t, err, os.ErrNotExist)
}

// Who looks into a directory keeps a daemon out for that time, and is kept out by one.
func TestView(t *testing.T) {
	d := Dir(t.TempDir())
	_, err := d.View()
	wantError(t, err, os.ErrNotExist)
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.View()
	wantError(t, err, ErrLocked, string(d), "process "+strconv.Itoa(os.Getpid()), "stop it first")
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	first, err := d.View()
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.View()
	if err != nil {
		t.Fatalf("two that look: %v", err)
	}
	_, err = d.Lock()
	wantError(t, err, ErrViewed, string(d))
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if lock, err = d.Lock(); err != nil {
		t.Fatalf("after the view: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// lockVariable makes this test binary take the lock of the directory it names,
// say so, and hold it until its input ends.
const lockVariable = "DUET_TEST_LOCK"

func TestMain(m *testing.M) {
	if directory := os.Getenv(lockVariable); directory != "" {
		os.Exit(holdLock(Dir(directory)))
	}
	os.Exit(m.Run())
}

func holdLock(d Dir) int {
	if _, err := d.Lock(); err != nil {
		return 1
	}
	if _, err := os.Stdout.WriteString("locked"); err != nil {
		return 1
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		return 1
	}
	return 0
}

// TestLockOfAKilledProcess shows that a daemon that was killed leaves no lock.
func TestLockOfAKilledProcess(t *testing.T) {
	d := Dir(t.TempDir())
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), lockVariable+"="+string(d))
	input, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := output.Read(make([]byte, 10)); n != len("locked") {
		t.Errorf("the other process said %d bytes, %v", n, err)
	}
	_, lockErr := d.Lock()
	wantError(t, lockErr, ErrLocked, "process "+strconv.Itoa(other.Process.Pid))
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := other.Wait(); !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := input.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

func TestIncarnation(t *testing.T) {
	d := Dir(t.TempDir())
	if got, err := d.Incarnation(); err != nil || got != 0 {
		t.Errorf("before the first start: %d, %v", got, err)
	}
	for want := uint64(1); want < 4; want++ {
		if got, err := d.BumpIncarnation(); err != nil || got != want {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	if err := d.RaiseIncarnation(2); err != nil {
		t.Error(err)
	}
	if got, err := d.BumpIncarnation(); err != nil || got != 4 {
		t.Errorf("lowered to %d, %v", got, err)
	}
	if err := d.RaiseIncarnation(41); err != nil {
		t.Error(err)
	}
	if got, err := d.BumpIncarnation(); err != nil || got != 42 {
		t.Errorf("got %d, %v, want 42", got, err)
	}
	content, err := os.ReadFile(d.IncarnationFile())
	if err != nil || string(content) != "incarnation 42 crc32c 89f14694\n" {
		t.Errorf("%q, %v", content, err)
	}
}

func TestIncarnationDamaged(t *testing.T) {
	good := string(formatIncarnation(42))
	for _, content := range []string{
		"", "\x00\x00\x00", "42", good[:len(good)-1], good + "\n", strings.Replace(good, "42", "43", 1), strings.Replace(good, "42", "042", 1),
		string(formatIncarnation(math.MaxUint64)), "incarnation 99999999999999999999 crc32c 00000000\n",
	} {
		d := Dir(t.TempDir())
		if err := os.WriteFile(d.IncarnationFile(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := d.BumpIncarnation()
		wantError(t, err, ErrIncarnation, d.IncarnationFile(), "join again")
		if now, err := os.ReadFile(d.IncarnationFile()); err != nil || string(now) != content {
			t.Errorf("%q became %q, %v", content, now, err)
		}
	}
}

func TestBootID(t *testing.T) {
	t.Setenv(BootIDVariable, "")
	real, err := BootID()
	if err != nil || len(real) != 36 {
		t.Errorf("%q, %v", real, err)
	}
	t.Setenv(BootIDVariable, "boot-2")
	if got, err := BootID(); err != nil || got != "boot-2" {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv(BootIDVariable, strings.Repeat("x", 65))
	_, err = BootID()
	wantError(t, err, nil, BootIDVariable, "65 characters")
}
