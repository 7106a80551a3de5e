// Package library_test checks the built library: what it needs of the process
// that it is loaded into, and what it costs that process at rest.
package library_test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// weak is all that the library may take from the process's libc, if it has it.
var weak = []string{
	"__errno_location", "__register_atfork", "pthread_atfork", "environ", "getenv", "getauxval",
	"__clone", "clock_gettime", "time", "gnu_get_libc_version", "dlsym", "pthread_setcanceltype", "pthread_testcancel",
}

func readelf(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("readelf", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("readelf %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// One file has to serve images of glibc and musl of any age: it binds to no
// library, and to no version of any symbol.
func TestFreestanding(t *testing.T) {
	for _, lib := range []string{"../../bin/libipcspace.so", "../../bin/arm64/libipcspace.so"} {
		if _, err := os.Stat(lib); err != nil {
			if lib == "../../bin/libipcspace.so" || os.Getenv("CI") != "" {
				t.Errorf("%s: run make build first: %v", lib, err)
			}
			continue
		}
		if d := readelf(t, "-dW", lib); strings.Contains(d, "(NEEDED)") || strings.Contains(d, "(VERNEED)") || strings.Contains(d, "(TEXTREL)") {
			t.Errorf("%s needs other libraries, versions or text relocations:\n%s", lib, d)
		}
		for line := range strings.Lines(readelf(t, "--dyn-syms", "-W", lib)) {
			f := strings.Fields(line)
			if len(f) < 8 || f[6] != "UND" {
				continue
			}
			if f[4] != "WEAK" || !slices.Contains(weak, f[7]) {
				t.Errorf("%s: undefined %s %s", lib, f[4], f[7])
			}
		}
	}
}

// What each program pays for at its start and at each fork: two mappings, of which one page
// is written (client/preload/libipcspace.lds).
func TestMappings(t *testing.T) {
	file, err := elf.Open("../../bin/libipcspace.so")
	if err != nil {
		t.Fatalf("run make build first: %v", err)
	}
	defer file.Close()
	mappings, written := 0, uint64(0)
	for _, p := range file.Progs {
		switch {
		case p.Type == elf.PT_GNU_RELRO:
			t.Error("RELRO splits a mapping")
		case p.Type != elf.PT_LOAD:
		default:
			mappings++
			if p.Flags&elf.PF_W != 0 {
				written += (p.Vaddr+p.Memsz+4095)/4096 - p.Vaddr/4096
			}
		}
	}
	if mappings != 2 || written != 1 {
		t.Errorf("%d mappings and %d written pages, want 2 and 1", mappings, written)
	}
}

const sleeper = `
#include <sys/msg.h>
#include <sys/sem.h>
#include <unistd.h>
int main(void)
{
	int set = semget(IPC_PRIVATE, 1, 0600), queue = msgget(IPC_PRIVATE, 0600);
	struct sembuf p = {0, -1, 0};
	struct { long type; char text[8]; } m;

	for (int i = 0; i < 8; i++)
		if (fork() == 0)
			return i % 2 ? semop(set, &p, 1) : msgrcv(queue, &m, 8, 0, 0) < 0;
	sleep(1);
	write(1, "asleep\n", 7);
	pause();
}
`

// An idle manager and idle clients use no CPU.
func TestRest(t *testing.T) {
	cmd := exec.Command("../../bin/ipcspace", "run", "--", compiled(t, sleeper))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("the sleepers did not start: %v", err)
	}
	time.Sleep(time.Second)
	before := ticks(t, cmd.Process.Pid)
	const rest = 4 * time.Second
	time.Sleep(rest)
	// The Go runtime's own housekeeping may take a tick of 10 ms.
	if used := ticks(t, cmd.Process.Pid) - before; used > 2 {
		t.Errorf("%d ticks of 10 ms in %v at rest", used, rest)
	}
}

const remover = `
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
static int held(void)
{
	char line[512];
	int n = 0;
	FILE *f = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof line, f))
		n += strstr(line, "(deleted)") != NULL;
	fclose(f);
	for (int fd = 3; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}
static void use(void)
{
	struct { long type; char text; } m = {1, 'x'};
	struct sembuf up = {0, 1, 0};
	int id = shmget(IPC_PRIVATE, 1 << 20, 0600), set = semget(IPC_PRIVATE, 1, 0600), queue = msgget(IPC_PRIVATE, 0600);
	for (int i = 0; i < 2; i++)
		shmdt(shmat(id, 0, 0));
	semop(set, &up, 1);
	msgsnd(queue, &m, 1, 0);
	shmctl(id, IPC_RMID, 0);
	semctl(set, 0, IPC_RMID);
	msgctl(queue, IPC_RMID, 0);
}
int main(void)
{
	use();
	int before = held();
	for (int i = 0; i < 200; i++)
		use();
	printf("%d\n", held() - before);
}
`

// What a process had open of objects that are gone is given back: it would keep
// their memory.
func TestRemoved(t *testing.T) {
	out, err := exec.Command("../../bin/ipcspace", "run", "--", compiled(t, remover)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if more, err := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || more > 40 {
		t.Errorf("after 200 objects of each family came and went, a process holds %s files more", out)
	}
}

func compiled(t *testing.T, text string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	gcc := exec.Command("gcc", "-w", "-x", "c", "-", "-o", program)
	gcc.Stdin = strings.NewReader(text)
	if out, err := gcc.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return program
}

// ticks is the CPU time of a process and its descendants.
func ticks(t *testing.T, pid int) (sum int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+2:])
	for _, i := range []int{11, 12} { // utime, stime
		n, err := strconv.Atoi(string(f[i]))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(child)
			if err != nil {
				t.Fatal(err)
			}
			sum += ticks(t, n)
		}
	}
	return sum
}
