// Package programs_test runs unmodified programs in spaces: PostgreSQL, fakeroot, Perl, util-linux,
// programs of two C libraries, containers.
//
// It owns whole programs only; what each call must do is the conformance tests' business. Each test
// makes spaces of its own in one running manager, or runs under `ipcspace run` with an embedded one.
//
// The suite has private IPC and mount namespaces (TestMain). So the kernel's tables that it sees
// belong to it alone and must stay empty (requireKernelUnused): whatever a program took from the
// kernel instead of from its space would stand there. Mounts end with the suite, however it ends.
//
// With IPCSPACE_TEST_KERNEL=1 the same steps run without ipcspace: a space is then a kernel IPC
// namespace. That is how the tests themselves are tested, since the kernel is the oracle.
package programs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipcspace/ipcspace/test/suite"
)

// The unprivileged user of all tests: every Linux has it, and it owns nothing.
const nobody = 65534

var (
	// kernelOnly runs the steps without ipcspace.
	kernelOnly = os.Getenv("IPCSPACE_TEST_KERNEL") == "1"
	// scratch is the suite's directory, which any user may enter: copies of bin/ and testdata/
	// (the tree may lie in a private home), the manager's root, and each test's own directory.
	scratch string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: these tests need root, for namespaces and to become other users")
		return 0
	}
	if !suite.Inside() {
		return suite.EnterNamespaces()
	}
	if err := suite.AdoptOrphans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	suite.ClearEnvironment()
	if err := prepareScratch(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests' directory:", err)
		return 1
	}
	code := m.Run()
	if err := node.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if left := suite.KillRemaining(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "processes left behind by the tests, killed now:\n\t%s\n", strings.Join(left, "\n\t"))
		code = max(code, 1)
	}
	if code != 0 && os.Getenv("IPCSPACE_TEST_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "kept:", scratch)
		return code
	}
	if err := os.RemoveAll(scratch); err != nil {
		fmt.Fprintln(os.Stderr, "remove the tests' directory:", err)
	}
	return code
}

func prepareScratch() (err error) {
	if scratch, err = os.MkdirTemp("", "ipcspace-programs-"); err != nil {
		return err
	}
	if err := os.Chmod(scratch, 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(scratch, "testdata"), os.DirFS("testdata")); err != nil {
		return err
	}
	if kernelOnly {
		return nil
	}
	return suite.CopyCommands(filepath.Join(scratch, "bin"), "ipcspace", "ipcspace-manager", "libipcspace.so")
}
