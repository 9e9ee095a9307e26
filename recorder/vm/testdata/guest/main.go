// The /init of a guest that tests boot: a shell on ttyS1, and orders on the console.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	fmt.Println("guest: init runs")
	syscall.Mount("dev", "/dev", "devtmpfs", 0, "")
	syscall.Mount("proc", "/proc", "proc", 0, "")
	go shell()
	fmt.Println("guest: year", time.Now().Year())
	for _, name := range []string{"/extra-1", "/extra-2"} {
		b, err := os.ReadFile(name)
		fmt.Printf("guest: %s: %q %v\n", name, b, err)
	}
	fmt.Print("order: ") // a prompt: no line end
	for s := bufio.NewScanner(os.Stdin); s.Scan(); fmt.Print("order: ") {
		switch s.Text() {
		case "poweroff":
			syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
		case "reboot":
			syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
		default:
			fmt.Printf("guest: heard %q\n", s.Text())
		}
	}
}

// shell keeps an interactive shell on ttyS1, as systemd's debug-shell.service does.
func shell() {
	for {
		tty, err := os.OpenFile("/dev/ttyS1", os.O_RDWR, 0)
		if err != nil {
			fmt.Println("guest:", err)
			return
		}
		c := exec.Command("/bin/sh", "-i")
		c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		fmt.Println("guest: shell ended:", c.Run())
		tty.Close()
	}
}
