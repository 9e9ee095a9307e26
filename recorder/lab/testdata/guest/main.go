// The /sbin/init of an image that tests boot. It reads one page of some files. When the host says that the
// power button was pressed, by a byte on the second disk, it powers off. A word of the kernel command line
// changes that: with "dies" it ends before its login prompt, with "deaf" it hears no button.
package main

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

func main() {
	if err := os.WriteFile("/written", []byte("x"), 0o600); err != nil {
		fmt.Println("the root cannot be written:", err)
	}
	fmt.Printf("args %q\n", os.Args[1:])
	touch("/etc/early")
	if slices.Contains(os.Args, "dies") {
		os.Exit(3) // the kernel panics
	}
	fmt.Print("lab login: ")
	for !pressed() { // not select: the Go runtime would tell of a deadlock and end
		time.Sleep(20 * time.Millisecond)
	}
	touch("/etc/late")
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

// pressed reads from the disk itself, past the page cache.
func pressed() bool {
	if slices.Contains(os.Args, "deaf") {
		return false
	}
	f, err := os.OpenFile("/dev/vdb", os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		fmt.Println(err)
		return false
	}
	defer f.Close()
	sector, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		fmt.Println(err)
		return false
	}
	defer syscall.Munmap(sector)
	_, err = f.ReadAt(sector[:512], 0)
	return err == nil && sector[0] != 0
}

func touch(name string) {
	f, err := os.Open(name)
	if err == nil {
		_, err = f.ReadAt(make([]byte, 100), 0)
		f.Close()
	}
	if err != nil {
		fmt.Println(err)
	}
}
