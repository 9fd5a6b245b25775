package config

import (
	"os"
	"testing"
)

func TestRecoveryNumber(t *testing.T) {
	d := Dir(t.TempDir())
	if got, err := d.Recovery(); got != 0 || err != nil {
		t.Errorf("without a file: %d, %v", got, err)
	}
	if err := d.saveRecovery(osFiles{}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.RecoveryFile()); err == nil {
		t.Error("a file says that there was no recovery")
	}
	if err := d.saveRecovery(osFiles{}, 42); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Recovery(); got != 42 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	for _, damaged := range []string{"", "recovery 42", "recovery 43 crc32c 00000000\n", "recovery -1\n", string(formatRecovery(42)) + "x"} {
		if err := os.WriteFile(d.RecoveryFile(), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Recovery(); err == nil {
			t.Errorf("%q was read as %d", damaged, got)
		}
	}
}
