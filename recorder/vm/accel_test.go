package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/recorder/vm"
	"bootprof/recorder/vm/vmtest"
)

// TestBoots checks the probe that decides on KVM with the accelerator that is always there.
func TestBoots(t *testing.T) {
	kernel := vmtest.Kernel(t)
	tcg := vm.Accel{Name: vm.TCG}
	if err := vm.Boots(t.Context(), kernel, tcg, 2*time.Minute); err != nil {
		t.Errorf("a kernel that boots: %v", err)
	}
	if err := vm.Boots(t.Context(), kernel, tcg, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "not within 10ms") {
		t.Errorf("no time to boot: %v", err)
	}
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("not a kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := vm.Boots(t.Context(), junk, tcg, 2*time.Minute); err == nil {
		t.Error("junk boots")
	}
}
