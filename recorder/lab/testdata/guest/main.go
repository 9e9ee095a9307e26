// The /sbin/init of an image that tests boot. It reads one page of some files, and powers off by itself as if it had heard
// the power button, unless /etc/deaf is there.
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	if err := os.WriteFile("/written", []byte("x"), 0o600); err != nil {
		fmt.Println("the root cannot be written:", err)
	}
	fmt.Printf("args %q\n", os.Args[1:])
	touch("/etc/early")
	if _, err := os.Stat("/etc/dies"); err == nil {
		os.Exit(3) // the kernel panics
	}
	fmt.Print("lab login: ")
	if _, err := os.Stat("/etc/deaf"); err == nil {
		for { // not select: the Go runtime would tell of a deadlock and end
			time.Sleep(time.Hour)
		}
	}
	time.Sleep(time.Second) // nothing in this guest hears the button
	touch("/etc/late")
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
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
