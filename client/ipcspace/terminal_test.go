package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKeyboardInterruptArrivesOnce: ^C reaches the command from the terminal,
// and not a second time through run.
func TestKeyboardInterruptArrivesOnce(t *testing.T) {
	if _, err := os.Stat(filepath.Join(binaries, "libipcspace.so")); err != nil {
		t.Skip("bin/libipcspace.so is not built")
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const script = `trap 'n=$((n+1))' INT; echo up; i=0; while [ $i -lt 20 ]; do sleep 0.05; i=$((i+1)); done; echo "interrupts: $n"`
	command := exec.Command(filepath.Join(binaries, "ipcspace"), "run", "--", "sh", "-c", script)
	command.Stdin, command.Stdout, command.Stderr = terminal, terminal, terminal
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	var seen []string
	for lines := bufio.NewScanner(master); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		seen = append(seen, line)
		if line == "up" {
			if _, err := master.Write([]byte{3}); err != nil {
				t.Fatal(err)
			}
		}
		if strings.HasPrefix(line, "interrupts:") {
			break
		}
	}
	if err := command.Wait(); err != nil {
		t.Errorf("run: %v", err)
	}
	if last := seen[len(seen)-1]; !strings.HasSuffix(last, "interrupts: 1") {
		t.Errorf("terminal showed %q", seen)
	}
}
