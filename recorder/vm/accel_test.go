package vm_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/internal/testrig"
	"bootprof/recorder/vm"
	"bootprof/recorder/vm/vmtest"
)

// TestBoots checks the probe that decides on KVM with the accelerator that is always there.
func TestBoots(t *testing.T) {
	kernel := vmtest.Kernel(t)
	t.Parallel()
	tcg := vm.Accel{Name: vm.TCG}
	if err := vm.Boots(t.Context(), kernel, tcg, 2*time.Minute); err != nil {
		t.Errorf("a kernel that boots: %v", err)
	}
	if err := vm.Boots(t.Context(), kernel, tcg, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "not within 10ms") {
		t.Errorf("no time to boot: %v", err)
	}
	junk := filepath.Join(t.TempDir(), "junk")
	testrig.WriteFile(t, junk, "not a kernel")
	if err := vm.Boots(t.Context(), junk, tcg, 2*time.Minute); err == nil {
		t.Error("junk boots")
	}
}
